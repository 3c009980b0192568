"""What emulators listen on, and that they end with the process that started them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import renode_stand_in

from harness import boards
from harness.emulators import guard, renode
from harness.emulators.base import Emulator
from harness.emulators.qemu import start_qemu
from harness.emulators.renode import start_renode
from harness.emulators.simulator.launch import start_simulator

LOOPBACK = "0100007F"


def listening_addresses(port: int) -> set[str]:
    """Addresses that the port is open at, as /proc/net/tcp has them (hexadecimal, least byte first)."""
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            local, _, state = line.split()[1:4]
            address, _, number = local.partition(":")
            if state == "0A" and int(number, 16) == port:
                found.add(address)
    return found


def ports(emulator: Emulator) -> tuple[int, int]:
    return emulator.gdb_port, int(emulator.serial_url.rpartition(":")[2])


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="there is no /proc/net/tcp")
@pytest.mark.parametrize("engine", ["simulator", "qemu"])
def test_only_this_machine_can_connect(engine: str, tmp_path: Path) -> None:
    if engine == "qemu" and shutil.which("qemu-system-arm") is None:
        pytest.skip("qemu-system-arm is not installed")
    start, board = (start_simulator, "nucleo-f746") if engine == "simulator" else (start_qemu, "mps2-an500")
    with start(boards.load(board), tmp_path) as emulator:
        for port in ports(emulator):
            assert listening_addresses(port) == {LOOPBACK}


@pytest.mark.skipif(renode.find() is None, reason="renode is not installed: harness doctor --install renode")
def test_renode_is_open_to_the_network_as_the_docs_say(tmp_path: Path) -> None:
    with start_renode(boards.load("nucleo-f746"), tmp_path) as emulator:
        for port in ports(emulator):
            assert listening_addresses(port) == {"00000000"}


# ---- guard.py with --forward


def guarded(*command: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-I", "-S", str(Path(guard.__file__)), "--forward", *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )


def test_input_is_forwarded_and_the_exit_code_comes_back() -> None:
    with guarded("sh", "-c", "read line; echo got $line; exit 7") as process:
        assert process.communicate(b"quit\n", timeout=10)[0] == b"got quit\n"
        assert process.returncode == 7


def test_a_program_that_ends_with_its_input_ends_by_itself() -> None:
    with guarded("sh", "-c", "cat >/dev/null; echo bye") as process:
        assert process.communicate(timeout=10)[0] == b"bye\n"
        assert process.returncode == 0


def test_a_program_that_ignores_the_end_is_killed_with_all_that_it_started() -> None:
    with guarded("sh", "-c", "sleep 60 & echo $!; wait; sleep 60") as process:
        assert process.stdout is not None and process.stdin is not None
        child = int(process.stdout.readline())
        started = time.monotonic()
        process.stdin.close()
        assert process.wait(15) == -signal.SIGKILL
        assert time.monotonic() - started < 10
        assert not runs(child)


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_renode_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    program = renode.find() or renode_stand_in.program(tmp_path)
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom harness import boards\n"
        "from harness.emulators.renode import start_renode\n"
        "emulator = start_renode(boards.load('nucleo-f746'), Path(sys.argv[1]))\n"
        "print(emulator.pid, flush=True)\ntime.sleep(60)\n"
    )
    environment = os.environ | {renode.ENVIRONMENT: str(program), "HARNESS_CACHE": str(tmp_path / "cache")}
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "work")], stdout=subprocess.PIPE, env=environment
    ) as parent:
        assert parent.stdout is not None
        group = int(parent.stdout.readline())
        parent.kill()
    deadline = time.monotonic() + 15
    while members(group) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert members(group) == set()


def members(group: int) -> set[int]:
    """Processes of that group that run."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.add(int(entry.name))
    return found
