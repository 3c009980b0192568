"""From a torch.nn.Module to a float Graph, through torch.export. Fuses while it walks; compression comes later."""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.errors import InputError
from harness.graph.graph import Graph, Tensor, build
from harness.ops.avg_pool2d import AvgPool2d
from harness.ops.base import Array, Operator, Shape
from harness.ops.conv2d import Conv2d
from harness.ops.linear import Linear
from harness.ops.max_pool2d import MaxPool2d, Window

if TYPE_CHECKING:
    import torch
    from torch.fx import Node

# Float graphs and PyTorch sum in different orders; more than this, relative to the output's size, is a wrong trace.
TRACE_TOLERANCE = 1e-4


def trace(module: torch.nn.Module, input_shape: Shape, name: str) -> Graph:
    """The Graph of a sequential conv/linear/pool/ReLU network.

    input_shape: (H, W, C); the module itself is called with (1, C, H, W) float32, as PyTorch networks expect.
    BatchNorm is folded, ReLU and max-pooling are fused into the layer before, Flatten becomes a reordering of the next
    layer's columns. The result is run against the module once.
    InputError names the first operator that is not supported, and any tensor that is not finite.
    """
    import torch

    height, width, channels = input_shape
    module = module.eval()
    example = torch.zeros(1, channels, height, width)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exported = torch.export.export(module, (example,))
    except Exception as error:  # whatever the user's forward() raises
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"network {name} cannot be traced with an input of (1, {channels}, {height}, {width}): {reason}",
            hint="its forward() must accept that shape and have no data-dependent control flow",
        ) from error
    graph = _Tracer(exported, input_shape, name).graph()
    _check(graph, module, name)
    return graph


