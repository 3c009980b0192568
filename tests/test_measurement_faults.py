"""What can break between an image and its figures: a fault ends in one sentence, exit code 3, nothing left running."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from firmware_images import INPUT, network_files, reference, shared_cache, tiny

from harness import boards, measurement
from harness.engines import Choice
from harness.errors import BuildError, DeviceError
from harness.progress import Silent
from harness.toolchain.platformio import Firmware, build

ENGINES = {
    "nucleo-f746": Choice("simulator", "test"),
    "mps2-an386": Choice("qemu", "test"),
    "mps2-an500": Choice("qemu", "test"),
}

# Where a fault is put: the first line of network_infer's loop over the outputs.
PLACE = "        int32_t sum = fc_bias[o];\n"


def image(board: str, fault: str = "") -> Firmware:
    """The little network for `board`, with C code put into its last layer."""
    inputs = tiny(files=network_files(**{PLACE: fault + PLACE}))
    return build(inputs, boards.load(board), cache_dir=shared_cache())


def measure(board: str, firmware: Firmware, reporter: Silent | None = None, inputs: int = 2) -> measurement.Measured:
    return measurement.measure(
        firmware,
        boards.load(board),
        ENGINES[board],
        [INPUT] * inputs,
        layers=2,
        repeat=3,
        serial=None,
        reporter=reporter or Silent(),
    )


def children() -> set[int]:
    """Processes started by this one that still are there."""
    found = set()
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError, IndexError):
            if entry.name.isdigit():
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                if parent == os.getpid():
                    found.add(int(entry.name))
    return found


@pytest.fixture(params=list(ENGINES))
def board(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if ENGINES[name].engine == "qemu" and shutil.which("qemu-system-arm") is None:
        pytest.skip("qemu-system-arm is not installed")
    return name


@pytest.fixture(autouse=True)
def nothing_is_left_running() -> object:
    before = children()
    yield
    deadline = time.monotonic() + 5
    while children() - before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert children() - before == set()


def test_a_healthy_board_returns_what_the_network_computes(board: str) -> None:
    measured = measure(board, image(board))
    expected = reference(INPUT)
    for inference in measured.inferences:
        assert inference.crcs == expected.crcs
        assert inference.output == b"".join(value.to_bytes(4, "little", signed=True) for value in expected.outputs)
    assert measured.times[-1] == min(measured.times) > 100
    if ENGINES[board].engine == "simulator":  # modelled: the first inferences fill caches and teach the predictor
        assert max(measured.times) < 1.2 * min(measured.times) and measured.uncosted == 0
    else:
        assert set(measured.times) == {measured.instructions}
    assert 0 < measured.stack_used < 1024
    assert measured.retries == 0


FAULTS = {
    "a load from nowhere": (
        "        if (arena.half[1] > 0) { (void)*(volatile uint32_t *)0x90000000u; }\n",
        ("fault", "network_infer"),
    ),
    "an undefined instruction": (
        '        if (arena.half[1] > 0) { __asm volatile("udf #0"); }\n',
        ("undefined", "network_infer"),
    ),
    "a jump into nothing": (
        "        if (arena.half[1] > 0) { ((void (*)(void))(arena.half[1] * 0u))(); }\n",
        ("fault",),
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_reported_with_its_function(board: str, name: str) -> None:
    code, words = FAULTS[name]
    with pytest.raises(DeviceError) as caught:
        measure(board, image(board, code))
    said = f"{caught.value.message} {caught.value.hint}".lower()
    for word in words:
        assert word in said
    assert "pc=0x" in said and "cfsr=0x" in said
    # The next run can use the board.
    assert measure(board, image(board)).retries == 0


def test_a_hang_ends_at_its_deadline_and_says_where(board: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measurement, "INFERENCE_SECONDS", 1.0)
    firmware = image(board, "        for (volatile uint32_t spin = 1; spin; ) { }\n")
    started = time.monotonic()
    with pytest.raises(DeviceError, match="network_infer"):
        measure(board, firmware)
    assert time.monotonic() - started < 15


class _OnStage(Silent):
    """Calls `act` when the stage whose title begins with `stage` begins."""

    def __init__(self, stage: str, act: Callable[[], None]) -> None:
        self._wanted, self._act = stage, act

    def stage(self, title: str) -> object:  # type: ignore[override]
        if title.startswith(self._wanted):
            self._act()
        return super().stage(title)


@pytest.mark.parametrize("stage", ["programming", "inferring", "timing"])
def test_an_emulator_that_is_killed_is_noticed(board: str, stage: str) -> None:
    before = children()

    def kill() -> None:
        for process in children() - before:
            os.kill(process, signal.SIGKILL)

    with pytest.raises(DeviceError) as caught:
        measure(board, image(board), _OnStage(stage, kill))
    assert "Traceback" not in caught.value.message


@pytest.mark.parametrize("stage", ["starting", "programming", "inferring"])
def test_ctrl_c_leaves_nothing_running(board: str, stage: str) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(board, image(board), _OnStage(stage, interrupt))


def test_another_image_than_the_programmed_one_is_refused(board: str) -> None:
    firmware = image(board)
    other = Firmware(**{**vars(firmware), "build_id": "0123456789abcdef"})
    with pytest.raises(DeviceError, match="was programmed"):
        measure(board, other)


def test_a_stack_that_overflows_is_noticed(board: str) -> None:
    # 5 kB of a 4 kB stack, written from the top down: it runs through the guard.
    code = (
        "        { volatile uint8_t deep[5000];\n"
        "          for (int32_t i = 4999; i >= 0; i--) { deep[i] = (uint8_t)i; }\n"
        "          arena.half[0] = (int16_t)(arena.half[0] + deep[7] * 0); }\n"
    )
    with pytest.raises(DeviceError):
        measure(board, image(board, code))


def test_an_image_that_does_not_fit_says_by_how_much() -> None:
    files = network_files(**{"uint8_t input[16];": "uint8_t input[16];\n    uint8_t more[400000];"})
    with pytest.raises(BuildError, match=r"RAM .* overflows by [\d,]+ bytes"):
        build(tiny(files=files), boards.load("nucleo-f746"), cache_dir=shared_cache())
