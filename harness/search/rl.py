"""Deep deterministic policy gradients on the search's environment, with HAQ's hyperparameters (arXiv 1811.08886).

The agent is stable-baselines3's; what HAQ does differently is added: every step of an episode gets the episode's
reward, minus a moving average; exploration is truncated normal around the actor's answer; actor and critic learn at
rates of their own. The warm-up's first episodes ask for the memory-driven rule's policies, the others draw at random.

Checkpoints hold all that the next episode depends on, so that a search that was stopped, in whatever way, goes on as if
it never had been.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3 import DDPG
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback

from harness.compress.deep import checkpoint as checkpoint_file
from harness.errors import InputError
from harness.search.environment import QuantizationEnv

# Episodes between two checkpoints: one takes less than a tenth of a second, and what is lost costs no inference again.
CHECKPOINT_EPISODES = 10


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


def train(
    env: QuantizationEnv,
    episodes: int,
    seed: int,
    told: Told,
    settings: Settings | None = None,
    *,
    checkpoint: Path | None = None,
    say: Callable[[str], None] | None = None,
) -> None:
    """Trains an agent for `episodes` episodes; after each, `told` gets its number and the last step's info.

    The same seed and scores give the same episodes, and the first ones do not depend on how many follow. One torch
    thread is fastest, networks of this size are small.
    checkpoint: a file for the agent's state, written every few episodes and at the end. Where it is there, training
    goes on from it, and `told` gets the episodes before from it as well; what cannot be used is said to `say`, and
    training starts over.
    InputError where the agent's losses stop being finite; what was told before stays good, and so does the checkpoint.
    """
    settings = settings or Settings()
    steps = len(env.decisions)
    agent, past = _new(env, seed, settings), []
    if checkpoint is not None:
        try:
            if (kept := checkpoint_file.load(checkpoint)) is not None:
                past = agent.restore(*kept)
        except (ValueError, KeyError, TypeError, RuntimeError) as error:
            if say is not None:
                say(f"the agent starts over, because its checkpoint could not be used: {error}")
            # What was restored before the error must not stay.
            agent, past = _new(env, seed, settings), []
    for number, info in enumerate(past[:episodes], 1):
        told(number, info)
    if len(past) < episodes:
        watch = _Watch(told, past, checkpoint)
        agent.learn((episodes - len(past)) * steps, callback=watch, reset_num_timesteps=False)
        watch.save()


def _new(env: QuantizationEnv, seed: int, settings: Settings) -> _Agent:
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
    agent.explore(env, seed, settings)
    return agent


class _EpisodeBuffer(ReplayBuffer):
    """Gives every step of an episode the reward of its last; samples are relative to a moving average of rewards."""

    _ARRAYS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")

    def __init__(self, *args: Any, average: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._rate = average
        self._average: float | None = None
        self._episode: list[int] = []

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """The steps in the buffer, and what else there is to keep, between two episodes."""
        filled = self.buffer_size if self.full else self.pos
        tensors = {name: torch.from_numpy(getattr(self, name)[:filled]) for name in self._ARRAYS}
        return tensors, {"pos": self.pos, "full": self.full, "average": self._average}

    def restore(self, tensors: Mapping[str, torch.Tensor], note: Mapping[str, Any]) -> None:
        """The inverse of `state`. ValueError where the arrays are of another network."""
        filled = self.buffer_size if note["full"] else int(note["pos"])
        for name in self._ARRAYS:
            own, kept = getattr(self, name), tensors[name].numpy()
            if kept.shape != own[:filled].shape or kept.dtype != own.dtype:
                raise ValueError(f"its {name} are of another search")
            own[:filled] = kept
        self.pos, self.full = int(note["pos"]), bool(note["full"])
        self._average = None if note["average"] is None else float(note["average"])

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

    replay_buffer: _EpisodeBuffer

    def explore(self, env: QuantizationEnv, seed: int, settings: Settings) -> None:
        """How actions are found: the first episodes' are the memory-driven rule's."""
        self._settings = settings
        self._draws = np.random.RandomState(seed)
        self._first = env.rules()
        self._steps = len(env.decisions)
        self._layers = (
            [tensor.layer for tensor in env.table.weights],
            list(env.table.activations),
        )
        versions = {name: importlib.metadata.version(name) for name in ("torch", "numpy", "stable-baselines3")}
        self._made_by = {"seed": seed, "settings": dataclasses.asdict(settings), "versions": versions}
        self._networks = {
            "actor": self.actor,
            "actor_target": self.actor_target,
            "critic": self.critic,
            "critic_target": self.critic_target,
        }
        self._optimizers = {"actor": self.actor.optimizer, "critic": self.critic.optimizer}

    def state(self, past: list[dict[str, Any]]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """All that the next episode depends on, between two episodes; past: the infos of those before."""
        tensors: dict[str, torch.Tensor] = {}
        for name, network in self._networks.items():
            tensors |= {f"{name}.{key}": value for key, value in network.state_dict().items()}
        for name, optimizer in self._optimizers.items():
            for index, moments in optimizer.state_dict()["state"].items():
                tensors |= {f"{name}_optimizer.{index}.{key}": value for key, value in moments.items()}
        steps, counters = self.replay_buffer.state()
        tensors |= {f"buffer.{key}": value for key, value in steps.items()}
        tensors["random.torch"] = torch.get_rng_state()
        generators = {}
        # The buffer draws its samples from NumPy's own generator, exploration from another.
        for name, state in (("numpy", np.random.get_state()), ("exploration", self._draws.get_state())):
            _, keys, position, has_gauss, gauss = state
            tensors[f"random.{name}"] = torch.from_numpy(np.asarray(keys).astype(np.int64))
            generators[name] = [int(position), int(has_gauss), float(gauss)]
        weights, activations = self._layers
        note = {
            "made_by": self._made_by,
            "layers": [weights, activations],
            "buffer": counters,
            "random": generators,
            "updates": self._n_updates,
            "episodes": [
                [
                    [info["weights"][layer] for layer in weights],
                    [info["activations"][layer] for layer in activations],
                    info["score"],
                ]
                for info in past
            ],
        }
        return tensors, note

    def restore(self, tensors: dict[str, torch.Tensor], note: dict[str, Any]) -> list[dict[str, Any]]:
        """The inverse of `state`: returns the past episodes' infos.

        ValueError, KeyError, TypeError or RuntimeError where the state is another search's; the agent is then unusable.
        """
        if note["made_by"] != self._made_by or note["layers"] != list(self._layers):
            raise ValueError("it is of another search, or of other versions")
        past = [
            {
                "weights": dict(zip(self._layers[0], weights, strict=True)),
                "activations": dict(zip(self._layers[1], activations, strict=True)),
                "score": float(score),
            }
            for weights, activations, score in note["episodes"]
        ]
        for name, network in self._networks.items():
            network.load_state_dict(_part(tensors, name))
        for name, optimizer in self._optimizers.items():
            moments: dict[int, dict[str, torch.Tensor]] = {}
            for key, value in _part(tensors, f"{name}_optimizer").items():
                index, _, kind = key.partition(".")
                moments.setdefault(int(index), {})[kind] = value
            optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
        self.replay_buffer.restore(_part(tensors, "buffer"), note["buffer"])
        self.num_timesteps, self._episode_num = len(past) * self._steps, len(past)
        self._n_updates = int(note["updates"])
        torch.set_rng_state(tensors["random.torch"])
        for name, set_state in (("numpy", np.random.set_state), ("exploration", self._draws.set_state)):
            keys = tensors[f"random.{name}"].numpy().astype(np.uint32)
            set_state(("MT19937", keys, *note["random"][name]))
        return past

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """Learns; InputError where a loss was not finite: it leaves nothing finite behind."""
        super().train(gradient_steps, batch_size)
        for network in (self.actor, self.critic):
            if not all(bool(parameter.isfinite().all()) for parameter in network.parameters()):
                raise InputError(
                    f"the agent's losses are not finite any more after {self._episode_num} episodes",
                    hint="the best policy so far is kept; another --seed, or fewer --episodes",
                )

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
        episode, step = divmod(self.num_timesteps, self._steps)
        if episode < len(self._first):
            action = self._first[episode][step]
        elif self.num_timesteps < learning_starts:
            action = self._draws.uniform()
        else:
            assert self._last_obs is not None
            answer = float(self.predict(self._last_obs, deterministic=True)[0].reshape(()))
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


def _part(tensors: Mapping[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    """The tensors called `name`.something, without that prefix."""
    return {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}


class _Watch(BaseCallback):
    """Tells of finished episodes, and writes checkpoints between them. past: the infos of all episodes so far."""

    model: _Agent

    def __init__(self, told: Told, past: list[dict[str, Any]], checkpoint: Path | None) -> None:
        super().__init__()
        self._told = told
        self._past = past
        self._checkpoint = checkpoint
        self._saved = len(past)

    def _on_rollout_start(self) -> None:
        # Here the agent has learnt from the episode before, and begun nothing new.
        if len(self._past) - self._saved >= CHECKPOINT_EPISODES:
            self.save()

    def _on_step(self) -> bool:
        if self.locals["dones"][0]:
            self._past.append(self.locals["infos"][0])
            self._told(len(self._past), self._past[-1])
        return True

    def save(self) -> None:
        """Writes the checkpoint, whole or not at all."""
        if self._checkpoint is not None:
            checkpoint_file.save(self._checkpoint, *self.model.state(self._past))
        self._saved = len(self._past)
