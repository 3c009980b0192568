"""A plan: which runs a sweep is made of, which of them cannot be, and how each is known again. Runs nothing.

A plan file is TOML. Every option of a run may be one value or a list; the runs are the cross product of the lists.

    models = ["lenet5", "cifar-net"]
    boards = ["nucleo-f746", "mps2-an386"]
    variants = ["int8", "fp32"]
    samples = 20

    [[exclude]]                 # runs that have all of this are left out
    model = "cifar-net"
    variant = "fp32"

    [[include]]                 # and these are added, with the options above that are single values
    model = "net.py:make_model"
    board = "nucleo-f746"
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import boards, engines
from harness.assets import boards_dir, firmware_dir
from harness.errors import DeviceError, InputError, unknown_name
from harness.files import cache_dir, file_sha256
from harness.sweep import specs

if TYPE_CHECKING:
    from harness.pipeline import RunSpec

# The words that people use for several of a thing.
PLURALS = {"models": "model", "boards": "board", "variants": "variant", "engines": "engine", "seeds": "seed"}

# Parts of this package that see no figure before it is recorded.
_BYSTANDERS = ("cli", "report", "reproduce", "results", "sweep", "__pycache__")

# More runs than this are a slip of the keyboard.
MOST_RUNS = 100_000


@dataclass(frozen=True)
class Job:
    """One run of a sweep.

    key: 64 hexadecimal digits over everything that its figures follow from, files and tools included: what has been
    done under this key need not be done again. exclusive: the board that only one run at a time can use, or None.
    """

    spec: RunSpec
    key: str
    exclusive: str | None

    @property
    def title(self) -> str:
        """The run in a few words: lenet5 int8 on nucleo-f746 (simulator)."""
        kernels = "" if self.spec.kernels == "default" else f" {self.spec.kernels}"
        model = Path(self.spec.model.rpartition(":")[0]).stem if ".py:" in self.spec.model else self.spec.model
        return f"{model} {self.spec.variant}{kernels} on {self.spec.board} ({self.spec.engine})"


@dataclass(frozen=True)
class Unfit:
    """A run of the cross product that cannot be, and why."""

    spec: RunSpec
    reason: str


@dataclass(frozen=True)
class Plan:
    """The runs, in the order in which they were written."""

    jobs: tuple[Job, ...]
    unfit: tuple[Unfit, ...]


def read(path: Path) -> Plan:
    """The plan in a TOML file. InputError says what is wrong with it."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"plan {path} cannot be read: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"plan {path} is not TOML: {error}") from error
    return make(raw, where=f"plan {path}", folder=path.parent)


def make(raw: Mapping[str, Any], *, where: str = "the plan", folder: Path | None = None) -> Plan:
    """The plan of these values: a TOML document as Python has it. folder: what relative paths are relative to."""
    raw = dict(raw)
    excludes = _tables(raw.pop("exclude", []), where)
    includes = _tables(raw.pop("include", []), where)
    axes: dict[str, list[Any]] = {}
    for key, value in raw.items():
        name = PLURALS.get(key, key)
        if name in axes:
            raise InputError(f"{where} has {name} twice: {key} means it too", hint="write the values into one list")
        # A list of lists multiplies options that are lists themselves.
        nested = isinstance(value, list) and any(isinstance(item, list) for item in value)
        values = value if isinstance(value, list) and (nested or not specs.is_list(name)) else [value]
        if not values:
            raise InputError(f"{where}: {key} is an empty list")
        converted = [specs.convert(name, item, where=where, folder=folder) for item in values]
        axes[name] = list(dict.fromkeys(converted))
    single = {name: values[0] for name, values in axes.items() if len(values) == 1}
    found = []
    if "model" in axes or "board" in axes or not includes:
        found += _product(axes, where)
    for extra in includes:
        given = {name: specs.convert(name, value, where=where, folder=folder) for name, value in extra.items()}
        found.append(specs.from_options({**single, **given}, where=f"an include of {where}"))
    excluded = [
        {name: specs.convert(name, value, where=where, folder=folder) for name, value in table.items()}
        for table in excludes
    ]
    kept = [
        spec
        for spec in dict.fromkeys(found)
        if not any(all(getattr(spec, name) == value for name, value in table.items()) for table in excluded)
    ]
    if not kept:
        raise InputError(f"{where} leaves nothing to run")
    return of(kept)


def _tables(value: Any, where: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(item, dict) and item for item in value):
        raise InputError(f"{where}: exclude and include are tables: [[exclude]], then options")
    return value


