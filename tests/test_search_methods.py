"""The search for bit widths: fast evaluation against the exact reference, projection, environment, and the methods."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st
from search_networks import mobilenet_v1, small
from torch import nn

from harness import sizes
from harness.compress.deep import checkpoint
from harness.compress.deep.qat import deterministic
from harness.compress.quantize import quantize
from harness.data import digits
from harness.data.base import Dataset
from harness.errors import InputError
from harness.graph.graph import Graph
from harness.graph.trace import trace
from harness.progress import Advance, Reporter, Silent
from harness.search import evaluate, filling, ilp, memory_rule, methods, plot, projection, rl
from harness.search.environment import STATE, QuantizationEnv
from harness.search.evaluate import Evaluator
from harness.search.policy import Policy
from harness.search.projection import Projection
from harness.search.tensors import Limits, Table, Weights, table


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return digits.load()


@pytest.fixture(scope="module")
def network() -> Graph:
    return small()


@pytest.fixture(scope="module")
def evaluator(network: Graph, dataset: Dataset) -> Evaluator:
    return Evaluator(network, dataset)


def limits_of(network: Graph) -> Limits:
    """Limits that 8 bits do not meet, and 2 do with room to spare."""
    tensors = table(network)
    (wide, wide_activations), (_, narrow) = tensors.uniform(8), tensors.uniform(2)
    ram = (tensors.ram(wide_activations) + tensors.ram(narrow)) // 2
    return Limits(tensors.parameter_bytes + tensors.weight_bytes(wide) // 2, ram)


# ---- fast evaluation


def test_the_fast_evaluation_agrees_with_the_exact_integers(
    network: Graph, dataset: Dataset, evaluator: Evaluator
) -> None:
    assert evaluator.float_score() > 0.85
    draws = np.random.RandomState(1)
    tensors = evaluator.table
    policies = [tensors.uniform(bits) for bits in (8, 4, 2)]
    for _ in range(6):
        policies.append(
            (
                {w.layer: int(draws.choice([2, 4, 8])) for w in tensors.weights},
                {layer: int(draws.choice([2, 4, 8])) for layer in tensors.activations},
            )
        )
    scores = set()
    for weights, activations in policies:
        integers = evaluate.quantized(network, dataset, tensors.policy(weights, activations, method="test"))
        for layer in integers.layers:
            if layer.name in weights:
                assert layer.weight_bits == weights[layer.name]
                low, high = {8: (-127, 127), 4: (-8, 7), 2: (-2, 1)}[layer.weight_bits]
                assert low <= layer.weight.min() and layer.weight.max() <= high
            if layer.name in activations:
                assert integers.tensors[layer.output].bits == activations[layer.name]
        fast, exact = evaluator.score(weights, activations), evaluate.exact_score(integers, dataset)
        # Of 179 images: float32 may round single activations to the other side.
        assert abs(fast - exact) <= 2.5 / evaluator.images
        scores.add(exact)
        tensor = integers.input_tensor
        *_, (_, outputs) = integers.run(dataset.validation.x[:32])
        assert tensor.dtype == "uint8" and integers.output.scale is not None
        logits = evaluator.logits(weights, activations, 32).numpy()
        found = outputs.reshape(32, -1) * integers.output.scale
        assert np.corrcoef(found.ravel(), logits.ravel())[0, 1] > 0.99
    assert len(scores) > 2


def test_scores_are_kept_and_found_again(
    network: Graph, dataset: Dataset, evaluator: Evaluator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Evaluator(network, dataset, cache_dir=tmp_path)
    weights, activations = first.table.uniform(4)
    score = first.score(weights, activations)
    (journal,) = (tmp_path / "search").iterdir()
    assert len(journal.read_text().splitlines()) == 1
    with journal.open("a") as file:
        file.write("[[8, 8")  # an interruption
    again = Evaluator(network, dataset, cache_dir=tmp_path)
    monkeypatch.setattr(again, "logits", None)
    assert again.score(weights, activations) == score == evaluator.score(weights, activations)


def test_outputs_that_are_not_finite_stop_a_search(
    network: Graph, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Evaluator(network, dataset)
    whole, calls = broken.logits, itertools.count()

    def logits(*args: Any) -> torch.Tensor:
        return whole(*args) * (float("nan") if next(calls) == 1 else 1.0)

    monkeypatch.setattr(broken, "logits", logits)
    with pytest.raises(InputError, match="the outputs are not finite") as stopped:
        methods.search(
            network, dataset, limits_of(network), "random", episodes=20, cache_dir=tmp_path, evaluator=broken
        )
    kept = tmp_path / "search" / "small-last-good.json"
    assert str(kept) in str(stopped.value.hint)
    assert json.loads(kept.read_text())["score"] > 0


# ---- projection


@st.composite
def weight_tables(draw: st.DrawFn) -> Table:
    counts = draw(st.lists(st.tuples(st.integers(1, 5000), st.integers(1, 32)), min_size=1, max_size=5))
    full = mobilenet_v1(0.5, 96)
    return Table("t", tuple(Weights(f"l{i}", e, c) for i, (e, c) in enumerate(counts)), full.steps)


@settings(max_examples=40)
@given(weight_tables(), st.data())
def test_projection_finds_the_nearest_policy_that_fits_and_fills(network: Table, data: st.DataObject) -> None:
    narrow, wide = network.flash(network.uniform(2)[0]), network.flash(network.uniform(8)[0])
    flash = data.draw(st.integers(narrow, wide))
    actions = {w.layer: data.draw(st.floats(0, 1)) for w in network.weights}
    found = Projection(network, Limits(flash)).weights(actions)
    layers = list(actions)
    every = [dict(zip(layers, bits, strict=True)) for bits in itertools.product((2, 4, 8), repeat=len(layers))]
    within = [widths for widths in every if network.flash(widths) <= flash]
    fullest = max(network.flash(widths) for widths in within)
    legal = [w for w in within if network.flash(w) >= min(fullest, int(0.99 * flash))]
    assert found in legal
    asked = {layer: projection.wish(action) for layer, action in actions.items()}
    if asked in legal:
        assert found == asked
    else:

        def distance(widths: dict[str, int]) -> float:
            return sum(abs(actions[layer] - projection.middle(bits)) for layer, bits in widths.items())

        assert distance(found) == pytest.approx(min(map(distance, legal)), abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_policies_of_mobilenet_use_the_flash(seed: int) -> None:
    network = mobilenet_v1(1.0, 224)
    draws = np.random.RandomState(seed)
    limits = Limits(2_048_000, 512_000)
    project = Projection(network, limits).project
    weights, activations = project(
        {w.layer: draws.uniform() for w in network.weights}, {layer: draws.uniform() for layer in network.activations}
    )
    assert network.fits(weights, activations, limits)
    assert network.flash(weights) >= 0.99 * 2_048_000
    for layer, bits in activations.items():
        if bits < 8:
            assert network.ram({**activations, layer: bits * 2}) > 512_000


def test_a_network_that_fits_keeps_8_bits() -> None:
    network = mobilenet_v1(0.25 * 2, 96)
    zero = dict.fromkeys((w.layer for w in network.weights), 0.0)
    assert set(Projection(network, Limits(10**7)).weights(zero).values()) == {8}


# ---- the environment


def environment(network: Graph, evaluator: Evaluator, **options: Any) -> QuantizationEnv:
    return QuantizationEnv(network, limits_of(network), evaluator.score, baseline=evaluator.float_score(), **options)


def test_the_environment_keeps_gymnasiums_contract(network: Graph, evaluator: Evaluator) -> None:
    env = environment(network, evaluator)
    assert isinstance(env, gymnasium.Env)
    check_env(env, skip_render_check=True)


def test_an_episode_has_two_steps_per_layer_and_one_reward(network: Graph, evaluator: Evaluator) -> None:
    env = environment(network, evaluator)
    assert [(d.layer, d.kind) for d in env.decisions] == [
        ("conv", "weights"), ("conv", "activations"), ("dw", "weights"), ("dw", "activations"), ("pw", "weights"),
        ("pw", "activations"), ("add", "activations"), ("wide", "weights"), ("wide", "activations"),
        ("mean", "activations"), ("fc", "weights"),
    ]  # fmt: skip
    state, _ = env.reset()
    states, rewards = [state], []
    for step in range(len(env.decisions)):
        state, reward, done, truncated, info = env.step(np.array([0.5], np.float32))
        states.append(state)
        rewards.append(reward)
        assert done == (step == len(env.decisions) - 1) and not truncated
    columns = {name: [float(state[i]) for state in states[:-1]] for i, name in enumerate(STATE)}
    assert columns["last action"] == [1.0] + [0.5] * 10
    assert columns["depthwise"] == [0, 0, 1, 1] + [0] * 7
    assert columns["of weights"] == [1, 0, 1, 0, 1, 0, 0, 1, 0, 0, 1]
    assert columns["index"][0] == 0 and columns["index"][-1] == 1
    assert set(rewards[:-1]) == {0.0}
    assert rewards[-1] == pytest.approx(10 * (info["score"] - evaluator.float_score()))
    assert env.table.fits(info["weights"], info["activations"], limits_of(network))
    assert [d.kind for d in environment_weights_only(network, evaluator).decisions] == ["weights"] * 5


def environment_weights_only(network: Graph, evaluator: Evaluator) -> QuantizationEnv:
    flash_alone = Limits(limits_of(network).flash)
    return QuantizationEnv(network, flash_alone, evaluator.score, baseline=0.9, weights_only=True)


def test_episodes_of_the_rules_actions_start_from_its_policies(network: Graph, evaluator: Evaluator) -> None:
    env = environment(network, evaluator)
    limits = limits_of(network)
    filled, published = (memory_rule.find(env.table, limits, fill=fill) for fill in (True, False))
    asked = [env.policy(actions) for actions in env.rules()]
    assert asked[0] == (dict(filled.weights), dict(filled.activations))
    weights, activations = asked[-1]
    assert env.table.fits(weights, activations, limits)
    assert all(activations[layer] >= bits for layer, bits in published.activations.items())
    moved = sum(weights[layer] != bits for layer, bits in published.weights.items())
    assert moved == 0 or env.table.flash(published.weights) < 0.99 * limits.flash
    everything = QuantizationEnv(network, Limits(10**6, 10**6), evaluator.score, baseline=0.9)
    assert len(everything.rules()) == 1


# ---- the methods


@pytest.mark.parametrize("method", methods.METHODS)
def test_every_method_finds_a_policy_that_fits(
    method: str, network: Graph, dataset: Dataset, evaluator: Evaluator
) -> None:
    limits = limits_of(network)
    found = methods.search(network, dataset, limits, method, episodes=24, seed=3, evaluator=evaluator)
    policy = found.policy
    assert policy.method == {"memory-rule": "memory-rule-filled"}.get(method, method) and policy.network == "small"
    assert evaluator.table.fits(policy.weights, policy.activations, limits)
    assert policy.bytes == evaluator.table.flash(policy.weights)
    assert policy.score == evaluate.exact_score(evaluate.quantized(network, dataset, policy), dataset)
    assert policy.bytes >= 0.99 * limits.flash
    if method in ("rl", "random"):
        assert len(found.history) == 24 and found.evaluations == 25
        assert abs(max(found.history) - policy.score) <= 2.5 / evaluator.images
        again = methods.search(network, dataset, limits, method, episodes=24, seed=3, evaluator=evaluator)
        assert again.history == found.history and again.policy == policy
        other = methods.search(network, dataset, limits, method, episodes=24, seed=4, evaluator=evaluator)
        assert other.history != found.history


def test_rl_begins_with_the_rule_and_draws_during_the_warm_up(
    network: Graph, dataset: Dataset, evaluator: Evaluator
) -> None:
    limits = limits_of(network)
    env = environment(network, evaluator)
    found = methods.search(network, dataset, limits, "rl", episodes=3, evaluator=evaluator)
    ruled = [evaluator.score(*env.policy(actions)) for actions in env.rules()]
    assert list(found.history[: len(ruled)]) == ruled


def test_an_rl_search_that_stops_goes_on_as_if_it_had_not(
    network: Graph, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same policy, journal of scores and agent; also where a search for more episodes follows."""
    limits, episodes = limits_of(network), 36

    class Stop(Exception):
        pass

    class Stopping(Silent):
        @contextmanager
        def stage(self, text: str) -> Iterator[Advance]:
            def advance(fraction: float) -> None:
                if text.startswith("rl") and fraction > 0.9:
                    raise Stop

            yield advance

    def run(folder: str, episodes: int, reporter: Reporter | None = None) -> methods.Found:
        cache = tmp_path / folder
        return methods.search(
            network, dataset, limits, "rl", episodes=episodes, images=60, cache_dir=cache, reporter=reporter
        )

    whole = run("whole", episodes)
    with pytest.raises(Stop):
        run("parts", episodes, Stopping())
    (kept,) = (tmp_path / "parts").rglob("*-rl-*.safetensors")
    assert len(checkpoint.load(kept)[1]["episodes"]) == 30
    shorter = run("longer", 25)
    assert shorter.history == whole.history[:25]
    trained: list[int] = []
    step = rl._Agent.train
    monkeypatch.setattr(
        rl._Agent, "train", lambda agent, *rest, **options: (trained.append(1), step(agent, *rest, **options))
    )
    for folder, learnt in (("parts", 6), ("longer", 11)):
        trained.clear()
        again = run(folder, episodes)
        assert again.history == whole.history and again.policy == whole.policy
        assert len(trained) == learnt
        files = {path.name: path for path in (tmp_path / folder / "search").iterdir()}
        for path in (tmp_path / "whole" / "search").iterdir():
            if path.suffix == ".safetensors":
                assert_same_state(files[path.name], path)
            elif path.suffix == ".jsonl":
                assert files[path.name].read_bytes() == path.read_bytes()


