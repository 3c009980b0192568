"""The method of arXiv 2103.15972 (paper A), run again: a short training, one-shot pruning, fine-tuning, 8 bits.

The baseline for variant `deep`, so its weaknesses are kept on purpose: four epochs of training, one sparsity for all
layers, weights truncated rather than rounded, no quantisation-aware training, activations truncated. One is not: the
paper chooses the sparsity on the test images, this on validation images. Needs torch; whoever only loads the shipped
integers does not come here.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.data.base import Dataset, Images, Split
from harness.errors import InputError
from harness.graph.graph import Graph, build
from harness.graph.graph import Tensor as Activation
from harness.ops.base import Array, Operator
from harness.ops.conv2d import Conv2d
from harness.ops.linear import Linear
from harness.ops.paper_a import PaperAConv2d, PaperALinear
from harness.progress import Advance, Reporter, Silent

# The paper's published code: Adam, 4 epochs for the dense network and for each candidate, MNIST in batches of 256; at
# most one point may be lost; the bisection of the sparsity ends with steps of a thousandth.
LEARNING_RATE = 2e-3
EPOCHS = 4
BATCH = 256
TOLERATED_LOSS = 0.01
SMALLEST_STEP = 0.001

_WEIGHT_LIMIT = 127
_LEVELS = 255
_EVALUATION_BATCH = 1_000


@dataclass(frozen=True, eq=False)
class Compressed:
    """A network as the paper compresses it.

    graph: the integers. sparsity: the share of each layer's weights that was pruned. dense, pruned: validation accuracy
    (fractions) before and after pruning, in float32.
    """

    graph: Graph
    sparsity: float
    dense: float
    pruned: float


def compress(graph: Graph, dataset: Dataset, *, seed: int = 0, reporter: Reporter | None = None) -> Compressed:
    """Trains, prunes and quantises a network of convolutions (with ReLU and a max-pool) and fully connected layers.

    graph: a float Graph, of which only the structure is used: the method begins with its own training.
    InputError for a network that the paper's code cannot express, or where no sparsity keeps the accuracy.
    """
    reporter = reporter or Silent()
    _check(graph)
    generator = torch.Generator().manual_seed(seed)
    dense = _Network(graph)
    dense.forget(generator)
    with reporter.stage(f"training for {EPOCHS} epochs") as advance:
        _train(dense, None, dataset, generator, advance)
    initial = _accuracy(dense, dataset, dataset.validation)
    sparsity, step = 0.5, 0.5
    best: tuple[float, _Network, float] | None = None
    while step > SMALLEST_STEP:
        candidate = copy.deepcopy(dense)
        with reporter.stage(f"sparsity {sparsity:.4f}: {EPOCHS} epochs") as advance:
            _train(candidate, candidate.prune(sparsity), dataset, generator, advance)
            accuracy = _accuracy(candidate, dataset, dataset.validation)
        accepted = accuracy >= initial - TOLERATED_LOSS
        reporter.say(f"sparsity {sparsity:.4f}: {accuracy:.2%} on validation, {'kept' if accepted else 'rejected'}")
        step /= 2
        if accepted:
            best = sparsity, candidate, accuracy
        sparsity += step if accepted else -step
    if best is None:
        raise InputError(f"{graph.name}: no sparsity keeps its accuracy within {TOLERATED_LOSS:.0%} of {initial:.2%}")
    chosen, network, accuracy = best
    with reporter.stage("quantising as the paper does"):
        images = dataset.network_input(dataset.train.x)
        integers = quantize(network.graph(graph), images, dataset.input_scale, dataset.input_zero_point)
    return Compressed(integers, chosen, initial, accuracy)


def quantize(graph: Graph, images: Array, input_scale: float | None, input_zero_point: int | None) -> Graph:
    """The paper's 8-bit network of a float one; images (N, H, W, C) float32 give the ranges of the activations.

    Weights are rounded to a grid of max|w| / 127, then divided by the step again and truncated, all in float32, as the
    paper's code does it: some end one step lower than they were rounded to.
    """
    weights = {layer.name: _integers(layer.weight) for layer in graph.layers if isinstance(layer, Conv2d | Linear)}
    ranges = _ranges(_with_weights(graph, weights), images)
    scale, zero_point = (1 / _LEVELS, 0) if input_scale is None else (input_scale, input_zero_point or 0)
    source = Activation(graph.input, graph.input_tensor.shape, "uint8", scale, zero_point)
    tensors = {graph.input: source}
    layers: list[Operator] = []
    shape: tuple[int, ...] = ()
    for layer in graph.layers:
        assert isinstance(layer, Conv2d | Linear)
        integers, weight_scale = weights[layer.name]
        low, high = ranges[layer.name]
        output_scale = (high - low) / _LEVELS
        output_zero_point = int(np.clip(round(-low / output_scale), 0, _LEVELS))
        common: dict[str, Any] = {
            "name": layer.name,
            "inputs": layer.inputs,
            "output": layer.output,
            "bias": layer.bias,
            "weight_scale": weight_scale,
            "input_scale": scale,
            "input_zero_point": zero_point,
            "output_scale": output_scale,
            "output_zero_point": output_zero_point,
            "relu": layer.relu,
        }
        quantized: Operator
        if isinstance(layer, Conv2d):
            planes = integers.transpose(0, 3, 1, 2).copy()
            quantized = PaperAConv2d(
                **common, weight=planes, padding=layer.padding[0], pool=layer.pool, planar_input=bool(layers)
            )
        else:
            if len(shape) == 3:  # our columns have the channel fastest, the paper's slowest
                channels, rows, columns = shape
                integers = integers.reshape(-1, rows, columns, channels).transpose(0, 3, 1, 2)
            quantized = PaperALinear(**common, weight=integers.reshape(len(integers), -1).copy())
        shape = quantized.output_shape(tensors[layer.inputs[0]].shape)
        scale, zero_point = output_scale, output_zero_point
        tensors[layer.output] = Activation(layer.output, shape, "uint8", scale, zero_point)
        layers.append(quantized)
    return build(graph.name, source, tuple(layers), tensors)


def _check(graph: Graph) -> None:
    """The paper's C knows square kernels, stride 1, and max-pools that start from zero behind a ReLU."""
    for layer in graph.layers:
        if isinstance(layer, Linear):
            continue
        square = (
            isinstance(layer, Conv2d)
            and layer.stride == (1, 1)
            and layer.padding[0] == layer.padding[1]
            and layer.relu
            and (layer.pool is None or layer.pool.kernel == layer.pool.stride)
            and (layer.pool is None or layer.pool.kernel[0] == layer.pool.kernel[1])
        )
        if not square:
            raise InputError(
                f"layer {layer.name} ({layer.label}) is not among those of arXiv 2103.15972: convolutions of stride 1 "
                "with ReLU and a square max-pool, and fully connected layers"
            )


