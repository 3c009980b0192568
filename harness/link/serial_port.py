"""Opens the serial line to a board by pyserial: a device (/dev/ttyACM0, a pty), socket://host:port or rfc2217://host:port.

Every failure is a DeviceError; nothing waits without a limit.
"""

from __future__ import annotations

import errno
import io
import os
import select
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Protocol, Self

import serial
from serial.urlhandler import protocol_socket

from harness.errors import DeviceError

BAUDRATE = 115_200

_READ_BYTES = 1 << 16
_WRITE_TIMEOUT_S = 5.0
_RETRY_S = 0.05
# How long one look takes where there is no file descriptor to wait on (rfc2217).
_POLL_S = 0.02


class _Socket(protocol_socket.Serial):
    """pyserial's socket://, without the 0.3 s it sleeps when it is closed."""

    _socket: socket.socket

    def close(self) -> None:
        if self.is_open:
            self.is_open = False
            self._socket.close()


class _Pyserial(Protocol):
    """What SerialPort uses of pyserial's ports; its stubs' base class lacks in_waiting."""

    @property
    def in_waiting(self) -> int: ...
    def fileno(self) -> int: ...
    def read(self, size: int = 1, /) -> bytes: ...
    def write(self, data: bytes, /) -> int | None: ...
    def close(self) -> None: ...


class SerialPort:
    """An open line to one board. Made by open_port(); a context manager."""

    def __init__(self, port: _Pyserial, url: str) -> None:
        self.url = url
        self._port = port
        self._handle = _file_descriptor(port)

    def read(self, timeout: float) -> bytes:
        """What has arrived; waits up to `timeout` seconds for the first byte, and returns b"" when none came.

        DeviceError when the line was closed from the other side.
        """
        try:
            return self._wait_and_read(timeout)
        except (serial.SerialException, OSError) as error:
            raise DeviceError(f"the serial line {self.url} broke: {error}") from error

    def _wait_and_read(self, timeout: float) -> bytes:
        if self._handle is not None:
            if not select.select([self._handle], [], [], timeout)[0]:
                return b""
            return self._port.read(_READ_BYTES)
        deadline = time.monotonic() + timeout
        while not (waiting := self._port.in_waiting):
            if (left := deadline - time.monotonic()) <= 0:
                return b""
            time.sleep(min(left, _POLL_S))
        return self._port.read(waiting)

    def write(self, data: bytes) -> None:
        """Hands all of `data` to the line. DeviceError when it takes none for 5 s, or was closed."""
        try:
            self._port.write(data)
        except serial.SerialTimeoutException as error:
            raise DeviceError(f"the board does not take what is sent to it over {self.url}") from error
        except (serial.SerialException, OSError) as error:
            raise DeviceError(f"the serial line {self.url} broke: {error}") from error

    def close(self) -> None:
        """Closes the line; does nothing when it is closed."""
        with suppress(serial.SerialException, OSError):
            self._port.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_port(
    url: str, *, baudrate: int = BAUDRATE, timeout: float = 5.0, check: Callable[[], None] | None = None
) -> SerialPort:
    """Opens a device for ourselves alone, or connects to a URL.

    An emulator's port may not listen yet: refused connections are tried again for `timeout` seconds, and `check()`,
    called in between, may raise a better reason (the emulator died). DeviceError when the port cannot be opened.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            return SerialPort(_open(url, baudrate), url)
        except (serial.SerialException, OSError, ValueError) as error:
            if check is not None:
                check()
            if not _refused(error) or time.monotonic() >= deadline:
                raise _open_error(url, error) from error
        time.sleep(_RETRY_S)


def _open(url: str, baudrate: int) -> _Pyserial:
    # Reads never wait by themselves: SerialPort waits, in one place, for all kinds of ports.
    if url.startswith("socket://"):
        port = _Socket(url, baudrate=baudrate, timeout=0, write_timeout=_WRITE_TIMEOUT_S)
        _send_without_delay(port)
        return port
    # pyserial's rfc2217 refuses a write timeout; its socket has one of 5 s.
    write_timeout = None if url.startswith("rfc2217://") else _WRITE_TIMEOUT_S
    return serial.serial_for_url(url, baudrate=baudrate, timeout=0, write_timeout=write_timeout, exclusive=True)


def _send_without_delay(port: _Pyserial) -> None:
    """TCP_NODELAY: Nagle's algorithm would hold back each command until the one before it was acknowledged."""
    with socket.socket(fileno=os.dup(port.fileno())) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _file_descriptor(port: _Pyserial) -> int | None:
    """What select() can wait on; None where the port has nothing of the kind."""
    try:
        return port.fileno()
    except (io.UnsupportedOperation, AttributeError, OSError):
        return None


def _refused(error: BaseException) -> bool:
    """Whether nothing listens at a URL yet. pyserial keeps the socket's own error only as the context of its own."""
    return isinstance(error.__context__, ConnectionRefusedError)


def _open_error(url: str, error: Exception) -> DeviceError:
    number = getattr(error, "errno", None)
    if _refused(error):
        return DeviceError(f"nothing listens at {url}", hint="start the emulator or the serial server first")
    if number in (errno.ENOENT, errno.ENXIO, errno.ENODEV, errno.EIO):
        return DeviceError(f"there is no serial port {url}", hint="`harness doctor` lists the serial ports it sees")
    if number in (errno.EACCES, errno.EPERM):
        return DeviceError(
            f"serial port {url} may not be opened by this user",
            hint="on Linux, add yourself to its group (usually dialout) and log in again",
        )
    if number in (errno.EAGAIN, errno.EBUSY):
        return DeviceError(f"serial port {url} is in use by another program", hint="close that program")
    return DeviceError(f"serial port {url} cannot be opened: {error}")
