"""Thumb instructions as the cycle model sees them: what kind they are, what they read and write, early and late.

Decoded once per basic block by capstone. Costs nothing by itself: the cores' files do.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any


class Kind(enum.StrEnum):
    """What an instruction costs depends on this first; a core's table has one row for each."""

    ALU = "alu"
    SIMD = "simd"  # the DSP extension's parallel arithmetic, saturation, extension and packing
    MULTIPLY = "multiply"  # 32-bit results, SMLAD and its like
    MULTIPLY_LONG = "multiply long"  # 64-bit results
    DIVIDE = "divide"
    LOAD = "load"
    STORE = "store"
    LOAD_MULTIPLE = "load multiple"  # LDM, POP, LDRD
    STORE_MULTIPLE = "store multiple"  # STM, PUSH, STRD
    BRANCH = "branch"
    IT = "it"
    NOP = "nop"
    SYSTEM = "system"  # MRS, MSR, barriers, SVC, CPS
    FLOAT_LOAD = "float load"  # VLDR of one word
    FLOAT_STORE = "float store"
    FLOAT_LOAD_MULTIPLE = "float load multiple"  # VLDM, VPOP, VLDR of two words
    FLOAT_STORE_MULTIPLE = "float store multiple"
    FLOAT_MOVE = "float move"
    FLOAT_ALU = "float alu"
    FLOAT_MAC = "float multiply-accumulate"
    FLOAT_DIVIDE = "float divide"
    UNKNOWN = "unknown"


class Flow(enum.Enum):
    """How an instruction may leave the line of code."""

    NONE = enum.auto()
    CONDITIONAL = enum.auto()  # B<cond>, CBZ, CBNZ: predicted where a core predicts
    DIRECT = enum.auto()  # B, BL: the target is in the instruction
    INDIRECT = enum.auto()  # BX, BLX, POP {pc}, TBB, LDR pc


@dataclass(frozen=True, slots=True)
class Instruction:
    """One decoded instruction. Registers are capstone's numbers, double-precision ones as their two single halves.

    address, size: in bytes. name: without condition and width. words: that it moves between memory and registers.
    reads, writes: all registers, flags included. base: those that make its address. stored: the data of a store.
    accumulators: of a multiply-accumulate. early: those that a shifter in front of the ALU needs a stage earlier.
    shifted: whether it uses that shifter. updated: the base register that it writes back.
    """

    address: int
    size: int
    name: str
    text: str
    kind: Kind
    flow: Flow
    words: int
    reads: frozenset[int]
    writes: frozenset[int]
    base: frozenset[int]
    stored: frozenset[int]
    accumulators: frozenset[int]
    early: frozenset[int]
    shifted: bool
    updated: int | None

    @property
    def end(self) -> int:
        """The address behind it."""
        return self.address + self.size


_LOADS = frozenset({"ldr", "ldrb", "ldrh", "ldrsb", "ldrsh", "ldrt", "ldrbt", "ldrht", "ldrsbt", "ldrsht",
                    "ldrex", "ldrexb", "ldrexh"})  # fmt: skip
_STORES = frozenset({"str", "strb", "strh", "strt", "strbt", "strht", "strex", "strexb", "strexh"})
_SIMD = frozenset({"sxtb16", "uxtb16", "sxtab16", "uxtab16", "pkhbt", "pkhtb", "sxtab", "sxtah", "uxtab", "uxtah",
                   "sel", "usad8", "usada8", "ssat", "usat", "ssat16", "usat16", "rev", "rev16", "revsh", "rbit",
                   "ubfx", "sbfx", "sxtb", "sxth", "uxtb", "uxth", "clz", "bfi", "bfc"})  # fmt: skip
_PARALLEL = re.compile(r"(s|u|q|uq|sh|uh)(add|sub)(8|16)|(s|u|q|uq|sh|uh)(asx|sax)|q(d)?(add|sub)")
_LONG = frozenset({"smull", "umull", "smlal", "umlal", "umaal", "smlald", "smlaldx", "smlsld", "smlsldx",
                   "smlalbb", "smlalbt", "smlaltb", "smlaltt"})  # fmt: skip
_MULTIPLY = re.compile(
    r"mul|mla|mls|smla[bt][bt]|smul[bt][bt]|smlaw[bt]|smulw[bt]|smla[ds]x?|smls[ds]x?|smua[ds]x?|smus[ds]x?"
    r"|smmul[r]?|smmla[r]?|smmls[r]?"
)
_ALU = frozenset({"add", "adc", "sub", "sbc", "rsb", "and", "orr", "orn", "eor", "bic", "mov", "movw", "movt", "mvn",
                  "cmp", "cmn", "tst", "teq", "lsl", "lsr", "asr", "ror", "rrx", "adr", "addw", "subw",
                  "neg"})  # fmt: skip
