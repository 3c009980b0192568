"""A run's options as plain values (of a TOML plan, a baseline, a message) made into a RunSpec, and back."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import InputError, unknown_name

if TYPE_CHECKING:
    from harness.pipeline import RunSpec


@cache
def fields() -> dict[str, tuple[type, ...]]:
    """The options of a run by name, each with the types that its value may have, None left out."""
    from harness.pipeline import RunSpec

    hints = typing.get_type_hints(RunSpec)
    return {field.name: _alternatives(hints[field.name]) for field in dataclasses.fields(RunSpec)}


def _alternatives(hint: Any) -> tuple[type, ...]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return tuple(kind for member in typing.get_args(hint) for kind in _alternatives(member))
    kind = typing.get_origin(hint) or hint
    if kind is typing.Literal:
        return (str,)
    return () if kind is types.NoneType else (kind,)


def is_dataset(name: str, value: object) -> bool:
    """Whether the option names a dataset that harness knows, and no file."""
    from harness import data

    return name == "data" and str(value) in data.names()


def is_list(name: str) -> bool:
    """Whether the option's value is a list itself."""
    return tuple in fields().get(name, ())


def from_options(options: Mapping[str, Any], *, where: str, folder: Path | None = None) -> RunSpec:
    """The RunSpec of these options. folder: what relative paths are relative to (None: the current folder).

    InputError names an option that does not exist, is of the wrong type or is missing; `where` says whose it is.
    """
    from harness.pipeline import RunSpec

    values: dict[str, Any] = {}
    for name, value in options.items():
        values[name] = convert(name, value, where=where, folder=folder)
    for name in ("model", "board"):
        if name not in options:
            raise InputError(f"{where} lacks its {name}")
    return RunSpec(**values)


def convert(name: str, value: Any, *, where: str, folder: Path | None = None) -> Any:
    """One option's value as a RunSpec holds it; InputError for an unknown name or a value of another type."""
    allowed = fields()
    if name not in allowed:
        raise unknown_name(f"option of {where}", name, allowed)
    kinds = allowed[name]
    if Path in kinds and isinstance(value, str):
        return Path(value) if is_dataset(name, value) else _path(value, folder)
    if name == "model" and isinstance(value, str) and ".py:" in value and folder is not None:
        file, _, function = value.rpartition(":")
        return f"{_path(file, folder)}:{function}"
    if tuple in kinds and isinstance(value, list | tuple):
        if not all(isinstance(item, str) for item in value):
            raise InputError(f"option {name} of {where} is {value!r}, which is not a list of words")
        return tuple(value)
    if float in kinds and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        wanted = " or ".join("path" if kind is Path else kind.__name__ for kind in kinds)
        raise InputError(f"option {name} of {where} is {value!r}, which is not of type {wanted}")
    return value


def _path(text: str, folder: Path | None) -> Path:
    path = Path(text).expanduser()
    return path if folder is None else folder / path


def to_options(spec: RunSpec) -> dict[str, Any]:
    """The options of `spec` that are not their defaults, as JSON's own types; model and board always."""
    options: dict[str, Any] = {}
    for field in dataclasses.fields(spec):
        value = getattr(spec, field.name)
        if value != field.default:
            options[field.name] = (
                str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
            )
    return options
