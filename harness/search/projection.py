"""From what an agent asks for to a policy that fits: the nearest one that keeps to the limits and fills them.

An action in [0, 1] asks for 2, 4 or 8 bits, a third of the range each. How far it is from another third's middle is
what that width costs; the widths of least total cost that fit are found exactly, as a small integer linear program.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import InternalError
from harness.search.memory_rule import UTILISATION
from harness.search.policy import WIDTHS
from harness.search.tensors import Limits, Table

# Bounds one program's search tree; the best policy found by then is taken. Programs of this size need a few hundred.
_NODES = 20_000
_ATTEMPTS = 4

Costs = Mapping[str, Sequence[float]]


def middle(bits: int) -> float:
    """The action that asks for `bits` most clearly."""
    return (WIDTHS.index(bits) + 0.5) / len(WIDTHS)


def wish(action: float) -> int:
    """The width that an action in [0, 1] asks for."""
    return WIDTHS[min(int(action * len(WIDTHS)), len(WIDTHS) - 1)]


class Projection:
    """Projects onto the policies of `table` within `limits`. InputError where none fits."""

    def __init__(self, table: Table, limits: Limits, *, weights_only: bool = False) -> None:
        table.demand(limits, weights_only=weights_only)
        self.table = table
        self.limits = limits
        self.weights_only = weights_only
        self._least_flash = 0
        if limits.flash is not None:
            # Where no policy comes close to the limit from below, the fullest one is asked for.
            bytes_of = {w.layer: [-float(w.bytes(bits)) for bits in WIDTHS] for w in table.weights}
            fullest = table.flash(_existing(self.cheapest_weights(bytes_of)))
            self._least_flash = min(fullest, int(UTILISATION * limits.flash))

    def fills(self, weights: Mapping[str, int]) -> bool:
        """Whether these widths use 99 % of the flash, or as much as any that fit."""
        return self.table.flash(weights) >= self._least_flash

    def project(
        self, weights: Mapping[str, float], activations: Mapping[str, float]
    ) -> tuple[dict[str, int], dict[str, int]]:
        """Widths of weights and of activations by layer, from an action in [0, 1] for each."""
        return self.weights(weights), self.activations(activations)

    def weights(self, actions: Mapping[str, float]) -> dict[str, int]:
        """The nearest widths of weights that fit into the flash and fill it."""
        wishes = {layer: wish(action) for layer, action in actions.items()}
        if self.limits.flash is None or (self.fills(wishes) and self.table.flash(wishes) <= self.limits.flash):
            return wishes
        return _existing(self.cheapest_weights(_distances(actions)))

    def activations(self, actions: Mapping[str, float]) -> dict[str, int]:
        """The nearest widths of activations that fit into the RAM; then all are raised that can be."""
        if self.weights_only or self.limits.ram is None:
            return self.table.uniform(WIDTHS[-1])[1]
        widths = {layer: wish(action) for layer, action in actions.items()}
        if self.table.ram(widths) > self.limits.ram:
            widths = self.cheapest_activations(_distances(actions))
        return self._raised(widths, actions)

    def cheapest_weights(self, costs: Costs, other_than: Sequence[Mapping[str, int]] = ()) -> dict[str, int] | None:
        """The widths of weights of least total cost that fit and fill; costs: by layer, for 2, 4 and 8 bits.

        other_than: widths that are not wanted. None where there are no others.
        """
        layers = [tensor.layer for tensor in self.table.weights]
        rows = [np.array([[tensor.bytes(bits) for bits in WIDTHS] for tensor in self.table.weights], float)]
        most = np.inf if self.limits.flash is None else self.limits.flash - self.table.parameter_bytes
        least = self._least_flash - self.table.parameter_bytes
        least_bytes, most_bytes = [float(least)], [float(most)]
        for widths in other_than:
            rows.append(np.array([[float(widths[layer] == bits) for bits in WIDTHS] for layer in layers]))
            least_bytes.append(-np.inf)
            most_bytes.append(len(layers) - 1.0)
        return _cheapest(layers, costs, rows, least_bytes, most_bytes)

    def crowded(self) -> tuple[str, ...]:
        """The layers whose activations cannot all have 8 bits, in order: all others may, whatever these have."""
        widest = self.table.uniform(WIDTHS[-1])[1]
        if self.weights_only or self.limits.ram is None:
            return ()
        live = {
            tensor.layer
            for step in self.table.steps
            if step.bytes(widest) > self.limits.ram
            for tensor in step.live
            if tensor.layer is not None
        }
        return tuple(layer for layer in self.table.activations if layer in live)

    def cheapest_activations(self, costs: Costs) -> dict[str, int]:
        """The widths of activations of least total cost that fit; costs: by layer, for 2, 4 and 8 bits.

        Layers without costs get 8 bits.
        """
        layers = [layer for layer in self.table.activations if layer in costs]
        widest = self.table.uniform(WIDTHS[-1])[1]
        if not layers:
            return widest
        place = {layer: index for index, layer in enumerate(layers)}
        rows, least, most = [], [], []
        for step in self.table.steps:
            row = np.zeros((len(layers), len(WIDTHS)))
            fixed = 0
            for tensor in step.live:
                if tensor.layer is None or tensor.layer not in place:
                    fixed += tensor.bytes(widest)
                else:
                    row[place[tensor.layer]] += [tensor.bytes({tensor.layer: bits}) for bits in WIDTHS]
            rows.append(row)
            least.append(-np.inf)
            most.append(np.inf if self.limits.ram is None else float(self.limits.ram - fixed))
        return widest | _existing(_cheapest(layers, costs, rows, least, most))

    def _raised(self, widths: dict[str, int], actions: Mapping[str, float]) -> dict[str, int]:
        """More bits for activations, those first that asked for most, as long as the RAM lasts: they cost no flash."""
        widths = dict(widths)
        assert self.limits.ram is not None
        for layer in sorted(widths, key=lambda name: -actions[name]):
            for bits in WIDTHS[WIDTHS.index(widths[layer]) + 1 :]:
                if self.table.ram({**widths, layer: bits}) <= self.limits.ram:
                    widths[layer] = bits
        return widths


def _distances(actions: Mapping[str, float]) -> dict[str, list[float]]:
    return {layer: [abs(action - middle(bits)) for bits in WIDTHS] for layer, action in actions.items()}


def _cheapest(
    layers: Sequence[str],
    costs: Costs,
    rows: Sequence[NDArray[Any]],
    least: Sequence[float],
    most: Sequence[float],
) -> dict[str, int] | None:
    """One width per layer at least total cost, with least <= sum(row at the widths) <= most for every row.

    None where there is no such choice.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    count, widths = len(layers), len(WIDTHS)
    choice = LinearConstraint(np.kron(np.eye(count), np.ones(widths)), 1, 1)
    matrix = np.stack([row.ravel() for row in rows])
    lower, upper = np.array(least), np.array(most)
    for _ in range(_ATTEMPTS):
        solved = milp(
            np.array([costs[layer] for layer in layers], float).ravel(),
            constraints=[choice, LinearConstraint(matrix, lower, upper)],
            integrality=np.ones(count * widths),
            bounds=Bounds(0, 1),
            options={"node_limit": _NODES, "mip_rel_gap": 0},
        )
        if solved.x is None:
            return None
        chosen = solved.x.reshape(count, widths).argmax(axis=1)
        # HiGHS takes 1e-6 of a choice for none, which may be bytes.
        bytes_used = matrix @ np.eye(widths)[chosen].ravel()
        if (bytes_used <= np.array(most)).all():
            return {layer: WIDTHS[index] for layer, index in zip(layers, chosen, strict=True)}
        upper = upper - np.maximum(bytes_used - np.array(most), 0)
    raise InternalError("the widths that were found do not keep to their limits")


def _existing(widths: dict[str, int] | None) -> dict[str, int]:
    """`widths`, which exist: that some fit was checked before."""
    if widths is None:
        raise InternalError("no widths were found although some fit")
    return widths
