"""A user's own network: a function in a Python file that returns a torch.nn.Module."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from harness.errors import InputError, unknown_name

if TYPE_CHECKING:
    from torch import nn


def load_user_model(specification: str) -> nn.Module:
    """The module that "path/to/file.py:function" returns when called without arguments.

    The file may import modules beside it, as in `python path/to/file.py`. InputError for a missing file or function,
    an exception in either (with the line of the file that raised it), or anything returned but an nn.Module.
    """
    from torch import nn

    file, separator, function = specification.rpartition(":")
    if not separator or not file or not function:
        raise InputError(f"'{specification}' names no function", hint="write path/to/file.py:function")
    path = Path(file).expanduser().resolve()
    if not path.is_file():
        raise InputError(f"{file} does not exist")
    with _importable(path.parent):
        try:
            module = _import(path)
            factory = vars(module).get(function)
            if factory is None:
                own = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
                raise unknown_name(f"function in {file}:", function, own)
            if not callable(factory):
                raise InputError(f"{function} in {file} is {type(factory).__name__}, not a function")
            network = factory()
        except InputError:
            raise
        except (Exception, SystemExit) as error:
            raise _raised(path, error) from error
    if not isinstance(network, nn.Module):
        hint = f"{function} must return the network" if network is None else None
        raise InputError(f"{function} in {file} returned {type(network).__name__}, not torch.nn.Module", hint=hint)
    return network


def _import(path: Path) -> ModuleType:
    # A name of its own per file: two networks called net.py must not be taken for one.
    name = f"harness_user_{hashlib.sha256(str(path).encode()).hexdigest()[:16]}"
    specification = importlib.util.spec_from_file_location(name, path)
    if specification is None or specification.loader is None:
        raise InputError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(specification)
    # torch.export and dataclasses look their module up by name.
    sys.modules[name] = module
    try:
        specification.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """`folder` comes first in the search for modules, until the end."""
    entry = str(folder)
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        if entry in sys.path:
            sys.path.remove(entry)


def _raised(path: Path, error: BaseException) -> InputError:
    """What went wrong in the user's file: the innermost line of that file on the way to the error."""
    if isinstance(error, SyntaxError):
        return InputError(f"{error.filename or path}, line {error.lineno}: {error.msg}")
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    where = f"{path}, line {lines[-1]}" if lines else str(path)
    return InputError(f"{where}: {type(error).__name__}: {error}")
