"""Tracing: what a PyTorch network becomes, and what is refused with a name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from harness.errors import InputError
from harness.graph import graph as graph_file
from harness.graph.trace import trace
from harness.ops.avg_pool2d import AvgPool2d
from harness.ops.conv2d import Conv2d
from harness.ops.linear import Linear
from harness.ops.max_pool2d import MaxPool2d


def randomized(module: nn.Module) -> nn.Module:
    """The module with seeded weights and BatchNorm statistics that are not the trivial ones."""
    generator = torch.Generator().manual_seed(7)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean = torch.randn(layer.running_mean.shape, generator=generator)
            layer.running_var = torch.rand(layer.running_var.shape, generator=generator) + 0.5
    return module.eval()


def outputs(module: nn.Module, x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return module(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()


NETWORKS: dict[str, tuple[Callable[[], nn.Module], list[str]]] = {
    "relu and max-pool are fused": (
        lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(196, 3)),
        ["conv2d+relu+max_pool2d", "linear"],
    ),
    "a max-pool before its relu is fused too": (
        lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(196, 3)),
        ["conv2d+relu+max_pool2d", "linear"],
    ),
    "batch norm is folded": (
        lambda: nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2)),
        ["conv2d+relu", "avg_pool2d"],
    ),
    "overlapping windows stay a layer": (
        lambda: nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2)),
        ["conv2d+relu", "max_pool2d"],
    ),
    "stride, padding, dropout and adaptive pooling": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Dropout(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4, 6),
            nn.ReLU(),
            nn.Linear(6, 3),
        ),
        ["conv2d+relu", "avg_pool2d", "linear+relu", "linear"],
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_trace_computes_what_the_network_computes(name: str) -> None:
    factory, labels = NETWORKS[name]
    module = randomized(factory())
    graph = trace(module, (16, 16, 2), "net")
    assert [layer.label for layer in graph.layers] == labels
    x = np.random.default_rng(3).random((5, 16, 16, 2), dtype=np.float32)
    got, expected = graph.infer(x), outputs(module, x)
    if got.ndim == 4:
        got = got.transpose(0, 3, 1, 2)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_flatten_reorders_the_columns_of_the_next_layer() -> None:
    module = randomized(nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(3 * 14 * 14, 4)))
    linear = trace(module, (16, 16, 2), "net").layers[1]
    assert isinstance(linear, Linear)
    original = module[2].weight.detach().numpy()
    # Column (row 1, column 2, channel 0) here is (channel 0, row 1, column 2) there.
    assert (linear.weight[:, (1 * 14 + 2) * 3] == original[:, 1 * 14 + 2]).all()


class Functional(nn.Module):
    """A network with an operator that nothing here supports."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.conv(x)).tanh()


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (Functional(), "operator sigmoid"),
        (nn.Sequential(nn.Conv2d(2, 4, 3, groups=2)), "groups"),
        (nn.Sequential(nn.Conv2d(2, 4, 3, dilation=2)), "dilation"),
        (nn.Sequential(nn.ReLU(), nn.Conv2d(2, 4, 3)), "relu"),
        (nn.Sequential(nn.Conv2d(3, 4, 3)), "cannot be traced"),
        (nn.Sequential(nn.Conv2d(2, 4, 3), nn.AvgPool2d(3, 2, padding=1)), "padding"),
    ],
)
def test_the_first_unsupported_operator_is_named(module: nn.Module, words: str) -> None:
    with pytest.raises(InputError, match=words):
        trace(module, (16, 16, 2), "net")


@pytest.mark.parametrize("last", [nn.Softmax(1), nn.LogSoftmax(1), nn.Sigmoid()])
def test_what_a_classifier_ends_with_is_to_be_left_out(last: nn.Module) -> None:
    with pytest.raises(InputError) as caught:
        trace(nn.Sequential(nn.Flatten(), nn.Linear(8, 4), last), (2, 2, 2), "net")
    assert "the largest score stays the largest" in (caught.value.hint or "")
    with pytest.raises(InputError) as caught:
        trace(nn.Sequential(nn.Flatten(), nn.Linear(8, 4), last, nn.Linear(4, 4)), (2, 2, 2), "net")
    assert "supported:" in (caught.value.hint or "")


def test_weights_that_are_not_finite_are_named() -> None:
    module = nn.Sequential(nn.Conv2d(2, 4, 3))
    module[0].weight.data[1, 0, 2, 2] = float("nan")
    with pytest.raises(InputError, match=r"0\.weight"):
        trace(module, (16, 16, 2), "net")


def test_a_graph_file_gives_back_the_same_graph(tmp_path: Path) -> None:
    module = randomized(NETWORKS["overlapping windows stay a layer"][0]())
    graph = trace(module, (16, 16, 2), "net")
    path = tmp_path / "a folder" / "net.safetensors"
    graph_file.save(graph, path, {"note": "kept"})
    again, metadata = graph_file.load(path)
    assert metadata == {"note": "kept"}
    assert again.sha256() == graph.sha256()
    assert isinstance(again.layers[0], Conv2d) and isinstance(again.layers[1], MaxPool2d)


@pytest.mark.parametrize("damage", ["truncate", "garbage", "structure", "missing"])
def test_a_damaged_graph_file_is_refused(tmp_path: Path, damage: str) -> None:
    from safetensors.numpy import save_file

    path = tmp_path / "net.safetensors"
    graph_file.save(trace(randomized(NETWORKS["batch norm is folded"][0]()), (16, 16, 2), "net"), path, {})
    content = path.read_bytes()
    if damage == "truncate":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "garbage":
        path.write_bytes(b"\xff" * 100)
    elif damage == "structure":
        save_file({"a": np.zeros(2)}, path, {"graph": '{"format": 1, "layers": [{"kind": "exec"}]}'})
    else:
        path.unlink()
    with pytest.raises(InputError):
        graph_file.load(path)


def test_average_pooling_is_one_layer_with_one_window() -> None:
    layer = trace(nn.Sequential(nn.Conv2d(2, 4, 3), nn.AdaptiveAvgPool2d((2, 7))), (16, 16, 2), "net").layers[1]
    assert isinstance(layer, AvgPool2d) and layer.window.kernel == (7, 2)
