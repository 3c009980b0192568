"""What every emulator is from outside: a process of its own with a GDB server and a serial port.

Processes are started here, and end here: with stop(), at the end of a `with` block, and when this process ends in
whatever way, kill -9 included.
"""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal

from harness.emulators.transcript import Transcript
from harness.errors import DeviceError

EmulatorKind = Literal["qemu", "simulator", "renode"]

HOST = "127.0.0.1"

# Seconds. Generous, because the computer may be busy; nothing waits for them to pass.
START_DEADLINE = 30.0
_STOP_DEADLINE = 5.0
# A process closes its sockets, which others notice, some time before it has ended.
_REPORT_DEADLINE = 1.0
_REPORT_LINES = 8


class Emulator:
    """A running emulator. Made by start_qemu(), start_renode() and start_simulator(); a context manager that stops it.

    kind: how its GDB stub behaves. version: of the program, for fingerprints. gdb_port: on 127.0.0.1.
    serial_url: for pyserial's serial_for_url(). The core is halted at first. unmapped: addresses where a debugger's
    access would do harm or read zeros instead of failing. transcript: what debuggers and it said to each other.
    """

    def __init__(
        self,
        kind: EmulatorKind,
        version: str,
        process: Process,
        *,
        gdb_port: int,
        serial_port: int,
        unmapped: tuple[range, ...] = (),
    ) -> None:
        self._process = process
        self.kind = kind
        self.version = version
        self.gdb_port = gdb_port
        self.serial_url = f"socket://{HOST}:{serial_port}"
        self.unmapped = unmapped
        self.transcript = Transcript()

    def __enter__(self) -> Emulator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The process that was started; its id is that of its process group too."""
        return self._process.pid

    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.alive()

    def log(self) -> str:
        """What it has printed so far."""
        return self._process.log()

    def stop(self) -> None:
        """End it; does nothing when it has ended already. Never raises because of it."""
        self._process.stop()

    def exit_report(self) -> DeviceError:
        """Why it ended: how, and the last lines that it printed."""
        return self._process.exit_report()

    def evidence(self) -> str:
        """All there is to find out what went wrong: what it printed, and what debuggers and it said to each other."""
        return f"{self._process.evidence()}\n==== GDB packets and monitor commands\n{self.transcript.text()}"


class Process:
    """A child process in a session of its own, which ends when the pipe to its standard input does.

    The program has to end at the end of its standard input; guard.py makes any program do so.
    name: what users call it. folder: gets its log, under a name of its own that begins with `kind`.
    explain: turns the log into a sentence on why the program ended, where it can. farewell: what stop() writes to its
    standard input before closing it.
    DeviceError when it cannot be started.
    """

    def __init__(
        self,
        name: str,
        kind: EmulatorKind,
        command: Sequence[str],
        folder: Path,
        *,
        environment: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
        capture_stdout: bool = False,
        explain: Callable[[str], str | None] = lambda _log: None,
        farewell: bytes = b"",
    ) -> None:
        self._name = name
        self._command = tuple(command)
        self._farewell = farewell
        self._explain = explain
        try:
            folder.mkdir(parents=True, exist_ok=True)
            log, path = tempfile.mkstemp(prefix=f"{kind}-", suffix=".log", dir=folder)
        except OSError as error:
            raise DeviceError(f"{name} cannot write its log to {folder}: {error.strerror}") from error
        self.log_path = Path(path)
        try:
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE if capture_stdout else log,
                stderr=log,
                env=environment,
                pass_fds=pass_fds,
                start_new_session=True,
            )
        except OSError as error:
            raise DeviceError(f"{name} cannot be started: {error.strerror}", hint=f"tried {command[0]}") from error
        finally:
            os.close(log)

    @property
    def pid(self) -> int:
        """Its process id, and that of its group."""
        return self._child.pid

    def alive(self) -> bool:
        """Whether it still runs."""
        return self._child.poll() is None

    def log(self) -> str:
        """What it has printed so far."""
        try:
            return self.log_path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    def evidence(self) -> str:
        """The command, the files that it was given, and what it printed."""
        given = sorted(path for path in self.log_path.parent.glob("board.*") if path.is_file())
        files = "".join(f"\n==== {path.name}\n{path.read_text(errors='replace')}" for path in given)
        return f"{shlex.join(self._command)}\n{files}\n==== printed\n{self.log()}"

    def first_line(self, deadline: float) -> str:
        """The first line that it prints on its captured stdout, by time.monotonic() `deadline` at the latest.

        DeviceError when it ends before, or does not print one in time.
        """
        stdout = self._child.stdout
        assert stdout is not None
        line = b""
        while not line.endswith(b"\n"):
            readable, _, _ = select.select([stdout], [], [], max(0.0, deadline - time.monotonic()))
            part = os.read(stdout.fileno(), 4096) if readable else b""
            if not part:
                if not readable:
                    raise DeviceError(f"{self._name} did not start in time", hint=self._last_lines())
                self._wait(_STOP_DEADLINE)
                raise self.exit_report()
            line += part
        return line.decode("utf-8", errors="replace")

    def stop(self) -> None:
        """End it and all that it started."""
        stdin = self._child.stdin
        if self._farewell and stdin is not None and not stdin.closed:
            with contextlib.suppress(OSError):
                stdin.write(self._farewell)
                stdin.flush()
        for stream in (self._child.stdin, self._child.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        if not self._wait(_STOP_DEADLINE):
            # Its group is killed while the leader is not reaped: the id cannot be another's.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._child.pid, signal.SIGKILL)
            self._child.wait()

    def exit_report(self) -> DeviceError:
        """Why it ended: how, and the last lines that it printed. Waits a moment for the end of one that is ending."""
        self._wait(_REPORT_DEADLINE)
        status = self._child.returncode
        if status is None:
            return DeviceError(f"{self._name} still runs but does not answer", hint=self._last_lines())
        how = f"was ended by {_signal_name(-status)}" if status < 0 else f"ended with exit code {status}"
        reason = self._explain(self.log())
        return DeviceError(f"{self._name} {how}" + (f": {reason}" if reason else ""), hint=self._last_lines())

    def _wait(self, seconds: float) -> bool:
        try:
            self._child.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _last_lines(self) -> str:
        lines = [line for line in self.log().splitlines() if line.strip()][-_REPORT_LINES:]
        return "it printed: " + "\n".join(lines) if lines else "it printed nothing"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
