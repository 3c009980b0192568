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
from harness.ops.packing import row_bytes

if TYPE_CHECKING:
    from harness.ops.base import Array, Operator, Requantization, Shape, Weighted


class Storage(Enum):
    """How one element of an activation lies in memory; the values are those of nn_observer.h's nn_element."""

    U8 = "NN_U8"
    U8_IN_16 = "NN_U8_IN_16"
    I32 = "NN_I32"
    F32 = "NN_F32"
    S8 = "NN_S8"
    U4 = "NN_U4"
    U2 = "NN_U2"

    @property
    def bits(self) -> int:
        """Bits of one element."""
        wide = {Storage.U8: 8, Storage.U8_IN_16: 16, Storage.I32: 32, Storage.F32: 32, Storage.S8: 8}
        return {**wide, Storage.U4: 4, Storage.U2: 2}[self]

    @property
    def packed(self) -> bool:
        """Whether several elements share a byte; rows then begin at words."""
        return self in (Storage.U4, Storage.U2)

    @property
    def bytes(self) -> int:
        """Bytes of one element; not of packed ones."""
        assert not self.packed
        return self.bits // 8

    def row_bytes(self, elements: int) -> int:
        """Bytes from one row to the next."""
        return row_bytes(elements, self.bits) if self.packed else elements * self.bytes

    def size(self, shape: Shape) -> int:
        """Bytes of a tensor: (H, W, C) in H rows, or a vector."""
        rows, elements = image_rows(shape)
        return rows * self.row_bytes(elements)


def image_rows(shape: Shape) -> tuple[int, int]:
    """(rows, elements of each) of an activation as it is stored: (H, W, C) has H rows, a vector one."""
    return (1, shape[0]) if len(shape) == 1 else (shape[0], int(np.prod(shape[1:])))


class Layout(Enum):
    """In which order the elements of an (H, W, C) activation lie in memory. Rows follow each other in either."""

    HWC = "hwc"  # channel fastest
    HCW = "hcw"  # in each row, channel after channel


DEFAULT_STORAGE = {"uint8": Storage.U8, "int32": Storage.I32, "float32": Storage.F32}

# What forms read and write that know nothing of packed rows.
UNPACKED = frozenset(Storage) - {Storage.U4, Storage.U2}


def default_storage(dtype: str, bits: int) -> Storage:
    """How a tensor is stored unless its writer and its readers agree on something else."""
    return {4: Storage.U4, 2: Storage.U2}.get(bits, Storage.U8) if dtype == "uint8" else DEFAULT_STORAGE[dtype]


@dataclass(frozen=True)
class Target:
    """What a form may count on. core: as GCC's -mcpu names it, or "host"."""

    core: str

    @property
    def dsp(self) -> bool:
        """Whether the core has the SIMD instructions of the DSP extension."""
        return self.core in DSP_CORES

    @property
    def dual_issue(self) -> bool:
        """Whether the core issues a load beside a multiplication (and LDRD alone)."""
        return self.core == "cortex-m7"

    @property
    def pipelined_loads(self) -> bool:
        """Whether a load behind a load takes one cycle, but LDRD three (Arm DDI 0439B, 3.3.2)."""
        return self.core == "cortex-m4"


@dataclass(frozen=True)
class Site:
    """Where a layer stands in its network: shapes without batch, and how its input and its output are stored.

    Layouts are those of (H, W, C) tensors; vectors have only one, and linear layers always see HWC: code generation
    permutes their columns. output_margin: columns on either side of each row and channel of the output that belong to
    somebody else. second_input: how the other input is stored, of layers that read two (of one shape, both HWC).
    """

    target: Target
    input_shape: Shape
    output_shape: Shape
    input: Storage
    output: Storage
    input_layout: Layout = Layout.HWC
    output_layout: Layout = Layout.HWC
    output_margin: int = 0
    second_input: Storage | None = None


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


