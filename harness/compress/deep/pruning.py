"""Which weights and which hidden units are worth their bytes, and how dead units leave a finished network exactly."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from harness.graph.graph import Graph, build
from harness.graph.graph import Tensor as Activation
from harness.ops.base import INT32_LIMIT, Array, Operator
from harness.ops.conv2d import Conv2d
from harness.ops.linear import Linear

if TYPE_CHECKING:
    from harness.compress.deep.qat import Training

_BISECTIONS = 40
_LEAST_FISHER = 1e-20


@dataclass(frozen=True)
class Price:
    """What a layer's parts cost in the search's objective: each weight, and each unit (output), that is kept.

    prunable: False keeps every weight and unit.
    """

    weight: float
    unit: float
    prunable: bool


def saliency(training: Training) -> list[Tensor]:
    """What pruning each weight would cost: its square times its layer's mean Fisher information (arXiv 1801.05787).

    The mean, because a pruned weight has no gradient of its own and could never come back otherwise.
    """
    result = []
    for weight, fisher, mask in zip(training.student.weight, training.fisher, training.student.masks, strict=True):
        mean = (fisher * mask).sum() / mask.sum().clamp(min=1)
        result.append(weight.detach() ** 2 * (mean + _LEAST_FISHER))
    return result


def allocate(saliency: Sequence[Tensor], prices: Sequence[Price], target: float) -> list[Tensor]:
    """The masks that keep the most saliency for at most `target`, by one Lagrange multiplier over all layers.

    saliency: per layer (O, ..., I) >= 0: what is lost by pruning each weight. A weight stays where its saliency exceeds
    the multiplier times its price. A hidden unit stays where the surplus of its weights, coming in and going out, pays
    its own price. The cheapest allocation is returned where even that costs more than `target`.
    """
    views = _views(saliency)
    low, high = -80.0, 80.0  # of the multiplier's logarithm; saliency is in float32
    best, _ = _allocation(views, prices, math.exp(high))
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        tried, cost = _allocation(views, prices, math.exp(middle))
        if cost <= target:
            best, high = tried, middle
        else:
            low = middle
    return [mask.reshape(tensor.shape).float() for mask, tensor in zip(best, saliency, strict=True)]


def _views(saliency: Sequence[Tensor]) -> list[Tensor]:
    """Each layer as (O, positions, units of the layer before): flattened columns have the channel fastest."""
    views, units = [], saliency[0].shape[-1]
    for tensor in saliency:
        views.append(tensor.reshape(len(tensor), -1, units))
        units = len(tensor)
    return views


def _allocation(views: Sequence[Tensor], prices: Sequence[Price], multiplier: float) -> tuple[list[Tensor], float]:
    """Which weights stay at `multiplier`, and what they cost."""
    kept = [
        view > multiplier * price.weight if price.prunable else torch.ones_like(view, dtype=torch.bool)
        for view, price in zip(views, prices, strict=True)
    ]
    surplus = [(view - multiplier * price.weight).clamp(min=0) for view, price in zip(views, prices, strict=True)]
    units = [len(views[-1])]
    for index in range(len(views) - 2, -1, -1):
        if not (prices[index].prunable and prices[index + 1].prunable):
            units.insert(0, len(views[index]))
            continue
        incoming = surplus[index].sum(dim=(1, 2))
        outgoing = surplus[index + 1].sum(dim=(0, 1))
        # Both sides are needed for a unit to do anything at all.
        alive = torch.sqrt(incoming * outgoing) > multiplier * prices[index].unit
        if not alive.any():
            alive[incoming.argmax()] = True
        kept[index] &= alive[:, None, None]
        kept[index + 1] &= alive[None, None, :]
        units.insert(0, int(alive.sum()))
    cost = sum(
        price.weight * int(mask.sum()) + price.unit * count
        for price, mask, count in zip(prices, kept, units, strict=True)
    )
    return kept, cost


def uniform(magnitudes: Sequence[Tensor], prunable: Sequence[bool], sparsity: float) -> list[Tensor]:
    """Masks that prune the share `sparsity` of each layer's smallest weights; layers that are not prunable keep all."""
    masks = []
    for tensor, free in zip(magnitudes, prunable, strict=True):
        keep = round((1 - sparsity) * tensor.numel()) if free else tensor.numel()
        mask = torch.zeros(tensor.numel())
        mask[tensor.flatten().topk(keep).indices] = 1.0
        masks.append(mask.reshape(tensor.shape))
    return masks


