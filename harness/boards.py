"""Board manifests: the typed view of boards/*.json, which PlatformIO reads as well. Knows no engine's workings."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from harness import json_file
from harness.assets import boards_dir
from harness.errors import InputError, unknown_name

# Addresses read best in hexadecimal, which JSON lacks: "0x08000000" is accepted wherever an address is wanted.
Address = Annotated[
    int,
    BeforeValidator(lambda value: int(value, 0) if isinstance(value, str) else value),
    WithJsonSchema(
        {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": "^0[xX][0-9a-fA-F]+$"}]}
    ),
]

Core = Literal["cortex-m0", "cortex-m0plus", "cortex-m3", "cortex-m4", "cortex-m7", "cortex-m33", "cortex-m55"]

Fpu = Literal["fpv4-sp-d16", "fpv5-sp-d16", "fpv5-d16", "auto"]
"""As GCC's -mfpu names them; auto is what the core has, MVE included."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_SCHEMA_HINT = "harness boards --schema prints what a manifest holds"

# Cores with the DSP extension (SMLAD, UXTB16, SMMULR...); optional on M33, where the manifest's parts have it.
DSP_CORES = frozenset({"cortex-m4", "cortex-m7", "cortex-m33", "cortex-m55"})


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Region(_Record):
    """One memory region. origin and length in bytes.

    sectors: what flash erases at once, from its origin on, as pairs: how many, of how many bytes each. Without it, the
    simulator's chip tells, if the board has one.
    """

    name: str
    kind: Literal["flash", "ram"]
    origin: Address
    length: Annotated[int, Field(gt=0)]
    sectors: tuple[tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]], ...] = ()

    @model_validator(mode="after")
    def _is_divided(self) -> Self:
        if self.sectors and self.kind != "flash":
            raise ValueError(f"{self.name} is {self.kind}: only flash has sectors")
        total = sum(count * size for count, size in self.sectors)
        if self.sectors and total != self.length:
            raise ValueError(f"the sectors of {self.name} have {total:,} bytes, not {self.length:,}")
        return self


class QemuEngine(_Record):
    """QEMU's model of the board. `icount_shift`: one instruction lasts 2**shift ns of virtual time."""

    machine: str
    icount_shift: Annotated[int, Field(ge=0, le=10)]
    tick_hz: Annotated[int, Field(gt=0)]


class SimulatorEngine(_Record):
    """The built-in simulator: the chip family whose peripherals it models."""

    chip: str


class RenodeMemory(_Record):
    """One memory of Renode's model.

    at: every address that it is seen at. new: the stock platform has none of that name; otherwise its size and
    addresses are replaced. length in bytes.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")]
    at: Annotated[tuple[Address, ...], Field(min_length=1)]
    length: Annotated[int, Field(gt=0)]
    new: bool = False


class RenodeConstant(_Record):
    """A register that only identifies the chip; `bytes` wide."""

    at: Address
    bytes: Literal[1, 2, 4]
    value: Address


class RenodeRange(_Record):
    """Addresses, `length` of them in bytes."""

    at: Address
    length: Annotated[Address, Field(gt=0)]


class RenodeTag(RenodeRange):
    """What reads as `value` in a peripheral that Renode does not model."""

    name: Annotated[str, Field(pattern=r"^\w+$")]
    value: Address


class RenodeReady(_Record):
    """What hardware answers in one register: bits under `mask` show up `shift` places higher (or lower, below 0)."""

    at: Address
    mask: Address
    shift: Annotated[int, Field(ge=-31, le=31)]


class RenodeRegisters(RenodeRange):
    """Registers of a peripheral that Renode does not model: they keep what is written, and tell that they are ready."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")]
    ready: Annotated[tuple[RenodeReady, ...], Field(min_length=1)]


