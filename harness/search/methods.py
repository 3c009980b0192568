"""One search from a float network to a policy, by any of the methods; interrupted ones go on where they stopped."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import HarnessError, InputError, unknown_name
from harness.files import write_whole
from harness.search import memory_rule
from harness.search.policy import Policy
from harness.search.tensors import Limits, table

if TYPE_CHECKING:
    from harness.data.base import Dataset
    from harness.graph.graph import Graph
    from harness.progress import Reporter
    from harness.search.evaluate import Evaluator

METHODS = ("memory-rule", "rl", "ilp", "random")
# Changes whenever the same options shall no longer mean the same policy.
_VERSION = 2

# Episodes of rl and random, as in HAQ.
EPISODES = 600


@dataclass(frozen=True, eq=False)
class Found:
    """The result of a search. policy: with its exact score, where there are data.

    history: the score of every episode's policy (rl, random), as a fraction, by the fast evaluation.
    evaluations: policies that were scored, repeated ones and the last, exact evaluation included.
    images: inferred for all of it, sensitivities included: what methods are compared by.
    float_score: of the float network on the same images. seconds: wall clock, without quantising the network first.
    """

    policy: Policy
    history: tuple[float, ...] = ()
    evaluations: int = 0
    images: int = 0
    float_score: float | None = None
    seconds: float = 0.0


def search(
    graph: Graph,
    dataset: Dataset | None,
    limits: Limits,
    method: str,
    *,
    episodes: int = EPISODES,
    seed: int = 0,
    weights_only: bool = False,
    fill: bool = True,
    images: int | None = None,
    cache_dir: Path | None = None,
    reporter: Reporter | None = None,
    evaluator: Evaluator | None = None,
) -> Found:
    """A policy for the float `graph` within `limits`.

    fill: memory-rule uses what the rule as published leaves; the other methods always fill the flash.

    dataset: its validation split scores policies; None is enough for memory-rule, which then reports no score.
    images: validation images of a score, 2,000 unless the split has fewer. cache_dir: scores are kept there, which
    no other search of the same network infers again, checkpoints of rl's agent, from which a search that was
    interrupted goes on, and finished searches. evaluator: used again between searches of one network.
    InputError where nothing fits, for unknown methods, and where outputs or the agent's losses stop being finite: the
    hint then says where the best policy until then is.
    """
    from harness.progress import Silent

    if method not in METHODS:
        raise unknown_name("method", method, METHODS)
    if episodes < 1:
        raise InputError(f"cannot search for {episodes} episodes")
    if graph.integer:
        raise InputError(f"network {graph.name} is quantised already: the search starts from the float network")
    tensors = table(graph)
    tensors.demand(limits, weights_only=weights_only)
    reporter = reporter or Silent()
    if dataset is None:
        if method != "memory-rule":
            raise InputError(
                f"method {method} scores policies on validation data, and {graph.name} has none",
                hint="--method memory-rule needs no data; or give your own --weights and --data",
            )
        return Found(memory_rule.find(tensors, limits, weights_only=weights_only, fill=fill))
    from harness.compress.deep.qat import deterministic

    # The agent's networks are small: with two threads it takes seven times as long as with one.
    with deterministic(threads=1):
        return _scored(
            graph, dataset, limits, method, episodes, seed, weights_only, fill, images, cache_dir, reporter, evaluator
        )


def _scored(
    graph: Graph,
    dataset: Dataset,
    limits: Limits,
    method: str,
    episodes: int,
    seed: int,
    weights_only: bool,
    fill: bool,
    images: int | None,
    cache_dir: Path | None,
    reporter: Reporter,
    evaluator: Evaluator | None,
) -> Found:
    from harness.search import evaluate, filling, ilp

    images = images or evaluate.IMAGES
    if evaluator is None:
        with reporter.stage(f"quantising {graph.name} at 2, 4 and 8 bits"):
            evaluator = evaluate.Evaluator(graph, dataset, images=images, cache_dir=cache_dir)
    options: tuple[object, ...] = (_VERSION, method, limits, weights_only)
    if method in ("rl", "random"):
        options += (episodes, seed)
    elif method == "ilp":
        options += (ilp.VERSION,)
    else:
        options += (filling.VERSION,) if fill else (fill,)
    finished = None
    if cache_dir is not None:
        key = hashlib.sha256(repr((evaluator.digest, options)).encode()).hexdigest()
        finished = cache_dir / "search" / f"{graph.name}-{method}-{key[:24]}.json"
        if (kept := _kept(finished)) is not None:
            return kept
    start = time.perf_counter()
    tensors = evaluator.table
    history: list[float] = []
    evaluations, inferred = 1, evaluator.evaluation_images
    if method == "memory-rule":
        policy = memory_rule.find(tensors, limits, weights_only=weights_only)
        if fill:
            solution = filling.find(evaluator, limits, weights_only=weights_only)
            policy = tensors.policy(solution.weights, solution.activations, method=memory_rule.FILLED)
            inferred += solution.images
    elif method == "ilp":
        from harness.search.projection import Projection

        with reporter.stage(f"sensitivities of {graph.name}") as advance:
            solution = ilp.find(evaluator, Projection(tensors, limits, weights_only=weights_only), progress=advance)
        policy = tensors.policy(solution.weights, solution.activations, method=method, seed=seed)
        evaluations += solution.evaluations
        inferred += solution.images
    else:
        policy = _tried(graph, evaluator, limits, method, episodes, seed, weights_only, cache_dir, reporter, history)
        evaluations += len(history)
        inferred += len(history) * evaluator.evaluation_images
    with reporter.stage("exact evaluation"):
        exact = evaluate.exact_score(evaluate.quantized(graph, dataset, policy), dataset, evaluator.images)
    if not math.isfinite(exact):
        raise InputError(f"{graph.name}: the policy's score is not finite")
    found = Found(
        policy=dataclasses.replace(policy, score=exact),
        history=tuple(history),
        evaluations=evaluations,
        images=inferred,
        float_score=evaluator.float_score(),
        seconds=time.perf_counter() - start,
    )
    if finished is not None:
        note = {**dataclasses.asdict(found), "policy": found.policy.to_json()}
        write_whole(finished, json.dumps(note) + "\n")
    return found


def _kept(path: Path) -> Found | None:
    """The result of an equal search, or None where there is none, or it is damaged: then it is made again."""
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
        return Found(**{**note, "policy": Policy(**note["policy"]), "history": tuple(note["history"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _tried(
    graph: Graph,
    evaluator: Evaluator,
    limits: Limits,
    method: str,
    episodes: int,
    seed: int,
    weights_only: bool,
    cache_dir: Path | None,
    reporter: Reporter,
    history: list[float],
) -> Policy:
    """The best policy of many episodes; their scores go to `history`."""
    from harness.search import random_search, rl
    from harness.search.environment import QuantizationEnv

    env = QuantizationEnv(graph, limits, evaluator.score, baseline=evaluator.float_score(), weights_only=weights_only)
    best: dict[str, Any] = {}

    def told(episode: int, info: dict[str, Any]) -> None:
        history.append(info["score"])
        if not best or info["score"] > best["score"]:
            best.update(info)
        advance(episode / episodes)

    checkpoint = None
    if method == "rl" and cache_dir is not None:
        # Not of the number of episodes: a search for more of them goes on where a shorter one ended.
        key = hashlib.sha256(repr((_VERSION, evaluator.digest, limits, weights_only, seed)).encode()).hexdigest()
        checkpoint = cache_dir / "search" / f"{graph.name}-rl-{key[:24]}.safetensors"

    def policy() -> Policy:
        return env.table.policy(best["weights"], best["activations"], method=method, score=best["score"], seed=seed)

    with reporter.stage(f"{method}: {episodes} episodes on {graph.name}") as advance:
        try:
            if method == "rl":
                rl.train(env, episodes, seed, told, checkpoint=checkpoint, say=reporter.say)
            else:
                random_search.sample(env, episodes, seed, told)
        except HarnessError as error:
            if best and cache_dir is not None:
                kept = cache_dir / "search" / f"{graph.name}-last-good.json"
                policy().write(kept)
                error.hint = f"the best policy until then is in {kept}"
                if checkpoint is not None and checkpoint.exists():
                    error.hint += f", the agent's last good checkpoint in {checkpoint}"
            raise
    return policy()


def learning_curve(history: Sequence[float]) -> list[float]:
    """The best score so far after each episode."""
    best, curve = -math.inf, []
    for score in history:
        best = max(best, score)
        curve.append(best)
    return curve
