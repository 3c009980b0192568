"""What an operator becomes in C: which kernel, which constants, how its tensors are stored. Text and memory come later.

An operator offers `forms`: the ways in which it can be stored and computed. A form says where it applies, what it costs
and what it lowers to; code generation picks one per layer and knows nothing else about operators.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import numpy as np

from harness.boards import DSP_CORES

if TYPE_CHECKING:
    from harness.ops.base import Array, Operator, Requantization, Shape


class Storage(Enum):
    """How one element of an activation lies in memory; the values are those of nn_observer.h's nn_element."""

    U8 = "NN_U8"
    U8_IN_16 = "NN_U8_IN_16"
    I32 = "NN_I32"
    F32 = "NN_F32"
    S8 = "NN_S8"

    @property
    def bytes(self) -> int:
        """Bytes of one element."""
        return {Storage.U8: 1, Storage.U8_IN_16: 2, Storage.I32: 4, Storage.F32: 4, Storage.S8: 1}[self]


class Layout(Enum):
    """In which order the elements of an (H, W, C) activation lie in memory. Rows follow each other in either."""

    HWC = "hwc"  # channel fastest
    HCW = "hcw"  # in each row, channel after channel


DEFAULT_STORAGE = {"uint8": Storage.U8, "int32": Storage.I32, "float32": Storage.F32}


@dataclass(frozen=True)
class Target:
    """What a form may count on. core: as GCC's -mcpu names it, or "host"."""

    core: str

    @property
    def dsp(self) -> bool:
        """Whether the core has the SIMD instructions of the DSP extension."""
        return self.core in DSP_CORES


@dataclass(frozen=True)
class Site:
    """Where a layer stands in its network: shapes without batch, and how its input and its output are stored.

    Layouts are those of (H, W, C) tensors; vectors have only one, and linear layers always see HWC: code generation
    permutes their columns. output_margin: columns on either side of each row and channel of the output that belong to
    somebody else.
    """

    target: Target
    input_shape: Shape
    output_shape: Shape
    input: Storage
    output: Storage
    input_layout: Layout = Layout.HWC
    output_layout: Layout = Layout.HWC
    output_margin: int = 0


@dataclass(frozen=True)
class Cost:
    """flash, scratch: bytes of constants, and of memory that only this layer needs; instructions: of one inference.

    code: bytes of code that this layer has for itself. shared: bytes of functions that several layers call, by name.
    overlap: as Lowering has it.
    """

    flash: int
    scratch: int
    instructions: int
    code: int = 0
    shared: Mapping[str, int] = field(default_factory=dict)
    overlap: int | None = None


@dataclass(frozen=True, eq=False)
class Constant:
    """One C array. name: within its layer. ctype: its element type in C. values: one-dimensional, of a fitting dtype.

    alignment: bytes, or None for the element's own.
    """

    name: str
    ctype: str
    values: Array
    alignment: int | None = None

    @property
    def bytes(self) -> int:
        return int(self.values.nbytes)


@dataclass(frozen=True)
class Reference:
    """The address of the layer's constant called `constant`."""

    constant: str


# The initialiser of a C record: numbers, booleans, enumerators, arrays, nested records, addresses of constants.
Value = int | bool | str | Reference | tuple[int, ...] | Mapping[str, "Value"]


@dataclass(frozen=True, eq=False)
class Lowering:
    """One layer in C: `kernel(&record, input, output[, scratch])`.

    form: the storage form's name. header: the file in firmware/nn/ that defines `kernel` and the type `record`.
    fields: the record's initialiser. scratch_bytes: memory that only this layer needs; 0: the kernel takes none.
    source: C that goes before the record, in which `@` stands for the layer's stem; code_bytes: weights emitted as code
    in it. note: what readers of the generated C should know of the form.
    functions: C functions that layers share, by name: each is emitted once. sizes: macros that headers take the size of
    buffers on the stack from; of several layers, the largest counts.
    overread, overwrite: bytes behind its input that the kernel may read, and behind its output that it may write.
    overlap: None, or the kernel works with its output over its input, when the output starts at least so many bytes
    before it.
    """

    form: str
    header: str
    kernel: str
    record: str
    fields: Mapping[str, Value]
    constants: tuple[Constant, ...] = ()
    scratch_bytes: int = 0
    source: str = ""
    code_bytes: int = 0
    note: str = ""
    functions: Mapping[str, str] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    overread: int = 0
    overwrite: int = 0
    overlap: int | None = None

    @property
    def weight_bytes(self) -> int:
        """Bytes of all constants: weights, biases, multipliers, shifts; and of weights that are code."""
        return self.code_bytes + sum(constant.bytes for constant in self.constants)


