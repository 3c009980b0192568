"""Deep deterministic policy gradients on the search's environment, with HAQ's hyperparameters (arXiv 1811.08886).

The agent is stable-baselines3's; what HAQ does differently is added: every step of an episode gets the episode's
reward, minus a moving average; exploration is truncated normal around the actor's answer; actor and critic learn at
rates of their own. The warm-up's first episode asks for the memory-driven rule's policy, the others draw at random.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3 import DDPG
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback

from harness.errors import InputError
from harness.search.environment import QuantizationEnv


@dataclass(frozen=True)
class Settings:
    """The agent's hyperparameters; the defaults are HAQ's.

    hidden: units of both layers of actor and critic. sigma, decay: the exploration's deviation is sigma * decay**k in
    the k-th episode after the warm-up. buffer_episodes: how many of the last episodes are learned from.
    average: how fast the moving average of rewards follows.
    """

    hidden: int = 300
    actor_rate: float = 1e-4
    critic_rate: float = 1e-3
    tau: float = 0.01
    gamma: float = 1.0
    batch: int = 64
    warm_up: int = 20
    sigma: float = 0.5
    decay: float = 0.99
    buffer_episodes: int = 128
    average: float = 0.5


Told = Callable[[int, dict[str, Any]], None]


def train(env: QuantizationEnv, episodes: int, seed: int, told: Told, settings: Settings | None = None) -> None:
    """Trains a new agent for `episodes` episodes; after each, `told` gets its number and the last step's info.

    The same seed and scores give the same episodes. One torch thread is fastest, networks of this size are small.
    InputError where the agent's losses stop being finite; what was told before stays good.
    """
    settings = settings or Settings()
    steps = len(env.decisions)
    agent = _Agent(
        "MlpPolicy",
        env,
        learning_rate=settings.critic_rate,
        buffer_size=settings.buffer_episodes * steps,
        learning_starts=settings.warm_up * steps,
        batch_size=settings.batch,
        tau=settings.tau,
        gamma=settings.gamma,
        train_freq=(1, "episode"),
        gradient_steps=-1,
        replay_buffer_class=_EpisodeBuffer,
        replay_buffer_kwargs={"average": settings.average},
        policy_kwargs={"net_arch": [settings.hidden, settings.hidden]},
        device="cpu",
        seed=seed,
    )
    agent.explore(settings, np.random.RandomState(seed), env.rule())
    agent.learn(total_timesteps=episodes * steps, callback=_Watch(told))


class _EpisodeBuffer(ReplayBuffer):
    """Gives every step of an episode the reward of its last; samples are relative to a moving average of rewards."""

    def __init__(self, *args: Any, average: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._rate = average
        self._average: float | None = None
        self._episode: list[int] = []

    def add(
        self,
        obs: NDArray[Any],
        next_obs: NDArray[Any],
        action: NDArray[Any],
        reward: NDArray[Any],
        done: NDArray[Any],
        infos: list[dict[str, Any]],
    ) -> None:
        self._episode.append(self.pos)
        super().add(obs, next_obs, action, reward, done, infos)
        if done[0]:
            self.rewards[self._episode] = reward
            self._episode = []

    def _get_samples(self, batch_inds: NDArray[Any], env: Any = None) -> Any:
        samples = super()._get_samples(batch_inds, env)
        mean = float(samples.rewards.mean())
        self._average = mean if self._average is None else self._average + self._rate * (mean - self._average)
        return samples._replace(rewards=samples.rewards - self._average)


class _Agent(DDPG):
    """DDPG with two learning rates and HAQ's exploration."""

    def explore(self, settings: Settings, draws: np.random.RandomState, first: list[float]) -> None:
        """How actions are found. first: those of the first episode."""
        self._settings = settings
        self._draws = draws
        self._first = first

    def _update_learning_rate(self, optimizers: Any) -> None:
        for optimizer, rate in (
            (self.actor.optimizer, self._settings.actor_rate),
            (self.critic.optimizer, self._settings.critic_rate),
        ):
            for group in optimizer.param_groups:
                group["lr"] = rate

    def _sample_action(
        self, learning_starts: int, action_noise: Any = None, n_envs: int = 1
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        episode, step = divmod(self.num_timesteps, len(self._first))
        if episode == 0:
            action = self._first[step]
        elif self.num_timesteps < learning_starts:
            action = self._draws.uniform()
        else:
            assert self._last_obs is not None
            answer = float(self.predict(self._last_obs, deterministic=True)[0].reshape(()))
            if not np.isfinite(answer):
                raise InputError(
                    f"the agent's losses are not finite any more after {episode} episodes",
                    hint="the best policy so far is kept; another --seed, or fewer --episodes",
                )
            sigma = self._settings.sigma * self._settings.decay ** (episode - self._settings.warm_up)
            action = _truncated_normal(answer, sigma, self._draws)
        chosen = np.array([[action]], np.float32)
        return chosen, self.policy.scale_action(chosen)


def _truncated_normal(mean: float, sigma: float, draws: np.random.RandomState) -> float:
    """A normal number in [0, 1], by its distribution's inverse."""
    normal = NormalDist(mean, sigma)
    low, high = normal.cdf(0.0), normal.cdf(1.0)
    # The inverse is of the open interval, whose ends are drawn once in 2**53 times.
    place = min(max(low + (high - low) * draws.uniform(), 1e-12), 1 - 1e-12)
    return min(max(normal.inv_cdf(place), 0.0), 1.0)


class _Watch(BaseCallback):
    """Tells of finished episodes."""

    def __init__(self, told: Told) -> None:
        super().__init__()
        self._told = told
        self._episodes = 0

    def _on_step(self) -> bool:
        if self.locals["dones"][0]:
            self._episodes += 1
            self._told(self._episodes, self.locals["infos"][0])
        return True
