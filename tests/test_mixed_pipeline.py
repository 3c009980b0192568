"""Mixed precision end to end: runs with a policy, networks without weights, inputs that RAM has no room for twice."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from firmware_images import INPUT, compile_host, on_pty, reference
from rich.console import Console

from harness import boards
from harness.cli.verify import _spec
from harness.codegen.generate import GeneratedLayer, generate
from harness.compress.quantize import quantize
from harness.errors import InputError
from harness.graph.graph import Graph
from harness.models import resolve
from harness.ops.lowering import default_storage
from harness.pipeline import RunSpec, link, run
from harness.preparation import Compression, prepare
from harness.progress import Silent
from harness.report import text
from harness.search import policy as policies
from harness.search import tensors
from harness.search.policy import Policy
from harness.toolchain import compiler

needs_host = pytest.mark.skipif(compiler.find_host() is None, reason="no host compiler")
needs_arm = pytest.mark.skipif(compiler.find_arm() is None, reason="no arm-none-eabi-gcc")


def policy_of(
    network: str, weights: tuple[int, ...] = (4, 8, 2), activations: tuple[int, ...] = (8, 4, 8, 2)
) -> Policy:
    """Widths in turns."""
    source = resolve.source(network, None)
    assert source.entry is not None
    graph, _ = resolve.float_graph(source, source.entry.input_shape)
    return Policy(
        network,
        {layer: weights[i % len(weights)] for i, layer in enumerate(policies.weighted_layers(graph))},
        {layer: activations[i % len(activations)] for i, layer in enumerate(policies.activation_layers(graph))},
    )


@needs_host
def test_a_run_with_a_policy(tmp_path: Path) -> None:
    path = tmp_path / "a policy.json"
    policy_of("ds-cnn").write(path)
    outcome = run(RunSpec("ds-cnn", "mps2-an386", "mixed", engine="host", samples=2, repeat=1, policy=path))
    result = outcome.result
    assert outcome.verdict is None and result.bit_exact is True
    assert result.weights == "random" and result.plain()["weights"] == "random"
    assert result.accuracy.device is None and result.accuracy.host is None and result.accuracy.fp32 is None
    assert result.accuracy.dataset == "random-images"
    options = result.fingerprint.options or {}
    assert "policy" not in options and len(str(options["policy_sha256"])) == 64
    # The record holds the policy's checksum: whoever repeats the run names the file, and no other.
    assert _spec(result, None, {"policy": path}).policy == path
    other = tmp_path / "other.json"
    policy_of("ds-cnn", (8,)).write(other)
    for wrong in (None, other):
        with pytest.raises(InputError, match="was made under a policy with SHA-256"):
            _spec(result, None, {"policy": wrong})
    console = Console(width=120, file=io.StringIO())
    console.print(text.result(result))
    assert "the weights are random" in console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("variant", "content", "words"),
    [
        ("mixed", None, "variant mixed needs a policy"),
        ("int8", {}, "variant int8 takes no policy"),
        ("mixed", {"network": "lenet5"}, "is of network lenet5"),
        ("mixed", {"weights": {"conv": 3}}, "3 bits"),
        ("mixed", {"weights": {"nothing": 8}}, "'nothing'"),
        ("mixed", {"activations": {}}, "lack layer conv"),
        ("mixed", {"method": 3}, "method is 3"),
    ],
)
def test_what_is_wrong_with_a_policy_is_said(
    tmp_path: Path, variant: str, content: dict[str, object] | None, words: str
) -> None:
    path = tmp_path / "policy.json"
    path.write_text(json.dumps(policy_of("ds-cnn").to_json() | (content or {})))
    spec = RunSpec("ds-cnn", "mps2-an386", variant, engine="host", policy=path if content is not None else None)
    with pytest.raises(InputError, match=words):
        prepare(spec.model, spec.compression)


def test_weights_drawn_at_random_are_the_same_every_time() -> None:
    source = resolve.source("ds-cnn", None)
    first, digest = resolve.float_graph(source, (49, 10, 1))
    again = resolve._trace(source, (49, 10, 1))
    assert first.sha256() == again.sha256() and len(digest) == 64
    assert not source.trained
    assert np.unique(first.infer(np.random.RandomState(0).rand(4, 49, 10, 1).astype(np.float32))[:, 0]).size == 4


@pytest.mark.parametrize("variant", ["deep", "paper-a"])
def test_nothing_is_chosen_by_the_accuracy_of_random_weights(variant: str) -> None:
    with pytest.raises(InputError, match="ships without weights"):
        prepare("ds-cnn", Compression(variant))


def test_deep_compression_says_which_networks_it_knows() -> None:
    with pytest.raises(InputError, match=r"layer stack1 \(add\+relu\): deep compression knows chains"):
        prepare("resnet8", Compression("deep", sparsity=0.5))


@pytest.mark.parametrize("network", ["ds-cnn", "resnet8"])
def test_memory_is_what_is_alive_and_a_little_scratch(network: str) -> None:
    """The arena is no larger than the tensors that are alive at once, rows in words, and one layer's scratch."""
    policy = policy_of(network)
    source = resolve.source(network, None)
    assert source.entry is not None
    graph, _ = resolve.float_graph(source, source.entry.input_shape)
    noise = np.random.RandomState(0).standard_normal((2, *source.entry.input_shape)).astype(np.float32)
    integers = quantize(graph, noise, policy=policy)
    generated = generate(integers, variant="mixed", core="cortex-m7")
    alive = tensors.table(graph).ram(policy.activations)
    assert generated.activation_bytes <= 1.02 * alive + max(_scratch(integers, layer) for layer in generated.layers)


