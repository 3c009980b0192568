"""The gate's arithmetic: what of a record must be equal every time, and what moved. Runs nothing.

A baseline file is {"schema": 1, "specs": [...], "expected": [...]}: what to run, and for each spec the record that is
expected, without what differs from run to run (time, git commit) or from machine to machine (host clocks, packages).
It may have "tolerances", {figure: fraction}, where a figure is a dotted name with * for any part of it, and "times":
for each spec the times of clocks that vary, {"machine": ..., "rounds": [[...], ...]}, or null.
"""

from __future__ import annotations

import fnmatch
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import json_file
from harness.errors import InputError
from harness.files import write_whole
from harness.json_file import Unusable
from harness.results.comparability import build_options
from harness.results.record import Layer, Result

SCHEMA = 1

Scalar = str | int | float | bool | None

# A run's options by name, as harness/cli/regress.py gives them to the pipeline; this module only keeps them.
Spec = Mapping[str, Scalar]

# A record reduced by stable(), as JSON's own types.
Expected = Mapping[str, Any]

# Clocks whose figures are equal on every run and every machine.
_EXACT_CLOCKS = ("instructions", "modelled")

# Kept beside the figures to explain why they moved; not compared by compare().
_CAUSES = ("compiler", "flags", "optimize", "board_manifest_sha256", "weights_sha256", "dataset_sha256")

# A record nests four deep.
_MAX_DEPTH = 8


@dataclass(frozen=True)
class Change:
    """A figure that moved. field: dotted, a layer by its name (layers.conv1.ticks). None: it is not there."""

    field: str
    before: Scalar
    after: Scalar


@dataclass(frozen=True)
class Times:
    """The times of a clock that varies: one list for each round. machine: whose they are, None for a board's."""

    machine: str | None
    rounds: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Baseline:
    """specs: what to run. expected: one per spec, or empty when none was recorded yet.

    tolerances: relative, by the figure's dotted name, in which * stands for anything. times: one per spec, or empty.
    """

    specs: tuple[Spec, ...]
    expected: tuple[Expected, ...]
    tolerances: Mapping[str, float] = field(default_factory=dict)
    times: tuple[Times | None, ...] = ()


def stable(record: Result) -> dict[str, Any]:
    """The part of a record that is equal on every run of the same spec, and what it was made from.

    Left out: id, time, fingerprint but for what explains a change, figures of hardware and host clocks, and for float
    variants what the reference computed (max_abs_error, crc_reference): another CPU's torch may round otherwise.
    """
    exact_clock = record.latency.clock in _EXACT_CLOCKS
    plain = record.plain()
    fingerprint = plain["fingerprint"]
    kept = {key: plain[key] for key in ("model", "variant", "board", "engine", "kernels", "seed")}
    plain["latency"].pop("times")
    fingerprint["flags"] = " ".join(build_options(fingerprint["flags"])) or None
    latency = plain["latency"] if exact_clock else {key: plain["latency"][key] for key in ("clock", "unit", "repeats")}
    layers = [
        _stable_layer(layer, ticks=exact_clock, reference=record.bit_exact is not None) for layer in record.layers
    ]
    accuracy = {key: value for key, value in plain["accuracy"].items() if key != "fp32"}
    return kept | {
        "latency": latency,
        "instructions": plain["instructions"],
        "layers": layers,
        "footprint": plain["footprint"],
        "accuracy": accuracy,
        "bit_exact": plain["bit_exact"],
        "fingerprint": {key: fingerprint[key] for key in _CAUSES},
    }


def _stable_layer(layer: Layer, *, ticks: bool, reference: bool) -> dict[str, Any]:
    dropped = {name for name, keep in (("ticks", ticks), ("crc_reference", reference)) if not keep}
    return layer.model_dump(mode="json", exclude=dropped)


def compare(baseline: Expected, record: Result) -> tuple[Change, ...]:
    """Every deterministic figure of `record` that is not exactly the baseline's, in the record's order.

    A figure that only one of them has counts as moved. What the figures came from is not compared: see causes().
    """
    return _changes(_without(baseline, "fingerprint"), _without(stable(record), "fingerprint"))


def within(change: Change, tolerances: Mapping[str, float]) -> bool:
    """Whether a tolerance covers the change: of all that name the figure, the last one counts."""
    allowed = [share for pattern, share in tolerances.items() if fnmatch.fnmatchcase(change.field, pattern)]
    before, after = change.before, change.after
    if not allowed or not _is_number(before) or not _is_number(after):
        return False
    assert isinstance(before, int | float) and isinstance(after, int | float)
    return abs(after - before) <= allowed[-1] * abs(before)


def _is_number(value: Scalar) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def causes(baseline: Expected, record: Result) -> tuple[Change, ...]:
    """What explains moved figures: another compiler, flags, optimisation level, board manifest, weights or data.

    What the baseline does not hold, because it is older, explains nothing.
    """
    before = baseline.get("fingerprint")
    held = set(before) if isinstance(before, Mapping) else set()
    after = {name: value for name, value in stable(record)["fingerprint"].items() if name in held}
    return _changes({"fingerprint": before}, {"fingerprint": after})


def _without(record: Expected, key: str) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name != key}


def _changes(before: Expected, after: Expected) -> tuple[Change, ...]:
    old, new = _flat(before), _flat(after)
    fields = list(new) + [field for field in old if field not in new]
    return tuple(
        Change(field, old.get(field), new.get(field)) for field in fields if not _same(old.get(field), new.get(field))
    )


