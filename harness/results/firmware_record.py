"""The record of `harness measure`: what a firmware showed of itself whose network nobody here knows.

A kind of its own, beside the Result of `harness run`: no layers, no reference, no accuracy. Its keys are stable; it is
kept in <results folder>/firmware/<id>.json, where no gate and no table looks for runs.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, model_validator

from harness.files import write_whole
from harness.results.record import UNIT_OF, Bytes, Clock, Count, Engine, Sha256, Text, _Record, content_id
from harness.results.store import results_dir

KIND: Final = "measured firmware"
FOLDER = "firmware"


class Image(_Record):
    """The file. format: how it was read. flash: bytes that were programmed; ram: bytes that its segments take in RAM,
    the stack's reserve and heap as far as the linker knows them; None for a raw image, which does not say."""

    name: Text
    format: Literal["elf", "bin"]
    sha256: Sha256
    flash: Bytes
    ram: Bytes | None


class Laps(_Record):
    """By the firmware's own clock, in microseconds: of all inferences together, and of one of them.

    per_inference and overhead_us come from two runs of different lengths, where there were two: what does not grow with
    the number of inferences is overhead.
    """

    total_us: Count
    inferences: Annotated[int, Field(ge=1)]
    per_inference_us: Annotated[float, Field(ge=0)]
    overhead_us: float


class Counted(_Record):
    """By the emulator's counter, of one inference, with what does not grow with their number taken off (overhead).

    error_band, model_version: of clock modelled only; a band of None means that nobody has compared the model with a
    board like this one.
    """

    clock: Clock
    unit: Literal["cycles", "instructions"]
    per_inference: Annotated[float, Field(ge=0)]
    overhead: int
    hz: Annotated[int, Field(gt=0)] | None
    us: Annotated[float, Field(ge=0)] | None
    error_band: Annotated[float, Field(ge=0)] | None = None
    model_version: Text | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.unit != UNIT_OF[self.clock]:
            raise ValueError(f"clock {self.clock} counts {UNIT_OF[self.clock]}, not {self.unit}")
        if (self.hz is None) != (self.clock == "instructions") or (self.us is None) != (self.hz is None):
            raise ValueError("hz and us belong to every clock but instructions")
        return self


class FirmwareResult(_Record):
    """One measured firmware. Make one with FirmwareResult.new().

    device, profile, model: what it says of itself. input_bytes, input_sha256: what it was given; results: what it made
    of it. counted: by the emulator, [] on hardware and on emulators that cannot. unmodelled: peripherals that the
    simulator does not know and that read as zero, by their address; None on other engines.
    """

    schema_version: Literal[1] = Field(alias="schema")
    kind: Literal["measured firmware"]
    id: Annotated[str, Field(pattern=r"^[0-9]{8}-[0-9]{9}-[0-9a-f]{8}$")]
    time: Text
    image: Image
    board: Text
    engine: Engine
    device: str
    profile: str | None
    model: str | None
    input_bytes: Bytes
    input_sha256: Sha256
    warmups: Count
    laps: Laps
    counted: tuple[Counted, ...]
    results: tuple[float, ...]
    unmodelled: tuple[str, ...] | None
    emulator_version: Text | None
    board_manifest_sha256: Sha256
    git_commit: Text | None
    packages: dict[Text, Text]

    @classmethod
    def new(cls, **values: Any) -> Self:
        """A record of these figures, taken now, with the id that follows from them."""
        moment = datetime.now(UTC)
        draft = cls(
            schema=1,
            kind=KIND,
            id="00000000-000000000-00000000",
            time=f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03}Z",
            **values,
        )
        return draft.model_copy(update={"id": content_id(draft.plain())})

    def plain(self) -> dict[str, Any]:
        """The record as JSON's own types, keys in the documented order."""
        return self.model_dump(mode="json", by_alias=True)

    def to_json(self) -> str:
        """The record as JSON text, one line break at the end: what files hold and `--json` prints."""
        return json.dumps(self.plain(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def save(result: FirmwareResult, root: Path | None = None) -> Path:
    """Writes the record whole or not at all, and returns its file. InputError when the folder cannot be written to."""
    path = results_dir(root) / FOLDER / f"{result.id}.json"
    write_whole(path, result.to_json())
    return path


def read(path: Path) -> FirmwareResult:
    """The record in a file; ValueError when it holds none."""
    return FirmwareResult.model_validate_json(path.read_bytes())
