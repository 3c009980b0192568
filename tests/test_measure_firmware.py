"""`harness measure`: a firmware that is not ours, from its file to its record, and what it says of broken ones."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from measure_images import BOARD, NEEDS_COMPILER, NO_COMPILER, binary, foreign
from typer.testing import CliRunner

from harness.cli.app import app
from harness.errors import DeviceError, InputError
from harness.firmware_measurement import MeasureSpec, measure
from harness.probe.image import read_firmware
from harness.progress import Silent
from harness.results import firmware_record, store

pytestmark = pytest.mark.skipif(NO_COMPILER, reason=NEEDS_COMPILER)


def run(firmware: Path, **options: object) -> firmware_record.FirmwareResult:
    return measure(MeasureSpec(firmware, BOARD.id, **{"timeout": 5.0, **options}), Silent())  # type: ignore[arg-type]


def test_from_the_file_to_the_record(tmp_path: Path) -> None:
    arguments = ["measure", str(foreign()), "--board", BOARD.id, "-n", "5", "--json", "--results", str(tmp_path)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)
    (path,) = (tmp_path / firmware_record.FOLDER).iterdir()
    assert firmware_record.read(path).plain() == printed == json.loads(path.read_text())
    assert printed["kind"] == "measured firmware"
    assert (printed["device"], printed["model"]) == ("somebody else's board", "kws01")
    assert (printed["input_bytes"], printed["laps"]["inferences"]) == (490, 5)
    assert printed["image"]["format"] == "elf" and printed["image"]["ram"] > 490
    instructions, modelled = printed["counted"]
    assert (instructions["clock"], modelled["clock"]) == ("instructions", "modelled")
    # 12 sums over 490 bytes, which -O1 compiles to a loop of four instructions.
    assert 4 * 490 < instructions["per_inference"] < 8 * 490
    assert printed["results"] == [0.076] * 12  # of zeros: 1 / 13
    assert store.load(tmp_path).empty  # no gate and no table takes it for a run


def test_a_raw_image_measures_the_same_and_an_input_of_ones_own_is_used(tmp_path: Path) -> None:
    own = tmp_path / "input.raw"
    own.write_bytes(bytes(range(245)) * 2)
    result = run(binary(), input=own, inferences=3)
    assert result.image.format == "bin" and result.image.ram is None
    assert len(set(result.results)) > 1
    again = run(binary(), input=own, inferences=3)
    # SysTick comes at another moment of each run, and once in a while in the middle of these short inferences.
    for one, other in zip(again.counted, result.counted, strict=True):
        assert one.per_inference == pytest.approx(other.per_inference, rel=0.03)


def test_sizes_that_nobody_tells_are_asked_for(tmp_path: Path) -> None:
    other = foreign('MODEL="own"', "INPUT_BYTES=16u")
    with pytest.raises(InputError, match="model 'own'") as error:
        run(other)
    assert "--input-bytes" in (error.value.hint or "")
    assert run(other, input_bytes=16, inferences=1).model == "own"
    short = tmp_path / "short"
    short.write_bytes(b"123")
    with pytest.raises(InputError, match="3 bytes, but kws01 takes 490"):
        run(foreign(), input=short)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("SILENT", "does not answer `name`"),
        ("HANG", "the firmware hangs while handling PendSV in infer"),
        ("BUS", "HardFault in infer.*0x90000000"),
        ("STACK", "the stack may have overflowed"),
        ("LOCKUP", "lockup"),
        ("RESETS", "was reset while it ran"),
        ("RESULTS", "has no results"),
    ],
)
def test_what_is_broken_is_told_in_a_sentence(fault: str, words: str) -> None:
    with pytest.raises(DeviceError, match=words) as error:
        run(foreign(f"FAULT_{fault}"), timeout=1.5)
    assert error.value.exit_code == 3
    assert "registers: pc=" in (error.value.hint or "") or fault == "RESULTS"


def test_a_file_that_the_board_cannot_start_is_refused(tmp_path: Path) -> None:
    def image(stack_pointer: int, start: int) -> Path:
        path = tmp_path / "image.bin"
        path.write_bytes(struct.pack("<2I", stack_pointer, start) + bytes(64))
        return path

    assert read_firmware(image(0x2005_0000, 0x0800_0009), BOARD)[0].address == 0x0800_0000
    for stack_pointer, start, why in [
        (0x2410_0000, 0x0800_0009, "stack pointer 0x24100000 is not in its RAM"),
        (0x2005_0000, 0x0800_0008, "no Thumb code"),
        (0x2005_0000, 0x0900_0001, "no Thumb code"),
    ]:
        with pytest.raises(InputError, match=why):
            read_firmware(image(stack_pointer, start), BOARD)
    with pytest.raises(InputError, match="cannot be read"):
        read_firmware(tmp_path / "missing.bin", BOARD)
    (tmp_path / "empty.bin").touch()
    with pytest.raises(InputError, match="empty"):
        read_firmware(tmp_path / "empty.bin", BOARD)
