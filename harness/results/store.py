"""Where records are kept: <results folder>/runs/<id>.json, one file a record, and how they are found and read again."""

from __future__ import annotations

import difflib
import gc
import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from harness.errors import InputError
from harness.files import write_whole
from harness.json_file import Unusable, parse_json, read_bounded
from harness.results.record import SCHEMA, Result, content_id

if TYPE_CHECKING:
    import pandas

RUNS = "runs"


class DamagedRecordWarning(UserWarning):
    """Some files of a results folder are no records of ours; they were left out."""


def results_dir(option: Path | None = None) -> Path:
    """The results folder, absolute: `option` (--results), else $HARNESS_RESULTS, else results/ beside the nearest
    harness.toml from the current folder upward, else ./results. It need not exist."""
    if option is not None:
        return option.expanduser().absolute()
    variable = os.environ.get("HARNESS_RESULTS")
    if variable:
        return Path(variable).expanduser().absolute()
    here = Path.cwd()
    project = next((folder for folder in (here, *here.parents) if (folder / "harness.toml").is_file()), here)
    return project / "results"


def writable_results_dir(option: Path | None = None) -> Path:
    """results_dir(), after a check that records can be written there: asked before a run, not after it.

    InputError when they cannot.
    """
    root = results_dir(option)
    existing = next(folder for folder in (root / RUNS, *(root / RUNS).parents) if folder.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(
            f"results cannot be written to {root}: {existing} is not a folder that can be written to",
            hint="choose another results folder with --results or $HARNESS_RESULTS",
        )
    return root


def save(result: Result, root: Path | None = None) -> Path:
    """Writes the record whole or not at all, and returns its file. root: the results folder (None: results_dir()).

    InputError when the folder cannot be written to.
    """
    path = results_dir(root) / RUNS / f"{result.id}.json"
    try:
        write_whole(path, result.to_json())
    except InputError as error:
        raise InputError(
            error.message, hint="choose another results folder with --results or $HARNESS_RESULTS"
        ) from error
    return path


def get(id_prefix: str, root: Path | None = None) -> Result:
    """The one record whose id begins with `id_prefix`, or whose id's hash (its last part) does.

    InputError when there is none (naming the nearest ids), when there are several, or when its file is damaged.
    """
    folder = results_dir(root) / RUNS
    known = {path.stem: path for path in _record_files(folder)}
    if not known:
        raise InputError(
            f"there are no results in {folder.parent}",
            hint="make one with `harness run`, or name the folder with --results",
        )
    matches = [name for name in known if name.startswith(id_prefix) or name.rpartition("-")[2].startswith(id_prefix)]
    if not id_prefix or not matches:
        near = difflib.get_close_matches(id_prefix, known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"the latest is {max(known)}"
        raise InputError(f"no result has the id '{id_prefix}'", hint=hint)
    if len(matches) > 1:
        raise InputError(
            f"{len(matches)} results have an id that begins with '{id_prefix}'",
            hint=f"among them {', '.join(sorted(matches)[-3:])}: type more of it",
        )
    path = known[matches[0]]
    try:
        return _read(path)
    except Unusable as error:
        raise InputError(f"result {path} cannot be used: {error}", hint="run it again, and delete that file") from error


def load(root: Path | None = None) -> pandas.DataFrame:
    """All records of the results folder `root` (None: results_dir()), one row each, oldest first.

    Columns are the record's keys, dotted (latency.median, footprint.flash.weights): always the same ones, typed, also
    when there is no record at all. `time` is a UTC timestamp; counts are Int64 and figures Float64, <NA> where the
    record has null. `layers` holds each record's layers as a list of dicts; fingerprint.packages and .seeds hold dicts.
    `bit_exact` is True, False (see bit_exact.first_layer, .expected, .got) or <NA> for float variants.

    Files that are no records are left out, named in a DamagedRecordWarning and in `.attrs["damaged"]` (name -> reason).
    """
    gathered = _Columns()
    damaged: dict[str, str] = {}
    folder = results_dir(root) / RUNS
    with _no_collection():
        for path in _record_files(folder):
            try:
                gathered.add(_read_raw(path)[1])
            except Unusable as error:
                damaged[path.name] = str(error)
    if damaged:
        listed = "; ".join(f"{name}: {reason}" for name, reason in list(damaged.items())[:5])
        more = f"; and {len(damaged) - 5} more" if len(damaged) > 5 else ""
        warnings.warn(
            f"{len(damaged)} of the files in {folder} left out: {listed}{more}", DamagedRecordWarning, stacklevel=2
        )
    made = gathered.frame()
    made.attrs["damaged"] = damaged
    return made


def frame(records: Iterable[Result]) -> pandas.DataFrame:
    """These records as load() would return them, in the order given."""
    gathered = _Columns()
    for record in records:
        gathered.add(record.plain())
    made = gathered.frame()
    made.attrs["damaged"] = {}
    return made


class _Columns:
    """Records as columns, filled one record after the other: no record is kept as a whole."""

    def __init__(self) -> None:
        self._values: dict[str, list[Any]] = {name: [] for name in _columns(Result)}
        self._groups = [(path, [(key, self._values[column]) for key, column in keys]) for path, keys in _groups(Result)]

    def add(self, record: dict[str, Any]) -> None:
        """A record as JSON, which has been checked. A key that came later than the record is null in it."""
        for path, keys in self._groups:
            values: Any = record
            for name in path:
                values = values.get(name)
                if not isinstance(values, dict):
                    values = {}
            for key, column in keys:
                column.append(values.get(key))

    def frame(self) -> pandas.DataFrame:
        """One row for each record."""
        import pandas

        self._values["bit_exact"] = [False if isinstance(value, dict) else value for value in self._values["bit_exact"]]
        made = pandas.DataFrame(
            {name: pandas.Series(self._values[name], dtype=dtype) for name, dtype in _columns(Result).items()}
        )
        made["time"] = pandas.to_datetime(made["time"], utc=True).dt.as_unit("ms")
        return made


def _record_files(folder: Path) -> list[Path]:
    """The folder's JSON files by name, which is by time; hidden ones are unfinished writes. No folder: no files."""
    try:
        return sorted(path for path in folder.iterdir() if path.suffix == ".json" and not path.name.startswith("."))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(
            f"results folder {folder} cannot be read: {error.strerror}", hint="name another one with --results"
        ) from error


@contextmanager
def _no_collection() -> Iterator[None]:
    """No garbage collection meanwhile: it would look again and again through thousands of records, all of them kept."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _read(path: Path) -> Result:
    """The record in `path`; Unusable says why it is none."""
    return _read_raw(path)[0]


def _read_raw(path: Path) -> tuple[Result, dict[str, Any]]:
    """The record in `path`, checked, and the JSON it came from; Unusable says why it is none."""
    content = read_bounded(path, follow_links=False)
    raw = parse_json(content)
    if not isinstance(raw, dict):
        raise Unusable("it is not a record")
    schema = raw.get("schema")
    if isinstance(schema, int) and schema > SCHEMA:
        raise Unusable(f"a newer harness wrote it (schema {schema}, this one knows {SCHEMA})")
    try:
        result = Result.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Unusable(f"{where}: {first['msg']}" if where else first["msg"]) from error
    if result.id != content_id(raw):
        raise Unusable("its content does not belong to its id: it was altered")
    if result.id != path.stem:
        raise Unusable(f"it was renamed: it holds {result.id}")
    return result, raw


def _groups(
    model: type[BaseModel], path: tuple[str, ...] = (), prefix: str = ""
) -> list[tuple[tuple[str, ...], list[tuple[str, str]]]]:
    """For `model` and each record nested in it: the way to it, and its keys with the columns that they fill."""
    own = [(name, prefix + name) for name, annotation in _fields(model) if _dtype(annotation)]
    found = [(path, own)]
    for name, annotation in _fields(model):
        nested = _nested_model(annotation)
        if nested is not None:
            found += _groups(nested, (*path, name), f"{prefix}{name}.")
    return found


def _columns(model: type[BaseModel], prefix: str = "") -> dict[str, str]:
    """Every column that a record can fill, with its pandas dtype, in the record's order."""
    columns: dict[str, str] = {}
    for name, annotation in _fields(model):
        dtype = _dtype(annotation)
        if dtype:
            columns[prefix + name] = dtype
        nested = _nested_model(annotation)
        if nested is not None:
            columns |= _columns(nested, f"{prefix}{name}.")
    return columns


def _fields(model: type[BaseModel]) -> Iterator[tuple[str, Any]]:
    """Name in JSON, and type, of each field."""
    for name, field in model.model_fields.items():
        yield field.alias or name, field.annotation


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    """The types that a value may have, None and validators left out."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _alternatives(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return tuple(kind for member in get_args(annotation) for kind in _alternatives(member))
    return () if annotation is NoneType else (annotation,)


def _nested_model(annotation: Any) -> type[BaseModel] | None:
    models = (kind for kind in _alternatives(annotation) if isinstance(kind, type) and issubclass(kind, BaseModel))
    return next(models, None)


def _dtype(annotation: Any) -> str | None:
    """The pandas dtype of a field's own values; None for a field that only holds another model."""
    kinds = {
        type(get_args(kind)[0]) if get_origin(kind) is Literal else get_origin(kind) or kind
        for kind in _alternatives(annotation)
    }
    plain = {kind for kind in kinds if not issubclass(kind, BaseModel)}
    for python, dtype in ((float, "Float64"), (bool, "boolean"), (int, "Int64"), (str, "string")):
        if python in plain:
            return dtype
    return "object" if plain else None