def assert_same_state(one: Path, other: Path) -> None:
    (tensors, note), (other_tensors, other_note) = checkpoint.load(one), checkpoint.load(other)
    assert note == other_note and tensors.keys() == other_tensors.keys()
    assert [name for name, tensor in tensors.items() if not torch.equal(tensor, other_tensors[name])] == []


SMALL = rl.Settings(hidden=24, batch=16)

KILLED = """
import os, signal, sys
from pathlib import Path
import test_search_methods as own
from harness.search import rl
calls = [0]
def score(weights, activations):
    calls[0] += 1
    if calls[0] == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return own.toy_score(weights, activations)
rl.train(own.toy(score), 45, 3, lambda number, info: None, own.SMALL, checkpoint=Path(sys.argv[1]))
"""


def toy_score(weights: Any, activations: Any) -> float:
    """Something to learn that needs no network: wide layers at the end are good."""
    bits = [*weights.values(), *activations.values()]
    return float(sum(index * width for index, width in enumerate(bits)) / 8 / sum(range(len(bits))))


@cache
def toy_graph() -> Graph:
    return trace(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 6, 3), nn.Conv2d(6, 10, 4)), (8, 8, 1), "toy")


def toy(score: Any = toy_score) -> QuantizationEnv:
    graph = toy_graph()
    tensors = table(graph)
    limits = Limits(tensors.flash(tensors.uniform(4)[0]), tensors.ram(tensors.uniform(4)[1]))
    return QuantizationEnv(graph, limits, score, baseline=0.5)


