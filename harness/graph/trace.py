"""From a torch.nn.Module to a float Graph, through torch.export. Fuses while it walks; compression comes later."""

from __future__ import annotations

import dataclasses
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.errors import InputError
from harness.graph.graph import Graph, Tensor, build
from harness.ops.add import Add
from harness.ops.avg_pool2d import AvgPool2d
from harness.ops.base import Array, Operator, Shape
from harness.ops.conv2d import Conv2d
from harness.ops.depthwise_conv2d import DepthwiseConv2d
from harness.ops.linear import Linear
from harness.ops.max_pool2d import MaxPool2d, Window

if TYPE_CHECKING:
    import torch
    from torch.fx import Node

# Float graphs and PyTorch sum in different orders; more than this, relative to the output's size, is a wrong trace.
TRACE_TOLERANCE = 1e-4


def trace(module: torch.nn.Module, input_shape: Shape, name: str) -> Graph:
    """The Graph of a network of convolutions (plain or depthwise), linear layers, pools, ReLUs and residual sums.

    input_shape: (H, W, C); the module itself is called with (1, C, H, W) float32, as PyTorch networks expect.
    BatchNorm is folded, ReLU, ReLU6 and max-pooling are fused into the layer before, zero padding into the convolution
    after, Flatten becomes a reordering of the next layer's columns. The result is run against the module once.
    InputError names the first operator that is not supported, and any tensor that is not finite.
    """
    graph = _walked(module, input_shape, name)[0]
    _check(graph, module, name)
    return graph


@dataclasses.dataclass(frozen=True, eq=False)
class BatchNorm:
    """The BatchNorm that was folded into a layer, of what the folded weights make of the layer's input, without bias.

    mean, variance: (O,) float64, its running statistics. epsilon: (O,) float64, what it adds to the variance. Scaled by
    the layer's folded weights, so that sqrt(variance + epsilon) is its own factor, and undoes its normalisation.
    """

    mean: Array
    variance: Array
    epsilon: Array


def batch_norms(module: torch.nn.Module, input_shape: Shape, name: str) -> dict[str, BatchNorm]:
    """By layer of the Graph that `trace` makes of the same network: what it folded. Errors as of `trace`."""
    return _walked(module, input_shape, name)[1]


def _walked(module: torch.nn.Module, input_shape: Shape, name: str) -> tuple[Graph, dict[str, BatchNorm]]:
    """The Graph, and by layer the BatchNorm that was folded into it."""
    import torch

    height, width, channels = input_shape
    module = module.eval()
    example = torch.zeros(1, channels, height, width)
    try:
        with _quiet():
            exported = torch.export.export(module, (example,))
    except Exception as error:  # whatever the user's forward() raises
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"network {name} cannot be traced with an input of (1, {channels}, {height}, {width}): {reason}",
            hint="its forward() must accept that shape and have no data-dependent control flow",
        ) from error
    tracer = _Tracer(exported, input_shape, name)
    return tracer.graph(), tracer.norms


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's warnings and logs: what matters of them is in the exception."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


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
    """What an fx node stands for: a tensor of the Graph, and whether PyTorch sees it flattened in (C, H, W) order.

    padding: zeros that PyTorch sees around it, ((top, bottom), (left, right)); the next convolution has to add them.
    """

    tensor: str
    flattened: bool = False
    padding: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))


# Layers that a ReLU can be fused into.
_RECTIFIED = (Conv2d, DepthwiseConv2d, Linear, Add)

# What networks like to end with, and does not change which score is the largest.
_MONOTONIC = ("softmax", "log_softmax", "sigmoid")

_SUPPORTED = "conv2d, linear, relu, relu6, batch_norm, add, pad, max_pool2d, avg_pool2d, mean, flatten, dropout"


