"""Weights on disk: what is accepted into a network, what is refused and how, and the files that ship."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from harness import data
from harness.compress.train import accuracy
from harness.data.base import Dataset
from harness.errors import InputError
from harness.models import catalogue

METADATA = {"dataset": "mnist", "seed": "7", "epochs": "60", "network": "lenet5"}


@pytest.fixture
def lenet5() -> torch.nn.Module:
    torch.manual_seed(0)
    return catalogue.build(catalogue.entry("lenet5"))


def state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(module: torch.nn.Module, expected: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, expected[name]) for name, tensor in module.state_dict().items())


# ---- the catalogue


def test_listing_imports_no_torch() -> None:
    code = (
        "import sys; from harness.models import catalogue;"
        "assert {'lenet5', 'cifar-net'} <= set(catalogue.names());"
        "[catalogue.entry(name).weights_path for name in catalogue.names()];"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


@pytest.mark.parametrize("name", catalogue.names())
def test_entry_tells_the_truth_about_its_network(name: str) -> None:
    entry = catalogue.entry(name)
    height, width, channels = entry.input_shape
    network = catalogue.build(entry).eval()
    with torch.no_grad():
        assert network(torch.rand(1, channels, height, width)).shape == (1, entry.classes)
    assert entry.dataset is None or entry.dataset in data.names()
    assert (entry.dataset is None) == (entry.recipe is None)


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        # 8-bit bytes of all weights, as arXiv 2008.05124's authors' tool prints them.
        ("mobilenet-v1-1.0-224", 4_209_088),
        ("mobilenet-v2-1.0-224", 3_469_760),
        ("mnasnet-b1-1.0-224", 4_344_392),
        # MLPerf Tiny's reference models: kernels of their layers.
        ("resnet8", 77_360),
        ("ds-cnn", 22_016),
        ("autoencoder", 264_192),
    ],
)
def test_published_networks_have_their_published_sizes(name: str, weights: int) -> None:
    parameters = catalogue.build(catalogue.entry(name)).named_parameters()
    assert sum(value.numel() for _, value in parameters if value.ndim > 1) == weights


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("mobilenet-v2-1.0-224", ("features.1.conv.0.0.weight", "features.18.1.running_var", "classifier.1.bias")),
        (
            "mnasnet-b1-1.0-224",
            ("layers.0.weight", "layers.8.0.layers.3.weight", "layers.14.weight", "classifier.1.bias"),
        ),
    ],
)
def test_state_dicts_have_torchvisions_names(name: str, keys: tuple[str, ...]) -> None:
    assert set(keys) <= set(catalogue.build(catalogue.entry(name)).state_dict())


def test_unknown_network_lists_the_nearest() -> None:
    with pytest.raises(InputError, match="unknown model 'lenet'") as caught:
        catalogue.entry("lenet")
    assert "lenet5" in (caught.value.hint or "")


def test_lenet5_is_the_network_of_the_papers(lenet5: torch.nn.Module) -> None:
    assert sum(parameter.numel() for parameter in lenet5.parameters()) == 61_706
    layers = ("conv1", "conv2", "fc1", "fc2", "fc3")
    assert list(lenet5.state_dict()) == [f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")]


# ---- the files that ship


@pytest.mark.parametrize("name", [name for name in catalogue.names() if catalogue.entry(name).weights])
def test_shipped_weights_fit_and_say_how_they_were_made(name: str) -> None:
    entry = catalogue.entry(name)
    assert entry.weights_path is not None
    catalogue.load_weights(catalogue.build(entry), entry.weights_path)
    metadata = catalogue.read_metadata(entry.weights_path)
    assert metadata["dataset"] == entry.dataset and entry.recipe is not None
    assert metadata["epochs"] == str(entry.recipe.epochs)
    assert {"seed", "test_accuracy", "torch"} <= set(metadata)


def test_shipped_lenet5_reads_993_of_1000_digits(lenet5: torch.nn.Module) -> None:
    entry = catalogue.entry("lenet5")
    dataset = configured_dataset("mnist")
    assert entry.weights_path is not None
    catalogue.load_weights(lenet5, entry.weights_path)
    reached = accuracy(lenet5, dataset, dataset.test)
    assert reached >= 0.993
    assert reached == pytest.approx(float(catalogue.read_metadata(entry.weights_path)["test_accuracy"]), abs=2e-4)


def configured_dataset(name: str) -> Dataset:
    """The dataset in $HARNESS_DATA; the test is skipped where it is not there, so that none waits for a network."""
    from harness.data import mnist

    configured = os.environ.get("HARNESS_DATA")
    if not configured or mnist.find([Path(configured)]) is None:
        pytest.skip(f"{name} is not in $HARNESS_DATA")
    return data.load(name)


# ---- round trips


def test_saved_weights_come_back_with_their_checksum(lenet5: torch.nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "a folder" / "w.safetensors"
    catalogue.save_weights(path, lenet5.state_dict(), METADATA)
    expected = state(lenet5)
    other = catalogue.build(catalogue.entry("lenet5"))
    assert not same(other, expected)
    assert catalogue.load_weights(other, path) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert same(other, expected)
    assert catalogue.read_metadata(path) == METADATA


def test_same_weights_are_the_same_file(lenet5: torch.nn.Module, tmp_path: Path) -> None:
    contents = set()
    for attempt in range(8):
        catalogue.save_weights(tmp_path / f"{attempt}.safetensors", lenet5.state_dict(), METADATA)
        contents.add((tmp_path / f"{attempt}.safetensors").read_bytes())
    assert len(contents) == 1


@pytest.mark.parametrize("suffix", [".pt", ".pth"])
def test_torch_state_dict_is_accepted(lenet5: torch.nn.Module, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    torch.save(lenet5.state_dict(), path)
    other = catalogue.build(catalogue.entry("lenet5"))
    catalogue.load_weights(other, path)
    assert same(other, state(lenet5))


def test_channels_of_zeros_are_legal(lenet5: torch.nn.Module, tmp_path: Path) -> None:
    tensors = state(lenet5)
    tensors["conv1.weight"][2] = 0
    tensors["fc1.weight"].zero_()
    save_file(tensors, tmp_path / "w.safetensors")
    catalogue.load_weights(lenet5, tmp_path / "w.safetensors")
    assert same(lenet5, tensors)


def test_half_precision_is_widened(lenet5: torch.nn.Module, tmp_path: Path) -> None:
    save_file({name: tensor.half() for name, tensor in state(lenet5).items()}, tmp_path / "w.safetensors")
    catalogue.load_weights(lenet5, tmp_path / "w.safetensors")
    assert lenet5.state_dict()["conv1.weight"].dtype == torch.float32


# ---- refusals


def without_first(tensors: dict[str, Any]) -> None:
    del tensors["conv1.weight"]


def with_another(tensors: dict[str, Any]) -> None:
    tensors["fc4.weight"] = torch.zeros(3)


def transposed(tensors: dict[str, Any]) -> None:
    tensors["fc2.weight"] = tensors["fc2.weight"].T.contiguous()


def not_a_number(tensors: dict[str, Any]) -> None:
    tensors["fc3.bias"][4] = float("nan")


def infinite(tensors: dict[str, Any]) -> None:
    tensors["conv2.weight"][0, 0, 0, 0] = float("-inf")


def integers(tensors: dict[str, Any]) -> None:
    tensors["conv1.bias"] = tensors["conv1.bias"].to(torch.int8)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (without_first, r"another network: conv1\.weight is missing$"),
        (with_another, r"another network: fc4\.weight is unexpected$"),
        (transposed, r"another network: fc2\.weight is 120 x 84, LeNet5 has 84 x 120"),
        (not_a_number, r"fc3\.bias holds NaN or infinite"),
        (infinite, r"conv2\.weight holds NaN or infinite"),
        (integers, r"conv1\.bias holds torch\.int8, LeNet5 has torch\.float32"),
    ],
)
def test_unfitting_tensors_are_named_and_nothing_is_loaded(
    lenet5: torch.nn.Module, tmp_path: Path, change: Any, complaint: str
) -> None:
    path = tmp_path / "w.safetensors"
    before = state(lenet5)
    tensors = {name: tensor + 1 for name, tensor in before.items()}
    change(tensors)
    save_file(tensors, path)
    with pytest.raises(InputError, match=complaint) as caught:
        catalogue.load_weights(lenet5, path)
    assert str(path) in caught.value.message
    assert same(lenet5, before)


def test_weights_of_another_catalogue_network(lenet5: torch.nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    catalogue.save_weights(path, catalogue.build(catalogue.entry("cifar-net")).state_dict(), {})
    with pytest.raises(
        InputError, match=r"fc1\.weight is missing \(and 5 more\), conv3\.bias is unexpected \(and 3 more\)"
    ):
        catalogue.load_weights(lenet5, path)


class Trap:
    """What a hostile file would hold: unpickling it writes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.target, "executed")


