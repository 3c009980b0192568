"""The pyOCD probe plugin: an emulator behind a GDB stub, as a debug probe.

pyOCD finds it through the entry point `pyocd.probe`, so that its own tools work on emulators too:
    pyocd commander --target cortex_m --uid emulator:127.0.0.1:3333
The harness makes the probe itself (session.py) and needs no entry point.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Sequence
from typing import Any

from pyocd.core import exceptions
from pyocd.core.memory_interface import MemoryInterface
from pyocd.core.memory_map import MemoryType
from pyocd.core.plugin import Plugin
from pyocd.coresight.ap import APv1Address
from pyocd.probe.debug_probe import DebugProbe

from harness.emulators.base import EmulatorKind
from harness.emulators.transcript import Transcript
from harness.probe.core import EmulatedCore
from harness.probe.flash import DirectFlash
from harness.probe.rom_table import ROM_TABLE
from harness.probe.rsp import GdbClient, RspError
from harness.probe.stubs import open_stub

# The debug port and access port of an STM32F7, as pyOCD reads them before it asks for the memory interface.
_DP_IDR, _DP_CTRL_STAT = 0x0, 0x4
_DP_IDR_VALUE = 0x2BA0_1477
_POWER_UP_REQUESTS = 0x5000_0000  # each acknowledged by the bit above it
_CTRL_STAT_WRITABLE = _POWER_UP_REQUESTS | 0xF00
_AP_CSW, _AP_BASE, _AP_IDR = 0x00, 0xF8, 0xFC
_AP_CSW_RESET = 0x0300_0042
_AP_CSW_DEVICE_ENABLED = 0x40
_AP_IDR_VALUE = 0x2477_0011
_BASE_PRESENT = 0x3


class EmulatorProbe(DebugProbe):  # type: ignore[misc]  # pyOCD has no type information
    """A probe whose wire is a GDB remote connection. unique id: HOST:PORT[,qemu|simulator|renode].

    The order of calls is pyOCD's: open, connect, anything, disconnect, close. Debug port and access port are constants;
    everything else goes through the memory interface of access port 0 (core.py).
    """

    def __init__(
        self,
        unique_id: str,
        *,
        keep_trying: Callable[[], bool] = lambda: True,
        unmapped: Sequence[range] = (),
        transcript: Transcript | None = None,
    ) -> None:
        """keep_trying, transcript: see GdbClient. unmapped: see Emulator. ProbeError where the id is not
        HOST:PORT[,KIND].
        """
        super().__init__()
        self._unmapped = unmapped
        self._transcript = transcript
        self._unique_id = unique_id
        self._keep_trying = keep_trying
        address, _, kind = unique_id.partition(",")
        self._host, _, port = address.rpartition(":")
        if not self._host or not port.isdecimal() or kind not in ("", *typing.get_args(EmulatorKind)):
            raise exceptions.ProbeError(f"an emulator is named HOST:PORT[,KIND], not '{unique_id}'")
        self._port = int(port)
        self._kind: EmulatorKind | None = kind or None  # type: ignore[assignment]  # checked above
        self._client: GdbClient | None = None
        self._core: EmulatedCore | None = None
        self._connected = False
        self._reset_asserted = False
        self._control = 0
        self._access_port = {_AP_CSW: _AP_CSW_RESET}

    @classmethod
    def get_all_connected_probes(cls, unique_id: str | None = None, is_explicit: bool = False) -> list[EmulatorProbe]:
        """Nothing announces emulators: only one that is asked for by its address is there."""
        return [cls(unique_id)] if is_explicit and unique_id else []

    @classmethod
    def get_probe_with_id(cls, unique_id: str, is_explicit: bool = False) -> EmulatorProbe | None:
        return cls(unique_id) if is_explicit else None

    @property
    def vendor_name(self) -> str:
        return "harness"

    @property
    def product_name(self) -> str:
        return f"emulator ({self._kind})" if self._kind else "emulator"

    @property
    def unique_id(self) -> str:
        return self._unique_id

    @property
    def supported_wire_protocols(self) -> Sequence[DebugProbe.Protocol]:
        return (DebugProbe.Protocol.DEFAULT, DebugProbe.Protocol.SWD)

    @property
    def wire_protocol(self) -> DebugProbe.Protocol | None:
        return DebugProbe.Protocol.SWD if self._connected else None

    @property
    def is_open(self) -> bool:
        return self._client is not None

    @property
    def capabilities(self) -> set[DebugProbe.Capability]:
        return {self.Capability.MANAGED_AP_SELECTION, self.Capability.MANAGED_DPBANKSEL}

    @property
    def core(self) -> EmulatedCore:
        """The emulated core, while the probe is open."""
        if self._core is None:
            raise exceptions.ProbeError("the emulator probe is not open")
        return self._core

    def monitor(self, command: str) -> str:
        """Run a command of the emulator's own (GDB's `monitor`) and return what it printed."""
        if self._client is None:
            raise exceptions.ProbeError("the emulator probe is not open")
        try:
            return self._client.monitor(command)
        except RspError as error:
            raise exceptions.ProbeError(str(error)) from error

    def open(self) -> None:
        """Connect to the stub. Also makes every flash region of the session's target directly writable, so that
        pyOCD's own
        target types work as they are: no emulator models a flash controller well enough for a real algorithm.
        """
        client = None
        try:
            client = GdbClient(self._host, self._port, keep_trying=self._keep_trying, transcript=self._transcript)
            stub = open_stub(client, self._kind, self._unmapped)
            self._core = EmulatedCore(client, stub)
        except (RspError, exceptions.Error) as error:
            if client is not None:
                client.close()
            raise exceptions.ProbeError(f"emulator at {self._host}:{self._port}: {error}") from error
        self._kind = stub.kind
        self._client = client
        if self.session.board is None:
            return  # pyOCD's probe server: who programs over the network brings the target
        for region in self.session.target.memory_map.iter_matching_regions(type=MemoryType.FLASH):
            region.flash_class = DirectFlash
            region.algo = None

    def close(self) -> None:
        if self._client is not None:
            self.core.close()
            self._client.close()
            self._client = self._core = None

    def connect(self, protocol: DebugProbe.Protocol | None = None) -> None:
        self._connected = True

    def disconnect(self) -> None:
        self._connected = False

    def set_clock(self, frequency: float) -> None:
        """There is no wire to clock."""

    def reset(self) -> None:
        self.core.reset()

    def assert_reset(self, asserted: bool) -> None:
        if self._reset_asserted and not asserted:
            self.core.reset()
        self._reset_asserted = asserted

    def is_reset_asserted(self) -> bool:
        return self._reset_asserted

    def read_dp(self, addr: int, now: bool = True) -> int | Callable[[], int]:
        value = 0
        if addr == _DP_IDR:
            value = _DP_IDR_VALUE
        elif addr == _DP_CTRL_STAT:
            value = self._control | (self._control & _POWER_UP_REQUESTS) << 1
        return value if now else lambda: value

    def write_dp(self, addr: int, data: int) -> None:
        if addr == _DP_CTRL_STAT:
            self._control = data & _CTRL_STAT_WRITABLE

    def read_ap(self, addr: int, now: bool = True) -> int | Callable[[], int]:
        value = 0
        if addr >> 24 == 0:  # access port 0; there is no other
            known = {_AP_BASE: ROM_TABLE | _BASE_PRESENT, _AP_IDR: _AP_IDR_VALUE}
            known[_AP_CSW] = self._access_port[_AP_CSW] | _AP_CSW_DEVICE_ENABLED
            value = known.get(addr & 0xFF, 0)
        return value if now else lambda: value

    def write_ap(self, addr: int, data: int) -> None:
        self._access_port[addr & 0xFF] = data

    def read_ap_multiple(self, addr: int, count: int = 1, now: bool = True) -> Any:
        values = [self.read_ap(addr) for _ in range(count)]
        return values if now else lambda: values

    def write_ap_multiple(self, addr: int, values: Sequence[int]) -> None:
        for value in values:
            self.write_ap(addr, value)

    def get_memory_interface_for_ap(self, ap_address: Any) -> MemoryInterface | None:
        return self.core if isinstance(ap_address, APv1Address) and ap_address.apsel == 0 else None


class EmulatorProbePlugin(Plugin):  # type: ignore[misc]  # pyOCD has no type information
    """What the entry point `pyocd.probe` names."""

    @property
    def name(self) -> str:
        return "emulator"

    @property
    def description(self) -> str:
        return "Emulated Cortex-M behind a GDB stub (QEMU, Renode, the harness simulator)"

    def load(self) -> type[EmulatorProbe]:
        return EmulatorProbe