SHIFTS = frozenset({"lsl", "lsr", "asr", "ror", "rrx"})
_BRANCHES = frozenset({"b", "bl", "bx", "blx", "cbz", "cbnz", "tbb", "tbh", "bxns", "blxns"})
_SYSTEM = frozenset({"mrs", "msr", "dmb", "dsb", "isb", "cps", "svc", "bkpt", "vmrs", "vmsr", "fmstat", "clrex",
                     "udf", "wfi", "wfe", "sev"})  # fmt: skip
_HINTS = frozenset({"nop", "hint", "yield", "pld", "pli", "pldw"})
_FLOAT_MACS = frozenset({"vmla", "vmls", "vnmla", "vnmls", "vfma", "vfms", "vfnma", "vfnms"})
_FLOAT_DIVIDES = frozenset({"vdiv", "vsqrt"})
_FLOAT_ALU = frozenset({"vadd", "vsub", "vmul", "vnmul", "vabs", "vneg", "vcmp", "vcmpe", "vcvt", "vcvtr", "vcvta",
                        "vcvtn", "vcvtp", "vcvtm", "vcvtb", "vcvtt", "vrinta", "vrintn", "vrintp", "vrintm", "vrintr",
                        "vrintz", "vrintx", "vmaxnm", "vminnm", "vsel", "vseleq", "vselge", "vselgt",
                        "vselvs"})  # fmt: skip
_FLOAT_MULTIPLE = {"vldm": Kind.FLOAT_LOAD_MULTIPLE, "vpop": Kind.FLOAT_LOAD_MULTIPLE,
                   "vstm": Kind.FLOAT_STORE_MULTIPLE, "vpush": Kind.FLOAT_STORE_MULTIPLE}  # fmt: skip
_MULTIPLE = {"ldm": Kind.LOAD_MULTIPLE, "pop": Kind.LOAD_MULTIPLE, "stm": Kind.STORE_MULTIPLE,
             "push": Kind.STORE_MULTIPLE}  # fmt: skip


@cache
def _decoder() -> Any:
    import capstone

    # V8 adds what FPv5 and Armv8-M brought; nothing that an Armv7-M core has means something else there.
    decoder = capstone.Cs(capstone.CS_ARCH_ARM, capstone.CS_MODE_THUMB | capstone.CS_MODE_MCLASS | capstone.CS_MODE_V8)
    decoder.detail = True
    return decoder


def decode(code: bytes, address: int) -> tuple[Instruction, ...]:
    """The instructions of a basic block. What capstone does not know is of kind UNKNOWN, 2 or 4 bytes long."""
    found: list[Instruction] = []
    at = 0
    while at < len(code):
        for raw in _decoder().disasm(code[at:], address + at):
            found.append(_instruction(raw))
            at += raw.size
        if at < len(code):  # capstone stopped
            size = 4 if code[at + 1] >= 0xE8 else 2
            found.append(_unknown(address + at, code[at : at + size]))
            at += size
    return tuple(found)


def _unknown(address: int, code: bytes) -> Instruction:
    nothing: frozenset[int] = frozenset()
    return Instruction(address, len(code), "?", f".inst {code.hex()}", Kind.UNKNOWN, Flow.NONE, 0, nothing, nothing,
                       nothing, nothing, nothing, nothing, False, None)  # fmt: skip


def _instruction(raw: Any) -> Instruction:
    import capstone
    from capstone import arm

    name = _decoder().insn_name(raw.id).split(".")[0]
    operands = raw.operands
    reads, writes = (set(registers) for registers in raw.regs_access())
    base: set[int] = set()
    early: set[int] = set()
    shifted = name in SHIFTS
    for operand in operands:
        if operand.type == arm.ARM_OP_MEM:
            base |= {register for register in (operand.mem.base, operand.mem.index) if register}
        elif operand.type == arm.ARM_OP_REG and operand.shift.type:
            shifted = True
            early.add(operand.reg)
    kind, words = _kind(name, raw, operands)
    stored: set[int] = set()
    if kind in (Kind.STORE, Kind.FLOAT_STORE):
        stored = {operands[0].reg}
    elif kind in (Kind.LOAD_MULTIPLE, Kind.STORE_MULTIPLE, Kind.FLOAT_LOAD_MULTIPLE, Kind.FLOAT_STORE_MULTIPLE):
        base = base or ({arm.ARM_REG_SP} if name in ("push", "pop", "vpush", "vpop") else {operands[0].reg})
    _complete(kind, operands, reads, writes, accumulates=name not in ("smull", "umull"))
    updated = next(iter(base), None) if raw.writeback and len(base) == 1 else None
    return Instruction(
        address=raw.address,
        size=raw.size,
        name=name,
        text=f"{raw.mnemonic} {raw.op_str}".strip(),
        kind=kind,
        flow=_flow(name, raw, kind, writes, capstone),
        words=words,
        reads=_single(reads),
        writes=_single(writes),
        base=frozenset(base),
        stored=_single(stored),
        accumulators=_single(_accumulators(name, kind, operands)),
        early=frozenset(early),
        shifted=shifted,
        updated=updated,
    )


