"""Lane-packed convolution as lists of pixels to add, one list for each power of two and sign (nn_lanes_shifts.h)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.ops.base import Array
from harness.ops.conv2d import Conv2d
from harness.ops.lowering import Constant, Cost, Lowering, Reference, Site
from harness.ops.sparse.common import DISTANCE_LIMIT, filters_of, finish_of, window_pitch
from harness.ops.sparse.lanes import (
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

# The largest offset of a load.
_OFFSET = 4095

# The largest weight: more lists than its bits take would cost more than they gain.
_LARGEST = 7

# Instructions besides the entries: of a filter, of each of its lists, and of a strip.
_FILTER, _LIST, _STRIP = 22, 10, 24
# Bytes of code: of the functions of a strip and of a row, and for each register with lanes.
_CODE, _REGISTER_CODE = 132, 24


@dataclass(frozen=True)
class Strip:
    """Pooled columns that are computed together: `pairs` of two, and a single one behind them where `odd`."""

    pairs: int
    odd: bool

    @property
    def words(self) -> int:
        """Words of lanes in a row of sums, of which a single column takes one, too."""
        return self.pairs + self.odd

    @property
    def registers(self) -> int:
        """Words of lanes while they are summed up."""
        return 4 * self.pairs + 2 * self.odd

    @property
    def entry(self) -> int:
        """Instructions of an entry."""
        return 4 + 6 * self.pairs + 5 * self.odd


def strip_of(columns: int) -> Strip:
    """The widest strip that registers have room for and that divides a row of `columns`.

    A single column is computed apart only in a row of one strip; elsewhere with a neighbour that nobody wants.
    """
    if columns in (3, 5):
        return Strip(columns // 2, True)
    return Strip(1 if -(-columns // 2) % 2 else 2, False)


def planes(layer: Conv2d) -> int:
    """Bits of the largest weight, without its sign."""
    return max(int(np.abs(filters_of(layer)).max(initial=0)).bit_length(), 1)


def encode_lists(filters: Array, offsets: Array, bits: int) -> list[int]:
    """(O, N) weights at byte offsets (N,) -> the stream of nn_lanes_shifts.h."""
    stream = []
    for row in filters:
        for bit in reversed(range(bits)):
            subtracted, added = places(np.sign(row) * (np.abs(row) >> bit & 1), offsets)
            for found in (added, subtracted) if bit % 2 else (subtracted, added):
                stream += [after - before for before, after in zip([-1, *found], found, strict=False)] + [0]
    return stream


def places(digits: Array, offsets: Array) -> tuple[list[int], list[int]]:
    """(N,) digits of -1, 0 or 1 at byte offsets (N,) -> ascending offsets of the -1 and of the 1.

    Neighbours are at most DISTANCE_LIMIT apart, the first from -1. Where that takes further places, they are in both
    lists and cancel each other.
    """
    lists = [sorted(offsets[digits == sign].tolist()) for sign in (-1, 1)]
    while (far := _before_gap(lists)) is not None:
        # No other entry is at the same place: a distance of 0 would end its list.
        extra = next(place for place in range(far + DISTANCE_LIMIT, far, -1) if not any(place in one for one in lists))
        lists = [sorted([*found, extra]) for found in lists]
    return lists[0], lists[1]


def _before_gap(lists: list[list[int]]) -> int | None:
    """The place before the first distance that is too long."""
    for found in lists:
        for before, after in zip([-1, *found], found, strict=False):
            if after - before > DISTANCE_LIMIT:
                return before
    return None


class LanesShiftsConv2d(LanesForm):
    """One byte for each bit of a weight, and one instruction for two products: UXTAB16 unpacks pixels and adds them.

    Made for weights that are powers of two: others have several bits.
    """

    name = "lanes-shifts"

    def refusal(self, layer: Conv2d, site: Site) -> str | None:
        if window_pitch(layer, site) + 4 * 2 > _OFFSET:
            return "its rows of activations are too long for the offsets of loads"
        if (largest := int(np.abs(filters_of(layer)).max(initial=0))) > _LARGEST:
            return f"it has weights of up to {largest}, more than {_LARGEST}"
        return super().refusal(layer, site)

    def cost(self, layer: Conv2d, site: Site) -> Cost:
        stream, finish, strip = self._stream(layer, site), finish_of(layer), strip_of(site.output_shape[1])
        rows, _, filters = site.output_shape
        lists = 2 * planes(layer)
        entries = len(stream) - filters * lists
        around = _FILTER + 3 * strip.registers + lists * (_LIST + strip.registers)
        return Cost(
            len(stream) + finish.bytes,
            scratch_bytes(layer, site),
            rows * (units(site) // strip.words) * (strip.entry * entries + filters * around + _STRIP)
            + 16 * rows * filters * units(site)
            + window_instructions(layer, site),
            LAYER_CODE + (WINDOW_CODE if windowed(layer, site) else 0) + _CODE + _REGISTER_CODE * strip.registers,
            {f"lanes_finish_{finish.suffix}": FINISH_CODE},
            trailing(layer, site),
        )

    def lower(self, layer: Conv2d, site: Site) -> Lowering:
        return self.lower_lanes(
            layer,
            site,
            header="nn_lanes_shifts.h",
            row="@_row",
            functions={},
            constants=(Constant("stream", "uint8_t", np.array(self._stream(layer, site), np.uint8)),),
            weights={"weights": Reference("stream")},
            steps=(1, units(site)),
            source=_source(layer, site),
        )

    def _stream(self, layer: Conv2d, site: Site) -> list[int]:
        return encode_lists(filters_of(layer), lane_offsets(layer, site), planes(layer))


def _source(layer: Conv2d, site: Site) -> str:
    """The layer's functions: for one strip, on cores with DSP in assembly; and for a row."""
    strip, lists = strip_of(site.output_shape[1]), 2 * planes(layer)
    filters, pitch = site.output_shape[2], window_pitch(layer, site)
    code = emit_strip(strip, filters=filters, lists=lists, pitch=pitch, units=units(site))
    parameters = [
        "static void @_strip(const uint8_t *stream __attribute__((unused)),",
        "    const uint8_t *pixels __attribute__((unused)), uint32_t *sums __attribute__((unused)))",
    ]
    lines = [
        "#if NN_DSP",
        "__attribute__((naked, noinline))",
        *parameters,
        "{",
        "    __asm__(",
        *(f'        "{line}\\n\\t"' for line in code),
        "    );",
        "}",
        "#else",
        *parameters,
        "{",
        f"    nn_lanes_shifts_strip(stream, pixels, sums, {filters}, {lists}, {pitch}, {units(site)}, {strip.words});",
        "}",
        "#endif",
        "",
        "static void @_row(const nn_lanes_filters *filters, const uint8_t *rows, uint32_t *sums)",
        "{",
        f"    nn_lanes_shifts_row(filters, rows, sums, {units(site) // strip.words}, {strip.words}, @_strip);",
        "}",
        "",
    ]
    return "\n".join(lines) + "\n"