def _same(before: Scalar, after: Scalar) -> bool:
    """Exact equality, in type too: 1 is not true, while 1 and 1.0 are one number."""
    return before == after and isinstance(before, bool) == isinstance(after, bool)


def _flat(value: Any, prefix: str = "") -> dict[str, Scalar]:
    """Dotted names of all scalars that are not null; a list of layers goes by their names, other lists by position."""
    if prefix.count(".") > _MAX_DEPTH:
        raise Unusable("it is nested too deeply")
    if isinstance(value, Mapping):
        parts = [(str(key), member) for key, member in value.items()]
    elif isinstance(value, Sequence) and not isinstance(value, str):
        if value and all(isinstance(member, int) for member in value):
            return {prefix: "x".join(str(member) for member in value)}
        parts = [
            (str(member["name"]) if isinstance(member, Mapping) and "name" in member else str(index), member)
            for index, member in enumerate(value)
        ]
    else:
        return {} if value is None else {prefix: value}
    flat: dict[str, Scalar] = {}
    for name, member in parts:
        flat |= _flat(member, f"{prefix}.{name}" if prefix else name)
    return flat


def read_baseline(path: Path) -> Baseline:
    """The baseline in `path`. InputError says what is wrong with the file when it cannot be used."""
    try:
        return _baseline(json_file.load(path))
    except Unusable as error:
        raise InputError(
            f"baseline {path} cannot be used: {error}",
            hint='start from {"schema": 1, "specs": [{"model": ..., "board": ...}], "expected": []} and --update',
        ) from error


def _baseline(raw: Any) -> Baseline:
    if not isinstance(raw, dict):
        raise Unusable("it is not a JSON object")
    schema = raw.get("schema")
    if isinstance(schema, int) and schema > SCHEMA:
        raise Unusable(f"a newer harness wrote it (schema {schema}, this one knows {SCHEMA})")
    if schema != SCHEMA or isinstance(schema, bool):
        raise Unusable(f"its schema is {schema!r}, not {SCHEMA}")
    if unknown := sorted(set(raw) - {"schema", "specs", "expected", "tolerances", "times"}):
        raise Unusable(f"it has an unknown key '{unknown[0]}'")
    specs, expected = raw.get("specs"), raw.get("expected", [])
    if not isinstance(specs, list) or not specs:
        raise Unusable("it lists no specs")
    if not isinstance(expected, list) or len(expected) not in (0, len(specs)):
        raise Unusable("expected must have one record for each spec, or none at all")
    for index, spec in enumerate(specs):
        if not isinstance(spec, dict) or not all(isinstance(value, Scalar) for value in spec.values()):
            raise Unusable(f"specs[{index}] is not an object of plain options")
        if spec in specs[:index]:
            raise Unusable(f"specs[{index}] is there twice")
    for index, record in enumerate(expected):
        if not isinstance(record, dict):
            raise Unusable(f"expected[{index}] is not a record")
        _flat(record)
    return Baseline(
        tuple(specs), tuple(expected), _tolerances(raw.get("tolerances", {})), _times(raw.get("times", []), len(specs))
    )


def _tolerances(raw: Any) -> dict[str, float]:
    if not isinstance(raw, dict):
        raise Unusable("tolerances is not an object")
    for name, share in raw.items():
        if not _is_number(share) or not 0 <= share < math.inf:
            raise Unusable(f"the tolerance of {name} is not a fraction")
    return raw


def _times(raw: Any, specs: int) -> tuple[Times | None, ...]:
    if not isinstance(raw, list) or len(raw) not in (0, specs):
        raise Unusable("times must have one entry for each spec, or none at all")
    return tuple(_one_times(entry, f"times[{index}]") for index, entry in enumerate(raw))


def _one_times(raw: Any, where: str) -> Times | None:
    if raw is None:
        return None
    if not isinstance(raw, dict) or set(raw) != {"machine", "rounds"}:
        raise Unusable(f"{where} is not an object of machine and rounds")
    machine, rounds = raw["machine"], raw["rounds"]
    good = isinstance(rounds, list) and rounds and all(isinstance(times, list) and times for times in rounds)
    if not good or not all(type(time) is int and time > 0 for times in rounds for time in times):
        raise Unusable(f"{where}: rounds are not lists of times")
    if not isinstance(machine, str | None):
        raise Unusable(f"{where}: machine is not a name")
    return Times(machine, tuple(tuple(times) for times in rounds))


def write_baseline(
    path: Path,
    specs: Sequence[Spec],
    records: Sequence[Result],
    *,
    tolerances: Mapping[str, float] | None = None,
    times: Sequence[Times | None] = (),
) -> None:
    """Writes the baseline of these runs, whole or not at all: records[i], and times[i], is what specs[i] gave.

    The same runs give the same bytes, so that a diff shows figures only. InputError when the file cannot be written.
    """
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "specs": [dict(spec) for spec in specs],
        "expected": [stable(record) for _, record in zip(specs, records, strict=True)],
    }
    if tolerances:
        document["tolerances"] = dict(tolerances)
    if any(times):
        document["times"] = [
            entry and {"machine": entry.machine, "rounds": [list(times) for times in entry.rounds]} for entry in times
        ]
    write_whole(path, json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