def _product(axes: Mapping[str, Sequence[Any]], where: str) -> list[RunSpec]:
    for name in ("model", "board"):
        if name not in axes:
            raise InputError(f"{where} names no {name}s", hint=f'{name}s = ["..."] in the plan, or --{name}s')
    size = 1
    for values in axes.values():
        size *= len(values)
    if size > MOST_RUNS:
        raise InputError(f"{where} has {size:,} runs, more than {MOST_RUNS:,}")
    # Boards vary fastest: neighbours share their network, which is traced and compressed once for each process.
    names = sorted(axes, key=lambda name: name == "board")
    return [
        specs.from_options(dict(zip(names, values, strict=True)), where=where)
        for values in itertools.product(*(axes[name] for name in names))
    ]


def of(wanted: Iterable[RunSpec]) -> Plan:
    """The plan of these runs: names and files are checked now, and so is which engine each board has.

    InputError for a name or a file that does not exist: a slip, not a run that does not fit.
    """
    jobs, unfit = [], []
    for spec in wanted:
        _check_names(spec)
        try:
            choice = _engine(spec.board, spec.engine, spec.probe)
        except (InputError, DeviceError) as error:
            unfit.append(Unfit(spec, error.message))
            continue
        chosen = dataclasses.replace(spec, engine=choice.engine, probe=choice.probe or spec.probe)
        exclusive = f"{chosen.board} {chosen.probe or ''}".strip() if choice.engine == "hardware" else None
        jobs.append(Job(chosen, key(chosen), exclusive))
    return Plan(tuple(jobs), tuple(unfit))


def _check_names(spec: RunSpec) -> None:
    from harness.models import catalogue
    from harness.pipeline import KERNELS
    from harness.preparation import VARIANTS

    if ".py:" not in spec.model and spec.model not in catalogue.names():
        raise unknown_name("model", spec.model, catalogue.names())
    boards.load(spec.board)
    for what, name, known in (
        ("variant", spec.variant, VARIANTS),
        ("kernels", spec.kernels, KERNELS),
        ("engine", spec.engine, ("auto", *engines.ENGINES)),
    ):
        if name not in known:
            raise unknown_name(what, name, known)
    for file in files(spec).values():
        if not file.is_file():
            raise InputError(f"there is no file {file}")


@cache
def _engine(board: str, engine: str, probe: str | None) -> engines.Choice:
    """Looks for probes once for each board, not for each run."""
    return engines.choose(boards.load(board), engine, probe)


def files(spec: RunSpec) -> dict[str, Path]:
    """The user's files that a run reads, by the option that names them."""
    found = {field.name: getattr(spec, field.name) for field in dataclasses.fields(spec)}
    named = {name: value for name, value in found.items() if isinstance(value, Path)}
    source = {"model": Path(spec.model.rpartition(":")[0])} if ".py:" in spec.model else {}
    if boards.is_path(spec.board):
        source["board"] = Path(spec.board)
    return source | {name: path for name, path in named.items() if not specs.is_dataset(name, path)}


def key(spec: RunSpec) -> str:
    """What a run is known by: its options, its files' content, and the tools that make its figures."""
    content = {
        "options": {name: str(value) for name, value in sorted(dataclasses.asdict(spec).items())},
        "files": {name: file_sha256(path) for name, path in files(spec).items()},
        "datasets": _datasets(),
        "tools": tools(),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@cache
def _datasets() -> list[str]:
    """Which dataset files there are, by name and size: with MNIST at hand a run is another one than without it."""
    folders = [Path(variable).expanduser()] if (variable := os.environ.get("HARNESS_DATA")) else []
    found = []
    for folder in (*folders, cache_dir() / "mnist"):
        for pattern in ("*", "*/*"):
            found += [f"{path.name} {path.stat().st_size}" for path in folder.glob(pattern) if path.is_file()]
    return sorted(found)


@cache
def tools() -> tuple[str, ...]:
    """This tool's own sources and weights, the firmware's, the boards', the versions of packages, and the compiler."""
    from harness import fingerprint
    from harness.toolchain import compiler

    digest = hashlib.sha256()
    package = Path(__file__).resolve().parent.parent
    for folder, pattern in (
        (package, "**/*.py"),  # without _BYSTANDERS
        (package, "**/*.j2"),
        (package, "models/weights/*"),
        (firmware_dir(), "**/*"),
        (boards_dir(), "*.json"),
    ):
        for path in sorted(folder.glob(pattern)):
            if path.is_file() and path.relative_to(folder).parts[0] not in _BYSTANDERS:
                digest.update(f"{path.relative_to(folder)}\0{file_sha256(path)}\n".encode())
    found = compiler.find_arm()
    packages = [f"{name} {version}" for name, version in sorted(fingerprint.packages().items())]
    return (digest.hexdigest(), found.identity if found else "registry", *packages)