@dataclass(frozen=True)
class Interleaving:
    """How two layers are computed in turns, so that what lies between them is nowhere as a whole.

    kernel: `kernel(&first, &second, observer, index of the first, input, output, scratch, argument)`. overlap: as
    Lowering has it, for the input of the first and the output of the second. margin: Site.output_margin of the first.
    """

    kernel: str
    argument: int
    margin: int
    scratch_bytes: int
    overlap: int | None


O = TypeVar("O", bound="Operator")  # noqa: E741 (an operator)


class Form(ABC, Generic[O]):
    """One way to store and compute an operator. Stateless; one file of kernels each.

    Code generation calls applicable, then cost to choose, then reads and writes to settle how tensors are stored (all
    these with the default storages of each dtype in `site`), and lower in the end.
    """

    name: ClassVar[str]

    @abstractmethod
    def applicable(self, layer: O, site: Site) -> bool:
        """Whether this form computes `layer` exactly, and runs well on the site's core."""

    @abstractmethod
    def cost(self, layer: O, site: Site) -> Cost:
        """An estimate; used to choose between forms, never printed as a measurement."""

    @abstractmethod
    def lower(self, layer: O, site: Site) -> Lowering:
        """The layer in C, with the storages that `site` says."""

    def refusal(self, layer: O, site: Site) -> str | None:
        """Why this form does not fit `layer`, in a few words; None when it does."""
        return None if self.applicable(layer, site) else "its shape or the core rules that out"

    def reads(self, layer: O, site: Site) -> Storage:
        """How this form would like its input stored; it must also cope with the default, in case others read it too."""
        return site.input

    def writes(self, layer: O, site: Site) -> frozenset[Storage]:
        """How this form can store its output, the default of the output's dtype among them."""
        wide = {Storage.U8_IN_16} if site.output is Storage.U8 else set()
        return frozenset({site.output} | wide)

    def interleaved(
        self, layer: O, site: Site, follower_form: Form[Any], follower: Operator, follower_site: Site
    ) -> Interleaving | None:
        """How this layer and the one that alone reads its output are computed in turns; None where they cannot be."""
        return None

    def reads_layout(self, layer: O, site: Site) -> Layout:
        """In which layout this form would like its input; it must also cope with HWC."""
        return Layout.HWC

    def writes_layouts(self, layer: O, site: Site) -> frozenset[Layout]:
        """In which layouts this form can write its output, HWC among them."""
        return frozenset({Layout.HWC})


def requantization_fields(r: Requantization | None) -> dict[str, Value]:
    """The initialiser of an nn_requantization. What all channels share is a number, the rest refers to constants."""
    if r is None:
        return {"bits": 0}
    fields: dict[str, Value] = {}
    for name, values in (("multiplier", r.multiplier), ("shift", r.shift)):
        fields |= {name: int(values[0])} if _shared(values) else {f"{name}s": Reference(f"{name}s")}
    return fields | {"zero_point": int(r.zero_point), "bits": int(r.bits)}


def requantization_constants(r: Requantization | None) -> tuple[Constant, ...]:
    """The arrays that `requantization_fields` refers to."""
    if r is None:
        return ()
    constants = []
    if not _shared(r.multiplier):
        constants.append(Constant("multipliers", "int32_t", r.multiplier.astype(np.int32)))
    if not _shared(r.shift):
        constants.append(Constant("shifts", "uint8_t", r.shift.astype(np.uint8)))
    return tuple(constants)


def _shared(values: Array) -> bool:
    """Whether all channels have the same value."""
    return bool((values == values[0]).all())