def remove_dead(graph: Graph) -> Graph:
    """The integer graph without hidden units that compute nothing; every remaining value stays bit for bit the same.

    A unit whose outgoing weights are all zero is dropped. A unit whose incoming weights are all zero is a constant: it
    is dropped too once its value has been folded into the biases behind it, unless a padded convolution reads it,
    whose border would see another value. One unit always stays; the last layer keeps its outputs.
    """
    while (smaller := _remove_once(graph)) is not None:
        graph = smaller
    return graph


def _remove_once(graph: Graph) -> Graph | None:
    """One step of `remove_dead`, None where there is nothing left to remove."""
    indices = [i for i, layer in enumerate(graph.layers) if isinstance(layer, Conv2d | Linear)]
    for first, second in itertools.pairwise(indices):
        producer, consumer = graph.layers[first], graph.layers[second]
        assert isinstance(producer, Conv2d | Linear) and isinstance(consumer, Conv2d | Linear)
        if producer.requantize is None:
            continue
        view = consumer.weight.reshape(len(consumer.weight), -1, len(producer.weight)).astype(np.int64)
        unread = ~view.any(axis=(0, 1))
        constant = ~producer.weight.reshape(len(producer.weight), -1).any(axis=1)
        values = _constants(graph, first, second)
        bias = consumer.bias.astype(np.int64) + (view.sum(axis=1) * np.where(constant, values, 0)).sum(axis=1)
        if isinstance(consumer, Conv2d) and consumer.padding != (0, 0):
            # The border holds the zero point: a constant unit may only be folded where its value is that too.
            constant &= values == consumer.input_zero_point
        foldable = bool((np.abs(bias) + np.abs(view).sum(axis=(1, 2)) * 255 < INT32_LIMIT).all())
        dead: Array = np.asarray(unread | (constant & foldable))
        if dead.all():
            dead[0] = False
        if dead.any():
            return _without(graph, first, second, dead, values)
    return None


def _constants(graph: Graph, first: int, second: int) -> Array:
    """(O,) what each unit of layer `first` is to layer `second` when only its bias is left."""
    producer = graph.layers[first]
    assert isinstance(producer, Conv2d | Linear) and producer.requantize is not None
    value: Array = producer.requantize.apply(producer.bias.astype(np.int64))
    if producer.relu:
        value = np.maximum(value, 0)
    shape = graph.tensors[producer.output].shape
    tensor = np.broadcast_to(value, (1, *shape))
    for layer in graph.layers[first + 1 : second]:
        tensor = layer.reference(tensor)
    result: Array = tensor.reshape(-1, len(value))[0].astype(np.int64)
    return result


def _without(graph: Graph, first: int, second: int, dead: Array, values: Array) -> Graph:
    """The graph without the units `dead` of layer `first`; what they contribute goes into the biases of `second`."""
    producer, consumer = graph.layers[first], graph.layers[second]
    assert isinstance(producer, Conv2d | Linear) and isinstance(consumer, Conv2d | Linear)
    assert producer.requantize is not None
    alive = ~dead
    view = consumer.weight.reshape(len(consumer.weight), -1, len(dead))
    folded = consumer.bias.astype(np.int64) + view[:, :, dead].astype(np.int64).sum(axis=1) @ values[dead]
    weight = view[:, :, alive]
    weight = weight.reshape(*consumer.weight.shape[:-1], -1) if isinstance(consumer, Conv2d) else _flat(weight)
    requantize = producer.requantize
    narrow = dataclasses.replace(
        requantize,
        multiplier=_chosen(requantize.multiplier, alive),
        shift=_chosen(requantize.shift, alive),
    )
    layers: list[Operator] = list(graph.layers)
    layers[first] = dataclasses.replace(
        producer, weight=producer.weight[alive], bias=producer.bias[alive], requantize=narrow
    )
    layers[second] = dataclasses.replace(
        consumer, weight=np.ascontiguousarray(weight), bias=folded.astype(consumer.bias.dtype)
    )
    tensors: dict[str, Activation] = dict(graph.tensors)
    for layer in graph.layers[first:second]:
        shape = (*tensors[layer.output].shape[:-1], int(alive.sum()))
        tensors[layer.output] = dataclasses.replace(tensors[layer.output], shape=shape)
    return build(graph.name, graph.input_tensor, tuple(layers), tensors)


def _flat(view: Array) -> Array:
    return view.reshape(len(view), -1)


def _chosen(values: Array, alive: Array) -> Array:
    return values[alive] if len(values) == len(alive) else values