class RenodeEngine(_Record):
    """Renode's model of the board: what is laid over one of its stock platforms (harness/emulators/renode.py).

    platform: the stock file. uart: the peripheral that the firmware talks through. cpu: the core's name.
    mips: virtual time runs at so many million instructions per second, and the cycle counter at as many MHz, so that it
    counts instructions; a divisor of 1,000, as virtual time comes in whole nanoseconds. quantum_us: how long the core
    runs between two looks at its serial port. unmapped: where nothing is; an access there becomes a HardFault.
    """

    platform: Annotated[str, Field(pattern=r"^platforms/[\w/.-]+\.repl$")]
    uart: Annotated[str, Field(pattern=r"^\w+$")]
    cpu: Annotated[str, Field(pattern=r"^\w+$")] = "cpu"
    mips: Annotated[int, Field(gt=0)] = 200
    quantum_us: Annotated[int, Field(gt=0, le=1000)] = 10
    memory: tuple[RenodeMemory, ...] = ()
    constants: tuple[RenodeConstant, ...] = ()
    registers: tuple[RenodeRegisters, ...] = ()
    tags: tuple[RenodeTag, ...] = ()
    unmapped: tuple[RenodeRange, ...] = ()

    @model_validator(mode="after")
    def _whole_nanoseconds(self) -> RenodeEngine:
        if 1000 % self.mips:
            raise ValueError("mips has to divide 1000: an instruction lasts a whole number of nanoseconds")
        return self


class ChipId(_Record):
    """A word that tells one chip from another: what is left of it under `mask` is `value`."""

    at: Address
    mask: Address = 0xFFFF_FFFF
    value: Address


class HardwareEngine(_Record):
    """A real board: pyOCD's target name, the board names that probes report for it, and how its chip is recognized."""

    pyocd_target: str
    board_names: tuple[str, ...] = ()
    usb_ids: tuple[str, ...] = ()
    chip_id: ChipId | None = None


ClockSource = Literal["hse-crystal", "hse-bypass", "hsi", "msi"]
FlashCache = Literal["prefetch", "art", "instruction", "data"]
"""What stands between the core and its flash: prefetch buffer, ART accelerator, instruction cache, data cache. The
caches are those of the core (Cortex-M7) or, where it has none, of the flash interface."""


class ClockTree(_Record):
    """How the port sets the chip up; `clock%` reads back whether it did.

    source: what feeds the PLL (nRF: the high-frequency clock). source_hz: its frequency. wait_states: of the flash, in
    cycles of its bus. bus_divider: cycles of the core in one of that bus. caches: what is switched on; everything else
    is off.
    """

    source: ClockSource
    source_hz: Annotated[int, Field(gt=0)]
    wait_states: Annotated[int, Field(ge=0, le=15)]
    bus_divider: Annotated[int, Field(ge=1, le=4)] = 1
    caches: tuple[FlashCache, ...] = ()


PinName = Annotated[str, Field(pattern=r"^P([A-K]|[01]\.)[0-9]{1,2}$")]


class Uart(_Record):
    """The serial line: which UART, and its pins (PD8, P0.06). alternate_function: the pins' multiplexer, on STM32."""

    name: Annotated[str, Field(pattern=r"^(LP)?US?ART[0-9]$")]
    tx: PinName
    rx: PinName
    alternate_function: Annotated[int, Field(ge=0, le=15)] = 0


class Engines(_Record):
    """The engines that run the board, and what each needs to know; without its entry an engine does not."""

    hardware: HardwareEngine | None = None
    qemu: QemuEngine | None = None
    simulator: SimulatorEngine | None = None
    renode: RenodeEngine | None = None


class CacheTiming(_Record):
    """One cache: a core's own L1, or a chip's in front of its flash. All in bytes but `ways`, the associativity."""

    bytes: Annotated[int, Field(gt=0)]
    ways: Annotated[int, Field(gt=0)]
    line_bytes: Annotated[int, Field(gt=0)]

    @model_validator(mode="after")
    def _whole(self) -> CacheTiming:
        if self.line_bytes & (self.line_bytes - 1) or self.bytes % (self.ways * self.line_bytes):
            raise ValueError("a cache has ways of whole lines, whose bytes are a power of two")
        return self


