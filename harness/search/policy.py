"""The policy: how many bits each weight and activation tensor of a network gets, and its JSON file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import json_file
from harness.errors import InputError, unknown_name
from harness.files import write_whole

if TYPE_CHECKING:
    from harness.graph.graph import Graph

# The widths that kernels exist for, ascending.
WIDTHS = (2, 4, 8)


@dataclass(frozen=True)
class Policy:
    """Bit widths by layer name, in layer order.

    weights: of every layer that has any. activations: of layers' outputs, from the first layer's on; without the last
    layer's (int32) and those of max-pools, which keep their input's width.
    bytes: weights and per-channel parameters in flash; peak_ram: bytes of the activations alive at once, at most; both
    by harness.search.tensors. score: top-1 accuracy on validation data as a fraction. None: not known.
    method, seed: how the policy was found.
    """

    network: str
    weights: Mapping[str, int]
    activations: Mapping[str, int]
    bytes: int | None = None
    peak_ram: int | None = None
    score: float | None = None
    method: str | None = None
    seed: int | None = None

    def to_json(self) -> dict[str, Any]:
        """As the file has it."""
        return {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}

    def write(self, path: Path) -> None:
        """Writes the file, whole or not at all; InputError where that is not possible."""
        write_whole(path, json.dumps(self.to_json(), indent=2) + "\n")

    def check(self, graph: Graph) -> None:
        """InputError unless the policy names exactly the tensors of `graph`, each with a width that exists."""
        if self.network != graph.name:
            raise InputError(
                f"the policy is of network {self.network}, not of {graph.name}",
                hint=f"harness search {graph.name} finds one",
            )
        _check_names("weights", self.weights, weighted_layers(graph), graph.name)
        _check_names("activations", self.activations, activation_layers(graph), graph.name)


def read(path: Path) -> Policy:
    """The policy in a file that `Policy.write` wrote, or a person. InputError names what is wrong with it.

    Widths are checked here; the tensors' names are by `Policy.check`, which needs the network.
    """
    try:
        raw = json_file.load(path)
    except json_file.Unusable as error:
        raise InputError(f"policy {path} cannot be read: {error}") from error
    if not isinstance(raw, dict):
        raise InputError(f"policy {path} is not a JSON object")
    known = {field.name for field in dataclasses.fields(Policy)}
    for name in raw.keys() - known:
        raise unknown_name(f"key of policy {path.name}", name, known)
    for name in ("network", "weights", "activations"):
        if name not in raw:
            raise InputError(f"policy {path} lacks the key {name}")
    if not isinstance(raw["network"], str):
        raise InputError(f"policy {path}: network is not a name")
    for name in ("weights", "activations"):
        _check_widths(path, name, raw[name])
    for name, kinds in (("bytes", int), ("peak_ram", int), ("score", (int, float)), ("method", str), ("seed", int)):
        value = raw.get(name)
        if value is not None and (not isinstance(value, kinds) or isinstance(value, bool)):
            raise InputError(f"policy {path}: {name} is {value!r}")
    return Policy(**raw)


def weighted_layers(graph: Graph) -> tuple[str, ...]:
    """The layers whose weights have a width of their own, in order."""
    return tuple(layer.name for layer in graph.layers if "weight" in layer.parameters)


def activation_layers(graph: Graph) -> tuple[str, ...]:
    """The layers whose output has a width of its own, in order."""
    return tuple(layer.name for layer in graph.layers[:-1] if layer.kind != "max_pool2d")


def uniform(graph: Graph, bits: int = 8) -> Policy:
    """The policy that gives every tensor of `graph` the same width."""
    return Policy(
        graph.name,
        dict.fromkeys(weighted_layers(graph), bits),
        dict.fromkeys(activation_layers(graph), bits),
        method="uniform",
    )


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value


def _check_widths(path: Path, name: str, found: Any) -> None:
    if not isinstance(found, dict):
        raise InputError(f"policy {path}: {name} is not an object of layers and widths")
    for layer, bits in found.items():
        if type(bits) is not int or bits not in WIDTHS:
            raise InputError(
                f"policy {path}: {name} of layer {layer} have {bits!r} bits",
                hint=f"widths are {', '.join(map(str, WIDTHS[:-1]))} and {WIDTHS[-1]}",
            )


def _check_names(what: str, given: Mapping[str, int], expected: Sequence[str], network: str) -> None:
    for layer, bits in given.items():
        if layer not in expected:
            error = unknown_name("layer", layer, expected)
            raise InputError(f"the policy's {what} name layer '{layer}', which {network} lacks", hint=error.hint)
        if bits not in WIDTHS:
            raise InputError(f"the policy's {what} give layer {layer} {bits} bits; widths are 2, 4 and 8")
    for layer in expected:
        if layer not in given:
            raise InputError(f"the policy's {what} lack layer {layer} of {network}")
