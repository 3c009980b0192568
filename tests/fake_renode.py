"""NOT Renode: a stand-in for tests, which takes Renode's place on the command line and says so.

It reads a .resc and a .repl as Renode 1.16.1 does, as far as the harness writes them, and refuses what it does not
know. The machine behind it is the harness's own simulator; its GDB stub is dressed up as Renode's, with the oddities
that were seen on the release (docs/renode.md): superfluous and late stop replies, wrong register numbers, refusals that
are answered with OK, faults that are not escalated, no MVFR registers, peripherals that refuse long packets.

What it cannot show: Renode's speed, its peripherals, its instruction counts. Tests against the real program are in
test_renode_real.py.

    python fake_renode.py --disable-gui --plain --config FILE --console SCRIPT
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import random
import re
import selectors
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from harness.emulators.gdb_crc import gdb_crc32
from harness.probe.rsp import GdbClient, RspError

BANNER = "Renode, version 1.16.1-stand-in (NOT Renode: the harness's stand-in for its tests)"
SERVED = "the machine behind it is the harness's simulator"

# What the stock platforms of Renode 1.16.1 have, as far as an overlay can meet it: name -> places (address, bytes).
STOCK: dict[str, dict[str, list[tuple[int, int]]]] = {
    "platforms/cpus/stm32f746.repl": {
        "fsmcBank1": [(0xC0000000, 0x10000000)],
        "sram": [(0x20000000, 0x60000)],
        "flash": [(0x08000000, 0x200000)],
        "rom": [(0x1FFF0000, 0x10000)],
        "peripherals": [(0x40000000, 0x10061000)],
        "nvic": [(0xE000E000, 0x1000)],
        "cpu": [],
        "usart1": [],
        "usart2": [],
        "usart3": [],
        "usart6": [],
    },
    "platforms/cpus/stm32f4.repl": {
        "fsmcBank1": [(0x60000000, 0x10000000)],
        "sram": [(0x20000000, 0x40000)],
        "flash": [(0x08000000, 0x200000)],
        "rom1": [(0x1FFF0000, 0xC000)],
        "flash_controller": [(0x40023C00, 0x400), (0x1FFFC000, 0x100)],
        "rom2": [(0x1FFFC400, 0x3C00)],
        "bitbandSram": [(0x22000000, 0x200000)],
        "bitbandPeripherals": [(0x42000000, 0x2000000)],
        "peripherals": [(0x40000000, 0x23C00), (0x40024000, 0x40000), (0x50060800, 0x400)],
        "nvic": [(0xE000E000, 0x1000)],
        "cpu": [],
        "usart1": [],
        "usart2": [],
        "usart3": [],
    },
    "platforms/cpus/stm32l552.repl": {
        "sram1": [(0x20000000, 0x30000)],
        "flash": [(0x08000000, 0x80000)],
        "peripherals": [(0x40000000, 0x20400), (0x4002F400, 0x400), (0x42020000, 0x2000)],
        "nvic": [(0xE000E000, 0x1000)],
        "cpu": [],
        "usart1": [],
        "lpuart1": [],
    },
}
DOWNLOADING = "ApplySVD"


class Refused(Exception):
    """What Renode would refuse, in its words as far as they matter."""


# ---- .repl


@dataclass
class Entry:
    """One entry of a platform description."""

    name: str
    type: str | None = None
    places: list[int] = field(default_factory=list)
    size: int | None = None
    properties: dict[str, str] = field(default_factory=dict)
    init: list[str] = field(default_factory=list)


_HEADER = re.compile(r"(?P<name>\w+):(?: (?P<type>[A-Z]\w*\.\w+))?(?: @ (?P<places>.+))?$")


def read_repl(text: str) -> tuple[str, list[Entry]]:
    """The stock platform that is used, and what is laid over it. Refused where the grammar is not kept."""
    lines = [line for line in text.splitlines() if line.strip()]
    used = re.fullmatch(r'using "(\S+)"', lines[0]) if lines else None
    if used is None:
        raise Refused("a description begins with using")
    entries: list[Entry] = []
    rest = iter(lines[1:])
    for line in rest:
        if not line.startswith(" "):
            found = _HEADER.fullmatch(line)
            if found is None:
                raise Refused(f"Error E00: Syntax error, unexpected '{line}'")
            entry = Entry(found["name"], found["type"])
            places = found["places"] or ""
            if places == "{":
                places = ""
                for part in rest:
                    if part == "    }":
                        break
                    places += part.strip()
            entry.places = [int(place, 16) for place in re.findall(r"sysbus <?(0x[0-9a-fA-F]+)", places)]
            length = re.search(r", \+(0x[0-9a-fA-F]+)>", places)
            entry.size = int(length[1], 16) if length is not None else None
            entries.append(entry)
        elif entries and re.fullmatch(r"    \w+: .+", line):
            name, _, value = line.strip().partition(": ")
            entries[-1].properties[name] = value
            if name == "size":
                entries[-1].size = int(value, 16)
        elif entries and line == "    init:":
            entries[-1].init.append("")
        elif entries and entries[-1].init and re.fullmatch(r"        \w.*", line):
            entries[-1].init.append(line.strip())
        else:
            raise Refused(f"Error E00: Syntax error, unexpected '{line}'")
    return used[1], entries


def check_platform(text: str) -> dict[str, list[range]]:
    """Every place that something is at, stock and overlay; Refused where two things overlap or a name is unknown."""
    platform, entries = read_repl(text)
    if platform not in STOCK:
        raise Refused(f"Using '{platform}' does not exist")
    stock = STOCK[platform]
    at = {name: [range(start, start + size) for start, size in places] for name, places in stock.items()}
    replaces_init = False
    for entry in entries:
        if entry.name == "sysbus":
            replaces_init = bool(entry.init)
            if any(DOWNLOADING in line for line in entry.init):
                raise Refused("no downloads in tests")
            for line in entry.init:
                if line and re.fullmatch(r'Tag <0x[0-9a-fA-F]+, 0x[0-9a-fA-F]+> "\w+"( 0x[0-9a-f]+)?', line) is None:
                    raise Refused(f"Error E00: Syntax error, unexpected '{line}'")
            continue
        if entry.type is None and entry.name not in stock:
            raise Refused(f"Error E01: entry '{entry.name}' has no type and is not declared before")
        if entry.type is not None and entry.name in stock:
            raise Refused(f"Error E02: '{entry.name}' is declared twice")
        for value in entry.properties.values():
            if value.startswith('"') and not re.fullmatch(r'"[^"\\]*"', value):
                raise Refused(f"Error E03: bad string {value}")
        size = entry.size or (0x1000 if entry.type == "Miscellaneous.DWT" else 0)
        if entry.places:
            at[entry.name] = [range(place, place + size) for place in entry.places]
        elif entry.size is not None and at[entry.name]:
            at[entry.name] = [range(one.start, one.start + size) for one in at[entry.name]]
    if not replaces_init:
        raise Refused("the stock platform's init would download a file")
    used = sorted((one.start, one.stop, name) for name, places in at.items() for one in places)
    for (_, stop, name), (start, _, other) in itertools.pairwise(used):
        if start < stop:
            raise Refused(f"'{other}' at {start:#x} overlaps '{name}'")
    return at


# ---- .resc


class Script:
    """Executes a script's commands, as Renode's monitor would."""

    def __init__(self) -> None:
        self.machine: str | None = None
        self.platform: dict[str, list[range]] | None = None
        self.cpu = ""
        self.serial_port = self.gdb_port = 0
        self.writes: list[tuple[int, bytes]] = []
        self.macros: dict[str, str] = {}
        self.ready = ""
        self.quantum = 0.0

    def run(self, text: str) -> None:
        """Every command; Refused at the first one that is not known or cannot be."""
        lines = iter(text.splitlines())
        for line in lines:
            if line.startswith("macro "):
                if next(lines) != '"""':
                    raise Refused("a macro is a string")
                body = []
                for inner in lines:
                    if inner == '"""':
                        break
                    body.append(inner.strip())
                self.macros[line.removeprefix("macro ")] = "\n".join(body)
            elif line.strip():
                try:
                    self.command(line)
                except Refused as error:
                    print(f"There was an error executing command '{line}'\n{error}", flush=True)
                    raise

    def command(self, line: str) -> None:
        for pattern, action in _COMMANDS:
            found = re.fullmatch(pattern, line)
            if found is not None:
                action(self, *found.groups())
                return
        raise Refused(f"No such command or device: {line.split()[0]}")

    def _machine(self, name: str) -> None:
        self.machine = name

    def _platform(self, path: str) -> None:
        text = Path(path.replace("\\ ", " ")).read_text()
        self.platform = check_platform(text)
        self.cpu = next(entry.name for entry in read_repl(text)[1] if "PerformanceInMips" in entry.properties)

    def _quantum(self, seconds: str) -> None:
        self.quantum = float(seconds)

    def _serial(self, port: str) -> None:
        self.serial_port = int(port)

    def _connect(self, uart: str) -> None:
        if self.platform is None or uart not in self.platform or not self.serial_port:
            raise Refused(f"Could not find 'sysbus.{uart}'")

    def _write(self, width: str, address: str, value: str) -> None:
        size = {"Byte": 1, "Word": 2, "DoubleWord": 4}[width]
        start = int(address, 16)
        places = [place for name in self.platform or {} for place in (self.platform or {})[name]]
        if not any(start in place and start + size - 1 in place for place in places):
            raise Refused(f"nothing at {address}")
        self.writes.append((start, int(value, 16).to_bytes(size, "little")))

    def _run_macro(self, name: str) -> None:
        for line in self.macros[name].splitlines():
            self.command(line)

    def _vector_table(self, cpu: str, _address: str) -> None:
        if cpu != self.cpu:
            raise Refused(f"Could not find 'sysbus.{cpu}'")

    def _gdb(self, port: str) -> None:
        with contextlib.closing(socket.socket()) as probe:
            if probe.connect_ex(("127.0.0.1", int(port))) == 0:
                raise Refused("System.Net.Sockets.SocketException: Address already in use")
        self.gdb_port = int(port)

    def _nothing(self, *_: str) -> None:
        pass

    def _echo(self, text: str) -> None:
        # Renode serves its ports before it goes on with the script; this one has to start them first.
        self.ready = text


