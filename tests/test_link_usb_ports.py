"""Which serial port is whose: lists in the form in which pyserial and the probes' libraries show such devices.

Written after each vendor's documentation; not recorded from devices.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from serial.tools import list_ports

from harness.errors import DeviceError
from harness.link.usb_ports import port_of_probe


@dataclass
class Port:
    device: str
    serial_number: str | None
    location: str | None = None


STLINK = "066DFF535254887767112438"
DAPLINK = "0240000034544e45001b00028aa9001a8f81000097969900"
BENCH = [
    Port("/dev/ttyS0", None),
    Port("/dev/ttyACM3", "0671FF363154413043233042", "1-4.1:1.2"),
    Port("/dev/ttyACM0", STLINK, "1-4.2:1.2"),
    Port("/dev/ttyACM2", "000683123456", "1-4.3:1.2"),  # J-Link OB: two ports, and leading zeros
    Port("/dev/ttyACM1", "000683123456", "1-4.3:1.0"),
    Port("/dev/ttyUSB0", "A50285BI", "1-2:1.0"),
    Port("COM7", DAPLINK.upper(), None),
]


@pytest.fixture(autouse=True)
def _bench(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(list_ports, "comports", lambda: BENCH)


@pytest.mark.parametrize(
    ("uid", "device"),
    [
        (STLINK, "/dev/ttyACM0"),
        ("0671FF363154413043233042", "/dev/ttyACM3"),
        ("683123456", "/dev/ttyACM1"),
        (DAPLINK, "COM7"),
    ],
)
def test_the_port_has_the_probes_serial_number(uid: str, device: str) -> None:
    assert port_of_probe(uid) == device


@pytest.mark.parametrize("uid", [STLINK[:-1], STLINK[1:], "5", "", "801012345"])
def test_a_part_of_a_number_is_not_enough(uid: str) -> None:
    with pytest.raises(DeviceError, match=r"no serial port .*/dev/ttyACM0 \(066DFF535254887767112438\)") as caught:
        port_of_probe(uid)
    assert "--serial" in (caught.value.hint or "")
    assert "ttyS0" not in caught.value.message


def test_a_remote_probes_port_has_to_be_named() -> None:
    with pytest.raises(DeviceError, match="on another machine") as caught:
        port_of_probe("remote:lab7:5555")
    assert "rfc2217://" in (caught.value.hint or "")