def test_hostile_pickle_is_not_executed(lenet5: torch.nn.Module, tmp_path: Path) -> None:
    torch.save({"conv1.weight": Trap(tmp_path / "proof")}, tmp_path / "w.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Trap(tmp_path / "proof")))
    for name in ("w.pt", "plain.pt"):
        with pytest.raises(InputError, match="more than tensors") as caught:
            catalogue.load_weights(lenet5, tmp_path / name)
        assert "weights_only" not in f"{caught.value.message} {caught.value.hint}"
    assert not (tmp_path / "proof").exists()


def torch_file(value: Any, *, keep: int | None = None) -> bytes:
    content = io.BytesIO()
    torch.save(value, content)
    return content.getvalue()[:keep]


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("w.safetensors", b"", "damaged"),
        ("w.safetensors", b"\xff" * 100, "damaged"),
        ("w.pt", b"", "damaged"),
        ("w.pt", b"\xff" * 100, "damaged"),
        ("w.pt", torch_file({"a": torch.ones(500)}, keep=1500), "damaged"),
        ("w.pt", torch_file({"a": torch.ones(500)}, keep=-10), "damaged"),
        ("w.pt", torch_file({"a": torch.ones(5)}).replace(b"\x80\x02}", b"\x80\x02a"), "damaged"),  # to no list
        ("w.pt", torch_file(torch.nn.Linear(2, 2)), "more than tensors"),
        ("w.pt", torch_file(torch.ones(3)), "no state dict"),
        ("w.pt", torch_file({"epoch": 3}), "no state dict"),
        ("w.onnx", b"", r"not \.safetensors"),
    ],
)
def test_unreadable_file_is_named(
    lenet5: torch.nn.Module, tmp_path: Path, name: str, content: bytes, complaint: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=complaint) as caught:
        catalogue.load_weights(lenet5, tmp_path / name)
    assert str(tmp_path / name) in caught.value.message and caught.value.hint


def test_safetensors_cut_short(lenet5: torch.nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    catalogue.save_weights(path, lenet5.state_dict(), METADATA)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="damaged"):
        catalogue.load_weights(lenet5, path)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(InputError, match="damaged"):
        catalogue.read_metadata(path)


def test_missing_file(lenet5: torch.nn.Module, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.safetensors cannot be read: No such file"):
        catalogue.load_weights(lenet5, tmp_path / "none.safetensors")
