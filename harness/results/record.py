"""The result record: every figure of one run and all that is needed to get it again. Knows no files and no folders.

A record is frozen and checks itself: footprint classes add up, figures are finite and plausible, a bit-exactness
verdict agrees with the layers' checksums, and a latency carries the clock it was read from. Sizes are in bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

SCHEMA: Final = 1

Engine = Literal["hardware", "qemu", "simulator", "renode", "host"]
Clock = Literal["silicon", "modelled", "instructions", "host"]
Unit = Literal["cycles", "instructions", "ns"]

# What each clock counts in. Two clocks that share a unit still must not be compared: see comparable().
UNIT_OF: Mapping[Clock, Unit] = {
    "silicon": "cycles",
    "modelled": "cycles",
    "instructions": "instructions",
    "host": "ns",
}

# A Cortex-M addresses 4 GiB, and pandas keeps counts as signed 64-bit integers: anything larger is damage.
_MAX_BYTES = 2**32
_MAX_COUNT = 2**63 - 1

# No control characters: these strings are printed to terminals.
Text = Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[^\x00-\x1f\x7f]*$")]
Bytes = Annotated[int, Field(ge=0, le=_MAX_BYTES)]
Count = Annotated[int, Field(ge=0, le=_MAX_COUNT)]
Fraction = Annotated[float, Field(ge=0, le=1)]
_TIME = re.compile(r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z$")
Crc32 = Annotated[str, Field(pattern=r"^[0-9a-f]{8}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Record(BaseModel):
    # strict: "12", True and 12.0 are not the integer 12; a record that needs to be interpreted is a wrong one.
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, populate_by_name=True, protected_namespaces=()
    )


class Latency(_Record):
    """One inference, as one clock saw it; `overhead` is already subtracted from every figure.

    median, min, max: in `unit`, over `repeats` inferences. hz: units per second (core clock, or 1e9 for ns); us: the
    median in microseconds. Both are None for clock "instructions": a count of instructions is not a time.
    error_band: half-width of the model's error as a fraction (0.08 is +-8 %), None where nobody has measured it
    (uncalibrated). overhead: what an empty region costs.
    times: the figure of each repeat in the order they were taken, for the clocks that vary (silicon, host): what a
    gate needs to tell a shift from noise. None for the others, and in records older than this field.
    """

    clock: Clock
    unit: Unit
    median: Annotated[int | float, Field(ge=0, le=_MAX_COUNT)]
    min: Count
    max: Count
    repeats: Annotated[int, Field(ge=1, le=_MAX_COUNT)]
    hz: Annotated[int, Field(gt=0, le=_MAX_COUNT)] | None
    us: Annotated[float, Field(ge=0)] | None
    error_band: Annotated[float, Field(ge=0)] | None = None
    model_version: Text | None = None
    overhead: Count
    times: tuple[Count, ...] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.unit != UNIT_OF[self.clock]:
            raise ValueError(f"clock {self.clock} counts {UNIT_OF[self.clock]}, not {self.unit}")
        if not self.min <= self.median <= self.max:
            raise ValueError("the median lies outside min..max")
        if self.times is not None and (len(self.times), min(self.times, default=0), max(self.times, default=0)) != (
            self.repeats,
            self.min,
            self.max,
        ):
            raise ValueError("times does not agree with repeats, min and max")
        modelled = self.clock == "modelled"
        if modelled != (self.model_version is not None) or (self.error_band is not None and not modelled):
            raise ValueError("model_version and error_band belong to clock modelled, and to it alone")
        if self.clock == "instructions":
            if self.hz is not None or self.us is not None:
                raise ValueError("a count of instructions has no hz and no us")
        elif self.hz is None or self.us is None:
            raise ValueError(f"clock {self.clock} needs hz and us")
        elif not math.isclose(self.us, self.median / self.hz * 1e6, rel_tol=1e-3, abs_tol=1e-3):
            raise ValueError("us is not median / hz")
        return self


class Layer(_Record):
    """One observable layer. form: how its weights are stored. shape: of its output. ticks: in the latency's unit, None
    where none were taken.

    weight_bytes: its constants. activation_bytes: the buffers it needs at once: input, output, scratch. crc_*: CRC-32
    of its logical output tensor; of several samples, the CRC-32 over theirs (little-endian, in the samples' order).
    """

    name: Text
    op: Text
    form: Text | None = None
    shape: tuple[Annotated[int, Field(gt=0, le=_MAX_COUNT)], ...]
    macs: Count
    ticks: Count | None
    weight_bytes: Bytes
    activation_bytes: Bytes
    crc_device: Crc32 | None
    crc_reference: Crc32 | None


class Flash(_Record):
    """Flash bytes of the whole image, by class; total is their sum."""

    total: Bytes
    weights: Bytes
    kernels: Bytes
    platform: Bytes

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if self.total != self.weights + self.kernels + self.platform:
            raise ValueError("flash classes do not add up to the total")
        return self


class Ram(_Record):
    """RAM bytes of the whole image, by class; total is their sum. stack is what is reserved."""

    total: Bytes
    activations: Bytes
    platform: Bytes
    stack: Bytes

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if self.total != self.activations + self.platform + self.stack:
            raise ValueError("ram classes do not add up to the total")
        return self


class Footprint(_Record):
    """What the image takes on the board. network: weights + kernels + activations, the figure to compare variants by.

    stack_used: the high-water mark since boot, from the painted stack; None where it was not asked for.
    """

    flash: Flash
    ram: Ram
    network: Bytes
    stack_used: Bytes | None

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if self.network != self.flash.weights + self.flash.kernels + self.ram.activations:
            raise ValueError("network is not weights + kernels + activations")
        if self.stack_used is not None and self.stack_used > self.ram.stack:
            raise ValueError("more stack used than reserved")
        return self


class Accuracy(_Record):
    """How often the network was right. device: on what the board itself returned, over `samples` samples.

    host: the integer (or float) reference over the same samples; fp32: the uncompressed network over them.
    classes_sha256: classes_sha256() of the classes that the board returned, which two runs can be compared by.
    """

    dataset: Text
    split: Literal["train", "validation", "test"]
    samples: Count
    metric: Literal["top1", "auc"]
    device: Fraction | None
    host: Fraction | None
    fp32: Fraction | None
    classes_sha256: Sha256 | None = None


class Mismatch(_Record):
    """The first layer whose output is not the reference's, and both checksums."""

    first_layer: Text
    expected: Crc32
    got: Crc32


class ClockTree(_Record):
    """What ran the core, read back from the chip's registers by the firmware: source as manifests name it ("fixed" on
    machines that have no choice), core clock in Hz, wait states of the flash, caches that were on.

    registers: address -> value, both in hexadecimal, of the registers that say so.
    """

    source: Text
    core_hz: Count
    wait_states: Count
    caches: tuple[Text, ...]
    registers: dict[Text, Text]


class Fingerprint(_Record):
    """What the figures came from. None where there is no such thing (no git checkout, no ELF on the host engine).

    bias_correction: of a policy's post-training quantisation, whether biases make up for what few bits lose; None for
    all else, and in records older than it. options: what the run was asked for besides the record's own keys, where it
    was not the default; no paths. None in records older than this field. clock: None on the host engine, and in records
    older than it.
    """

    git_commit: Annotated[str, Field(pattern=r"^[0-9a-f]{40}([0-9a-f]{24})?$")] | None
    git_dirty: bool | None
    sources_sha256: Sha256 | None
    elf_sha256: Sha256 | None
    build_id: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")] | None
    compiler: Text | None
    flags: tuple[Text, ...]
    optimize: Text | None
    board_manifest_sha256: Sha256 | None
    emulator: Text | None
    emulator_version: Text | None
    packages: dict[Text, Text]
    weights_sha256: Sha256 | None
    dataset_sha256: Sha256 | None
    seeds: dict[Text, int]
    bias_correction: bool | None = None
    options: dict[Text, Text | int | float | bool | tuple[Text, ...]] | None = None
    clock: ClockTree | None = None


class Result(_Record):
    """One run. Make one with Result.new(), which gives it its time and its id.

    weights: "random" for a network that has learnt nothing, whose accuracies are None; None for a trained one.
    forms: "leaner" where the board's memory has no room for the layers' preferred forms; None where it has.
    bit_exact: True, or the first mismatch; None for float variants, which carry max_abs_error instead.
    footprint: None on the host engine. instructions: per inference, None on hardware and on the host engine.
    """

    schema_version: Literal[1] = Field(alias="schema")
    id: Annotated[str, Field(pattern=r"^[0-9]{8}-[0-9]{9}-[0-9a-f]{8}$")]
    time: Annotated[str, Field(pattern=_TIME.pattern)]
    model: Text
    variant: Text
    board: Text
    engine: Engine
    kernels: Text
    seed: int | None
    weights: Literal["random"] | None = None
    forms: Literal["leaner"] | None = None
    latency: Latency
    instructions: Count | None
    layers: tuple[Layer, ...]
    footprint: Footprint | None
    accuracy: Accuracy
    bit_exact: Literal[True] | Mismatch | None
    max_abs_error: Annotated[float, Field(ge=0)] | None
    fingerprint: Fingerprint

    @classmethod
    def new(
        cls,
        *,
        model: str,
        variant: str,
        board: str,
        engine: Engine,
        kernels: str,
        seed: int | None,
        weights: Literal["random"] | None = None,
        forms: Literal["leaner"] | None = None,
        latency: Latency,
        instructions: int | None,
        layers: Iterable[Layer],
        footprint: Footprint | None,
        accuracy: Accuracy,
        bit_exact: Literal[True] | Mismatch | None,
        max_abs_error: float | None,
        fingerprint: Fingerprint,
        now: datetime | None = None,
    ) -> Self:
        """A record of these figures, taken at `now` (aware; default: this moment), with the id that follows from them.

        pydantic.ValidationError (a ValueError) when the figures contradict each other.
        """
        moment = (now or datetime.now(UTC)).astimezone(UTC)
        draft = cls(
            schema=SCHEMA,
            id="00000000-000000000-00000000",
            time=f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03}Z",
            model=model,
            variant=variant,
            board=board,
            engine=engine,
            kernels=kernels,
            seed=seed,
            weights=weights,
            forms=forms,
            latency=latency,
            instructions=instructions,
            layers=tuple(layers),
            footprint=footprint,
            accuracy=accuracy,
            bit_exact=bit_exact,
            max_abs_error=max_abs_error,
            fingerprint=fingerprint,
        )
        return draft.model_copy(update={"id": content_id(draft.plain())})

    def plain(self) -> dict[str, Any]:
        """The record as JSON's own types, keys in the documented order."""
        return self.model_dump(mode="json", by_alias=True)

    def to_json(self) -> str:
        """The record as JSON text, one line break at the end: what files hold and `--json` prints."""
        return json.dumps(self.plain(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _parse_time(self.time)
        names = [layer.name for layer in self.layers]
        if len(set(names)) != len(names):
            raise ValueError("two layers have the same name")
        if (self.latency.clock == "silicon") != (self.engine == "hardware"):
            raise ValueError("clock silicon belongs to engine hardware, and to it alone")
        if (self.latency.clock == "host") != (self.engine == "host"):
            raise ValueError("clock host belongs to engine host, and to it alone")
        if (self.footprint is None) != (self.engine == "host"):
            raise ValueError("every engine but host has a footprint")
        if (self.instructions is None) != (self.engine in ("hardware", "host")):
            raise ValueError("emulators count instructions; hardware and host do not")
        judged = (self.accuracy.device, self.accuracy.host, self.accuracy.fp32)
        if self.weights == "random" and judged != (None, None, None):
            raise ValueError("random weights have no accuracy")
        if (self.bit_exact is None) != (self.max_abs_error is not None):
            raise ValueError("either bit_exact or max_abs_error is given")
        self._check_verdict()
        return self

    def _check_verdict(self) -> None:
        """bit_exact must say what the layers' checksums say."""
        if self.bit_exact is None:
            return
        wrong = next((layer for layer in self.layers if layer.crc_device != layer.crc_reference), None)
        if self.bit_exact is True:
            if wrong is not None:
                raise ValueError(f"bit_exact is true, but layer {wrong.name} differs")
            if any(layer.crc_device is None for layer in self.layers):
                raise ValueError("bit_exact is true, but a layer has no checksum")
        elif wrong is None or (wrong.name, wrong.crc_reference, wrong.crc_device) != (
            self.bit_exact.first_layer,
            self.bit_exact.expected,
            self.bit_exact.got,
        ):
            raise ValueError("bit_exact does not name the first layer that differs")


def content_id(record: Mapping[str, Any]) -> str:
    """The id of a record given as JSON's own types: its time, sortable, then 8 hex digits over all but the id itself.

    Also how a file that was altered afterwards is noticed. ValueError when `record` has no usable time.
    """
    content = {key: value for key, value in record.items() if key != "id"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    moment = _parse_time(record.get("time"))
    stamp = f"{moment:%Y%m%d-%H%M%S}{moment.microsecond // 1000:03}"
    return f"{stamp}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _parse_time(text: Any) -> datetime:
    if not isinstance(text, str):
        raise ValueError("time is missing")
    if _TIME.fullmatch(text) is None:
        raise ValueError(f"time {text!r} is not of the form 2026-01-31T12:00:00.000Z")
    return datetime.fromisoformat(text)


def classes_sha256(classes: Iterable[int]) -> str:
    """SHA-256 over the predicted classes in the order of the samples, in decimal, one a line."""
    return hashlib.sha256("".join(f"{int(label)}\n" for label in classes).encode()).hexdigest()


def comparable(a: Result, b: Result) -> tuple[str, ...]:
    """The fields that forbid comparing two records, dotted; empty when nothing does: see harness.results.comparability.

    `latency.*` and `fingerprint.*` forbid comparing latency, instructions and footprint; `accuracy.*` and
    `fingerprint.dataset_sha256` forbid comparing accuracy.
    """
    from harness.results.comparability import differences

    return tuple(difference.field for difference in differences(a.plain(), b.plain()))
