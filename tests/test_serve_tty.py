"""`harness serve`: anybody's client of the MLPerf Tiny protocol on the tty, whole dialogues and wrong ones."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import serial
from firmware_images import INPUT, reference, shared_cache, tiny
from measure_images import NEEDS_COMPILER, NO_COMPILER, foreign

from harness import boards
from harness.toolchain.platformio import build

pytestmark = pytest.mark.skipif(NO_COMPILER, reason=NEEDS_COMPILER)
BOARDS = [
    "nucleo-f746",
    pytest.param(
        "mps2-an386",
        marks=pytest.mark.skipif(shutil.which("qemu-system-arm") is None, reason="qemu-system-arm is not installed"),
    ),
]


@dataclass
class Client:
    """The benchmark's runner, as its protocol is written down: commands end in %, answers in CRLF, all in m-ready."""

    port: serial.Serial

    def say(self, text: str) -> None:
        self.port.write(text.encode())

    def lines(self) -> list[str]:
        """The answer, m-ready left out; 5 s for each line."""
        got = []
        while True:
            line = self.port.readline()
            assert line.endswith(b"\r\n"), f"no answer but {got} and {line!r}"
            if line == b"m-ready\r\n":
                return got
            got.append(line.decode().strip())

    def ask(self, command: str) -> list[str]:
        self.say(f"{command}%")
        return self.lines()


@dataclass
class Serving:
    """A running `harness serve`."""

    process: subprocess.Popen[str]
    tty: str

    @contextmanager
    def client(self, baudrate: int = 115_200) -> Iterator[Client]:
        port = serial.Serial(None, baudrate, timeout=20)
        port.port = self.tty
        # As runners do that must not reset a board by its modem lines. A pseudo-terminal has none.
        port.dtr, port.rts = False, True
        with port:
            yield Client(port)


@contextmanager
def serving(firmware: Path, board: str) -> Iterator[Serving]:
    command = [sys.executable, "-m", "harness", "serve", str(firmware), "--board", board, "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        text = ""
        while not text.endswith("}\n"):
            line = process.stdout.readline()
            assert line, process.stderr.read() if process.stderr else ""
            text += line
        yield Serving(process, json.loads(text)["tty"])
    finally:
        process.kill()
        process.communicate(timeout=30)


@pytest.fixture(scope="module", params=BOARDS)
def served(request: pytest.FixtureRequest) -> Iterator[Serving]:
    image = build(tiny(), boards.load(request.param), cache_dir=shared_cache())
    with serving(image.elf, request.param) as made:
        yield made


def test_all_dialogues(served: Serving) -> None:
    with served.client() as client:
        assert client.ask("name")[0].startswith("m-name-dut-[")
        profile, model = client.ask("profile")
        assert (profile, model[:9]) == ("m-profile-[ULPMark for tinyML Firmware V0.0.1]", "m-model-[")
        assert client.ask("timestamp")[0].startswith("m-lap-us-")
        assert client.ask(f"db load {len(INPUT)}") == [f"m-[Expecting {len(INPUT)} bytes]"]
        assert client.ask(f"db {INPUT[:7].hex()}") == []
        assert client.ask(f"db {INPUT[7:].hex()}") == ["m-load-done"]
        assert client.ask("db print")[0].startswith("m-buffer-[")
        answer = client.ask("infer 3 2")
        assert [answer[0], answer[1], answer[2], answer[5]] == [
            "m-warmup-start-2",
            "m-warmup-done",
            "m-infer-start-3",
            "m-infer-done",
        ]
        first, second = (int(line.removeprefix("m-lap-us-")) for line in answer[3:5])
        assert second >= first
        assert client.ask("results") == [answer[6]]
        assert answer[6].count(",") == len(reference(INPUT).outputs) - 1
        assert client.ask("help")


@pytest.mark.parametrize(
    "command",
    [
        "",
        "nonsense",
        "db",
        "db load",
        "db load 1",
        "db load 99999999999",
        "db 0g",
        "db 0",
        "infer",
        "infer 0",
        "infer x 1",
    ],
)
def test_wrong_commands_are_refused_and_nothing_else_happens(served: Serving, command: str) -> None:
    with served.client() as client:
        answer = client.ask(command)
        assert (answer[0][:3] == "e-[" and answer[0].endswith("]")) or command == "infer"
        assert client.ask("name")[0].startswith("m-name-dut-[")


def test_too_much_too_little_and_line_ends(served: Serving) -> None:
    with served.client() as client:
        client.ask(f"db load {len(INPUT)}")
        assert client.ask(f"db {(INPUT + b'x').hex()}")[0].startswith("e-[")
        assert client.ask("infer 1 0")[0].startswith("e-[")
        assert client.ask("db " + "0" * 200)[0].startswith("e-[")
        client.say("\r\nna\nme%\r\n")
        assert client.lines()[0].startswith("m-name-dut-[")


def test_clients_come_and_go_at_any_baud_rate(served: Serving) -> None:
    for baudrate in (9600, 115_200, 921_600):
        with served.client(baudrate) as client:
            assert client.ask("name")
    with served.client() as client:
        client.say("infer 1 0%")  # gone before the answer, which is lost when the next one opens the line
    time.sleep(1)
    with served.client() as client:
        assert client.ask("timestamp")[-1].startswith("m-lap-us-")


def test_ctrl_c_ends_it_and_leaves_nothing() -> None:
    image = build(tiny(), boards.load("nucleo-f746"), cache_dir=shared_cache())
    with serving(image.elf, "nucleo-f746") as made:
        children = psutil.Process(made.process.pid).children(recursive=True)
        assert children
        made.process.send_signal(signal.SIGINT)
        assert made.process.wait(timeout=30) == 0
        psutil.wait_procs(children, timeout=10)
        assert not any(child.is_running() for child in children)


def test_a_fault_ends_it_with_a_report() -> None:
    with serving(foreign("FAULT_BUS"), "nucleo-f746") as made:
        with made.client() as client:
            client.ask("db load 490")
            client.say("infer 1 0%")
            assert made.process.wait(timeout=30) == 3
        assert made.process.stderr is not None
        error = made.process.stderr.read()
        assert "HardFault in infer" in error and "0x90000000" in error