def float_literal(value: float) -> str:
    """A float32 as C text, exact."""
    text = f"{np.float32(value):.9g}"
    return text + ("f" if "." in text or "e" in text else ".0f")


# The initialiser of a C record: numbers, booleans, enumerators, arrays, nested records, addresses of constants.
Value = int | bool | str | Reference | tuple[int, ...] | Mapping[str, "Value"]


@dataclass(frozen=True, eq=False)
class Lowering:
    """One layer in C: `kernel(&record, input[, second input], output[, scratch])`.

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

    storages: what it can read and write, of what sites may have; weight_bits: how many bits its stored weights have;
    asymmetric: whether padding may differ between the sides of an image; clips: whether it ends floats at a layer's
    `clip`; dual: whether it is for cores that issue two instructions at once; apart: whether it is for cores with
    pipelined loads. Where a layer wants what these rule out, the form is not even asked (see `refusal`). widens:
    whether it can also write uint8 into 16 bits each.
    """

    name: ClassVar[str]
    storages: ClassVar[frozenset[Storage]] = UNPACKED
    weight_bits: ClassVar[frozenset[int]] = frozenset({8})
    asymmetric: ClassVar[bool] = False
    clips: ClassVar[bool] = False
    dual: ClassVar[bool] = False
    apart: ClassVar[bool] = False
    widens: ClassVar[bool] = False

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

    def unsuited(self, layer: O, site: Site) -> str | None:
        """What of `layer`, of how its tensors are stored or of the core rules this form out, in a few words."""
        stored = {site.input, site.output} | ({site.second_input} if site.second_input else set())
        bits = getattr(layer, "weight_bits", 8)
        if not stored <= self.storages:
            return "its tensors are packed"
        if bits not in self.weight_bits:
            return f"its weights have {bits} bits"
        if getattr(layer, "padding_after", None) is not None and not self.asymmetric:
            return "its padding differs between the sides of the image"
        if getattr(layer, "clip", None) is not None and not self.clips:
            return "its ReLU has an upper limit"
        if self.dual and not site.target.dual_issue:
            return f"{site.target.core} issues one instruction at a time"
        if self.apart and not site.target.pipelined_loads:
            return f"single loads are no faster on {site.target.core}"
        return None

    def fits(self, layer: O, site: Site) -> bool:
        """Whether this form can be taken for `layer`."""
        return self.unsuited(layer, site) is None and self.applicable(layer, site)

    def reads(self, layer: O, site: Site) -> Storage:
        """How this form would like its input stored; it must also cope with the default, in case others read it too.

        Of layers with two inputs each is asked for in its turn, as site.input.
        """
        return site.input

    def writes(self, layer: O, site: Site) -> frozenset[Storage]:
        """How this form can store its output, the default of the output's dtype among them."""
        wide = {Storage.U8_IN_16} if self.widens and site.output is Storage.U8 else set()
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


def clip_field(clip: float | None) -> dict[str, Value]:
    """The field of a float layer's record that limits its outputs; 0, which is no limit, is left out."""
    return {} if clip is None else {"clip": float_literal(clip)}


def requantization_fields(r: Requantization | None) -> dict[str, Value]:
    """The initialiser of an nn_requantization. What all channels share is a number, the rest refers to constants."""
    if r is None:
        return {"bits": 0}
    fields: dict[str, Value] = {}
    for name, values in (("multiplier", r.multiplier), ("shift", r.shift)):
        fields |= {name: int(values[0])} if _shared(values) else {f"{name}s": Reference(f"{name}s")}
    return fields | {"zero_point": int(r.zero_point), "bits": int(r.bits)}


def finish_constants(layer: Weighted) -> tuple[Constant, ...]:
    """The arrays of an integer layer beside its weights: biases as they are, and what `requantization_fields` needs."""
    return Constant("bias", "int32_t", layer.bias.astype(np.int32)), *requantization_constants(layer.requantize)


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