def test_a_killed_agent_goes_on_exactly(tmp_path: Path) -> None:
    def episodes(file: Path, said: list[str], count: int = 45) -> list[dict[str, Any]]:
        told: list[dict[str, Any]] = []
        rl.train(toy(), count, 3, lambda number, info: told.append(info), SMALL, checkpoint=file, say=said.append)
        return [{name: info[name] for name in ("weights", "activations", "score")} for info in told]

    torch.manual_seed(0)
    said: list[str] = []
    with deterministic(1):
        expected = episodes(tmp_path / "whole.safetensors", said)
    killed = tmp_path / "killed.safetensors"
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(killed), "38"],
        cwd=Path(__file__).parent, timeout=120, check=False, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert [path.name for path in tmp_path.iterdir() if "killed" in path.name] == ["killed.safetensors"]
    assert len(checkpoint.load(killed)[1]["episodes"]) == 30
    with deterministic(1):
        assert episodes(killed, said) == expected and not said
    assert_same_state(killed, tmp_path / "whole.safetensors")
    # Damage, and another search's state, are said, and training starts over.
    content = killed.read_bytes()
    killed.write_bytes(content[:-9] + b"\x01" + content[-8:])
    with deterministic(1):
        assert episodes(killed, said, 4) == expected[:4]
        tensors, note = checkpoint.load(killed)
        checkpoint.save(killed, tensors, {**note, "made_by": {**note["made_by"], "seed": 4}})
        assert episodes(killed, said, 4) == expected[:4]
        del tensors["actor.mu.0.weight"]
        checkpoint.save(killed, tensors, note)
        assert episodes(killed, said, 4) == expected[:4]
    assert ["damaged" in said[0], "another search" in said[1], "mu.0.weight" in said[2]] == [True] * 3


