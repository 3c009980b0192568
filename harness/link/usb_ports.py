"""Which serial port belongs to which debug probe: an on-board probe is one USB device with both, and one number."""

from __future__ import annotations

import re
from typing import Protocol

from harness.errors import DeviceError

REMOTE = "remote:"
"""What the ids of pyOCD's remote probes begin with: remote:HOST[:PORT]."""


class UsbPort(Protocol):
    """What pyserial's list_ports tells of a port. location: bus and interface, such as 1-4.2:1.2."""

    device: str
    serial_number: str | None
    location: str | None


def port_of_probe(uid: str) -> str:
    """The serial port of the board that the probe `uid` is soldered to.

    Of several ports of one device (J-Link OB, some CMSIS-DAP boards) the one with the lowest interface number, which
    is the one that such boards connect to their first UART. DeviceError where there is none, with the ports that are.
    """
    if uid.startswith(REMOTE):
        raise DeviceError(
            f"the serial port of a remote probe ({uid}) is on another machine",
            hint="name it with --serial rfc2217://HOST:PORT or --serial socket://HOST:PORT",
        )
    ports = _usb_ports()
    matching = [port for port in ports if _number(port.serial_number) == _number(uid)]
    if not matching:
        seen = ", ".join(f"{port.device} ({port.serial_number})" for port in ports) or "none"
        raise DeviceError(
            f"no serial port has the serial number of probe {uid} (USB serial ports: {seen})",
            hint="name the board's port with --serial /dev/ttyACM0",
        )
    return min(matching, key=_interface).device


def _usb_ports() -> list[UsbPort]:
    from serial.tools.list_ports import comports

    return [port for port in comports() if port.serial_number]


def _number(serial_number: str | None) -> str:
    """As it can be compared: J-Links show theirs, a number, with leading zeros to USB and without to their library."""
    text = (serial_number or "").casefold()
    return text.lstrip("0") if text.isdecimal() else text


def _interface(port: UsbPort) -> tuple[int, int, str]:
    interface = re.search(r":\d+\.(\d+)$", port.location or "")
    number = re.search(r"(\d+)$", port.device)
    return (int(interface[1]) if interface else 0, int(number[1]) if number else 0, port.device)