def _integers(weight: Array) -> tuple[Array, float]:
    """(int8 weights, their scale): rounded to the grid in float32, divided by the step again, truncated."""
    scale = np.float32(np.abs(weight).max() / _WEIGHT_LIMIT) or np.float32(1)
    grid = np.rint(weight.astype(np.float32) / scale) * scale
    return np.trunc(grid / scale).astype(np.int8), float(scale)


def _with_weights(graph: Graph, weights: Mapping[str, tuple[Array, float]]) -> Graph:
    """The float graph with its weights as the integers say."""
    layers = []
    for layer in graph.layers:
        assert isinstance(layer, Conv2d | Linear)
        integers, scale = weights[layer.name]
        layers.append(dataclasses.replace(layer, weight=integers.astype(np.float32) * np.float32(scale)))
    return build(graph.name, graph.input_tensor, tuple(layers), graph.tensors)


def _ranges(graph: Graph, images: Array) -> dict[str, tuple[float, float]]:
    """The least and the largest output of every layer over the images; zero is always within."""
    network = _Network(graph)
    low = np.zeros(len(graph.layers))
    high = np.zeros(len(graph.layers))
    with torch.no_grad():
        for start in range(0, len(images), _EVALUATION_BATCH):
            x = torch.from_numpy(images[start : start + _EVALUATION_BATCH].transpose(0, 3, 1, 2).copy())
            for index, values in enumerate(network.outputs(x)):
                low[index] = min(low[index], float(values.min()))
                high[index] = max(high[index], float(values.max()))
    # A layer whose outputs are all zero still needs a scale.
    high = np.where(high - low > 0, high, 1.0)
    return {layer.name: (low[index], high[index]) for index, layer in enumerate(graph.layers)}


