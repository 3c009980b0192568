"""The Graph: plain, immutable data between tracing, compression, reference and code generation; and its file format."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from harness.errors import InputError
from harness.ops.add import Add
from harness.ops.avg_pool2d import AvgPool2d
from harness.ops.base import Array, Operator, Requantization, Shape
from harness.ops.conv2d import Conv2d
from harness.ops.depthwise_conv2d import DepthwiseConv2d
from harness.ops.linear import Linear
from harness.ops.max_pool2d import MaxPool2d, Window
from harness.ops.paper_a import PaperAConv2d, PaperALinear

Dtype = Literal["float32", "uint8", "int32"]

OPERATORS: dict[str, type[Operator]] = {
    op.kind: op for op in (Conv2d, DepthwiseConv2d, Linear, Add, MaxPool2d, AvgPool2d, PaperAConv2d, PaperALinear)
}

FORMAT = 1

# Fields that operators gained later. They are left out at these values, so that files, digests and everything that is
# cached under them stay what they were.
_LATER: dict[str, Any] = {"padding_after": None, "clip": None, "weight_bits": 8}

# Elements that the layers of one batch of `infer` may have as activations, about: 64 MB as float32.
_BATCH_ELEMENTS = 2**24


@dataclass(frozen=True)
class Tensor:
    """One activation. shape: (H, W, C) or (C,), without batch.

    scale and zero_point: real = scale * (q - zero_point); scale is None in float graphs.
    """

    name: str
    shape: Shape
    dtype: Dtype
    scale: float | None = None
    zero_point: int = 0
    bits: int = 8

    @property
    def elements(self) -> int:
        return int(np.prod(self.shape))


@dataclass(frozen=True, eq=False)
class Graph:
    """A network: layers in execution order, and every tensor by name. The first layer reads `input`."""

    name: str
    input: str
    tensors: Mapping[str, Tensor]
    layers: tuple[Operator, ...]

    @property
    def output(self) -> Tensor:
        """The last layer's tensor."""
        return self.tensors[self.layers[-1].output]

    @property
    def input_tensor(self) -> Tensor:
        return self.tensors[self.input]

    @property
    def integer(self) -> bool:
        """Whether activations are integers."""
        return self.input_tensor.dtype != "float32"

    def input_shapes(self, layer: Operator) -> tuple[Shape, ...]:
        """The shapes of what `layer` reads."""
        return tuple(self.tensors[name].shape for name in layer.inputs)

    def macs(self, layer: Operator) -> int:
        """Multiply-accumulates of one inference of `layer`, counted dense."""
        return layer.macs(*self.input_shapes(layer))

    def run(self, x: Array) -> Iterator[tuple[Operator, Array]]:
        """The reference: yields (layer, its output with batch) in order. x: (N, H, W, C) in the input's dtype.

        Tensors that no later layer reads are given up on the way.
        """
        values = {self.input: x}
        last_reader = {name: index for index, layer in enumerate(self.layers) for name in layer.inputs}
        for index, layer in enumerate(self.layers):
            result = layer.reference(*(values[name] for name in layer.inputs))
            for name in set(layer.inputs):
                if last_reader[name] == index:
                    del values[name]
            values[layer.output] = result
            yield layer, result

    def infer(self, x: Array, *, batch: int = 256) -> Array:
        """The last layer's output for all of x: (N, classes). batch: images at a time, fewer where they are large."""
        largest = max(tensor.elements for tensor in self.tensors.values())
        batch = min(batch, max(1, _BATCH_ELEMENTS // largest))
        results = []
        for start in range(0, len(x), batch):
            *_, (_, last) = self.run(x[start : start + batch])
            results.append(last)
        return np.concatenate(results)

    def sha256(self) -> str:
        """A digest of the structure and of every parameter."""
        structure, arrays = _flatten(self)
        digest = hashlib.sha256(json.dumps(structure, sort_keys=True).encode())
        for key in sorted(arrays):
            digest.update(key.encode() + str(arrays[key].dtype).encode() + arrays[key].tobytes())
        return digest.hexdigest()


def build(name: str, input_tensor: Tensor, layers: tuple[Operator, ...], outputs: Mapping[str, Tensor]) -> Graph:
    """A checked Graph: every layer reads tensors that exist by then, and shapes agree. InputError names the layer."""
    tensors = {input_tensor.name: input_tensor}
    for layer in layers:
        for read in layer.inputs:
            if read not in tensors:
                raise InputError(f"layer {layer.name} reads {read}, which no layer before it writes")
        shape = layer.output_shape(*(tensors[tensor].shape for tensor in layer.inputs))
        tensor = outputs[layer.output]
        if tensor.shape != shape:
            raise InputError(f"layer {layer.name} yields {shape}, but its tensor is declared as {tensor.shape}")
        tensors[layer.output] = tensor
    return Graph(name, input_tensor.name, tensors, layers)


def _flatten(graph: Graph) -> tuple[dict[str, Any], dict[str, Array]]:
    """The graph as JSON-able structure and its arrays under "layer.field"."""
    arrays: dict[str, Array] = {}
    layers = []
    for layer in graph.layers:
        fields: dict[str, Any] = {"kind": layer.kind}
        for field in dataclasses.fields(layer):
            value = getattr(layer, field.name)
            if isinstance(value, Requantization):
                fields[field.name] = {"zero_point": value.zero_point, "bits": value.bits}
                arrays[f"{layer.name}.multiplier"] = value.multiplier.astype(np.int32)
                arrays[f"{layer.name}.shift"] = value.shift.astype(np.uint8)
            elif isinstance(value, Window):
                fields[field.name] = {"kernel": value.kernel, "stride": value.stride}
                fields[field.name] |= {} if value.padding == (0, 0) else {"padding": value.padding}
            elif isinstance(value, np.ndarray):
                arrays[f"{layer.name}.{field.name}"] = value
            elif field.name not in _LATER or value != _LATER[field.name]:
                fields[field.name] = value
        layers.append(fields)
    tensors = [dataclasses.asdict(tensor) for tensor in graph.tensors.values()]
    return {
        "format": FORMAT,
        "name": graph.name,
        "input": graph.input,
        "tensors": tensors,
        "layers": layers,
    }, arrays


def save(graph: Graph, path: Path, metadata: Mapping[str, str]) -> None:
    """Writes the graph as one safetensors file (whole or not at all); `metadata` goes beside the structure."""
    from safetensors.numpy import save as to_bytes

    from harness.files import write_whole

    structure, arrays = _flatten(graph)
    contiguous = {key: np.ascontiguousarray(value) for key, value in arrays.items()}
    write_whole(path, to_bytes(contiguous, {"graph": json.dumps(structure), **metadata}))


def load(path: Path) -> tuple[Graph, dict[str, str]]:
    """The graph in a file that `save` wrote, and its metadata. InputError when the file is damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            metadata = dict(file.metadata() or {})
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        structure = json.loads(metadata.pop("graph"))
        if structure["format"] != FORMAT:
            raise InputError(f"{path.name} has graph format {structure['format']}; this harness reads {FORMAT}")
        return _restore(structure, arrays), metadata
    except FileNotFoundError as error:
        raise InputError(f"there is no file {path}") from error
    except (SafetensorError, OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} is not a network that this harness wrote: {error}") from error


def _restore(structure: dict[str, Any], arrays: dict[str, Array]) -> Graph:
    tensors = {}
    for fields in structure["tensors"]:
        tensors[fields["name"]] = Tensor(**{**fields, "shape": tuple(fields["shape"])})
    layers = []
    for stored in structure["layers"]:
        fields = dict(stored)
        operator = OPERATORS[fields.pop("kind")]
        name = fields["name"]
        for field in dataclasses.fields(operator):
            value = fields.get(field.name)
            if f"{name}.{field.name}" in arrays:
                fields[field.name] = arrays[f"{name}.{field.name}"]
            elif field.name == "requantize" and value is not None:
                fields[field.name] = Requantization(
                    arrays[f"{name}.multiplier"].astype(np.int64), arrays[f"{name}.shift"].astype(np.int64), **value
                )
            elif field.name in ("pool", "window") and value is not None:
                fields[field.name] = Window(**{key: tuple(pair) for key, pair in value.items()})
            elif isinstance(value, list):
                fields[field.name] = tuple(value)
        layers.append(operator(**fields))
    return build(structure["name"], tensors[structure["input"]], tuple(layers), tensors)
