"""Paper A's compression, run again on small data, and what ships of it for LeNet-5."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from harness import preparation
from harness.codegen.generate import generate
from harness.data.base import Dataset, Split, digest
from harness.errors import InputError
from harness.graph.graph import Graph, Tensor, build
from harness.graph.graph import load as load_graph
from harness.models import catalogue
from harness.ops.conv2d import Conv2d
from harness.ops.linear import Linear
from harness.ops.max_pool2d import Window
from harness.ops.paper_a import PaperAConv2d, PaperALinear
from harness.reproduce import paper_a


def shapes_dataset() -> Dataset:
    """Bright quarters of a noisy 8x8 image: four classes that anything learns."""
    random = np.random.RandomState(0)

    def split(count: int) -> Split:
        y = random.randint(0, 4, count)
        x = random.randint(0, 60, (count, 8, 8, 1))
        for image, label in zip(x, y, strict=True):
            image[4 * (label // 2) : 4 * (label // 2) + 4, 4 * (label % 2) : 4 * (label % 2) + 4] += 120
        return Split(x.astype(np.uint8), y.astype(np.int64))

    splits = (split(3_000), split(500), split(500))
    return Dataset("quarters", *splits, 1 / 255, 0, "made here", digest(*splits))


def network() -> Graph:
    random = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return random.normal(0, 0.2, shape).astype(np.float32)

    pool = Window((2, 2), (2, 2))
    layers = (
        Conv2d("conv", ("input",), "conv", normal(6, 3, 3, 1), normal(6), relu=True, pool=pool),
        Linear("fc1", ("conv",), "fc1", normal(16, 54), normal(16), relu=True),
        Linear("fc2", ("fc1",), "fc2", normal(4, 16), normal(4)),
    )
    shapes = {"conv": (3, 3, 6), "fc1": (16,), "fc2": (4,)}
    tensors = {name: Tensor(name, shape, "float32") for name, shape in shapes.items()}
    return build("quarters", Tensor("input", (8, 8, 1), "float32"), layers, tensors)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Several threads are slower than one on networks this small, and slower still beside other tests."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def compressed() -> tuple[paper_a.Compressed, Dataset]:
    dataset = shapes_dataset()
    return paper_a.compress(network(), dataset), dataset


def test_one_sparsity_for_all_layers_within_a_point_of_the_dense_network(
    compressed: tuple[paper_a.Compressed, Dataset],
) -> None:
    result, dataset = compressed
    assert result.pruned >= result.dense - paper_a.TOLERATED_LOSS
    assert result.sparsity >= 0.5
    for layer in result.graph.layers:
        assert isinstance(layer, PaperAConv2d | PaperALinear)
        kept = layer.weight.size - int(layer.weight.size * result.sparsity)
        # Truncation may take some more of what pruning left.
        assert 0.5 * kept <= np.count_nonzero(layer.weight) <= kept
    right = (result.graph.infer(dataset.test.x).argmax(axis=1) == dataset.test.y).mean()
    assert right >= result.pruned - 0.03


def test_the_same_seed_gives_the_same_integers(compressed: tuple[paper_a.Compressed, Dataset]) -> None:
    result, dataset = compressed
    again = paper_a.compress(network(), dataset)
    assert again.graph.sha256() == result.graph.sha256()


def test_the_integers_mean_what_the_floats_did(compressed: tuple[paper_a.Compressed, Dataset]) -> None:
    """The quantised scores are near those of a float network, whose planar flattening must have been followed."""
    _, dataset = compressed
    graph = network()
    images = dataset.network_input(dataset.train.x)
    integers = paper_a.quantize(graph, images, dataset.input_scale, dataset.input_zero_point)
    expected = graph.infer(images[:200])
    got = (
        integers.infer(dataset.train.x[:200]).astype(np.float64) - integers.output.zero_point
    ) * integers.output.scale
    assert np.abs(got - expected).max() < 0.05 * (expected.max() - expected.min())


@pytest.mark.parametrize("change", [{"relu": False}, {"stride": (2, 2)}, {"pool": Window((2, 2), (1, 1))}])
def test_what_the_paper_cannot_express_is_refused(change: dict[str, object]) -> None:
    graph = network()
    changed = dataclasses.replace(graph, layers=(dataclasses.replace(graph.layers[0], **change), *graph.layers[1:]))
    with pytest.raises(InputError, match="layer conv"):
        paper_a.compress(changed, shapes_dataset())


def test_a_search_that_finds_nothing_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paper_a, "TOLERATED_LOSS", -1.0)  # more than perfect is asked for
    monkeypatch.setattr(paper_a, "SMALLEST_STEP", 0.2)
    with pytest.raises(InputError, match="no sparsity keeps its accuracy"):
        paper_a.compress(network(), shapes_dataset())


def test_the_shipped_lenet5_is_the_papers() -> None:
    """papers.md: sparsity 0.910, entries per layer 14 / 216 / 4270 / 904 / 76, about 12 kB, activations 2.2 kB."""
    graph, metadata = load_graph(preparation.artefact_path("lenet5", "paper-a"))
    entry = catalogue.entry("lenet5")
    assert entry.weights_path is not None
    entries = [len(layer.stream()[0]) for layer in graph.layers]
    assert entries == pytest.approx([14, 216, 4270, 904, 76], rel=0.08)
    generated = generate(graph, variant="paper-a", core="cortex-m4")
    assert 11_500 < sum(layer.weight_bytes for layer in generated.layers) < 12_500
    assert generated.activation_bytes < 2_400
    assert float(metadata["test_accuracy"]) > 0.975
