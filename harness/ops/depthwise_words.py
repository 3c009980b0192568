"""Depthwise convolution on words of two channels (nn_depthwise_words.h): 3x3, stride 1, on cores with DSP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness.ops import packed, tile
from harness.ops.lowering import Constant, Cost, Form, Lowering, Reference, Site, Storage

if TYPE_CHECKING:
    from harness.ops.depthwise_conv2d import DepthwiseConv2d

# What fits into ADD and SUB with a number: two lines, in bytes.
_LARGEST_STEP = 4095

# Bytes of lines that a block may take, where one line of outputs does with less.
_LINES = 6144

# Bytes of the weights of four channels.
_WEIGHTS = 72


@dataclass(frozen=True)
class _Walk:
    """How the kernel goes through an image. outputs, size: (lines, positions) after and before the convolution.

    block: lines of outputs at a time. pitch: bytes of a line. height: lines in scratch. padding: in front of lines.
    whole: whether lines of padding are computed with, too.
    """

    transposed: bool
    outputs: tuple[int, int]
    size: tuple[int, int]
    padding: int
    whole: bool
    block: int
    pitch: int
    height: int

    @property
    def bytes(self) -> int:
        return self.height * self.pitch


class WordsDepthwise(Form["DepthwiseConv2d"]):
    """Four channels at two neighbouring positions at a time."""

    name = "words"
    storages = frozenset({Storage.U8, Storage.U4, Storage.U2})
    weight_bits = packed.WEIGHT_BITS
    asymmetric = True

    def applicable(self, layer: DepthwiseConv2d, site: Site) -> bool:
        if not site.target.dsp or layer.weight.shape[1:] != (3, 3) or layer.stride != (1, 1):
            return False
        if layer.requantize is None or layer.requantize.bits != site.output.bits or len(layer.weight) % 4:
            return False
        # Lines begin with their padding, and no line lies in the padding alone.
        if max(layer.padding) > 2 or not tile.rounds(layer.weight, layer.bias, layer.requantize, site.input.bits):
            return False
        walk = self._walk(layer, site)
        rows = [_rows(walk, line) for line in range(walk.outputs[0])]
        return min(rows) > 0 and 2 * walk.pitch <= _LARGEST_STEP

    def cost(self, layer: DepthwiseConv2d, site: Site) -> Cost:
        fours, walk = len(layer.weight) // 4, self._walk(layer, site)
        return Cost(
            flash=packed.weights_bytes(9, 4 * fours, layer.weight_bits) + 32 * fours,
            scratch=_WEIGHTS + walk.bytes,
            instructions=fours * self._instructions(layer, site, walk),
            code=1000,
            shared={name: 230 + 130 * rows for rows, (name, _) in self._passes(layer, site, walk).items()},
        )

    def writes(self, layer: DepthwiseConv2d, site: Site) -> frozenset[Storage]:
        return frozenset({site.output})

    def lower(self, layer: DepthwiseConv2d, site: Site) -> Lowering:
        from harness.ops.depthwise_conv2d import by_tap, depthwise_shape

        assert layer.requantize is not None
        walk = self._walk(layer, site)
        passes = self._passes(layer, site, walk)
        constants = np.stack([layer.bias, layer.requantize.multiplier]).astype(np.int32)
        _, width, channels = site.output_shape
        return Lowering(
            form=self.name,
            header="nn_depthwise_words.h",
            kernel="nn_depthwise_words",
            record="nn_depthwise_words_layer",
            fields={
                "shape": depthwise_shape(layer, site),
                "input_zero_point": layer.input_zero_point,
                "output_zero_point": layer.requantize.zero_point,
                "weights": Reference("weights"),
                "weight_bits": layer.weight_bits,
                "constants": Reference("constants"),
                "transposed": walk.transposed,
                "block": walk.block,
                "passes": "{" + ", ".join(passes[rows][0] if rows in passes else "0" for rows in (1, 2, 3)) + "}",
            },
            constants=(
                packed.weights_constant(by_tap(layer), layer.weight_bits, alignment=4),
                Constant("constants", "int32_t", constants.reshape(2, -1, 4).transpose(1, 0, 2).ravel()),
            ),
            scratch_bytes=_WEIGHTS + walk.bytes,
            functions=dict(passes.values()),
            overwrite=site.output.row_bytes((width if walk.transposed else 1) * channels),
        )

    def _passes(self, layer: DepthwiseConv2d, site: Site, walk: _Walk) -> dict[int, tuple[str, str]]:
        """By rows of the kernel: the C function that computes lines with so many, and its definition."""
        assert layer.requantize is not None
        found = {}
        for rows in sorted({_rows(walk, line) for line in range(walk.outputs[0])}):
            kind = {
                "rows": str(rows),
                "pitch": str(walk.pitch),
                "centred": "true" if layer.requantize.zero_point else "false",
                "bits": str(layer.requantize.bits),
            }
            name = "nn_words_pass_" + "_".join(kind.values())
            fields = ", ".join(f".{field} = {value}" for field, value in kind.items())
            body = f"nn_words_run(pass, (nn_words_kind){{{fields}}});"
            found[rows] = (name, f"NN_SHARED void {name}(const nn_words_pass *pass)\n{{\n    {body}\n}}")
        return found

    def _instructions(self, layer: DepthwiseConv2d, site: Site, walk: _Walk) -> int:
        """Of four channels."""
        lines, positions = walk.outputs
        per_pair = [33 + 31 * _rows(walk, line) for line in range(lines)]
        blocks = -(-lines // walk.block)
        calls = blocks + (0 if walk.whole else min(lines - 1, 2))
        expand = {8: 0, 4: 5, 2: 5}[site.input.bits]
        filled = blocks * walk.height * (walk.pitch // 8 * (9 + 2 * expand) // 2 + 20)
        weights = blocks * (45 if layer.weight_bits == 8 else 220)
        return -(-positions // 2) * sum(per_pair) + 11 * lines + 45 * calls + filled + weights

    def _walk(self, layer: DepthwiseConv2d, site: Site) -> _Walk:
        """Along rows, or along columns where that leaves fewer outputs without a partner."""
        rows, columns, _ = site.output_shape
        height, width, _ = site.input_shape
        transposed = rows * -(-columns // 2) > columns * -(-rows // 2)
        outputs, size = ((columns, rows), (width, height)) if transposed else ((rows, columns), (height, width))
        whole = layer.input_zero_point != 0
        pitch = 8 * (-(-outputs[1] // 2) * 2 + 2)

        def lines(block: int) -> int:
            needed = block + 2
            return needed if whole else min(needed, size[0])

        block = max([1, *(count for count in range(1, outputs[0] + 1) if lines(count) * pitch <= _LINES)])
        block = -(-outputs[0] // -(-outputs[0] // block))
        return _Walk(transposed, outputs, size, layer.padding[transposed], whole, block, pitch, lines(block))


def _rows(walk: _Walk, line: int) -> int:
    """Rows of the kernel inside of the image, for a line of outputs."""
    top = line - walk.padding
    return 3 if walk.whole else min(top + 3, walk.size[0]) - max(top, 0)
