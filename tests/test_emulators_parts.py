"""Parts of the simulator on their own: instruction facts, the GDB server's framing, the command line."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Iterator

import pytest
import unicorn
from emulators_assembly import FLASH, NEEDS_COMPILER, NO_COMPILER, cases
from hypothesis import given
from hypothesis import strategies as st
from unicorn import arm_const as reg

from harness import boards
from harness.emulators.simulator import chips, decode
from harness.emulators.simulator.gdb_server import GdbServer
from harness.emulators.simulator.machine import Machine
from harness.emulators.simulator.nvic import Nvic
from harness.emulators.simulator.runner import Runner
from harness.emulators.simulator.system import Dwt, SystemControl
from harness.errors import InputError

needs_compiler = pytest.mark.skipif(NO_COMPILER, reason=NEEDS_COMPILER)


# ---- decode.py


@needs_compiler
def test_memory_accesses_are_what_unicorn_accesses() -> None:
    image = cases()
    begin = image.labels["accesses"]
    end = image.data.index(b"\x30\xbf", begin - FLASH) + FLASH  # wfi
    uc = unicorn.Uc(unicorn.UC_ARCH_ARM, unicorn.UC_MODE_THUMB | unicorn.UC_MODE_MCLASS)
    uc.ctl_set_cpu_model(reg.UC_CPU_ARM_CORTEX_M7)
    uc.mem_map(FLASH, 0x10000, unicorn.UC_PROT_ALL)
    uc.mem_map(0x2000_0000, 0x10000, unicorn.UC_PROT_ALL)
    uc.mem_write(FLASH, image.data)
    touched: list[tuple[int, int]] = []
    expected: decode.Access | None = None
    checked = 0

    def register(number: int) -> int:
        names = {13: reg.UC_ARM_REG_SP, 14: reg.UC_ARM_REG_LR}
        return int(uc.reg_read(names.get(number, reg.UC_ARM_REG_R0 + number))) & 0xFFFF_FFFF

    def compare() -> None:
        nonlocal checked
        if expected is None:
            assert not touched
            return
        low, high = min(address for address, _ in touched), max(address + size for address, size in touched)
        assert (expected.address, expected.size) == (low, high - low), f"{expected} {touched}"
        checked += 1

    def on_instruction(_uc: object, address: int, _size: int, _data: object) -> None:
        nonlocal expected
        compare()
        touched.clear()
        first, second = struct.unpack("<HH", bytes(uc.mem_read(address, 4)))
        expected = decode.memory_access(first, second, address, register)

    uc.hook_add(unicorn.UC_HOOK_CODE, on_instruction)
    uc.hook_add(
        unicorn.UC_HOOK_MEM_READ | unicorn.UC_HOOK_MEM_WRITE,
        lambda _uc, _access, address, size, _value, _data: touched.append((address, size)),
    )
    for name, value in (("R0", 0x2000_8000), ("R1", 8), ("R2", 12), ("SP", 0x2000_C000)):
        uc.reg_write(getattr(reg, f"UC_ARM_REG_{name}"), value)
    uc.emu_start(begin | 1, end)
    compare()
    assert checked >= 45


@pytest.mark.parametrize(
    ("code", "count", "found"),
    [
        ("00bf", 1, []),
        ("aff30080", 1, []),  # nop.w
        ("00bf aff30080 00bf", 3, []),
        ("30ee000a", 1, [(0, decode.Kind.FLOAT)]),  # vadd.f32
        ("00bf 91ed000a", 2, [(2, decode.Kind.FLOAT)]),  # vldr
        ("41ec100b", 1, [(0, decode.Kind.FLOAT)]),  # vmov d0, r0, r1
        ("80fe010a", 1, [(0, decode.Kind.FLOAT_V5)]),  # vmaxnm.f32
        ("b6eec00a", 1, [(0, decode.Kind.FLOAT_V5)]),  # vrintz.f32
        ("b7ee400a", 1, [(0, decode.Kind.FLOAT_V5)]),  # vrintx.f32
        ("b7eec00a", 1, [(0, decode.Kind.FLOAT)]),  # vcvt.f64.f32
        ("b4ee400a", 1, [(0, decode.Kind.FLOAT)]),  # vcmp.f32
        ("b0fbf1f0", 1, [(0, decode.Kind.DIVIDE)]),  # udiv
        ("90fbf1f0", 1, [(0, decode.Kind.DIVIDE)]),  # sdiv
        ("00ee000a", 1, [(0, decode.Kind.FLOAT)]),  # vmla
        ("00fb0110", 1, []),  # mla
        ("62b6 00bf", 2, [(0, decode.Kind.MASK)]),  # cpsie i
        ("80f31188", 1, [(0, decode.Kind.MASK)]),  # msr basepri, r0
    ],
)
def test_scan(code: str, count: int, found: list[tuple[int, decode.Kind]]) -> None:
    assert decode.scan(bytes.fromhex(code)) == (count, found)


def test_it_state_advances() -> None:
    code = bytes.fromhex("0fbf 0020 0120 aff30080 0320 0420".replace(" ", ""))  # iteee eq
    states = [decode.it_state(code, offset) for offset in (0, 2, 4, 6, 10, 12)]
    assert states == [0, 0x0F, 0x1E, 0x1C, 0x18, 0]
    assert decode.it_length(0xBF0F) == 4
    assert decode.it_length(0xBF08) == 1
    assert decode.it_length(0xBF00) == 0  # nop


# ---- gdb_server.py


class Stub:
    """A GDB server on a real machine, with what it sends."""

    def __init__(self) -> None:
        self.sent = bytearray()
        self.killed = False
        machine = Machine(boards.load("nucleo-f746"))
        machine.blocking = True
        runner = Runner(machine, lambda _stop: None, lambda error: pytest.fail(str(error)))
        self.server = GdbServer(machine, runner, self.sent.extend, lambda: setattr(self, "killed", True))
        self.server.connected()

    def ask(self, data: bytes) -> bytes:
        self.sent.clear()
        self.server.receive(data)
        return bytes(self.sent)


@pytest.fixture(scope="module")
def stub() -> Iterator[Stub]:
    made = Stub()
    yield made
    made.server.disconnected()


def packet(body: bytes) -> bytes:
    return b"$%b#%02x" % (body, sum(body) & 0xFF)


def test_packets_are_acknowledged_and_answered(stub: Stub) -> None:
    assert stub.ask(packet(b"qC")) == b"+" + packet(b"QC1")
    assert stub.ask(b"-") == packet(b"QC1")
    assert stub.ask(b"+") == b""


def test_wrong_checksum_is_refused(stub: Stub) -> None:
    assert stub.ask(b"$qC#00") == b"-"


def test_packet_in_pieces_and_packets_together(stub: Stub) -> None:
    whole = packet(b"qAttached")
    for byte in whole[:-1]:
        assert stub.ask(bytes([byte])) == b""
    assert stub.ask(whole[-1:] + packet(b"qC")) == b"+" + packet(b"1") + b"+" + packet(b"QC1")


def test_target_description_in_parts(stub: Stub) -> None:
    text, offset = b"", 0
    while True:
        reply = stub.ask(packet(b"qXfer:features:read:target.xml:%x,100" % offset))[1:]
        body = reply[1:-3]
        text += body[1:]
        offset += 0x100
        if body.startswith(b"l"):
            break
    assert text.endswith(b"</target>")
    for name in ("r0", "xpsr", "d15", "fpscr", "msp", "control"):
        assert b'<reg name="%b"' % name.encode() in text


def test_registers_of_g_packets_are_those_of_the_description(stub: Stub) -> None:
    body = stub.ask(packet(b"g"))[1:][1:-3]
    assert len(body) == 2 * (17 * 4 + 16 * 8 + 7 * 4)


@given(st.binary(min_size=1, max_size=64), st.integers(0, 1000))
def test_binary_writes_arrive(stub: Stub, data: bytes, offset: int) -> None:
    escaped = b"".join(bytes((0x7D, byte ^ 0x20)) if byte in b"#$}*" else bytes((byte,)) for byte in data)
    place = 0x2000_0000 + offset
    assert stub.ask(packet(b"X%x,%x:" % (place, len(data)) + escaped)) == b"+" + packet(b"OK")
    assert stub.ask(packet(b"m%x,%x" % (place, len(data)))) == b"+" + packet(data.hex().encode())


# ---- the core's own registers


class _Core:
    """The time, and what the registers ask for."""

    def __init__(self) -> None:
        self.now = 0
        self.dwt: Dwt | None = None

    def clock(self) -> int:
        return self.now

    def time(self) -> int:
        return self.now

    def events_changed(self) -> None: ...
    def request_reset(self) -> None: ...
    def checks_changed(self) -> None: ...
    def debug_status(self) -> int:
        return 0

    def trace_changed(self) -> None:
        if self.dwt is not None:
            self.dwt.update()


def _system() -> tuple[_Core, SystemControl, Dwt]:
    core = _Core()
    system = SystemControl(core, Nvic(98, 4), cpuid=0, fpu=None, caches=None, vectors=0)
    core.dwt = Dwt(core, system, has_lock=True)
    return core, system, core.dwt


ALL = 0xFFFF_FFFF
DEMCR, TRCENA = 0xDFC, 1 << 24


def test_cycle_counter_counts_only_when_unlocked_enabled_and_traced() -> None:
    core, system, dwt = _system()
    dwt.firmware_writes(Dwt.CTRL, 1, ALL)
    system.write(DEMCR, TRCENA, ALL)
    core.now = 100
    assert dwt.read(Dwt.CYCCNT) == 0
    dwt.firmware_writes(Dwt.LAR, Dwt.KEY, ALL)
    dwt.firmware_writes(Dwt.CTRL, 1, ALL)
    core.now = 150
    assert dwt.read(Dwt.CYCCNT) == 50
    system.write(DEMCR, 0, ALL)
    core.now = 1000
    assert dwt.read(Dwt.CYCCNT) == 50
    system.write(DEMCR, TRCENA, ALL)
    dwt.firmware_writes(Dwt.CYCCNT, 0xFFFF_FFF0, ALL)
    core.now = 1020
    assert dwt.read(Dwt.CYCCNT) == 4
    dwt.firmware_writes(Dwt.LAR, 0, ALL)
    dwt.firmware_writes(Dwt.CYCCNT, 0, ALL)
    assert dwt.read(Dwt.CYCCNT) == 4
    dwt.write(Dwt.CYCCNT, 0, ALL)  # a debugger
    assert dwt.read(Dwt.CYCCNT) == 0


def test_systick_counts_down_and_flags_its_wrap() -> None:
    core, system, _ = _system()
    system.write(0x014, 99, ALL)
    system.write(0x010, 5, ALL)
    core.now = 1
    assert system.read(0x018) == 99
    core.now = 99
    assert system.read(0x018) == 1
    assert not system.read(0x010) >> 16 & 1
    core.now = 100
    assert system.read(0x018) == 0
    assert system.read(0x010) >> 16 & 1
    assert not system.read(0x010) >> 16 & 1


def test_fault_status_is_cleared_by_writing_ones() -> None:
    _, system, _ = _system()
    system.cfsr = 0x0300_8200
    system.write(0xD28, 0x0000_8200, 0x0000_FF00)  # a byte of it
    assert system.cfsr == 0x0300_0000


# ---- the command line


def test_unknown_board_and_chip() -> None:
    command = [sys.executable, "-m", "harness.emulators.simulator", "--board", "nucleo-f764"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "nucleo-f746" in done.stderr
    assert "Traceback" not in done.stderr
    with pytest.raises(InputError, match="stm32f745"):
        chips.chip("stm32f745")


def test_ends_with_standard_input() -> None:
    command = [sys.executable, "-m", "harness.emulators.simulator", "--board", "nucleo-f746", "--until-eof"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert '"gdb"' in done.stdout
