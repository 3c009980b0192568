"""Lane-packed convolution with one byte for each weight, for short rows of outputs (nn_lanes_strip.h)."""

from __future__ import annotations

import numpy as np

from harness.ops.conv2d import Conv2d
from harness.ops.lowering import Constant, Cost, Lowering, Reference, Site
from harness.ops.sparse.common import finish_of, window_pitch
from harness.ops.sparse.lanes import (
    FINISH_CODE,
    LAYER_CODE,
    WINDOW_CODE,
    LanesForm,
    scratch_bytes,
    trailing,
    units,
    window_instructions,
    windowed,
)
from harness.ops.sparse.lanes_bytes import LanesBytesConv2d, entries_of, skipped_bytes, weight_bits

# The most pooled columns: registers hold ten words of lanes.
_COLUMNS = 5

# The most entries of a filter: each takes eight bytes of stack.
_ENTRIES = 56

# The largest immediate offset of a load; bits behind the point of a reciprocal.
_OFFSET, _POINT = 4095, 15

# Bytes of code, besides those for each pair of columns and for a single one.
_CODE, _PAIR_CODE, _SINGLE_CODE = 180, 88, 60


class LanesStripConv2d(LanesForm):
    """The stream of lanes-bytes. A filter's entries are put on the stack as words once for each row of outputs, and
    taken from there once for all columns of the row.
    """

    name = "lanes-strip"

    def refusal(self, layer: Conv2d, site: Site) -> str | None:
        if site.output_shape[1] > _COLUMNS:
            return f"its rows have more than {_COLUMNS} outputs"
        if window_pitch(layer, site) + 4 * _COLUMNS > _OFFSET:
            return "its rows of activations are too long for the offsets of loads"
        kernel = layer.weight.shape[2]
        elements = np.arange(layer.weight[0].size)
        if ((elements * _reciprocal(kernel) >> _POINT) != elements // kernel).any():
            return "its kernel has too many elements"
        common = LanesBytesConv2d().refusal(layer, site)
        if common is None and (longest := max(map(len, entries_of(layer, site)))) > _ENTRIES:
            return f"a filter takes {longest} entries, more than {_ENTRIES}"
        return common

    def cost(self, layer: Conv2d, site: Site) -> Cost:
        finish = finish_of(layer)
        entries = sum(map(len, entries_of(layer, site)))
        weights = int(np.count_nonzero(layer.weight))
        rows, columns, filters = site.output_shape
        pairs, single = divmod(columns, 2)
        instructions = (13 + 10 * pairs + 7 * single) * weights + 5 * (entries - weights)
        around = 21 + 7 * pairs + 6 * single + 14 + 13 * units(site)
        return Cost(
            entries + filters + finish.bytes,
            scratch_bytes(layer, site),
            rows * (instructions + around * filters + 40) + window_instructions(layer, site),
            LAYER_CODE
            + (WINDOW_CODE if windowed(layer, site) else 0)
            + _CODE
            + _PAIR_CODE * pairs
            + _SINGLE_CODE * single,
            {f"lanes_finish_{finish.suffix}": FINISH_CODE},
            trailing(layer, site),
        )

    def lower(self, layer: Conv2d, site: Site) -> Lowering:
        filters = entries_of(layer, site)
        stream = [byte for entries in filters for byte in (len(entries), *entries)]
        return self.lower_lanes(
            layer,
            site,
            header="nn_lanes_strip.h",
            row="@_row",
            functions={},
            constants=(Constant("stream", "uint8_t", np.array(stream, np.uint8)),),
            weights={"weights": Reference("stream")},
            steps=(1, units(site)),
            source=_source(layer, site),
            sizes={"NN_LANES_ENTRIES": max(map(len, filters))},
        )


def emit_strip(layer: Conv2d, site: Site) -> list[str]:
    """The function of a row of all filters. Its arguments: r0: pixels, r1: sums, r2: entries.

    Entries are decoded in r0 to r7; r8 is where on the stack lanes begin. Of what entries become there, r0 is the
    weight and r1 the place of the pixels; r2, lr: pixels. Lanes are in r3 to r12: of each pair of columns the even and
    the odd ones of the first row and of the second; of a single column those of both rows, left and right.
    On the stack, behind the entries: pixels, where sums go, the next entries, how many filters are left, and what lanes
    begin with.
    """
    pitch, bits = window_pitch(layer, site), weight_bits(layer, site)
    pairs, odd = divmod(site.output_shape[1], 2)
    lanes = [f"r{number}" for number in range(3, 3 + 4 * pairs + 2 * odd)]
    single = lanes[4 * pairs :]
    code = [
        "push {r4-r11, lr}",
        "mov.w r4, #0x80008000",
        *(f"mov r{number}, r4" for number in range(5, 12)),
        *(["push {r4-r5}"] if len(lanes) > 8 else []),
        f"push {{r4-r{3 + min(len(lanes), 8)}}}",
        f"movw r3, #{len(layer.weight)}",
        "push {r0-r3}",
        "1: add r8, sp, #16",
        "ldr r0, [sp, #8]",
        "ldr r2, [sp]",
        "ldrb r1, [r0], #1",
        "adds r3, r0, r1",
        "str r3, [sp, #8]",
        "movs r3, #0",  # the element
        f"movw r4, #{_reciprocal(layer.weight.shape[2])}",
        f"movw r5, #{skipped_bytes(layer, site)}",
        "push {r2, r3}",  # pixels at 0: the end
        # Two at a time; an odd number begins with the second.
        "lsrs r1, r1, #1",
        "adc r1, r1, #0",
        "bcs 4f",
        "2:",
        *_decoded(bits, "3"),
        "4:",
        *_decoded(bits, "5"),
        "subs r1, r1, #1",
        "bne 2b",
        f"ldm r8, {{{', '.join(lanes)}}}",
        "6: pop {r0, r1}",
        "cbz r1, 7f",
    ]
    for pair in range(pairs):
        for row in range(2):
            even, odd_lanes = lanes[4 * pair + 2 * row : 4 * pair + 2 * row + 2]
            code += [f"ldr r2, [r1, #{row * pitch + 4 * pair}]", *_products(even, odd_lanes)]
    if single:
        code += [
            f"ldrh r2, [r1, #{4 * pairs}]",
            f"ldrh lr, [r1, #{pitch + 4 * pairs}]",
            "orr r2, r2, lr, lsl #16",
            *_products(*single),
        ]
    code += ["b 6b", "7:"]
    for pair in range(pairs):
        even, odd_lanes, below_even, below_odd = lanes[4 * pair : 4 * pair + 4]
        code += [*_larger(even, odd_lanes), *_larger(below_even, below_odd), *_larger(even, below_even)]
    if single:
        code += [*_larger(*single), f"ror lr, {single[0]}, #16", *_larger(single[0], "lr")]
    code.append("ldr r0, [sp, #4]")
    results = [*lanes[: 4 * pairs : 4], *single[:1]]
    code += [f"str {register}, [r0, #{4 * index}]" for index, register in enumerate(results)]
    return [
        *code,
        f"adds r0, r0, #{4 * units(site)}",
        "str r0, [sp, #4]",
        "ldr r0, [sp, #12]",
        "subs r0, r0, #1",
        "str r0, [sp, #12]",
        "bne.w 1b",
        f"add sp, #{16 + 4 * len(lanes)}",
        "pop {r4-r11, pc}",
    ]


def _decoded(bits: int, behind: str) -> list[str]:
    """The next entry onto the stack; one that only makes up for a long distance is left out. behind: a label."""
    return [
        "ldrb r6, [r0], #1",
        f"add r3, r3, r6, lsr #{bits}",
        f"sbfx r6, r6, #0, #{bits}",
        f"cbz r6, {behind}f",
        "mul r7, r3, r4",
        f"lsrs r7, r7, #{_POINT}",  # whole rows of the kernel
        "mla r7, r7, r5, r3",
        "add r7, r7, r2",
        "push {r6, r7}",
        f"{behind}:",
    ]


def _products(even: str, odd: str) -> list[str]:
    """The word of pixels in r2, times the weight in r0, to its even and its odd lanes."""
    return ["uxtb16 lr, r2", f"mla {even}, lr, r0, {even}", "uxtb16 r2, r2, ror #8", f"mla {odd}, r2, r0, {odd}"]


def _larger(register: str, other: str) -> list[str]:
    """The larger of two words, lane by lane, into the first."""
    return [f"usub16 r2, {register}, {other}", f"sel {register}, {register}, {other}"]


def _reciprocal(kernel: int) -> int:
    """1 / kernel with _POINT bits behind the point, rounded up."""
    return -(-(1 << _POINT) // kernel)


def _source(layer: Conv2d, site: Site) -> str:
    """The function of a row: on cores with DSP in assembly."""
    bits, skipped = 15 - weight_bits(layer, site), skipped_bytes(layer, site)
    row = "static void @_row(const nn_lanes_filters *filters, const uint8_t *rows, uint32_t *sums)"
    lines = [
        "#if NN_DSP",
        "__attribute__((naked, noinline))",
        "static void @_strip(const uint8_t *pixels __attribute__((unused)), uint32_t *sums __attribute__((unused)),",
        "    const uint8_t *stream __attribute__((unused)))",
        "{",
        "    __asm__(",
        *(f'        "{line}\\n\\t"' for line in emit_strip(layer, site)),
        "    );",
        "}",
        "",
        row,
        "{",
        "    @_strip(rows, sums, filters->weights);",
        "}",
        "#else",
        row,
        "{",
        f"    nn_lanes_strip_row(filters, rows, sums, {layer.weight.shape[2]}, {skipped}, {bits}, "
        f"nn_lanes_filter_{bits});",
        "}",
        "#endif",
        "",
    ]
    return "\n".join(lines) + "\n"
