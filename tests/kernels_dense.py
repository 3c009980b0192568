"""Networks of one kind of layer in a form that is asked for, and what all ways to run them must agree on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from kernels_networks import core_crcs, on_core, on_host, random_inputs, reference_crcs

from harness.codegen.generate import Generated, generate
from harness.graph.graph import Graph, Tensor, build
from harness.ops.base import Operator, Requantization
from harness.ops.conv2d import Conv2d
from harness.ops.lowering import Site, Target, default_storage
from harness.ops.max_pool2d import Window

# Filters, kernel, stride, padding, and the zero point of the output.
Convolution = tuple[int, tuple[int, int], tuple[int, int], tuple[int, int], int]


def convolutions(
    shape: tuple[int, int, int],
    layers: Sequence[Convolution],
    *,
    bits: int = 8,
    last: bool = False,
    gain: float = 1.0,
    weight_bits: int = 8,
    pool: Window | None = None,
    packed: bool = False,
) -> Graph:
    """Convolutions one after the other; bits: of all outputs; last: it ends in int32; gain: of the outputs' range.

    pool: behind every convolution. packed: tensors between the first and the last are stored in so many bits.
    """
    random = np.random.default_rng(len(layers) + shape[2])
    source = Tensor("x", shape, "uint8", 0.05, 3)
    tensors: dict[str, Tensor] = {}
    operators: list[Operator] = []
    tensor = source
    for index, (filters, kernel, stride, padding, zero_point) in enumerate(layers):
        lowest, highest = {8: (-127, 127), 4: (-8, 7), 2: (-2, 1)}[weight_bits]
        weight = random.integers(lowest, highest + 1, (filters, *kernel, tensor.shape[2])).astype(np.int8)
        bias = random.integers(-30000, 30000, filters).astype(np.int32)
        scales = gain * random.uniform(0.5, 1.5, filters) / np.sqrt(weight[0].size) / 60
        final = last and index == len(layers) - 1
        stored = bits if packed and index < len(layers) - 1 else 8
        width = stored if packed else bits
        requantize = None if final else Requantization.from_scales(np.minimum(scales, 0.45), zero_point, width)
        name = f"conv{index}"
        layer = Conv2d(
            name,
            (tensor.name,),
            name,
            weight,
            bias,
            stride,
            padding,
            relu=zero_point == 0,
            input_zero_point=tensor.zero_point,
            requantize=requantize,
            weight_bits=weight_bits,
            pool=pool,
        )
        out = layer.output_shape(tensor.shape)
        kind = ("int32", 0.01, 0, 32) if final else ("uint8", 0.05, zero_point, stored)
        tensor = Tensor(name, out, *kind)
        tensors[name] = tensor
        operators.append(layer)
    return build("dense", source, tuple(operators), tensors)


def forms_of(graph: Graph, form: str, *, every: bool = True, core: str = "cortex-m4") -> dict[str, str]:
    """`form` for every layer, or for those that it fits."""
    found = {}
    for index, layer in enumerate(graph.layers):
        known = {one.name: one for one in layer.forms}
        if form in known and known[form].fits(layer, site_of(graph, index, core)):
            found[layer.name] = form
    assert len(found) == len(graph.layers) or not every, f"not every layer takes form {form}"
    return found


def on_host_exactly(graph: Graph, form: str, cache: Path, *, every: bool = True) -> None:
    """The portable path under sanitizers, against the reference; every: as forms_of."""
    x = random_inputs(graph, 4)
    generated = generate(graph, variant="test", core="cortex-m4", forms=forms_of(graph, form, every=every))
    _, crcs = on_host(generated, graph, x, cache, sanitize=True)
    assert (crcs == reference_crcs(graph, x)).all(axis=0).tolist() == [True] * len(graph.layers)


def on_core_exactly(
    graph: Graph, form: str, core: str = "cortex-m4", *, every: bool = True
) -> tuple[Generated, Any, list[Any]]:
    """The path with assembly on an emulated core, against the reference; as kernels_networks.on_core."""
    x = random_inputs(graph, 3)
    generated, bare, ran = on_core(graph, x, core, forms=forms_of(graph, form, core=core, every=every))
    assert (core_crcs(ran) == reference_crcs(graph, x)).all(axis=0).tolist() == [True] * len(graph.layers)
    assert max(inference.stack for inference in ran) < 640
    return generated, bare, ran


def site_of(graph: Graph, index: int, core: str = "cortex-m4") -> Site:
    """Where layer `index` stands, with the default storages."""
    layer: Operator = graph.layers[index]
    source, result = graph.tensors[layer.inputs[0]], graph.tensors[layer.output]
    given = default_storage(source.dtype, source.bits)
    return Site(Target(core), source.shape, result.shape, given, default_storage(result.dtype, result.bits))