def emit_strip(strip: Strip, *, filters: int, lists: int, pitch: int, units: int) -> list[str]:
    """The function of one strip of all filters. Its arguments: r0: entries, r1: pixels, r2: sums.

    r1 then walks over the pixels; r2, lr: words of them. Lanes are in r3 to r12: of each pair of columns the even and
    the odd lanes of the first row and of the second; of a single column, lanes of both rows, left and right.
    On the stack: how many lists of the filter are left, the byte before the pixels, where sums go, how many filters are
    left.
    """
    lanes = [f"r{number}" for number in range(3, 3 + strip.registers)]
    pairs = [lanes[4 * pair : 4 * pair + 4] for pair in range(strip.pairs)]
    single = lanes[4 * strip.pairs :]
    code = [
        "push {r4-r11, lr}",
        f"movw r3, #{filters}",
        "subs r1, r1, #1",
        "push {r0-r3}",
        f"1: movs r2, #{lists}",
        "str r2, [sp]",
        "movs r3, #0",
        *(f"mov {register}, r3" for register in lanes[1:]),
        "2: ldr r1, [sp, #4]",
        "3: ldrb r2, [r0], #1",
        "cbz r2, 4f",
        "add r1, r1, r2",
    ]
    for pair, (even, odd, below_even, below_odd) in enumerate(pairs):
        code += [
            f"ldr r2, [r1, #{4 * pair}]",
            f"uxtab16 {even}, {even}, r2",
            f"uxtab16 {odd}, {odd}, r2, ror #8",
            f"ldr r2, [r1, #{pitch + 4 * pair}]",
            f"uxtab16 {below_even}, {below_even}, r2",
            f"uxtab16 {below_odd}, {below_odd}, r2, ror #8",
        ]
    if single:
        code += [
            f"ldrh r2, [r1, #{4 * strip.pairs}]",
            f"ldrh lr, [r1, #{pitch + 4 * strip.pairs}]",
            "orr r2, r2, lr, lsl #16",
            f"uxtab16 {single[0]}, {single[0]}, r2",
            f"uxtab16 {single[1]}, {single[1]}, r2, ror #8",
        ]
    code += ["b 3b", "4: ldr r2, [sp]", "subs r2, r2, #1", "beq 6f", "str r2, [sp]"]
    if lists > 2:
        code += [
            "lsrs r2, r2, #1",
            "bcs 5f",
            *(f"sadd16 {register}, {register}, {register}" for register in lanes),
            "b 2b",
        ]
    code += ["5: movs r2, #0", *(f"ssub16 {register}, r2, {register}" for register in lanes), "b 2b", "6:"]
    for one in pairs:
        code += [line for first, second in ((0, 1), (2, 3), (0, 2)) for line in _larger(one[first], one[second])]
    if single:
        code += [*_larger(single[0], single[1]), f"ror lr, {single[0]}, #16", *_larger(single[0], "lr")]
    results = [one[0] for one in pairs] + single[:1]
    # From signed lanes to those that begin at 0x8000.
    code += [f"eor {register}, {register}, #0x80008000" for register in results]
    code.append("ldr r2, [sp, #8]")
    code += [f"str {register}, [r2, #{4 * index}]" for index, register in enumerate(results)]
    code += [
        f"addw r2, r2, #{4 * units}",
        "str r2, [sp, #8]",
        "ldr r2, [sp, #12]",
        "subs r2, r2, #1",
        "str r2, [sp, #12]",
        "bne.w 1b",
        "add sp, #16",
        "pop {r4-r11, pc}",
    ]
    return code


def _larger(register: str, other: str) -> list[str]:
    """The larger of two words of signed lanes, lane by lane, into the first."""
    return [f"ssub16 r2, {register}, {other}", f"sel {register}, {register}, {other}"]