def _complete(kind: Kind, operands: Any, reads: set[int], writes: set[int], *, accumulates: bool) -> None:
    """Add what capstone 5 leaves out: sources of USAT and PKHBT, register lists of VLDM, accumulators."""
    from capstone import arm

    listed = [operand.reg for operand in operands if operand.type == arm.ARM_OP_REG]
    if kind is Kind.FLOAT_LOAD_MULTIPLE:
        writes.update(register for register in listed if _is_float(register))
    elif kind is Kind.FLOAT_STORE_MULTIPLE:
        lists = {register for register in listed if _is_float(register)}
        reads |= lists
        writes -= lists
    elif kind is Kind.FLOAT_MAC:
        reads.add(listed[0])
    elif kind is Kind.MULTIPLY_LONG:
        reads.update(listed[0 if accumulates else 2 :])
    else:
        reads.update(register for register in listed[1:] if register not in writes)


@cache
def _float_registers() -> frozenset[int]:
    from capstone import arm

    return frozenset((*range(arm.ARM_REG_D0, arm.ARM_REG_D0 + 32), *range(arm.ARM_REG_S0, arm.ARM_REG_S0 + 32)))


def _is_float(register: int) -> bool:
    return register in _float_registers()


def _kind(name: str, raw: Any, operands: Any) -> tuple[Kind, int]:
    """The kind, and how many words it moves."""

    def halves(registers: Iterable[Any]) -> int:
        return sum(2 if raw.reg_name(one.reg).startswith("d") else 1 for one in registers)

    stem = name.removesuffix("ia").removesuffix("db")
    if name in _LOADS:
        return Kind.LOAD, 1
    if name in _STORES:
        return Kind.STORE, 1
    if name in ("ldrd", "strd"):
        return (Kind.LOAD_MULTIPLE if name == "ldrd" else Kind.STORE_MULTIPLE), 2
    if stem in _MULTIPLE:
        return _MULTIPLE[stem], len(operands) - (name not in ("push", "pop"))
    if name in ("vldr", "vstr"):
        count = halves(operands[:1])
        one, many = (
            (Kind.FLOAT_LOAD, Kind.FLOAT_LOAD_MULTIPLE)
            if name == "vldr"
            else (Kind.FLOAT_STORE, Kind.FLOAT_STORE_MULTIPLE)
        )
        return (one if count == 1 else many), count
    if stem in _FLOAT_MULTIPLE:
        return _FLOAT_MULTIPLE[stem], halves(operands[0 if name in ("vpush", "vpop") else 1 :])
    return _computing(name), 0


def _computing(name: str) -> Kind:
    for kind, names in (
        (Kind.ALU, _ALU),
        (Kind.SIMD, _SIMD),
        (Kind.MULTIPLY_LONG, _LONG),
        (Kind.BRANCH, _BRANCHES),
        (Kind.SYSTEM, _SYSTEM),
        (Kind.NOP, _HINTS),
        (Kind.FLOAT_MAC, _FLOAT_MACS),
        (Kind.FLOAT_DIVIDE, _FLOAT_DIVIDES),
        (Kind.FLOAT_ALU, _FLOAT_ALU),
    ):
        if name in names:
            return kind
    if name.startswith("it"):
        return Kind.IT
    if name in ("sdiv", "udiv"):
        return Kind.DIVIDE
    if _MULTIPLY.fullmatch(name):
        return Kind.MULTIPLY
    if _PARALLEL.fullmatch(name):
        return Kind.SIMD
    return Kind.FLOAT_MOVE if name in ("vmov", "vmvn", "fconsts") else Kind.UNKNOWN


def _accumulators(name: str, kind: Kind, operands: Any) -> set[int]:
    if kind is Kind.FLOAT_MAC:
        return {operands[0].reg}
    if kind is Kind.MULTIPLY and len(operands) == 4:
        return {operands[3].reg}
    if kind is Kind.MULTIPLY_LONG and name not in ("smull", "umull"):
        return {operands[0].reg, operands[1].reg}
    return set()


def _flow(name: str, raw: Any, kind: Kind, writes: set[int], capstone: Any) -> Flow:
    from capstone import arm

    if kind is not Kind.BRANCH and arm.ARM_REG_PC not in writes:
        return Flow.NONE
    conditional = raw.cc not in (arm.ARM_CC_INVALID, arm.ARM_CC_AL)
    if name in ("cbz", "cbnz") or (name == "b" and conditional):
        return Flow.CONDITIONAL
    return Flow.DIRECT if name in ("b", "bl") else Flow.INDIRECT


@cache
def _halves() -> dict[int, tuple[int, int]]:
    """d0 to d15, each as its two s registers."""
    from capstone import arm

    return {arm.ARM_REG_D0 + n: (arm.ARM_REG_S0 + 2 * n, arm.ARM_REG_S0 + 2 * n + 1) for n in range(16)}


def _single(registers: Iterable[int]) -> frozenset[int]:
    halves = _halves()
    found: set[int] = set()
    for register in registers:
        found.update(halves.get(register, (register,)))
    return frozenset(found)
