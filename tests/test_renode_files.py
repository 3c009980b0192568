"""What Renode is told about a board: the platform that is laid over its stock one, and the script that starts it."""

from __future__ import annotations

import re
from pathlib import Path

import fake_renode
import pytest
from pydantic import ValidationError

from harness import boards
from harness.boards import RenodeEngine
from harness.emulators import renode
from harness.errors import InputError

FOLDER = Path("/a folder")
MODELLED = [name for name in boards.names() if boards.load(name).engines.renode]


@pytest.mark.parametrize("name", MODELLED)
def test_every_overlay_fits_its_stock_platform(name: str) -> None:
    board = boards.load(name)
    at = fake_renode.check_platform(renode.platform_description(board, FOLDER))
    # What the firmware needs is there, and as large as the manifest says.
    for region in board.memory:
        places = [place for places in at.values() for place in places if region.origin in place]
        assert [place.stop for place in places] == [region.origin + region.length], region


@pytest.mark.parametrize("name", MODELLED)
def test_nothing_is_downloaded(name: str) -> None:
    board = boards.load(name)
    script = renode.monitor_script(board, Path("/a/board.repl"), gdb_port=1, serial_port=2)
    for text in (renode.platform_description(board, FOLDER), script):
        assert not re.search(r"https?:|ApplySVD|@http", text)
    assert "sysbus:\n    init:\n        Tag" in renode.platform_description(board, FOLDER)


@pytest.mark.parametrize("name", MODELLED)
def test_one_count_per_instruction(name: str) -> None:
    text = renode.platform_description(boards.load(name), FOLDER)
    mips = int(re.findall(r"PerformanceInMips: (\d+)", text)[0])
    if "cortex-m0" not in boards.load(name).core:
        assert int(re.findall(r"Miscellaneous\.DWT @ sysbus 0xe0001000\n    frequency: (\d+)", text)[0]) == mips * 10**6
    # Virtual time comes in whole nanoseconds.
    assert 1000 % mips == 0


def test_mips_that_make_no_whole_nanoseconds_are_refused() -> None:
    with pytest.raises(ValidationError, match="whole number of nanoseconds"):
        RenodeEngine(platform="platforms/cpus/stm32f746.repl", uart="usart3", mips=216)


@pytest.mark.parametrize("key", [{"uart": "usart3 ; quit"}, {"platform": "http://elsewhere/x.repl"}, {"cpu": 'a"b'}])
def test_names_cannot_carry_commands(key: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        RenodeEngine(**({"platform": "platforms/cpus/stm32f746.repl", "uart": "usart3"} | key))  # type: ignore[arg-type]


def test_the_script_is_deterministic_and_ends_with_its_mark() -> None:
    script = renode.monitor_script(
        boards.load("nucleo-f746"), Path("/with a space/board.repl"), gdb_port=3333, serial_port=3334
    )
    lines = script.splitlines()
    assert "machine LoadPlatformDescription @/with\\ a\\ space/board.repl" in lines
    for setting in (
        'emulation SetGlobalQuantum "0.000010"',
        "emulation SetGlobalSerialExecution true",
        "emulation SetSeed 1",
        "emulation SetGlobalAdvanceImmediately true",
        'emulation CreateServerSocketTerminal 3334 "terminal" false',
        "connector Connect sysbus.usart3 terminal",
        "machine StartGdbServer 3333 true",
    ):
        assert setting in lines
    assert lines[-1].startswith("echo ")
    parked = fake_renode.Script()
    parked.platform = fake_renode.check_platform(renode.platform_description(boards.load("nucleo-f746"), FOLDER))
    for line in lines:
        if line.startswith("sysbus Write"):
            parked.command(line)
    flash = dict(parked.writes)
    assert flash[0x08000000] == (0x20050000).to_bytes(4, "little")
    assert flash[0x08000004] == (0x08000201).to_bytes(4, "little")
    assert flash[0x08000200] == bytes.fromhex("fee7")  # b .


def test_a_path_that_cannot_be_written_is_refused() -> None:
    with pytest.raises(InputError, match="cannot read files"):
        renode.monitor_script(boards.load("nucleo-f746"), Path("/a;quit/board.repl"), gdb_port=1, serial_port=2)


@pytest.mark.parametrize(
    "broken",
    [
        lambda text: text.replace("flash: @", "flesh: @"),
        lambda text: text.replace("size: 0x50000", "size: 0x51000"),
        lambda text: text.replace("itcm: Memory.MappedMemory @", "itcm Memory.MappedMemory @"),
        lambda text: text[: text.index("sysbus:\n")],
        lambda text: text.replace("platforms/cpus/stm32f746.repl", "platforms/cpus/stm32f999.repl"),
    ],
)
def test_the_check_of_platforms_can_fail(broken: object) -> None:
    text = renode.platform_description(boards.load("nucleo-f746"), FOLDER)
    fake_renode.check_platform(text)
    with pytest.raises(fake_renode.Refused):
        fake_renode.check_platform(broken(text))  # type: ignore[operator]


def test_accesses_to_nothing_are_read_from_the_log() -> None:
    log = (
        "12:00:00.1 [WARNING] hole_90000000: [cpu: 0x8000150] bad access READ at 0x90000000\n"
        "[WARNING] sysbus: [cpu: 0x80001BC] WriteDoubleWord to non existing peripheral at 0x8FFFFFFC, value 0x21.\n"
        "[INFO] nothing of the kind\n"
    )
    assert renode.bad_accesses(log) == [
        "read at 0x90000000 by the instruction at 0x08000150",
        "write at 0x8ffffffc by the instruction at 0x080001bc",
    ]


class _Request:
    """What Renode hands to the script of a Python peripheral."""

    def __init__(self) -> None:
        self.IsInit = self.IsRead = self.IsWrite = False
        self.Offset = self.Value = 0


def test_registers_keep_what_is_written_and_tell_that_they_are_ready() -> None:
    engine = boards.load("b-u585i").engines.renode
    assert engine is not None
    rcc = next(registers for registers in engine.registers if registers.name == "rcc")
    code = compile(renode.ready_registers(rcc), "rcc", "exec")
    scope: dict[str, object] = {}

    def ask(kind: str, offset: int = 0, value: int = 0) -> int:
        request = _Request()
        setattr(request, kind, True)
        request.Offset, request.Value = offset, value
        scope["request"] = request
        exec(code, scope)  # noqa: S102  # as Renode does
        return request.Value

    ask("IsInit")
    assert ask("IsRead", 0) == 0
    ask("IsWrite", 0, 1)  # MSISON
    assert ask("IsRead", 0) == 0b101
    ask("IsWrite", 0, ask("IsRead", 0) | 1 << 24)  # PLL1ON
    assert ask("IsRead", 0) == 0b101 | 3 << 24
    ask("IsWrite", 0, ask("IsRead", 0) & ~(1 << 24))
    assert ask("IsRead", 0) == 0b101
    ask("IsWrite", 0x1C, 3)  # the PLL is chosen, and is in use
    assert ask("IsRead", 0x1C) == 0b1111
    ask("IsWrite", 0x1C, 0)
    assert ask("IsRead", 0x1C) == 0
    ask("IsWrite", 0x28, 0x12345678)
    assert ask("IsRead", 0x28) == 0x12345678
    ask("IsInit")
    assert ask("IsRead", 0x28) == 0
