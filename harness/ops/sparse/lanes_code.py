"""Lane-packed convolution with its weights as straight-line Thumb-2 code (nn_lanes_code.h)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from harness.codegen.text import array_text
from harness.ops.base import Array
from harness.ops.conv2d import Conv2d
from harness.ops.lowering import Constant, Cost, Lowering, Site
from harness.ops.sparse.common import filters_of, finish_of, window_pitch
from harness.ops.sparse.lanes import (
    FILTER_CODE,
    FINISH_CODE,
    LAYER_CODE,
    WINDOW_CODE,
    LanesForm,
    lane_offsets,
    scratch_bytes,
    trailing,
    units,
    window_instructions,
    windowed,
)
from harness.ops.sparse.lanes_table import encode_table, offset_bits

# Sums are kept in these registers, as many filters at a time; those that remain hold factors until sums are compared.
# r0: pixels; r1: words of pixels, then where sums go; r2: pixels in lanes, then steps.
_SUMS = ("r3", "r4", "r5", "r6", "r7", "r8", "r9", "r10")
_FACTORS = ("r11", "r12", "lr")
# Bits of a step from one position to the next, of which a register holds three; the longest from unit to unit (bytes).
_STEP_BITS, _STRIDE = 10, 4095

_LOW = frozenset({"r0", "r1", "r2", "r3", "r4", "r5", "r6", "r7"})

# Bytes of the function that computes a row, and of calling one group of filters at four positions.
_ROW_CODE, _CALL_CODE = 50, 8
# Bytes of the loop over the filters that are not code.
_LOOP_CODE = 44


@dataclass(frozen=True)
class Instruction:
    """One line of assembly and its length in bytes."""

    text: str
    bytes: int


def terms(weight: int) -> list[tuple[int, int]]:
    """`weight` as few signed powers of two: (sign, exponent), the non-adjacent form."""
    result = []
    exponent = 0
    while weight:
        if weight & 1:
            sign = 2 - (weight & 3)
            result.append((sign, exponent))
            weight -= sign
        weight >>= 1
        exponent += 1
    return result


def emit_group(filters: Array, offsets: Array, *, pitch: int, units: int, stride: int) -> list[Instruction]:
    """The function of up to eight filters (F, N) at byte offsets (N,), for a row of outputs: of each unit the lanes.

    Its arguments: r0: pixels, r1: the lanes of these filters in the first unit. pitch: bytes from row to row of pixels;
    stride: words of lanes from unit to unit.
    On the stack: what sums and factors begin with at each position, the steps to the next positions, those of a whole
    unit, where its lanes go, and how many units are left. Steps are taken from their lowest bits; the highest one is
    set at the first position only, where there is nothing yet to compare with.
    """
    sums = _SUMS[: len(filters)]
    factors = _factors(filters, (*_SUMS[len(filters) :], *_FACTORS))
    loaded = (*sums, *factors.values())
    frame = 4 * len(loaded)
    steps = 1 | (pitch - 1) << _STEP_BITS | 1 << 2 * _STEP_BITS | 1 << 31
    # The last step is what is left of the mark.
    back = 1 + (pitch - 1) + 1 + (1 << 31 - 3 * _STEP_BITS) - 4
    registers = f"{{{', '.join(loaded)}}}"
    code = [
        Instruction("push {r4-r11, lr}", 4),
        Instruction(f"movs r2, #{units}", 2) if units < 256 else Instruction(f"movw r2, #{units}", 4),
        Instruction("push {r1, r2}", 2),
        Instruction(f"movw r2, #{steps & 0xFFFF}", 4),
        Instruction(f"movt r2, #{steps >> 16}", 4),
        Instruction("push {r2}", 2),
        Instruction("push {r2}", 2),
        Instruction(f"mov.w {sums[0]}, #0x80008000", 4),
        *(Instruction(f"mov {register}, {sums[0]}", 2) for register in sums[1:]),
        *(Instruction(f"mov {register}, #{factor}", 4) for factor, register in factors.items()),
        Instruction(f"push.w {registers}" if len(loaded) > 1 else f"str {registers[1:-1]}, [sp, #-4]!", 4),
        Instruction(f"1: ldr r2, [sp, #{frame + 4}]", 2),
        Instruction(f"str r2, [sp, #{frame}]", 2),
        Instruction(f"2: ldm sp, {registers}" if len(loaded) > 1 else f"2: ldr {registers[1:-1]}, [sp]", 4),
    ]
    for offset, even, odd in _words(filters, offsets):
        code.append(Instruction(f"ldr r1, [r0, #{offset}]", 2 if offset % 4 == 0 and offset <= 124 else 4))
        for column, lanes, unpack in ((even, "r2", "uxtb16 r2, r1"), (odd, "r1", "uxtb16 r1, r1, ror #8")):
            if column is None or not filters[:, column].any():
                continue
            code.append(Instruction(unpack, 4))
            for register, weight in zip(sums, filters[:, column].tolist(), strict=True):
                code += _multiply(register, weight, lanes, factors)
    code += [
        Instruction(f"ldr r2, [sp, #{frame}]", 2),
        Instruction(f"ldr r1, [sp, #{frame + 8}]", 2),
        Instruction("cmp r2, #0", 2),
        Instruction("bmi 3f", 2),
    ]
    for first in range(0, len(sums), 2):
        pair = sums[first : first + 2]
        load = f"ldrd r11, r12, [r1, #{4 * first}]" if len(pair) == 2 else f"ldr.w r11, [r1, #{4 * first}]"
        code.append(Instruction(load, 4))
        for register, best in zip(pair, ("r11", "r12"), strict=False):
            code.append(Instruction(f"usub16 lr, {register}, {best}", 4))
            code.append(Instruction(f"sel {register}, {register}, {best}", 4))
    stored = f"3: stm r1, {{{', '.join(sums)}}}" if len(sums) > 1 else f"3: str.w {sums[0]}, [r1]"
    code += [
        Instruction(stored, 4),
        Instruction(f"ubfx r1, r2, #0, #{_STEP_BITS}", 4),
        Instruction("add r0, r0, r1", 2),
        Instruction(f"lsrs r2, r2, #{_STEP_BITS}", 2),
        Instruction(f"str r2, [sp, #{frame}]", 2),
        Instruction("bne.w 2b", 4),
        Instruction(f"subw r0, r0, #{back}", 4),
        Instruction(f"ldr r1, [sp, #{frame + 8}]", 2),
        Instruction(f"addw r1, r1, #{4 * stride}", 4),
        Instruction(f"ldr r2, [sp, #{frame + 12}]", 2),
        Instruction(f"str r1, [sp, #{frame + 8}]", 2),
        Instruction("subs r2, r2, #1", 2),
        Instruction(f"str r2, [sp, #{frame + 12}]", 2),
        Instruction("bne.w 1b", 4),
        Instruction(f"add sp, #{frame + 16}", 2),
        Instruction("pop {r4-r11, pc}", 4),
    ]
    return code


def _factors(filters: Array, registers: Sequence[str]) -> dict[int, str]:
    """The factors that save most instructions against shifted additions, each in a register."""
    saved: Counter[int] = Counter()
    for weight in np.abs(filters).ravel().tolist():
        saved[weight] += len(terms(weight)) - 1
    worth = [(factor, gain) for factor, gain in sorted(saved.items()) if gain > 1]
    worth.sort(key=lambda entry: -entry[1])
    return {factor: register for (factor, _), register in zip(worth, registers, strict=False)}


def _words(filters: Array, offsets: Array) -> Iterable[tuple[int, int | None, int | None]]:
    """The words of pixels to load: their offset, the column of the weights at it, and of those one pixel further.

    A word at x gives the lanes of x and of x + 1, so that neighbouring pixels are served by one word.
    """
    used = {int(offsets[column]): int(column) for column in np.flatnonzero(filters.any(axis=0))}
    done: set[int] = set()
    for offset in sorted(used):
        if offset not in done:
            yield offset, used[offset], used.get(offset + 1)
            done |= {offset, offset + 1}


def _multiply(register: str, weight: int, lanes: str, factors: dict[int, str]) -> list[Instruction]:
    """register += weight * lanes."""
    if abs(weight) in factors:
        name = "mla" if weight > 0 else "mls"
        return [Instruction(f"{name} {register}, {lanes}, {factors[abs(weight)]}, {register}", 4)]
    return [_add(register, sign, lanes, exponent) for sign, exponent in terms(weight)]


def _add(register: str, sign: int, lanes: str, exponent: int) -> Instruction:
    """register +-= lanes << exponent, in two bytes where there is such an instruction."""
    name = "add" if sign > 0 else "sub"
    if exponent:
        return Instruction(f"{name} {register}, {register}, {lanes}, lsl #{exponent}", 4)
    if register in _LOW:
        return Instruction(f"{name}s {register}, {register}, {lanes}", 2)
    return Instruction(f"{name} {register}, {register}, {lanes}", 2 if sign > 0 else 4)


class LanesCodeConv2d(LanesForm):
    """Every weight of the first `coded` filters (all of them: None) is an instruction, at each of the four positions of
    a unit; the other filters' weights are a table. Between bytes and instructions there is a choice for every filter.
    """

    def __init__(self, coded: int | None = None) -> None:
        self._coded = coded

    @cached_property
    def name(self) -> str:  # type: ignore[override]
        return "lanes-code" if self._coded is None else f"lanes-code-{self._coded}"

    def refusal(self, layer: Conv2d, site: Site) -> str | None:
        if self._coded is not None and self._coded >= len(layer.weight):
            return f"it has {len(layer.weight)} filters"
        if offset_bits(lane_offsets(layer, site)) is None:
            return "its rows of activations are too long for the offsets of loads"
        if window_pitch(layer, site) > 2**_STEP_BITS:
            return "its rows of activations are too long for the steps from one to the next"
        if 4 * len(layer.weight) > _STRIDE:
            return "it has too many filters for the step from one unit's lanes to the next"
        return super().refusal(layer, site)

    def cost(self, layer: Conv2d, site: Site) -> Cost:
        groups, finish = self._groups(layer, site), finish_of(layer)
        bits, entries = self._table(layer, site)
        rows, _, filters = site.output_shape
        tabled = 0 if self._coded is None else filters - self._coded
        coded = filters - tabled
        # Four positions; what is done once, or not for the first of them, is in the groups' lengths, too.
        unit = sum(4 * len(group) - 72 for group in groups) - 6 * coded + 14 * filters + 14 * len(entries) + 44 * tabled
        return Cost(
            _bytes(groups) + 2 * len(entries) + finish.bytes,
            scratch_bytes(layer, site),
            rows * units(site) * unit + window_instructions(layer, site),
            LAYER_CODE
            + (WINDOW_CODE if windowed(layer, site) else 0)
            + _ROW_CODE
            + _CALL_CODE * len(groups)
            + (_LOOP_CODE if tabled else 0),
            {f"lanes_finish_{finish.suffix}": FINISH_CODE}
            | ({f"nn_lanes_filter_{bits}": FILTER_CODE} if tabled else {}),
            trailing(layer, site),
        )

    def lower(self, layer: Conv2d, site: Site) -> Lowering:
        groups = self._groups(layer, site)
        _, entries = self._table(layer, site)
        return self.lower_lanes(
            layer,
            site,
            header="nn_lanes_code.h",
            row="@_row",
            functions={},
            constants=(Constant("entries", "uint16_t", np.array(entries, np.uint16)),) if entries else (),
            weights={},
            steps=(len(layer.weight), 1),
            source=self._source(layer, site, groups),
            code_bytes=_bytes(groups),
        )

    def _groups(self, layer: Conv2d, site: Site) -> list[list[Instruction]]:
        """The functions of the filters that are code, up to eight in each, none much smaller than the others."""
        filters, offsets = filters_of(layer)[: self._coded], lane_offsets(layer, site)
        shape = {"pitch": window_pitch(layer, site), "units": units(site), "stride": len(layer.weight)}
        firsts = range(0, len(filters), len(_SUMS))
        return [emit_group(filters[first : first + len(_SUMS)], offsets, **shape) for first in firsts]

    def _table(self, layer: Conv2d, site: Site) -> tuple[int, list[int]]:
        """Bits of an offset, and the entries of the filters that are not code."""
        offsets = lane_offsets(layer, site)
        bits = offset_bits(offsets)
        assert bits is not None
        if self._coded is None:
            return bits, []
        rows = encode_table(filters_of(layer)[self._coded :], offsets, bits)
        return bits, [entry for row in rows for entry in row]

    def _source(self, layer: Conv2d, site: Site, groups: Sequence[Sequence[Instruction]]) -> str:
        """The layer's functions: on cores with DSP one per group of filters, elsewhere a table; and the row's."""
        filters, offsets, pitch = filters_of(layer), lane_offsets(layer, site), window_pitch(layer, site)
        bits, entries = self._table(layer, site)
        coded = len(filters) if self._coded is None else self._coded
        table = [entry for row in encode_table(filters[:coded], offsets, bits) for entry in row]
        lines = ["#if NN_DSP"]
        for index, group in enumerate(groups):
            lines += [
                f"/* Filters {index * len(_SUMS)} to {min((index + 1) * len(_SUMS), coded) - 1}. */",
                '__attribute__((naked, noinline)) NN_SECTION(".text.weights.@")',
                f"static void @_group_{index}(const uint8_t *pixels __attribute__((unused)),",
                "    uint32_t *sums __attribute__((unused)))",
                "{",
                "    __asm__(",
                *(f'        "{instruction.text}\\n\\t"' for instruction in group),
                "    );",
                "}",
                "",
            ]
        tabled = _tabled_filters(bits, "@_entries", pitch, coded, len(filters)) if entries else []
        unit = "static void @_unit(const uint8_t *pixels, uint32_t *sums)"
        if tabled:
            lines += [unit, "{", *tabled, "}", ""]
        row = "static void @_row(const nn_lanes_filters *filters, const uint8_t *rows, uint32_t *sums)"
        lines += [
            row,
            "{",
            *(f"    @_group_{index}(rows, sums + {index * len(_SUMS)});" for index in range(len(groups))),
            "    nn_lanes_code_row(filters, rows, sums, @_unit);" if tabled else "    (void)filters;",
            "}",
            "#else",
            f"static const uint16_t @_coded[{len(table)}] = {{",
            array_text(np.array(table, np.uint16), "uint16_t"),
            "};",
            "",
            unit,
            "{",
            *_tabled_filters(bits, "@_coded", pitch, 0, coded),
            *tabled,
            "}",
            "",
            row,
            "{",
            "    nn_lanes_code_row(filters, rows, sums, @_unit);",
            "}",
            "#endif",
            "",
        ]
        return "\n".join(lines) + "\n"


def _tabled_filters(bits: int, table: str, pitch: int, first: int, end: int) -> list[str]:
    """C that computes the filters `first` to `end` (exclusive) of one unit from a table of entries."""
    return [
        "    {",
        f"        const uint16_t *entries = {table};",
        f"        for (uint32_t filter = {first}; filter < {end}; filter++) {{",
        f"            entries = nn_lanes_filter_{bits}(entries, pixels, {pitch}, sums + filter, 1);",
        "        }",
        "    }",
    ]


def _bytes(groups: Iterable[Sequence[Instruction]]) -> int:
    return sum(instruction.bytes for group in groups for instruction in group)
