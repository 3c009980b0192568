"""Networks that tests of the search share: MobileNetV1's tensors without its arrays, which nothing here reads."""

from __future__ import annotations

import itertools

from harness.search.tensors import Activation, Step, Table, Weights

# Channels at width 1, stride: table 1 of arXiv 1704.04861.
_BLOCKS = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]


def mobilenet_v1(width: float, resolution: int) -> Table:
    """The chain of MobileNetV1's tensors: one convolution, thirteen separable ones, average pool, 1,000 classes."""
    side, channels = resolution // 2, int(32 * width)
    weights = [Weights("conv", 27 * channels, channels)]
    activations = [Activation("input", resolution**2 * 3, None), Activation("conv", side**2 * channels, "conv")]
    for number, (outputs, stride) in enumerate(_BLOCKS):
        side //= stride
        depthwise, pointwise = f"dw{number}", f"pw{number}"
        weights.append(Weights(depthwise, 9 * channels, channels))
        activations.append(Activation(depthwise, side**2 * channels, depthwise))
        narrowed = int(outputs * width)
        weights.append(Weights(pointwise, channels * narrowed, narrowed))
        activations.append(Activation(pointwise, side**2 * narrowed, pointwise))
        channels = narrowed
    activations += [Activation("pool", channels, "pool"), Activation("fc", 1000, None, 32)]
    weights.append(Weights("fc", channels * 1000, 1000))
    steps = tuple(
        Step(after.name, (before,), after, (before, after)) for before, after in itertools.pairwise(activations)
    )
    return Table(f"mobilenet-v1-{width}-{resolution}", tuple(weights), steps)
