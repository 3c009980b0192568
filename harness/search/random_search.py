"""Policies drawn at random within the limits: the baseline that a search has to beat with as many evaluations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from harness.search.environment import QuantizationEnv


def sample(env: QuantizationEnv, episodes: int, seed: int, told: Callable[[int, dict[str, Any]], None]) -> None:
    """Episodes of uniform actions, projected as any agent's are; after each, `told` gets its number and info."""
    # RandomState, not default_rng: NumPy promises that its stream never changes between versions.
    draws = np.random.RandomState(seed)
    for episode in range(1, episodes + 1):
        env.reset()
        done = False
        while not done:
            _, _, done, _, info = env.step(draws.uniform(size=1).astype(np.float32))
        told(episode, info)