_COMMANDS = [
    (r"using sysbus", Script._nothing),
    (r'mach create "([^"]+)"', Script._machine),
    (r"machine LoadPlatformDescription @((?:\\ |[^\s;])+)", Script._platform),
    (r'emulation SetGlobalQuantum "(\d+\.\d+)"', Script._quantum),
    (r"emulation SetGlobalSerialExecution (true|false)", Script._nothing),
    (r"emulation SetSeed (\d+)", Script._nothing),
    (r"emulation SetGlobalAdvanceImmediately (true|false)", Script._nothing),
    (r'emulation CreateServerSocketTerminal (\d+) "terminal" false', Script._serial),
    (r"connector Connect sysbus\.(\w+) terminal", Script._connect),
    (r"sysbus Write(Byte|Word|DoubleWord) (0x[0-9a-f]+) (0x[0-9a-f]+)", Script._write),
    (r"runMacro \$(\w+)", Script._run_macro),
    (r"sysbus\.(\w+) VectorTableOffset (0x[0-9a-f]+)", Script._vector_table),
    (r"machine StartGdbServer (\d+) true", Script._gdb),
    (r'echo "([^"]+)"', Script._echo),
]


# ---- the GDB stub, dressed up

PACKET_SIZE = 1024  # Renode prints the number as decimal, and clients take it as hexadecimal
_NUMBERS = {f"r{n}": n for n in range(13)} | {"sp": 13, "lr": 14, "pc": 15, "xpsr": 25, "primask": 28, "faultmask": 30}
_ANNOUNCED = _NUMBERS | {"msp": 26, "psp": 27, "basepri": 29, "control": 31}
_REAL = {number: name for name, number in _NUMBERS.items()} | {18: "control", 19: "basepri", 22: "other_sp"}
_DOUBLES = {42 + n: f"d{n}" for n in range(16)}
_FPSCR = 74
_SHCSR, _CFSR, _HFSR, _BFAR, _MVFR = 0xE000ED24, 0xE000ED28, 0xE000ED2C, 0xE000ED38, range(0xE000EF40, 0xE000EF4C)
_USGFAULTENA = 1 << 18
_PERIPHERALS = (range(0x40000000, 0x60000000), range(0xE0000000, 0xE0100000))