class FlashTiming(_Record):
    """How long flash takes to answer.

    wait_states: [highest core clock in Hz, wait states] rows, rising, as the reference manual's table says for the
    board's supply; a faster clock than the last row's does not work. read_bytes: what one flash access returns (the
    width of the memory, not of the bus). prefetch: whether the next read is started early. instruction_cache,
    data_cache: the chip's own caches in front of flash (ST calls them ART), on the bus that the firmware is linked
    for; null where there are none or where that bus does not pass them. A hit costs nothing.
    """

    wait_states: Annotated[tuple[tuple[int, int], ...], Field(min_length=1)]
    read_bytes: Annotated[int, Field(gt=0)]
    prefetch: bool = False
    instruction_cache: CacheTiming | None = None
    data_cache: CacheTiming | None = None

    @model_validator(mode="after")
    def _rising(self) -> FlashTiming:
        clocks = [clock for clock, _ in self.wait_states]
        if clocks != sorted(set(clocks)):
            raise ValueError("wait_states has to rise with the clock")
        return self

    def at(self, clock_hz: int) -> int:
        """Wait states of one access at a core clock; InputError where flash cannot be read that fast."""
        for highest, states in self.wait_states:
            if clock_hz <= highest:
                return states
        raise InputError(
            f"flash cannot be read with the core at {clock_hz / 1e6:g} MHz",
            hint=f"the board's manifest has wait states up to {self.wait_states[-1][0] / 1e6:g} MHz",
        )


class TightMemory(_Record):
    """A memory of the core's own (ITCM, DTCM): no cache, no wait states. In bytes."""

    origin: Address
    length: Annotated[int, Field(gt=0)]


class Timing(_Record):
    """What memory costs, for the simulator's cycle model (docs/cycle-model.md).

    flash: see there. icache, dcache: the core's L1 caches when port_init() enables them, else null. tcm: memories that
    neither caches nor wait states slow down. ram_wait_states: of all other RAM, for a read that no cache answers.
    source: the manual and its tables that these figures are from.
    """

    source: str
    flash: FlashTiming
    icache: CacheTiming | None = None
    dcache: CacheTiming | None = None
    tcm: tuple[TightMemory, ...] = ()
    ram_wait_states: Annotated[int, Field(ge=0)] = 0


class HarnessKeys(_Record):
    """What a manifest's `harness` key holds.

    port: firmware/ports/<port>.c. clock, uart: what the port sets up, where it can be chosen; the firmware's build
    turns both into preprocessor symbols. defines: further ones, for that port. stack_bytes: reserved for the stack.
    memory: code is linked into the first flash region, data into the first ram region.
    timing: what its memories cost; null where nobody has written it down: its modelled cycles are uncalibrated then.
    """

    port: Annotated[str, Field(pattern=r"^\w+$")]
    clock: ClockTree | None = None
    uart: Uart | None = None
    defines: dict[str, str] = {}
    stack_bytes: Annotated[int, Field(ge=256)] = 4096
    memory: tuple[Region, ...]
    engines: Engines
    timing: Timing | None = None

    def region(self, kind: Literal["flash", "ram"]) -> Region:
        """The first region of that kind: where code, or data, is linked."""
        return next(region for region in self.memory if region.kind == kind)

    @model_validator(mode="after")
    def _both_memories(self) -> Self:
        if {region.kind for region in self.memory} != {"flash", "ram"}:
            raise ValueError("memory needs one flash and one ram region")
        return self


class Build(_Record):
    """What a manifest's `build` key holds: PlatformIO's names for core, chip, clock and the compiler's flags."""

    model_config = ConfigDict(extra="allow")  # PlatformIO has more keys

    cpu: Core
    mcu: str
    f_cpu: Annotated[str, Field(pattern=r"^[1-9][0-9]{0,9}L?$")]
    fpu: Fpu | None = None
    float_abi: Literal["soft", "hard"] = "soft"

    @model_validator(mode="after")
    def _has_registers(self) -> Self:
        if self.float_abi == "hard" and not self.fpu:
            raise ValueError("float_abi hard needs an fpu")
        return self


class Upload(_Record):
    """What a manifest's `upload` key holds: the sizes that PlatformIO shows, in bytes."""

    model_config = ConfigDict(extra="allow")

    maximum_size: Annotated[int, Field(gt=0)]
    maximum_ram_size: Annotated[int, Field(gt=0)]