def test_losses_that_are_not_finite_stop_the_agent_and_leave_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "agent.safetensors"
    told: list[int] = []
    samples = rl._EpisodeBuffer._get_samples

    def broken(self: Any, *arguments: Any, **options: Any) -> Any:
        found = samples(self, *arguments, **options)
        return found._replace(rewards=found.rewards * (float("nan") if len(told) > 33 else 1.0))

    monkeypatch.setattr(rl._EpisodeBuffer, "_get_samples", broken)
    with pytest.raises(InputError, match="losses are not finite any more after 34 episodes"):
        rl.train(toy(), 45, 3, lambda number, info: told.append(number), SMALL, checkpoint=file)
    tensors, note = checkpoint.load(file)
    assert len(told) == 34 and len(note["episodes"]) == 30
    assert all(bool(tensor.isfinite().all()) for tensor in tensors.values())


# ---- one policy's answers, the integer program, and filling


def test_answers_are_inferred_once_and_are_the_evaluators(evaluator: Evaluator) -> None:
    sample = (evaluator.evaluation_images - evaluator.images) // 2
    for widths in (evaluator.table.uniform(4), evaluator.table.uniform(8)):
        answers = evaluator.answers(*widths)
        # 8 bits lose nothing that biases had to make up for.
        free = 2 * sample if widths == evaluator.table.uniform(4) else 0
        assert (answers.weights, answers.activations) == widths and answers.inferred == free
        for images in (sample // 2, 150, 100, 10**6):
            assert answers.divergence(images) == pytest.approx(evaluator.divergence(*widths, images), abs=1e-3)
            least = evaluator.images - min(max(images, sample if free else 0, 150 if images == 100 else 0), 179)
            assert answers.missing == least
        assert answers.score() == pytest.approx(evaluator.score(*widths), abs=1.5 / evaluator.images)
        assert answers.inferred == (evaluator.evaluation_images - sample if free else evaluator.images)


def test_the_ilps_policy_has_the_least_sum_of_sensitivities(network: Graph, evaluator: Evaluator) -> None:
    limits = limits_of(network)
    project = Projection(evaluator.table, limits)
    measured = ilp.measure(evaluator, project)
    # Three evaluations, over 2 + 2 * (5 + 4) passes and at most 1 + 2 * 5 further ones.
    assert measured.passes == 20 and measured.images == 3 * evaluator.evaluation_images // 31
    assert tuple(measured.activations) == project.crowded() == ("conv", "dw", "pw", "add")
    for costs in (*measured.weights.values(), *measured.activations.values()):
        assert costs[0] > costs[1] > costs[2] == 0.0

    layers = [tensor.layer for tensor in evaluator.table.weights]
    every = [dict(zip(layers, bits, strict=True)) for bits in itertools.product((2, 4, 8), repeat=len(layers))]
    legal = [w for w in every if 0.99 * limits.flash <= evaluator.table.flash(w) <= limits.flash]

    def cost(sensitivities: ilp.Sensitivities, widths: dict[str, int]) -> float:
        return sum(sensitivities.weights[layer][(2, 4, 8).index(bits)] for layer, bits in widths.items())

    def checked(sensitivities: ilp.Sensitivities) -> list[tuple[dict[str, int], dict[str, int]]]:
        candidates = ilp.solve(sensitivities, project)
        sums = sorted(cost(sensitivities, widths) for widths in legal)
        assert [cost(sensitivities, found) for found, _ in candidates] == pytest.approx(sums[: len(candidates)])
        assert len(candidates) == min(16, len(legal))
        for weights, activations in candidates:
            assert evaluator.table.fits(weights, activations, limits) and activations == candidates[0][1]
            assert all(bits == 8 for layer, bits in activations.items() if layer not in measured.activations)
        return candidates

    first = checked(measured)[0]
    refined = ilp.refine(evaluator, measured, *first)
    # Two more passes for a layer of 4 bits, one for others, and that of the policy itself.
    assert refined.passes == 20 + 1 + sum(1 + (bits == 4) for bits in first[0].values())
    assert refined.activations == measured.activations and refined.images == measured.images
    candidates = [evaluator.answers(*widths) for widths in checked(refined)]
    best = ilp.nearest(candidates)
    divergences = [answers.divergence(256) for answers in best]
    assert len(best) == min(8, len(candidates)) and divergences == sorted(divergences)


def test_steps_around_a_policy_count_half(evaluator: Evaluator) -> None:
    weights, activations = evaluator.table.uniform(8)
    weights = dict(zip(weights, (8, 4, 2, 4, 8), strict=True))
    told = ilp.Sensitivities({layer: [0.5, 0.3, 0.0] for layer in weights}, {}, 60, 1)
    refined = ilp.refine(evaluator, told, weights, activations)
    corrected = evaluator.corrects(weights, activations)

    def at(layer: str, bits: int) -> float:
        return evaluator.divergence({**weights, layer: bits}, activations, 60, corrected=corrected)

    for layer, bits in weights.items():
        four = max(0.3 if bits == 2 else (0.3 + at(layer, 4) - at(layer, 8)) / 2, ilp.LEAST_STEP)
        two = four + max(0.2 if bits == 8 else (0.2 + at(layer, 2) - at(layer, 4)) / 2, ilp.LEAST_STEP)
        assert refined.weights[layer] == pytest.approx([two, four, 0.0], abs=1e-6)
    assert refined.passes == 1 + 1 + 7


def test_the_ilp_takes_no_more_than_its_budget(evaluator: Evaluator) -> None:
    tensors, most = evaluator.table, ilp.BUDGET * evaluator.evaluation_images
    for share in (0.3, 0.52, 0.6, 0.84, 1.0):
        limits = Limits(tensors.parameter_bytes + int(share * 2304), limits_of(evaluator.graph).ram)
        found = ilp.find(evaluator, Projection(tensors, limits))
        assert tensors.fits(found.weights, found.activations, limits)
        assert found.images + evaluator.evaluation_images <= most
        assert ilp.find(evaluator, Projection(tensors, limits)) == found
    # 99 % of the limit would be enough, and some layers' 4 bits cost nothing on these images.
    wide = ilp.find(evaluator, Projection(tensors, Limits(tensors.flash(tensors.uniform(8)[0]), 10**6)))
    assert set(wide.weights.values()) | set(wide.activations.values()) == {8} and wide.evaluations == 0


def test_candidates_are_scored_where_the_budget_lasts(evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits(evaluator.table.parameter_bytes + int(0.92 * 2304))
    project = Projection(evaluator.table, limits)
    monkeypatch.setattr(ilp, "BUDGET", 30.0)
    found = ilp.find(evaluator, project)
    measured = ilp.measure(evaluator, project)
    ((weights, activations),) = ilp.solve(measured, project, count=1)
    candidates = ilp.solve(ilp.refine(evaluator, measured, weights, activations), project)
    best = ilp.nearest([evaluator.answers(*widths) for widths in candidates])
    assert found.evaluations == len(best) == 8 < len(candidates)
    assert evaluator.answers(found.weights, found.activations).score() == max(answers.score() for answers in best)


@pytest.mark.parametrize("share", [0.32, 0.36, 0.48, 0.52, 0.64, 0.84, 0.88, 1.0])
def test_filling_takes_the_way_that_is_best_on_calibration_images(
    share: float, network: Graph, dataset: Dataset, evaluator: Evaluator
) -> None:
    limits = Limits(evaluator.table.parameter_bytes + int(share * 2304), limits_of(network).ram)
    published, by_bytes = (memory_rule.find(evaluator.table, limits, fill=fill) for fill in (False, True))
    found = methods.search(network, dataset, limits, "memory-rule", evaluator=evaluator)
    policy = found.policy
    assert policy.method == "memory-rule-filled" and evaluator.table.fits(policy.weights, policy.activations, limits)
    assert found.evaluations == 1 and found.images <= evaluator.evaluation_images * (1 + filling.WAYS)

    def divergence(of: Policy) -> float:
        return evaluator.divergence(of.weights, of.activations, 256)

    assert Projection(evaluator.table, limits).fills(policy.weights)
    if policy.weights != published.weights:
        losses = memory_rule.losses(evaluator.table, published.weights)

        def lost(of: Policy) -> int:
            return sum(losses[layer][bits] for layer, bits in of.weights.items())

        assert lost(policy) >= lost(by_bytes) and divergence(policy) <= divergence(by_bytes) + 1e-3
    # Layers have to be narrowed, to widen a larger one: no way to fill is as near as what the rule left.
    if share in (0.36, 0.84):
        assert divergence(policy) > divergence(published) and policy.weights != published.weights
    else:
        assert divergence(policy) <= divergence(published) + 1e-3
    if share == 0.52:
        assert policy.bytes > published.bytes


def test_bad_requests_are_refused(network: Graph, dataset: Dataset) -> None:
    limits = limits_of(network)
    with pytest.raises(InputError, match="unknown method 'ilq'"):
        methods.search(network, dataset, limits, "ilq")
    with pytest.raises(InputError, match="scores policies on validation data, and small has none"):
        methods.search(network, None, limits, "rl")
    with pytest.raises(InputError, match="with 2 bits for every weight it takes"):
        methods.search(network, dataset, Limits(100), "rl")
    with pytest.raises(InputError, match="is quantised already"):
        methods.search(quantize(network, dataset.network_input(dataset.train.x[:8])), dataset, limits, "ilp")
    without = methods.search(network, None, limits, "memory-rule")
    assert without.policy.score is None and without.evaluations == 0


def test_plots_are_drawn(network: Graph, dataset: Dataset, evaluator: Evaluator) -> None:
    found = methods.search(network, dataset, limits_of(network), "random", episodes=3, evaluator=evaluator)
    for content in (plot.bits(found.policy), plot.curve(found.history, found.policy)):
        assert content.startswith(b"\x89PNG")
    assert methods.learning_curve([0.2, 0.1, 0.4]) == [0.2, 0.2, 0.4]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2048kB", 2_048_000),
        ("512 KiB", 524_288),
        ("1.5MB", 1_500_000),
        ("2MiB", 2_097_152),
        ("65536", 65_536),
        ("7B", 7),
    ],
)
def test_sizes(text: str, expected: int) -> None:
    assert sizes.parse(text) == expected


@pytest.mark.parametrize("text", ["", "kB", "-5", "5 parsecs", "0", "1e9", "5k"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        sizes.parse(text)
