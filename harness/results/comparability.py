"""What forbids comparing two records, and how a user overrides it. Looks at no figure.

Works on records as JSON's own types, so that a baseline's reduced record is looked at like a whole one: what one of the
two does not hold is not asked.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from harness.errors import InputError, unknown_name

# cost: latency, instructions, footprint. accuracy: how often the network was right.
Aspect = Literal["cost", "accuracy"]

# The words of --allow, each with the fields that it lets pass.
ALLOWANCES: Mapping[str, tuple[str, ...]] = {
    "clock": ("latency.clock", "latency.unit", "latency.model_version", "latency.hz"),
    "compiler": ("fingerprint.compiler",),
    "flags": ("fingerprint.flags",),
    "board": ("fingerprint.board_manifest_sha256",),
    "machine": ("machine",),
    "data": (
        "accuracy.dataset",
        "accuracy.split",
        "accuracy.samples",
        "accuracy.metric",
        "fingerprint.dataset_sha256",
    ),
}

_TIMED = ("silicon", "modelled")

# Flags that follow from the board, which comparisons may be about, or that say where things lie.
_FLAGS_OF_A_BOARD = ("-m", "-I", "-D", "-O")


@dataclass(frozen=True)
class Difference:
    """A field that forbids a comparison. field: dotted, as in the record. aspect: what may not be compared."""

    field: str
    before: str | int | float
    after: str | int | float
    aspect: Aspect

    def __str__(self) -> str:
        return f"{self.field}: {_short(self.before)} and {_short(self.after)}"


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[Difference, ...]:
    """The fields that forbid comparing `a` with `b`, in the record's order; empty when nothing does.

    What a comparison is usually about is not named: model, variant, kernels, board, optimisation, weights. On one
    board, though, its manifest counts for clocks that see caches and wait states, and so does the core's clock.
    """
    found = []
    for field, aspect in _fields(a, b):
        before, after = _get(a, field), _get(b, field)
        if before is not None and after is not None and before != after:
            found.append(Difference(field, before, after, aspect))
    return tuple(found)


def _fields(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterable[tuple[str, Aspect]]:
    same_board = a.get("board") == b.get("board")
    timed = _get(a, "latency.clock") in _TIMED and _get(b, "latency.clock") in _TIMED
    if _get(a, "latency.clock") == "host":
        yield "machine", "cost"  # of baselines: a record does not say whose nanoseconds it holds
    yield "latency.clock", "cost"
    yield "latency.unit", "cost"
    yield "latency.model_version", "cost"
    if same_board and timed:
        yield "latency.hz", "cost"
    for name in ("dataset", "split", "samples", "metric"):
        yield f"accuracy.{name}", "accuracy"
    yield "fingerprint.compiler", "cost"
    yield "fingerprint.flags", "cost"
    if same_board and timed:
        yield "fingerprint.board_manifest_sha256", "cost"
    if a.get("model") == b.get("model"):
        yield "fingerprint.dataset_sha256", "accuracy"


def build_options(flags: Iterable[str]) -> list[str]:
    """The flags that change code of one board: neither the board's own, nor paths, nor the optimisation level."""
    return sorted(flag for flag in flags if flag.startswith("-") and not flag.startswith(_FLAGS_OF_A_BOARD))


def _get(record: Mapping[str, Any], field: str) -> Any:
    value: Any = record
    for name in field.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    if field == "fingerprint.flags" and isinstance(value, list | tuple):
        # The host engine records no flags of a firmware.
        return " ".join(build_options(map(str, value))) or None
    return value


def check_allowances(allow: Iterable[str]) -> frozenset[str]:
    """The words of --allow as a set; InputError for one that does not exist."""
    words = frozenset(allow)
    for word in sorted(words):
        if word not in ALLOWANCES:
            raise unknown_name("allowance", word, ALLOWANCES)
    return words


def require(found: Collection[Difference], allow: Iterable[str], *, what: str) -> tuple[Difference, ...]:
    """Lets `found` pass as far as `allow` covers it, and returns it for the record of the comparison.

    InputError names every field that forbids the comparison of `what` otherwise, and the words that would allow it.
    """
    words = check_allowances(allow)
    allowed = {field for word in words for field in ALLOWANCES[word]}
    refused = [difference for difference in found if difference.field not in allowed]
    if refused:
        needed = [word for word, fields in ALLOWANCES.items() if any(item.field in fields for item in refused)]
        raise InputError(
            f"{what} cannot be compared: they differ in " + "; ".join(map(str, refused)),
            hint="to compare them all the same: " + " ".join(f"--allow {word}" for word in needed),
        )
    return tuple(found)


def _short(value: Any) -> str:
    text = str(value)
    return f"{text[:12]}..." if len(text) == 64 and text.isalnum() else text
