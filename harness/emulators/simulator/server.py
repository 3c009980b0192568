"""The simulator as a process: one thread serves GDB and the serial port, the other one is the core."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable

from harness.boards import Board
from harness.emulators.simulator.cycles.model import CycleModel
from harness.emulators.simulator.gdb_server import GdbServer
from harness.emulators.simulator.machine import Machine
from harness.emulators.simulator.runner import Runner
from harness.emulators.simulator.stops import Stop

# Received bytes that may wait for the firmware; above, the sender has to wait.
_MOST_WAITING_BYTES = 1 << 16
# What the firmware sent and nobody reads: beyond that, the oldest is lost, as on a wire.
_MOST_UNSENT_BYTES = 1 << 20
# Bytes that the firmware sends go out together: when it waits, or this long after the last ones, in seconds.
_BURST_SECONDS = 0.001
# How often everything is looked at that wakes nobody, in seconds; and blocked input.
_TICK_SECONDS = 0.1
_DRAIN_SECONDS = 0.002
# How long the GDB client may take to accept a reply, in seconds.
_SEND_SECONDS = 10.0
# Threads wait this long for the interpreter, in seconds, before they may take it from the core's.
_SWITCH_SECONDS = 0.001


class Server:
    """Serves one machine on two ports of 127.0.0.1, chosen by the operating system. One client each at a time."""

    def __init__(self, board: Board, *, check_alignment: bool = False, cycle_model: CycleModel | None = None) -> None:
        """check_alignment, cycle_model: see Machine. InputError when the simulator does not model the board."""
        self._machine = Machine(board, check_alignment=check_alignment, cycle_model=cycle_model)
        self._machine.blocking = True
        self._machine.serial.transmit = self._transmit
        self._machine.serial.flush = self._flush
        self._stops: deque[Stop] = deque()
        self._unsent = bytearray()
        self._waking = False
        self._last_wake = 0.0
        self._ended = False
        # Standard input may be anything; epoll takes no files.
        self._selector = selectors.PollSelector()
        self._woken, self._waker = socket.socketpair()
        self._woken.setblocking(False)
        self._waker.setblocking(False)
        self._runner = Runner(self._machine, self._on_stop, self._on_failure)
        self._gdb = GdbServer(self._machine, self._runner, self._send_to_gdb, self._end)
        self._gdb_listener, self._serial_listener = _listen(), _listen()
        self._gdb_client: socket.socket | None = None
        self._serial_client: socket.socket | None = None

    def serve(self, *, until_eof: bool) -> None:
        """Announce the ports as one line of JSON on stdout, then serve until a client kills us.

        until_eof: end as well at the end of standard input, or when the parent process is gone.
        """
        sys.setswitchinterval(_SWITCH_SECONDS)
        self._watch(self._woken, self._on_wake)
        self._watch(self._gdb_listener, self._accept_gdb)
        self._watch(self._serial_listener, self._accept_serial)
        parent = os.getppid()
        if until_eof:
            self._selector.register(sys.stdin.fileno(), selectors.EVENT_READ, self._on_stdin)
        ports = {"gdb": self._gdb_listener.getsockname()[1], "serial": self._serial_listener.getsockname()[1]}
        print(json.dumps(ports), flush=True)
        while not self._ended:
            for key, events in self._selector.select(_TICK_SECONDS if self._may_receive() else _DRAIN_SECONDS):
                key.data(events)
            if until_eof and os.getppid() != parent:
                return
            self._send_serial()
            self._watch_serial()

    # ---- called on the core's thread

    def _on_stop(self, stop: Stop) -> None:
        self._stops.append(stop)
        self._wake()

    def _on_failure(self, error: BaseException) -> None:
        traceback.print_exception(error)
        sys.stderr.flush()
        os._exit(1)

    def _transmit(self, byte: int) -> None:
        self._unsent.append(byte)
        if not self._waking and time.monotonic() - self._last_wake > _BURST_SECONDS:
            self._wake()

    def _flush(self) -> None:
        if self._unsent and not self._waking:
            self._wake()

    def _wake(self) -> None:
        self._waking = True
        self._last_wake = time.monotonic()
        with contextlib.suppress(BlockingIOError):  # it is being woken already
            self._waker.send(b"!")

    # ---- called on the serving thread

    def _end(self) -> None:
        self._ended = True

    def _on_wake(self, _events: int) -> None:
        self._waking = False
        self._woken.recv(4096)
        self._send_serial()
        while self._stops:
            self._gdb.stopped(self._stops.popleft())

    def _on_stdin(self, _events: int) -> None:
        if not os.read(sys.stdin.fileno(), 4096):
            self._end()

    def _watch(self, watched: socket.socket, action: Callable[[int], None], events: int = selectors.EVENT_READ) -> None:
        self._selector.register(watched, events, action)

    def _accept_gdb(self, _events: int) -> None:
        client = _accept(self._gdb_listener)
        if client is None:
            return
        client.settimeout(_SEND_SECONDS)
        # Further clients wait until this one is gone.
        self._selector.unregister(self._gdb_listener)
        self._gdb_client = client
        self._watch(client, self._receive_from_gdb)
        self._gdb.connected()

    def _receive_from_gdb(self, _events: int) -> None:
        if self._gdb_client is None:
            return  # dropped since the selector saw it
        try:
            data = self._gdb_client.recv(1 << 16)
        except OSError:
            data = b""
        if data:
            self._gdb.receive(data)
        else:
            self._drop_gdb()

    def _send_to_gdb(self, data: bytes) -> None:
        if self._gdb_client is not None:
            try:
                self._gdb_client.sendall(data)
            except OSError:
                self._drop_gdb()

    def _drop_gdb(self) -> None:
        client, self._gdb_client = self._gdb_client, None
        if client is not None:
            self._selector.unregister(client)
            client.close()
            self._gdb.disconnected()
            self._watch(self._gdb_listener, self._accept_gdb)

    def _accept_serial(self, _events: int) -> None:
        client = _accept(self._serial_listener)
        if client is None:
            return
        client.setblocking(False)
        self._selector.unregister(self._serial_listener)
        self._serial_client = client
        self._watch_serial()

    def _may_receive(self) -> bool:
        return len(self._machine.serial) < _MOST_WAITING_BYTES

    def _watch_serial(self) -> None:
        """Wait for what the serial client can do now: send, unless too much waits already; receive, if there is any."""
        client = self._serial_client
        if client is None:
            return
        events = (selectors.EVENT_READ if self._may_receive() else 0) | (selectors.EVENT_WRITE if self._unsent else 0)
        watched = self._selector.get_map().get(client)
        if watched is not None and watched.events == events:
            return
        if watched is not None:
            self._selector.unregister(client)
        if events:
            self._watch(client, self._exchange_serial, events)

    def _exchange_serial(self, events: int) -> None:
        if events & selectors.EVENT_READ and self._serial_client is not None:
            self._receive_serial(self._serial_client)
        if events & selectors.EVENT_WRITE:
            self._send_serial()

    def _receive_serial(self, client: socket.socket) -> None:
        try:
            data = client.recv(1 << 14)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._machine.serial.feed(data)
        else:
            self._drop_serial()

    def _send_serial(self) -> None:
        """Send what the client takes; the core's thread meanwhile only appends."""
        unsent = self._unsent
        if not unsent:
            return
        if self._serial_client is None:
            # Nobody listens, or somebody does whom we have not looked at yet.
            self._accept_serial(selectors.EVENT_READ)
        if self._serial_client is None:
            unsent.clear()
            return
        if len(unsent) > _MOST_UNSENT_BYTES:
            del unsent[:-_MOST_UNSENT_BYTES]
        try:
            sent = self._serial_client.send(bytes(unsent[: 1 << 16]))
        except BlockingIOError:
            return
        except OSError:
            self._drop_serial()
            return
        del unsent[:sent]

    def _drop_serial(self) -> None:
        client, self._serial_client = self._serial_client, None
        if client is not None:
            if client in self._selector.get_map():
                self._selector.unregister(client)
            client.close()
            self._watch(self._serial_listener, self._accept_serial)


def _listen() -> socket.socket:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(4)
    listener.setblocking(False)
    return listener


def _accept(listener: socket.socket) -> socket.socket | None:
    try:
        client, _ = listener.accept()
    except OSError:
        return None  # it has gone again
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client