# ---- the float network in torch


class _Network(nn.Module):
    """A float Graph of convolutions and fully connected layers with trainable parameters, NCHW inside."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self._layers = [layer for layer in graph.layers if isinstance(layer, Conv2d | Linear)]
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for layer in self._layers:
            weight = layer.weight.transpose(0, 3, 1, 2) if isinstance(layer, Conv2d) else layer.weight
            self.weights.append(nn.Parameter(torch.from_numpy(weight.copy())))
            self.biases.append(nn.Parameter(torch.from_numpy(layer.bias.copy())))

    def forget(self, generator: torch.Generator) -> None:
        """Draws all parameters anew, as torch's own layers begin."""
        with torch.no_grad():
            for weight, bias in zip(self.weights, self.biases, strict=True):
                bound = (weight.numel() / len(weight)) ** -0.5
                weight.uniform_(-bound, bound, generator=generator)
                bias.uniform_(-bound, bound, generator=generator)

    def outputs(self, x: Tensor) -> list[Tensor]:
        """Every layer's output for x (N, C, H, W)."""
        results = []
        for layer, weight, bias in zip(self._layers, self.weights, self.biases, strict=True):
            if isinstance(layer, Conv2d):
                x = F.conv2d(x, weight, bias, padding=layer.padding)
            else:
                x = F.linear(x.permute(0, 2, 3, 1).flatten(1) if x.ndim == 4 else x, weight, bias)
            if layer.relu:
                x = F.relu(x)
            if isinstance(layer, Conv2d) and layer.pool is not None:
                x = F.max_pool2d(x, layer.pool.kernel, layer.pool.stride)
            results.append(x)
        return results

    def prune(self, sparsity: float) -> list[Tensor]:
        """Zeroes the share `sparsity` of the smallest weights of every layer; returns the masks."""
        masks = []
        with torch.no_grad():
            for weight in self.weights:
                keep = weight.numel() - int(weight.numel() * sparsity)
                mask = torch.zeros(weight.numel())
                mask[weight.abs().flatten().topk(keep).indices] = 1
                masks.append(mask.reshape(weight.shape))
                weight *= masks[-1]
        return masks

    def graph(self, graph: Graph) -> Graph:
        """`graph` with these parameters."""
        layers = []
        for layer, weight, bias in zip(self._layers, self.weights, self.biases, strict=True):
            values = weight.detach().numpy()
            if isinstance(layer, Conv2d):
                values = values.transpose(0, 2, 3, 1)
            layers.append(dataclasses.replace(layer, weight=values.copy(), bias=bias.detach().numpy().copy()))
        return build(graph.name, graph.input_tensor, tuple(layers), graph.tensors)


def _train(
    network: _Network, masks: list[Tensor] | None, dataset: Dataset, generator: torch.Generator, advance: Advance
) -> None:
    """Trains everything, or what the masks leave."""
    optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE)
    labels = torch.from_numpy(dataset.train.y)
    starts = range(0, len(labels), BATCH)
    for epoch in range(EPOCHS):
        order = torch.randperm(len(labels), generator=generator)
        for number, start in enumerate(starts):
            batch = order[start : start + BATCH]
            scores = network.outputs(_planar(dataset, dataset.train.x[batch.numpy()]))[-1]
            loss = F.cross_entropy(scores, labels[batch])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            with torch.no_grad():
                for weight, mask in zip(network.weights, masks or (), strict=bool(masks)):
                    weight *= mask
            advance((epoch + number / len(starts)) / EPOCHS)


def _accuracy(network: _Network, dataset: Dataset, split: Split) -> float:
    """Top-1, as a fraction."""
    correct = 0
    with torch.no_grad():
        for start in range(0, len(split), _EVALUATION_BATCH):
            scores = network.outputs(_planar(dataset, split.x[start : start + _EVALUATION_BATCH]))[-1]
            correct += int((scores.argmax(1).numpy() == split.y[start : start + _EVALUATION_BATCH]).sum())
    return correct / len(split)


def _planar(dataset: Dataset, x: Images) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(dataset.network_input(x).transpose(0, 3, 1, 2)))