class Manifest(_Record):
    """A board manifest as its file has it; PlatformIO reads the same file, and may find more keys in it."""

    model_config = ConfigDict(extra="allow")

    name: Annotated[str, Field(min_length=1)]
    vendor: Annotated[str, Field(min_length=1)]
    url: Annotated[str, Field(pattern=r"^https?://")]
    build: Build
    upload: Upload
    harness: HarnessKeys

    @property
    def clock_hz(self) -> int:
        """Core clock after port_init()."""
        return int(self.build.f_cpu.rstrip("L"))

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        for kind, size in (("flash", self.upload.maximum_size), ("ram", self.upload.maximum_ram_size)):
            length = self.harness.region(kind).length  # type: ignore[arg-type]
            if size != length:
                raise ValueError(f"upload says {size:,} bytes of {kind}, harness.memory {length:,}")
        if self.harness.clock is not None and self.harness.timing is not None:
            try:
                needed = self.harness.timing.flash.at(self.clock_hz)
            except InputError as error:
                raise ValueError(f"{error}; {error.hint}") from error
            clock = self.harness.clock
            if (clock.wait_states + 1) * clock.bus_divider - 1 != needed:
                raise ValueError(
                    f"harness.clock sets {clock.wait_states} wait states (bus_divider {clock.bus_divider}), "
                    f"harness.timing says {needed} of the core's cycles at {self.clock_hz / 1e6:g} MHz"
                )
        return self


class Board(HarnessKeys):
    """One board, as the rest of the harness sees it.

    id: the manifest's file name, the name users type. clock_hz: core clock after port_init(). path: the manifest's.
    """

    id: str
    name: str
    vendor: str
    url: str
    core: Core
    fpu: str | None
    float_abi: Literal["soft", "hard"]
    clock_hz: Annotated[int, Field(gt=0)]
    manifest_sha256: str
    path: Annotated[Path | None, Field(exclude=True, repr=False)] = None

    @property
    def dsp(self) -> bool:
        """Whether the core has the DSP extension that the SIMD kernels need."""
        return self.core in DSP_CORES

    @property
    def argument(self) -> str:
        """What load() gives this board for, in another process too: its name, or the path of the user's manifest."""
        own = self.path is not None and self.path.parent != boards_dir()
        return str(self.path) if own else self.id


def read_manifest(path: Path) -> Board:
    """The board that the manifest at `path` describes. InputError names the first key that is wrong."""
    where = f"board manifest {path.name}"
    if not _NAME.fullmatch(path.stem):
        raise InputError(f"{where}: its name is the board's: letters, digits, - and _ only, and not more than 64")
    try:
        text = json_file.read_bounded(path, follow_links=True)
        manifest = Manifest.model_validate(json_file.parse_json(text))
    except json_file.Unusable as error:
        raise InputError(f"board manifest {path} cannot be read: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "missing":
            raise InputError(f"{where} lacks the key '{key}'", hint=_SCHEMA_HINT) from error
        reason = first["msg"].removeprefix("Value error, ")
        raise InputError(f"{where}: {key or 'manifest'}: {reason}", hint=_SCHEMA_HINT) from error
    build = manifest.build
    return Board(
        id=path.stem,
        name=manifest.name,
        vendor=manifest.vendor,
        url=manifest.url,
        core=build.cpu,
        clock_hz=manifest.clock_hz,
        fpu=build.fpu,
        float_abi=build.float_abi,
        manifest_sha256=hashlib.sha256(text).hexdigest(),
        path=path.absolute(),
        **{name: getattr(manifest.harness, name) for name in HarnessKeys.model_fields},
    )


def schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of manifests, made from the classes that read them."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Manifest.model_json_schema()}


def is_path(name: str) -> bool:
    """Whether `name` is the path of a manifest rather than the name of a board."""
    return name.endswith(".json") or "/" in name or "\\" in name


def load(name: str) -> Board:
    """The board called `name`, or the one that the manifest at the path `name` describes.

    Unknown names raise InputError with the nearest ones, paths with what is wrong in the file.
    """
    return read_manifest(Path(name).expanduser()) if is_path(name) else _shipped(name)


@cache
def _shipped(name: str) -> Board:
    if name not in names():
        raise unknown_name("board", name, names())
    return read_manifest(boards_dir() / f"{name}.json")


@cache
def names() -> tuple[str, ...]:
    """All board names, sorted."""
    return tuple(sorted(path.stem for path in boards_dir().glob("*.json")))
