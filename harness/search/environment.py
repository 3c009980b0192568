"""The search as a Gymnasium environment: one episode names the widths of all tensors, and its policy's score is told.

Two steps per layer, weights and then activations, as HAQ has them (arXiv 1811.08886). The agent sees ten numbers about
the tensor whose turn it is and answers with one in [0, 1]; after the last, the answers are projected onto the limits.
Any agent for Gymnasium environments with a Box of actions can be trained on it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium
import numpy as np
from numpy.typing import NDArray

from harness.graph.graph import Graph
from harness.ops.base import Operator
from harness.search.memory_rule import find as memory_rule
from harness.search.projection import Projection, middle
from harness.search.tensors import Limits, Widths, table

# Of HAQ: the reward per percentage point of accuracy gained against the float network.
REWARD_PER_POINT = 0.1

# What an agent sees. The last action is the only number that changes from episode to episode.
STATE = (
    "depthwise",
    "input channels",
    "output channels",
    "stride",
    "kernel",
    "weights",
    "input pixels",
    "index",
    "last action",
    "of weights",
)
_LAST_ACTION = STATE.index("last action")

Observation = NDArray[np.float32]
Action = NDArray[np.float32]


@dataclass(frozen=True)
class Decision:
    """One step of an episode."""

    layer: str
    kind: Literal["weights", "activations"]


class QuantizationEnv(gymnasium.Env[Observation, Action]):
    """Chooses the widths of `graph`'s tensors within `limits`.

    score: the accuracy (a fraction, on validation data) of widths of weights and of activations by layer;
    baseline: the accuracy that rewards are relative to. With weights_only, activations keep 8 bits and have no steps.

    Observations: 10 numbers in [0, 1], see STATE. Actions: (1,) in [0, 1]; thirds of it ask for 2, 4 and 8 bits.
    The reward comes with an episode's last step, 0.1 per percentage point, and is 0 before. The last step's info has
    the policy: {"weights": {layer: bits}, "activations": {layer: bits}, "score": fraction}.
    InputError where no policy fits into the limits.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (Gymnasium declares it so)

    def __init__(
        self,
        graph: Graph,
        limits: Limits,
        score: Callable[[Widths, Widths], float],
        *,
        baseline: float,
        weights_only: bool = False,
    ) -> None:
        self.table = table(graph)
        self.projection = Projection(self.table, limits, weights_only=weights_only)
        self.decisions = _decisions(graph, self.table.activations, weights_only=weights_only)
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (len(STATE),), np.float32)
        self.action_space = gymnasium.spaces.Box(0.0, 1.0, (1,), np.float32)
        self._score = score
        self._baseline = baseline
        self._states = _states(graph, self.decisions)
        self._actions: list[float] = []

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begins an episode; nothing in it is random."""
        super().reset(seed=seed)
        self._actions = []
        return self._observation(), {}

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """One tensor's wish; the last one's projects, scores and rewards."""
        self._actions.append(float(np.clip(np.asarray(action).reshape(()), 0.0, 1.0)))
        if len(self._actions) < len(self.decisions):
            return self._observation(), 0.0, False, False, {}
        weights, activations = self.policy(self._actions)
        score = self._score(weights, activations)
        reward = REWARD_PER_POINT * 100 * (score - self._baseline)
        info = {"weights": weights, "activations": activations, "score": score}
        return self._states[-1].copy(), reward, True, False, info

    def policy(self, actions: Sequence[float]) -> tuple[dict[str, int], dict[str, int]]:
        """Widths of weights and of activations by layer that an episode with these actions ends in."""
        asked: dict[str, dict[str, float]] = {"weights": {}, "activations": {}}
        for decision, action in zip(self.decisions, actions, strict=True):
            asked[decision.kind][decision.layer] = action
        return self.projection.project(asked["weights"], asked["activations"])

    def rules(self) -> list[list[float]]:
        """Actions that ask for the memory-driven rule's policies, filled and as published: first episodes not bad.

        Where the published one leaves flash unused its projection is neither.
        """
        episodes: list[list[float]] = []
        for fill in (True, False):
            found = memory_rule(
                self.table, self.projection.limits, weights_only=self.projection.weights_only, fill=fill
            )
            widths = {"weights": found.weights, "activations": found.activations}
            asked = np.array(
                [middle(widths[decision.kind][decision.layer]) for decision in self.decisions],
                self.action_space.dtype,
            )
            actions = [float(action) for action in asked]
            if actions not in episodes:
                episodes.append(actions)
        return episodes

    def _observation(self) -> Observation:
        state: Observation = self._states[len(self._actions)].copy()
        state[_LAST_ACTION] = self._actions[-1] if self._actions else 1.0
        return state


def _decisions(graph: Graph, free: Sequence[str], *, weights_only: bool) -> tuple[Decision, ...]:
    found = []
    for layer in graph.layers:
        if "weight" in layer.parameters:
            found.append(Decision(layer.name, "weights"))
        if layer.name in free and not weights_only:
            found.append(Decision(layer.name, "activations"))
    return tuple(found)


def _states(graph: Graph, decisions: Sequence[Decision]) -> Observation:
    """(decisions, 10) float32, every column from 0 to 1 over the network; the last action's is filled in later."""
    layers = {layer.name: (index, layer) for index, layer in enumerate(graph.layers)}
    rows = []
    for decision in decisions:
        index, layer = layers[decision.layer]
        rows.append([*_features(graph, layer), float(index), 0.0, float(decision.kind == "weights")])
    raw = np.array(rows, np.float64)
    low, high = raw.min(axis=0), raw.max(axis=0)
    # A column without two values says nothing.
    scaled = np.where(high > low, (raw - low) / np.where(high > low, high - low, 1.0), 0.0)
    states: Observation = scaled.astype(np.float32)
    return states


def _features(graph: Graph, layer: Operator) -> list[float]:
    """Depthwise flag, channels in and out, stride, kernel, weights, pixels of the input."""
    source, target = graph.tensors[layer.inputs[0]].shape, graph.tensors[layer.output].shape
    window = getattr(layer, "window", None)
    stride = window.stride if window is not None else getattr(layer, "stride", (1, 1))
    weight = layer.parameters.get("weight")
    kernel = 1
    if window is not None:
        kernel = window.kernel[0]
    elif weight is not None and weight.ndim > 2:
        kernel = weight.shape[1]
    return [
        float(layer.kind == "depthwise_conv2d"),
        float(source[-1]),
        float(target[-1]),
        float(stride[0]),
        float(kernel),
        float(0 if weight is None else weight.size),
        float(np.prod(source[:-1])) if len(source) > 1 else 1.0,
    ]