def target_xml() -> str:
    text = '<?xml version="1.0"?>\n<!DOCTYPE feature SYSTEM "gdb-target.dtd">\n<target version="1.0">\n'
    text += '<architecture>arm</architecture>\n<feature name="org.gnu.gdb.arm.m-profile">\n'
    for name, number in _ANNOUNCED.items():
        text += f'<reg name="{name}" bitsize="32" regnum="{number}" type="uint32" group="general" />\n'
    for number, name in _DOUBLES.items():
        text += f'<reg name="{name}" bitsize="64" regnum="{number}" type="ieee_double" group="float" />\n'
    text += f'<reg name="fpscr" bitsize="32" regnum="{_FPSCR}" type="int" group="float" />\n'
    return text + "</feature>\n</target>\n"


class Stub:
    """Renode's end of the GDB connection, over a connection to the simulator's stub."""

    def __init__(self, simulator: GdbClient, script: Script, client: socket.socket) -> None:
        self.simulator = simulator
        self.script = script
        self.client = client
        self.send_lock = threading.Lock()
        self.received = bytearray()
        self.single_step = True
        self.running = False
        self.numbers = self._simulator_numbers()
        self.random = random.Random(1)
        self.aborted = False

    def _simulator_numbers(self) -> dict[str, tuple[int, int]]:
        text = self.simulator.target_description()
        return {
            name: (int(number), int(bits) // 8)
            for name, bits, number in re.findall(r'<reg name="(\w+)" bitsize="(\d+)" regnum="(\d+)"', text)
        }

    # ---- framing

    def send(self, body: bytes) -> None:
        with self.send_lock, contextlib.suppress(OSError):
            self.client.sendall(b"$" + body + b"#%02x" % (sum(body) & 0xFF))

    def late(self, body: bytes, seconds: float) -> None:
        timer = threading.Timer(seconds, self.send, (body,))
        timer.daemon = True
        timer.start()

    def receive(self, data: bytes) -> None:
        self.received += data
        while self.received:
            if self.received[0] == 3:
                del self.received[0]
                self.interrupt()
                continue
            if self.received[0] != ord("$"):
                del self.received[0]
                continue
            end = self.received.find(b"#")
            if end < 0 or len(self.received) < end + 3:
                return
            body = bytes(self.received[1:end])
            del self.received[: end + 3]
            with contextlib.suppress(OSError):
                self.client.sendall(b"+")
            for reply in self.answer(body):
                self.send(reply)

    # ---- run control

    def interrupt(self) -> None:
        self.poll()
        if self.running:
            self.simulator.interrupt()
            self.running = False
        self.send(b"S02")  # also when it had stopped by itself

    def poll(self) -> None:
        """Whether the simulator has stopped; tells the client as Renode would."""
        if not self.running or self.simulator.poll():
            return
        self.running = False
        if b"lockup" in self.simulator.stop_reply:
            self.aborted = True
            self.send(b"X06")
            return
        self._log_bad_access()
        self.send(b"T05hwbreak:;")
        self.late(b"S05", 0.002)

    def _log_bad_access(self) -> None:
        """Renode's log tells of an access to nothing; here the simulator's BFAR does."""
        cfsr, bfar = self._word(_CFSR), self._word(_BFAR)
        if not cfsr >> 15 & 1:
            return
        sp = self._read("sp")
        with contextlib.suppress(Exception):
            pc = int.from_bytes(self.simulator.read_memory(sp + 24, 4), "little")
            print(f"[WARNING] hole_{bfar:x}: [cpu: {pc:#x}] bad access READ at {bfar:#x}", flush=True)

    def _word(self, address: int) -> int:
        return int.from_bytes(self.simulator.read_memory(address, 4), "little")

    def _read(self, name: str) -> int:
        value = self.simulator.read_register(self.numbers[name][0])
        return value or 0

    # ---- packets

    def answer(self, body: bytes) -> list[bytes]:
        self.poll()
        text = body.decode("latin-1")
        if text.startswith("qSupported"):
            return [b"PacketSize=%d;qXfer:features:read+;swbreak+;hwbreak+;error-message+" % PACKET_SIZE]
        if text == "?":
            return [b"S00"]
        if text.startswith("qXfer:features:read:target.xml:"):
            offset, length = (int(part, 16) for part in text.rpartition(":")[2].split(","))
            xml = target_xml()
            return [("l" if offset + length >= len(xml) else "m").encode() + xml[offset : offset + length].encode()]
        if text.startswith("qRcmd,"):
            return self.monitor(bytes.fromhex(text[6:]).decode())
        if text.startswith("qCRC:"):
            return [self._crc(text[5:])]
        if text == "qAttached":
            return [b"0"]
        if text[:1] == "m":
            return [self._read_memory(text[1:])]
        if text[:1] in ("M", "X"):
            return [self.simulator.exchange(body)]
        if text[:1] == "p":
            return [self._read_register(int(text[1:], 16))]
        if text[:1] == "P":
            return [self._write_register(text[1:])]
        if text[:2] in ("Z1", "z1", "Z0", "z0"):
            return [self.simulator.exchange(body)]
        if text == "s":
            return self._step()
        if text == "c":
            self._continue()
            return []
        return [b""]

    def _crc(self, arguments: str) -> bytes:
        address, length = (int(part, 16) for part in arguments.split(","))
        return b"C%08X" % gdb_crc32(self.simulator.read_memory(address, length))

    def _read_memory(self, place: str) -> bytes:
        address, length = (int(part, 16) for part in place.split(","))
        at = [one for name, places in (self.script.platform or {}).items() for one in places if address in one]
        if any(address in region for region in _PERIPHERALS):
            if length > 4:
                return b"00" * length
        elif not at:
            return b"E14"
        elif any(
            address in one
            for name, places in (self.script.platform or {}).items()
            for one in places
            if name.startswith("hole_")
        ):
            return b"00" * length
        if address in _MVFR or address in (_HFSR, _BFAR):
            return b"00" * length
        reply = self.simulator.exchange(b"m%x,%x" % (address, length))
        if reply.startswith(b"E"):
            return b"00" * length if any(address in region for region in _PERIPHERALS) else reply
        if address == _CFSR and length == 4:  # its faults of the bus come as HardFaults, with no status
            return bytes.fromhex(reply.decode())[2:].rjust(4, b"\0").hex().encode()
        return reply

    def _read_register(self, number: int) -> bytes:
        if number in (26, 27):  # FPDSCR, CPACR
            return b"00000000"
        if number in (29, 31):  # announced, and not there
            return b"00000000"
        if number in _DOUBLES:
            return self._read(_DOUBLES[number]).to_bytes(8, "little").hex().encode()
        if number == _FPSCR:
            return self._read("fpscr").to_bytes(4, "little").hex().encode()
        if number not in _REAL:
            return b"E1"
        return self._read(self._real_name(number)).to_bytes(4, "little").hex().encode()

    def _real_name(self, number: int) -> str:
        name = _REAL[number]
        if name == "other_sp":
            on_psp = bool(self._read("control") & 2) and not self._read("xpsr") & 0x1FF
            return "msp" if on_psp else "psp"
        return name

    def _write_register(self, text: str) -> bytes:
        digits, _, value = text.partition("=")
        number = int(digits, 16)
        if number in _DOUBLES:
            name = _DOUBLES[number]
        elif number == _FPSCR:
            name = "fpscr"
        elif number in _REAL:
            name = self._real_name(number)
        else:
            return b"E9999"
        number, size = self.numbers[name]
        written = self.simulator.write_register(number, int.from_bytes(bytes.fromhex(value), "little"), size)
        return b"OK" if written else b"E1"

    def _step(self) -> list[bytes]:
        self.simulator.step()
        for _ in range(self.random.randint(0, 2)):
            self.late(b"S05", self.random.uniform(0, 0.01))
        return [b"S05"]

    def _continue(self) -> None:
        self.single_step = False
        shcsr = self._word(_SHCSR)
        self.simulator.write_memory(_SHCSR, (shcsr | _USGFAULTENA).to_bytes(4, "little"))
        self.simulator.resume()
        self.running = True

    def monitor(self, command: str) -> list[bytes]:
        """Console output and OK, whether the command is known or not."""
        output = ""
        if command == "version":
            output = BANNER
        elif command == f"sysbus.{self.script.cpu} ExecutionMode SingleStep":
            self.single_step = True
        elif command == "machine Reset":
            self._reset()
        else:
            output = f"There was an error executing command '{command}'\nNo such command or device: {command}\n"
        replies = [b"O" + output.encode().hex().encode()] if output else []
        return [*replies, b"OK"]

    def _reset(self) -> None:
        if self.running:
            self.simulator.interrupt()
            self.running = False
        self.simulator.monitor("reset")
        self.aborted = False
        self.late(b"S05", self.random.uniform(0.0, 0.015))
        if not self.single_step:  # it runs on from the reset
            self._continue()


# ---- the process


@contextlib.contextmanager
def listening(port: int) -> Iterator[socket.socket]:
    with contextlib.closing(socket.socket()) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(1)
        yield listener


def relay_serial(listener: socket.socket, url: str) -> None:
    """Bytes between the terminal's client and the simulator's serial port, on a thread of its own."""
    host, _, port = url.removeprefix("socket://").partition(":")
    with contextlib.closing(socket.create_connection((host, int(port)))) as simulator:
        while True:
            client, _ = listener.accept()
            for one in (client, simulator):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            selector = selectors.DefaultSelector()
            selector.register(client, selectors.EVENT_READ, simulator)
            selector.register(simulator, selectors.EVENT_READ, client)
            connected = True
            while connected:
                for key, _ in selector.select():
                    source = key.fileobj
                    assert isinstance(source, socket.socket)
                    try:
                        data = source.recv(1 << 16)
                        key.data.sendall(data)
                    except OSError:
                        data = b""
                    if not data:
                        if source is simulator:
                            os._exit(1)
                        connected = False
            selector.close()
            client.close()


def serve_gdb(listener: socket.socket, gdb_port: int, script: Script) -> None:
    """One debugger after another."""
    simulator = GdbClient("127.0.0.1", gdb_port)
    simulator.serves_while_running = True
    simulator.exchange(b"?")
    for address, data in script.writes:
        with contextlib.suppress(RspError):  # identification registers, which the simulator has itself
            simulator.write_memory(address, data)
    simulator.monitor("reset")
    print(script.ready, flush=True)
    while True:
        client, _ = listener.accept()
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.settimeout(0.002)
        stub = Stub(simulator, script, client)
        if not simulator.poll():
            stub.single_step = True
        else:
            stub.running = True
        with contextlib.closing(client):
            while True:
                try:
                    data = client.recv(1 << 16)
                except TimeoutError:
                    stub.poll()
                    continue
                except OSError:
                    break
                if not data:
                    break
                stub.receive(data)
        if not stub.running and not stub.aborted:
            simulator.resume()  # closing the connection lets the core go on


def run(script_path: str) -> int:
    from harness import boards
    from harness.emulators.simulator.launch import start_simulator

    script = Script()
    with contextlib.ExitStack() as stack:
        try:
            script.run(Path(script_path.replace("\\ ", " ")).read_text())
        except Refused:
            pass
        else:
            assert script.machine is not None
            work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fake-renode-")))
            emulator = stack.enter_context(start_simulator(boards.load(script.machine), work))
            serial = stack.enter_context(listening(script.serial_port))
            gdb = stack.enter_context(listening(script.gdb_port))
            threading.Thread(target=relay_serial, args=(serial, emulator.serial_url), daemon=True).start()
            threading.Thread(target=serve_gdb, args=(gdb, emulator.gdb_port, script), daemon=True).start()
        for line in sys.stdin:
            if line.strip() == "quit":
                break
    return 0


def main() -> int:
    print(BANNER, flush=True)
    print(SERVED, flush=True)
    parser = argparse.ArgumentParser()
    for flag in ("--disable-gui", "--plain", "--console"):
        parser.add_argument(flag, action="store_true", required=True)
    parser.add_argument("--config", required=True)
    parser.add_argument("script")
    return run(parser.parse_args().script)


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)
