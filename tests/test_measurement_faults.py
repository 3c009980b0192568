"""What can break between an image and its figures: a fault ends in one sentence, exit code 3, nothing left running."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import renode_stand_in
from firmware_images import INPUT, network_files, reference, shared_cache, tiny

from harness import boards, measurement
from harness.emulators import renode
from harness.engines import Choice
from harness.errors import BuildError, DeviceError
from harness.link import serial_port
from harness.link.serial_port import SerialPort
from harness.progress import Silent
from harness.toolchain.platformio import Firmware, build

# Renode itself where it is installed, else the stand-in of fake_renode.py.
ENGINES = {
    "nucleo-f746": Choice("simulator", "test"),
    "mps2-an500": Choice("qemu", "test"),
    "nucleo-f746 renode": Choice("renode", "test"),
}

# Where the faults are put: the first line of network_infer's loop over the outputs.
PLACE = "        int32_t sum = fc_bias[o];\n"
REPORTED = ("pc=0x", "cfsr=0x")
# What the network does when the first byte of its input is twice the place in this list; the words of its report.
FAULTS = {
    "a load from nowhere": ("(void)*(volatile uint32_t *)0x90000000u;", ("fault", "network_infer", *REPORTED)),
    "a store to nowhere": (
        '*(volatile uint32_t *)0x90000000u = 1; __asm volatile("dsb");',
        ("fault", "network_infer", *REPORTED),
    ),
    "an undefined instruction": ('__asm volatile("udf #0");', ("undefined", "network_infer", *REPORTED)),
    "a jump into nothing": ("((void (*)(void))(arena.half[0] & 0x8000u))();", ("fault", *REPORTED)),
    "a fault where no handler can run": ('__asm volatile("cpsid f\\n udf #0");', ("lockup", "pc=0x")),
    "a reset": (
        "*(volatile uint32_t *)0xE000ED0Cu = 0x05FA0004u; for (;;) { }",
        ("was reset while it ran", "starts over", "reset_handler"),
    ),
    "a hang": ("for (volatile uint32_t spin = 1; spin; ) { }", ("the firmware hangs in network_infer", *REPORTED)),
    "a stack overflow": (
        "overflow_the_stack();",
        ("stack",),
    ),
}
# 5 kB of a 4 kB stack, written from the top down: it runs through the guard.
ENTRY = "void network_infer(nn_observer observer)\n"
OVERFLOW = """
__attribute__((noinline)) static void overflow_the_stack(void)
{
    volatile uint8_t deep[5000];
    for (int32_t i = 4999; i >= 0; i--) {
        deep[i] = (uint8_t)i;
    }
    arena.half[15] = (int16_t)(arena.half[15] + deep[0]);
}
"""
HEALTHY = bytes([254]) + INPUT[1:]


def image(board: str) -> Firmware:
    """The little network for `board`, which does the faults that its inputs ask for."""
    code = "".join(
        f"        if (arena.half[0] == {number}) {{ {fault} }}\n" for number, (fault, _) in enumerate(FAULTS.values())
    )
    inputs = tiny(files=network_files(**{PLACE: code + PLACE, ENTRY: OVERFLOW + ENTRY}))
    return build(inputs, boards.load(board.split()[0]), cache_dir=shared_cache())


def asking_for(fault: str) -> bytes:
    return bytes([2 * list(FAULTS).index(fault)]) + INPUT[1:]


def measure(
    board: str, firmware: Firmware, reporter: Silent | None = None, inputs: tuple[bytes, ...] = (HEALTHY, HEALTHY)
) -> measurement.Measured:
    return measurement.measure(
        firmware,
        boards.load(board.split()[0]),
        ENGINES[board],
        inputs,
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
def board(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name: str = request.param
    if ENGINES[name].engine == "qemu" and shutil.which("qemu-system-arm") is None:
        pytest.skip("qemu-system-arm is not installed")
    if ENGINES[name].engine == "renode":
        # Logs of failed runs go there; an installed Renode is found before.
        program = renode.find() or renode_stand_in.program(tmp_path)
        monkeypatch.setenv(renode.ENVIRONMENT, str(program))
        monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    return name


@pytest.fixture(autouse=True)
def nothing_is_left_running() -> object:
    before = children()
    yield
    deadline = time.monotonic() + 5
    while children() - before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert children() - before == set()


def is_right(measured: measurement.Measured) -> bool:
    """Whether every inference is what the network computes."""
    expected = reference(HEALTHY)
    output = b"".join(value.to_bytes(4, "little", signed=True) for value in expected.outputs)
    return all((one.crcs, one.output) == (expected.crcs, output) for one in measured.inferences)


def test_a_healthy_board_returns_what_the_network_computes(board: str) -> None:
    measured = measure(board, image(board))
    assert is_right(measured)
    assert measured.times[-1] == min(measured.times) > 100
    if ENGINES[board].engine == "simulator":  # modelled: the first inferences fill caches and teach the predictor
        assert max(measured.times) < 1.2 * min(measured.times) and measured.uncosted == 0
    else:
        assert set(measured.times) == {measured.instructions}
    assert 0 < measured.stack_used < 1024
    assert measured.retries == 0


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_reported_with_its_function(board: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measurement, "INFERENCE_SECONDS", 1.0)
    started = time.monotonic()
    with pytest.raises(DeviceError) as caught:
        measure(board, image(board), inputs=(HEALTHY, asking_for(name)))
    assert time.monotonic() - started < 20
    assert caught.value.exit_code == 3
    said = f"{caught.value.message} {caught.value.hint}".lower()
    for word in FAULTS[name][1]:
        assert word in said
    assert "\n" not in caught.value.message


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


# ---- a bad serial line


class BadLine:
    """A serial port between the client and the board that spoils what goes through.

    spoil: gets the direction (">" to the board, "<" from it), how many bytes went that way before, and the next bytes;
    returns what arrives instead.
    """

    def __init__(self, port: SerialPort, spoil: Callable[[str, int, bytes], bytes]) -> None:
        self._port, self._spoil = port, spoil
        self._seen = {">": 0, "<": 0}

    def __enter__(self) -> BadLine:
        return self

    def __exit__(self, *_: object) -> None:
        self._port.close()

    def read(self, timeout: float) -> bytes:
        return self._through("<", self._port.read(timeout))

    def write(self, data: bytes) -> None:
        self._port.write(self._through(">", data))

    def _through(self, direction: str, data: bytes) -> bytes:
        before = self._seen[direction]
        self._seen[direction] += len(data)
        return self._spoil(direction, before, data)


@pytest.fixture
def bad_line(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[str, int, bytes], bytes]], None]:
    monkeypatch.setattr(measurement, "INFERENCE_SECONDS", 1.0)
    monkeypatch.setattr(measurement, "BOOT_SECONDS", 1.0)

    def install(spoil: Callable[[str, int, bytes], bytes]) -> None:
        real = serial_port.open_port
        monkeypatch.setattr(serial_port, "open_port", lambda url, **options: BadLine(real(url, **options), spoil))

    return install


def once(direction: str, at: int, replacement: Callable[[bytes], bytes]) -> Callable[[str, int, bytes], bytes]:
    """Spoils the one byte that is number `at` of its direction."""

    def spoil(way: str, before: int, data: bytes) -> bytes:
        index = at - before
        if way != direction or not 0 <= index < len(data):
            return data
        return data[:index] + replacement(data[index : index + 1]) + data[index + 1 :]

    return spoil


def test_a_board_that_says_nothing(board: str, bad_line: Callable[..., None]) -> None:
    bad_line(lambda direction, _before, data: data if direction == ">" else b"")
    with pytest.raises(DeviceError) as caught:
        measure(board, image(board))
    assert caught.value.exit_code == 3
    assert (
        "does not answer on the serial line within 1 s; the firmware runs and waits for commands"
        in caught.value.message
    )
    assert "pc=0x" in (caught.value.hint or "")


def test_garbage_on_the_line(board: str, bad_line: Callable[..., None]) -> None:
    noise = random.Random(1)
    bad_line(lambda direction, _before, data: data if direction == ">" else noise.randbytes(len(data)))
    with pytest.raises(DeviceError) as caught:
        measure(board, image(board))
    assert caught.value.exit_code == 3
    assert "it sent" in caught.value.message


LOST_AND_DOUBLED: dict[str, Callable[[bytes], bytes]] = {
    "lost": lambda byte: b"",
    "doubled": lambda byte: byte * 2,
    "changed": lambda byte: bytes([byte[0] ^ 1]),
}


@pytest.mark.parametrize("damage", LOST_AND_DOUBLED)
@pytest.mark.parametrize(("direction", "at"), [(">", 30), (">", 75), ("<", 5), ("<", 110)])
def test_a_damaged_byte_never_becomes_a_figure(
    bad_line: Callable[..., None], direction: str, at: int, damage: str
) -> None:
    """Either all is repeated until it is right, or there is an error: nothing wrong is returned."""
    firmware = image("nucleo-f746")
    bad_line(once(direction, at, LOST_AND_DOUBLED[damage]))
    try:
        measured = measure("nucleo-f746", firmware)
    except DeviceError as error:
        assert error.exit_code == 3
    else:
        assert is_right(measured)
        assert measured.stack_used < 1024


def test_an_image_that_does_not_fit_says_by_how_much() -> None:
    files = network_files(**{"uint8_t input[16];": "uint8_t input[16];\n    uint8_t more[400000];"})
    with pytest.raises(BuildError, match=r"RAM .* overflows by [\d,]+ bytes"):
        build(tiny(files=files), boards.load("nucleo-f746"), cache_dir=shared_cache())