def _scratch(graph: Graph, layer: GeneratedLayer) -> int:
    """Bytes beside a layer's inputs and output."""
    operator = graph.layers[layer.index]
    stored = [graph.tensors[name] for name in (*operator.inputs, operator.output)]
    return layer.activation_bytes - sum(default_storage(one.dtype, one.bits).size(one.shape) for one in stored)


@needs_host
def test_a_board_without_room_for_two_inputs_is_sent_it_anew(tmp_path: Path) -> None:
    """The firmware's own protocol.c, built without a second copy of the input; the network consumes its own."""
    with on_pty(compile_host(tmp_path / "firmware", staging=False)) as (line, _):
        assert line.ask("ticks 1") == ["e-[no input loaded]"]
        line.load(INPUT)
        for several in ("ticks 2", "infer 1 1", "infer 2 0", "infer"):
            assert line.ask(several) == ["e-[an inference consumes the input: load it for each]"]
        expected = reference(INPUT)
        assert len(line.ask("ticks 1")) == 3
        assert line.ask("crc") == ["e-[no input loaded]"]
        line.load(INPUT)
        assert line.ask("results") == ["e-[no inference yet]"]
        assert line.ask("infer 1 0")[-1].startswith("m-results-[")
        line.load(INPUT)
        crcs = [answer for answer in line.ask("crc") if answer.startswith("m-layer-crc")]
        assert len(crcs) == len(expected.crcs)
        assert all(f"{crc:08x}" in answer for crc, answer in zip(expected.crcs, crcs, strict=True))
        line.load(INPUT)
        assert len(line.ask("layers")) == 3


GOLDEN_WEIGHTS = tuple(map(int, "8888888888888848484848884822"))
GOLDEN_ACTIVATIONS = tuple(map(int, "442844488" + "8" * 19))


@pytest.mark.slow
@needs_arm
def test_the_published_policy_of_mobilenet_links() -> None:
    """arXiv 1905.13082's policy for 2,048 kB of flash and 512 kB of RAM, on a board with as much."""
    policy = policy_of("mobilenet-v1-1.0-224", GOLDEN_WEIGHTS, GOLDEN_ACTIVATIONS)
    prepared = prepare("mobilenet-v1-1.0-224", Compression("mixed", policy=policy))
    board = boards.load("generic-m7-2mb")
    footprint = link(prepared.graph, "mixed", board, Silent())
    assert footprint.flash.total <= board.region("flash").length and footprint.ram.total <= board.region("ram").length
    # In and out of the widest layer, and a block of 96 pixels of 256 channels in between.
    generated = generate(prepared.graph, variant="mixed", core=board.core)
    assert generated.activation_bytes <= 401_408 + 25_000


@pytest.mark.slow
@needs_arm
@pytest.mark.skipif(shutil.which("qemu-system-arm") is None, reason="no qemu-system-arm")
@pytest.mark.parametrize("board", ["mps2-an386", "mps2-an500"])
def test_a_board_runs_every_width(board: str, tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    policy_of("ds-cnn").write(path)
    outcome = run(RunSpec("ds-cnn", board, "mixed", engine="qemu", samples=1, repeat=1, policy=path))
    assert outcome.verdict is None and outcome.result.bit_exact is True