class _Tracer:
    """One walk over an exported program's nodes, in order."""

    def __init__(self, exported: torch.export.ExportedProgram, input_shape: Shape, name: str) -> None:
        self.exported = exported
        self.name = name
        self.shapes: dict[str, Shape] = {"input": input_shape}
        self.layers: list[Operator] = []
        self.norms: dict[str, BatchNorm] = {}
        self.values: dict[Node, _Value] = {}
        self.constants: dict[Node, tuple[str, Array]] = {}
        self.handlers: dict[str, Callable[[Node, dict[str, Any]], _Value]] = {
            "conv2d": self._conv2d,
            "linear": self._linear,
            "relu": self._relu,
            "relu_": self._relu,
            "relu6": self._relu6,
            "relu6_": self._relu6,
            "hardtanh": self._hardtanh,
            "hardtanh_": self._hardtanh,
            "clamp": self._clamp,
            "clamp_": self._clamp,
            "add": self._add_tensors,
            "add_": self._add_tensors,
            "pad": self._pad,
            "constant_pad_nd": self._pad,
            "mean": self._mean,
            "batch_norm": self._batch_norm,
            "max_pool2d": self._max_pool2d,
            "avg_pool2d": self._avg_pool2d,
            "adaptive_avg_pool2d": self._adaptive_avg_pool2d,
            "flatten": self._flatten,
            "view": self._flatten,
            "reshape": self._flatten,
            "dropout": self._dropout,
            "dropout_": self._dropout,
            "contiguous": self._same,
            "clone": self._same,
            "alias": self._same,
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
            hint = f"supported: {_SUPPORTED}"
            if packet in _MONOTONIC and all(user.op == "output" for user in node.users):
                hint = "leave it out at the end of the network: the largest score stays the largest"
            raise InputError(f"network {self.name}: operator {packet} (at {where}) is not supported", hint=hint)
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

    def _input(self, node: Any, layer: str, *, padded: bool = False) -> _Value:
        """What `layer` reads. padded: whether it can take zeros around its input into account."""
        if node not in self.values:
            raise InputError(f"network {self.name}: {layer} reads something that no layer of it computes")
        value = self.values[node]
        if any(map(any, value.padding)) and not padded:
            raise InputError(
                f"network {self.name}: {layer} reads a padded tensor; only convolutions can",
                hint="put the padding right before a convolution",
            )
        return value

    def _constant(self, node: Any) -> tuple[str, Array]:
        if node not in self.constants:
            raise InputError(f"network {self.name}: a layer's weights are computed, not stored")
        key, array = self.constants[node]
        if not np.isfinite(array).all():
            raise InputError(f"network {self.name}: weights {key} hold NaN or infinite values")
        return key, array

    def _producer(self, node: Any, kinds: tuple[type[Operator], ...]) -> Operator | None:
        """The layer whose output `node` is, when that is its only use and it is of these kinds: to be fused with."""
        value = self.values.get(node)
        if value is None or len(node.users) != 1 or any(map(any, value.padding)):
            return None
        found = [layer for layer in self.layers if layer.output == value.tensor and isinstance(layer, kinds)]
        return found[0] if found else None

    def _replace(self, old: Operator, new: Operator) -> _Value:
        """`new` in the place of `old`, under the same name. Nobody has read its output yet."""
        self.layers[self.layers.index(old)] = new
        self.shapes[new.output] = new.output_shape(*(self.shapes[name] for name in new.inputs))
        return _Value(new.output)

    # ---- operators

    def _conv2d(self, node: Node, arguments: dict[str, Any]) -> _Value:
        key, weight = self._constant(arguments["weight"])
        name = self._unique(key.rpartition(".")[0] or node.name)
        value = self._input(arguments["input"], name, padded=True)
        groups, channels = arguments["groups"], self.shapes[value.tensor][-1]
        depthwise = groups == channels == len(weight) and groups > 1
        if not (groups == 1 or depthwise) or _pair(arguments["dilation"]) != (1, 1):
            raise InputError(
                f"network {self.name}: conv2d {name} has groups or dilation, which are not supported",
                hint="groups may be 1, or the number of channels in and out (depthwise)",
            )
        bias = self._constant(arguments["bias"])[1] if arguments.get("bias") is not None else np.zeros(len(weight))
        edges = _edges(arguments["padding"], weight.shape[2:])
        (top, bottom), (left, right) = (
            (before + own[0], after + own[1]) for (before, after), own in zip(value.padding, edges, strict=True)
        )
        common: dict[str, Any] = {
            "name": name,
            "inputs": (value.tensor,),
            "output": name,
            "bias": bias.astype(np.float32),
            "stride": _pair(arguments["stride"]),
            "padding": (top, left),
            "padding_after": None if (top, left) == (bottom, right) else (bottom, right),
        }
        if depthwise:
            return self._add(DepthwiseConv2d(weight=weight[:, 0].astype(np.float32), **common))
        return self._add(Conv2d(weight=weight.transpose(0, 2, 3, 1).astype(np.float32), **common))

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

    def _relu(self, node: Node, arguments: dict[str, Any], clip: float | None = None) -> _Value:
        source = arguments["self"]
        layer = self._producer(source, _RECTIFIED)
        if layer is None:
            raise InputError(
                f"network {self.name}: relu ({node.name}) does not follow a convolution or a linear layer directly",
                hint="it may also follow the sum of two tensors",
            )
        assert isinstance(layer, _RECTIFIED)
        clips = [limit for limit in (layer.clip, clip) if limit is not None]
        fused = dataclasses.replace(layer, relu=True, clip=min(clips, default=None))
        # ReLU commutes with a max-pool that is already fused.
        return dataclasses.replace(self._replace(layer, fused), flattened=self.values[source].flattened)

    def _relu6(self, node: Node, arguments: dict[str, Any]) -> _Value:
        return self._relu(node, arguments, 6.0)

    def _hardtanh(self, node: Node, arguments: dict[str, Any]) -> _Value:
        return self._clamp(node, arguments | {"min": arguments["min_val"], "max": arguments["max_val"]})

    def _clamp(self, node: Node, arguments: dict[str, Any]) -> _Value:
        low, high = arguments["min"], arguments["max"]
        if low is None or float(low) != 0.0 or (high is not None and not float(high) > 0.0):
            raise InputError(f"network {self.name}: {node.name} clamps to [{low}, {high}]; only [0, x] is supported")
        return self._relu(node, arguments, None if high is None else float(high))

    def _add_tensors(self, node: Node, arguments: dict[str, Any]) -> _Value:
        if arguments.get("alpha", 1) != 1:
            raise InputError(f"network {self.name}: {node.name} scales what it adds, which is not supported")
        name = self._unique(self._module_path(node) or node.name)
        values = [self._input(arguments[key], name) for key in ("self", "other")]
        if values[0].flattened != values[1].flattened:
            raise InputError(f"network {self.name}: {node.name} adds a flattened tensor to one that is not")
        layer = Add(name, (values[0].tensor, values[1].tensor), name)
        return dataclasses.replace(self._add(layer), flattened=values[0].flattened)

    def _pad(self, node: Node, arguments: dict[str, Any]) -> _Value:
        value = self._input(arguments["self"], node.name, padded=True)
        pad, mode = list(arguments["pad"]), arguments.get("mode", "constant")
        amounts = [*pad, *[0] * (8 - len(pad))]
        if mode != "constant" or arguments.get("value") or any(amounts[4:]) or min(amounts) < 0 or value.flattened:
            raise InputError(
                f"network {self.name}: {node.name} does not pad an image with zeros, which is not supported"
            )
        left, right, top, bottom = amounts[:4]
        (above, below), (before, after) = value.padding
        padding = (above + top, below + bottom), (before + left, after + right)
        return dataclasses.replace(value, padding=padding)

    def _mean(self, node: Node, arguments: dict[str, Any]) -> _Value:
        name = self._unique(self._module_path(node) or node.name)
        value = self._input(arguments["self"], name)
        axes = sorted(axis % 4 for axis in arguments["dim"] or ())
        if value.flattened or len(self.shapes[value.tensor]) != 3 or axes != [2, 3]:
            raise InputError(f"network {self.name}: {node.name} is not a mean over rows and columns of an image")
        height, width, _ = self.shapes[value.tensor]
        pooled = self._add(AvgPool2d(name, (value.tensor,), name, Window((height, width), (height, width))))
        return dataclasses.replace(pooled, flattened=not arguments["keepdim"])

    def _batch_norm(self, node: Node, arguments: dict[str, Any]) -> _Value:
        layer = self._producer(arguments["input"], (Conv2d, DepthwiseConv2d, Linear))
        assert isinstance(layer, Conv2d | DepthwiseConv2d | Linear | None)
        if layer is None or layer.relu or (isinstance(layer, Conv2d) and layer.pool):
            raise InputError(f"network {self.name}: batch_norm ({node.name}) does not follow a convolution directly")
        if arguments["running_mean"] is None:
            raise InputError(f"network {self.name}: batch_norm ({node.name}) keeps no running statistics")
        mean = self._constant(arguments["running_mean"])[1].astype(np.float64)
        variance = self._constant(arguments["running_var"])[1].astype(np.float64)
        scale = 1 / np.sqrt(variance + arguments["eps"])
        if arguments["weight"] is not None:
            scale = scale * self._constant(arguments["weight"])[1]
        shift = self._constant(arguments["bias"])[1] if arguments["bias"] is not None else 0.0
        # Of a layer with two of them, the second one's statistics are of all before it.
        self.norms[layer.name] = BatchNorm(
            (mean - layer.bias) * scale, variance * scale**2, arguments["eps"] * scale**2
        )
        weight = layer.weight * scale.reshape(-1, *[1] * (layer.weight.ndim - 1))
        bias = (layer.bias - mean) * scale + shift
        folded = dataclasses.replace(layer, weight=weight.astype(np.float32), bias=bias.astype(np.float32))
        return self._replace(layer, folded)

    def _window(self, node: Node, arguments: dict[str, Any]) -> Window:
        kernel = _pair(arguments["kernel_size"])
        stride = _pair(arguments["stride"]) if arguments.get("stride") else kernel
        if arguments.get("ceil_mode"):
            raise InputError(f"network {self.name}: {node.name} has ceil_mode, which is not supported")
        return Window(kernel, stride, _pair(arguments["padding"]))

    def _max_pool2d(self, node: Node, arguments: dict[str, Any]) -> _Value:
        if _pair(arguments["dilation"]) != (1, 1):
            raise InputError(f"network {self.name}: {node.name} has dilation, which is not supported")
        window = self._window(node, arguments)
        layer = self._producer(arguments["self"], (Conv2d,))
        # Fused only where no convolution result is needed by two windows, so nothing is computed twice.
        separate = window.stride[0] >= window.kernel[0] and window.stride[1] >= window.kernel[1]
        if isinstance(layer, Conv2d) and layer.pool is None and separate and window.padding == (0, 0):
            return self._replace(layer, dataclasses.replace(layer, pool=window))
        name = self._unique(self._module_path(node) or node.name)
        return self._add(MaxPool2d(name, (self._input(arguments["self"], name).tensor,), name, window))

    def _avg_pool2d(self, node: Node, arguments: dict[str, Any]) -> _Value:
        if arguments.get("divisor_override"):
            raise InputError(f"network {self.name}: {node.name} has divisor_override, which is not supported")
        name = self._unique(self._module_path(node) or node.name)
        source = self._input(arguments["self"], name).tensor
        window = self._window(node, arguments)
        if window.padding != (0, 0):
            raise InputError(f"network {self.name}: {node.name} averages over padding, which is not supported")
        return self._add(AvgPool2d(name, (source,), name, window))

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
        return self._same(node, {"self": arguments.get("input", arguments.get("self"))})

    def _same(self, node: Node, arguments: dict[str, Any]) -> _Value:
        return self._input(arguments["self"], node.name, padded=True)


def _edges(padding: Any, kernel: tuple[int, ...]) -> tuple[tuple[int, int], tuple[int, int]]:
    """conv2d's padding argument as ((top, bottom), (left, right)); "same" puts the odd row or column at the end."""
    if padding == "same":
        (top, bottom), (left, right) = (((size - 1) // 2, size // 2) for size in kernel)
        return (top, bottom), (left, right)
    rows, columns = (0, 0) if padding == "valid" else _pair(padding)
    return (rows, rows), (columns, columns)


def _pair(value: Any) -> tuple[int, int]:
    """PyTorch's int-or-list as (height, width)."""
    if isinstance(value, int):
        return value, value
    first, *rest = value
    return int(first), int(rest[0] if rest else first)