def _check(graph: Graph, module: torch.nn.Module, name: str) -> None:
    """Runs module and graph on one random input; they must agree."""
    import torch

    x = np.random.default_rng(0).random((2, *graph.input_tensor.shape), dtype=np.float32)
    with torch.no_grad():
        expected = module(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()
    *_, (_, got) = graph.run(x)
    if got.ndim == 4:
        got = got.transpose(0, 3, 1, 2)
    error = np.abs(got.reshape(expected.shape) - expected).max() / max(np.abs(expected).max(), 1e-6)
    if not error <= TRACE_TOLERANCE:
        raise InputError(f"the traced graph of {name} computes something else than the network (error {error:.1e})")


@dataclasses.dataclass(frozen=True)
class _Value:
    """What an fx node stands for: a tensor of the Graph, and whether PyTorch sees it flattened in (C, H, W) order."""

    tensor: str
    flattened: bool = False


class _Tracer:
    """One walk over an exported program's nodes, in order."""

    def __init__(self, exported: torch.export.ExportedProgram, input_shape: Shape, name: str) -> None:
        self.exported = exported
        self.name = name
        self.shapes: dict[str, Shape] = {"input": input_shape}
        self.layers: list[Operator] = []
        self.values: dict[Node, _Value] = {}
        self.constants: dict[Node, tuple[str, Array]] = {}
        self.handlers: dict[str, Callable[[Node, dict[str, Any]], _Value]] = {
            "conv2d": self._conv2d,
            "linear": self._linear,
            "relu": self._relu,
            "relu_": self._relu,
            "batch_norm": self._batch_norm,
            "max_pool2d": self._max_pool2d,
            "avg_pool2d": self._avg_pool2d,
            "adaptive_avg_pool2d": self._adaptive_avg_pool2d,
            "flatten": self._flatten,
            "view": self._flatten,
            "reshape": self._flatten,
            "dropout": self._dropout,
            "dropout_": self._dropout,
        }

    def graph(self) -> Graph:
        signature = self.exported.graph_signature
        state = {**self.exported.state_dict, **self.exported.constants}
        stored = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        for node in self.exported.graph.nodes:
            if node.op == "placeholder":
                if node.name in stored:
                    key = stored[node.name]
                    self.constants[node] = (key, state[key].detach().cpu().numpy())
                else:
                    self.values[node] = _Value("input")
            elif node.op == "call_function":
                self.values[node] = self._call(node)
            elif node.op == "output":
                outputs = node.args[0]
                if not isinstance(outputs, tuple | list) or len(outputs) != 1:
                    raise InputError(f"network {self.name} must have one output")
                if not self.layers or self.values[outputs[0]].tensor != self.layers[-1].output:
                    raise InputError(f"network {self.name}: its output is not its last layer's")
        tensors = {tensor: Tensor(tensor, shape, "float32") for tensor, shape in self.shapes.items()}
        return build(self.name, tensors["input"], tuple(self.layers), tensors)

    # ---- one node

    def _call(self, node: Node) -> _Value:
        packet, _, _ = str(node.target).removeprefix("aten.").partition(".")
        handler = self.handlers.get(packet)
        if handler is None:
            where = self._module_path(node) or node.name
            raise InputError(
                f"network {self.name}: operator {packet} (at {where}) is not supported",
                hint="supported: conv2d, linear, relu, batch_norm, max_pool2d, avg_pool2d, flatten, dropout",
            )
        schema = node.target._schema.arguments  # type: ignore[union-attr]
        arguments = {a.name: a.default_value for a in schema if a.has_default_value()}
        arguments |= {a.name: value for a, value in zip(schema, node.args, strict=False)}
        return handler(node, arguments | node.kwargs)

    @staticmethod
    def _module_path(node: Node) -> str:
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        return str(stack[-1][0]) if stack else ""

    def _add(self, layer: Operator) -> _Value:
        self.shapes[layer.output] = layer.output_shape(*(self.shapes[name] for name in layer.inputs))
        self.layers.append(layer)
        return _Value(layer.output)

    def _unique(self, wanted: str) -> str:
        """A layer name made of letters, digits and underscores that no other layer has."""
        name = re.sub(r"\W", "_", wanted, flags=re.ASCII)
        if not name or name[0].isdigit():
            name = f"layer{name}"
        taken = set(self.shapes)
        return next(n for n in [name, *(f"{name}_{i}" for i in range(1, len(taken) + 2))] if n not in taken)

    def _input(self, node: Any, layer: str) -> _Value:
        if node not in self.values:
            raise InputError(f"network {self.name}: {layer} reads something that is not the layer before it")
        return self.values[node]

    def _constant(self, node: Any) -> tuple[str, Array]:
        if node not in self.constants:
            raise InputError(f"network {self.name}: a layer's weights are computed, not stored")
        key, array = self.constants[node]
        if not np.isfinite(array).all():
            raise InputError(f"network {self.name}: weights {key} hold NaN or infinite values")
        return key, array

    def _producer(self, node: Any, kinds: tuple[type[Operator], ...]) -> Operator | None:
        """The last layer, when `node` is its only use and it is of these kinds: then the next step can be fused."""
        value = self.values.get(node)
        if value is None or not self.layers or len(node.users) != 1:
            return None
        last = self.layers[-1]
        return last if last.output == value.tensor and isinstance(last, kinds) else None

    def _replace_last(self, layer: Operator) -> _Value:
        self.layers[-1] = layer
        self.shapes[layer.output] = layer.output_shape(*(self.shapes[name] for name in layer.inputs))
        return _Value(layer.output)

    # ---- operators

    def _conv2d(self, node: Node, arguments: dict[str, Any]) -> _Value:
        key, weight = self._constant(arguments["weight"])
        name = self._unique(key.rpartition(".")[0] or node.name)
        if arguments["groups"] != 1 or _pair(arguments["dilation"]) != (1, 1):
            raise InputError(f"network {self.name}: conv2d {name} has groups or dilation, which are not supported")
        bias = self._constant(arguments["bias"])[1] if arguments.get("bias") is not None else np.zeros(len(weight))
        padding = arguments["padding"]
        if padding == "valid":
            padding = 0
        elif padding == "same":
            if any(size % 2 == 0 for size in weight.shape[2:]):
                raise InputError(f"network {self.name}: conv2d {name} has padding 'same' with an even kernel")
            padding = [size // 2 for size in weight.shape[2:]]
        return self._add(
            Conv2d(
                name=name,
                inputs=(self._input(arguments["input"], name).tensor,),
                output=name,
                weight=weight.transpose(0, 2, 3, 1).astype(np.float32),
                bias=bias.astype(np.float32),
                stride=_pair(arguments["stride"]),
                padding=_pair(padding),
            )
        )

    def _linear(self, node: Node, arguments: dict[str, Any]) -> _Value:
        key, weight = self._constant(arguments["weight"])
        name = self._unique(key.rpartition(".")[0] or node.name)
        value = self._input(arguments["input"], name)
        bias = self._constant(arguments["bias"])[1] if arguments.get("bias") is not None else np.zeros(len(weight))
        shape = self.shapes[value.tensor]
        if len(shape) == 3:
            if not value.flattened:
                raise InputError(f"network {self.name}: linear {name} is applied to an image that is not flattened")
            height, width, channels = shape
            weight = weight.reshape(-1, channels, height, width).transpose(0, 2, 3, 1).reshape(len(weight), -1)
        return self._add(
            Linear(
                name=name,
                inputs=(value.tensor,),
                output=name,
                weight=weight.astype(np.float32),
                bias=bias.astype(np.float32),
            )
        )

    def _relu(self, node: Node, arguments: dict[str, Any]) -> _Value:
        source = arguments["self"]
        layer = self._producer(source, (Conv2d, Linear))
        if layer is None:
            raise InputError(
                f"network {self.name}: relu ({node.name}) does not follow a convolution or a linear layer directly"
            )
        flattened = self.values[source].flattened
        # ReLU commutes with a max-pool that is already fused.
        return dataclasses.replace(self._replace_last(dataclasses.replace(layer, relu=True)), flattened=flattened)  # type: ignore[call-arg]

    def _batch_norm(self, node: Node, arguments: dict[str, Any]) -> _Value:
        layer = self._producer(arguments["input"], (Conv2d, Linear))
        if not isinstance(layer, Conv2d | Linear) or layer.relu or (isinstance(layer, Conv2d) and layer.pool):
            raise InputError(f"network {self.name}: batch_norm ({node.name}) does not follow a convolution directly")
        if arguments["running_mean"] is None:
            raise InputError(f"network {self.name}: batch_norm ({node.name}) keeps no running statistics")
        mean = self._constant(arguments["running_mean"])[1].astype(np.float64)
        variance = self._constant(arguments["running_var"])[1].astype(np.float64)
        scale = 1 / np.sqrt(variance + arguments["eps"])
        if arguments["weight"] is not None:
            scale = scale * self._constant(arguments["weight"])[1]
        shift = self._constant(arguments["bias"])[1] if arguments["bias"] is not None else 0.0
        weight = layer.weight * scale.reshape(-1, *[1] * (layer.weight.ndim - 1))
        bias = (layer.bias - mean) * scale + shift
        return self._replace_last(
            dataclasses.replace(layer, weight=weight.astype(np.float32), bias=bias.astype(np.float32))
        )

    def _window(self, node: Node, arguments: dict[str, Any]) -> Window:
        kernel = _pair(arguments["kernel_size"])
        stride = _pair(arguments["stride"]) if arguments.get("stride") else kernel
        if _pair(arguments["padding"]) != (0, 0) or arguments.get("ceil_mode"):
            raise InputError(f"network {self.name}: {node.name} has padding or ceil_mode, which are not supported")
        return Window(kernel, stride)

    def _max_pool2d(self, node: Node, arguments: dict[str, Any]) -> _Value:
        if _pair(arguments["dilation"]) != (1, 1):
            raise InputError(f"network {self.name}: {node.name} has dilation, which is not supported")
        window = self._window(node, arguments)
        layer = self._producer(arguments["self"], (Conv2d,))
        # Fused only where no convolution result is needed by two windows, so nothing is computed twice.
        separate = window.stride[0] >= window.kernel[0] and window.stride[1] >= window.kernel[1]
        if isinstance(layer, Conv2d) and layer.pool is None and separate:
            return self._replace_last(dataclasses.replace(layer, pool=window))
        name = self._unique(self._module_path(node) or node.name)
        return self._add(MaxPool2d(name, (self._input(arguments["self"], name).tensor,), name, window))

    def _avg_pool2d(self, node: Node, arguments: dict[str, Any]) -> _Value:
        if arguments.get("divisor_override"):
            raise InputError(f"network {self.name}: {node.name} has divisor_override, which is not supported")
        name = self._unique(self._module_path(node) or node.name)
        source = self._input(arguments["self"], name).tensor
        return self._add(AvgPool2d(name, (source,), name, self._window(node, arguments)))

    def _adaptive_avg_pool2d(self, node: Node, arguments: dict[str, Any]) -> _Value:
        name = self._unique(self._module_path(node) or node.name)
        source = self._input(arguments["self"], name).tensor
        (height, width, _), size = self.shapes[source], _pair(arguments["output_size"])
        if height % size[0] or width % size[1]:
            raise InputError(f"network {self.name}: {node.name} needs windows of unequal size, which are not supported")
        kernel = (height // size[0], width // size[1])
        return self._add(AvgPool2d(name, (source,), name, Window(kernel, kernel)))

    def _flatten(self, node: Node, arguments: dict[str, Any]) -> _Value:
        value = self._input(arguments["self"], node.name)
        shape = tuple(node.meta["val"].shape)
        if shape != (1, int(np.prod(self.shapes[value.tensor]))):
            raise InputError(f"network {self.name}: {node.name} reshapes to {shape}; only flattening is supported")
        return dataclasses.replace(value, flattened=True)

    def _dropout(self, node: Node, arguments: dict[str, Any]) -> _Value:
        return self._input(arguments["input"] if "input" in arguments else arguments["self"], node.name)


def _pair(value: Any) -> tuple[int, int]:
    """PyTorch's int-or-list as (height, width)."""
    if isinstance(value, int):
        return value, value
    first, *rest = value
    return int(first), int(rest[0] if rest else first)
