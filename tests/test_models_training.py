"""Training: the same seed gives the same bits, the splits keep apart, and the caller's torch is left as it was."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from harness.compress.train import accuracy, train
from harness.data import digits
from harness.data.base import Dataset, Split
from harness.errors import InputError
from harness.models import catalogue

LENET5 = catalogue.entry("lenet5")


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return digits.load()


def limited(dataset: Dataset, count: int) -> Dataset:
    train_split = Split(dataset.train.x[:count], dataset.train.y[:count])
    return dataclasses.replace(dataset, train=train_split)


def test_seed_decides_every_bit(dataset: Dataset) -> None:
    small = limited(dataset, 600)
    first, again, other = (train(LENET5, small, seed=seed, epochs=1, threads=1) for seed in (3, 3, 4))
    assert list(first.state_dict) == list(again.state_dict)
    assert all(torch.equal(first.state_dict[name], again.state_dict[name]) for name in first.state_dict)
    assert first.history == again.history and first.test_accuracy == again.test_accuracy
    assert not torch.equal(first.state_dict["fc1.weight"], other.state_dict["fc1.weight"])


def test_training_learns_and_reports(dataset: Dataset) -> None:
    fractions: list[float] = []
    # Smaller batches than the recipe's: the digits are few.
    entry = dataclasses.replace(LENET5, recipe=dataclasses.replace(LENET5.recipe, batch_size=32))
    report = train(entry, dataset, seed=0, epochs=5, threads=1, progress=fractions.append)
    assert [epoch.number for epoch in report.history] == list(range(1, 6))
    assert report.history[-1].loss < report.history[0].loss / 4
    assert report.test_accuracy > 0.9 and report.seconds > 0 and report.seed == 0
    assert fractions == sorted(fractions) and fractions[-1] == pytest.approx(1.0)
    expected = {"network": "lenet5", "dataset": "digits8x8", "seed": "0", "epochs": "5", "threads": "1"}
    assert report.metadata == {**expected, "torch": torch.__version__, "test_accuracy": f"{report.test_accuracy:.4f}"}
    network = catalogue.build(LENET5)
    network.load_state_dict(report.state_dict)
    assert accuracy(network, dataset, dataset.test) == report.test_accuracy
    assert accuracy(network, dataset, dataset.validation) == report.history[-1].validation_accuracy


def test_test_and_validation_splits_have_no_influence(dataset: Dataset) -> None:
    small = limited(dataset, 300)
    wrong = Split(dataset.test.x, (dataset.test.y + 1) % 10)
    blind = dataclasses.replace(small, validation=wrong, test=wrong)
    one, other = (train(LENET5, data, seed=0, epochs=1, threads=1) for data in (small, blind))
    assert all(torch.equal(one.state_dict[name], other.state_dict[name]) for name in one.state_dict)


def test_callers_torch_is_left_as_it_was(dataset: Dataset) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    before = (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled())
    train(LENET5, limited(dataset, 300), seed=0, epochs=1, threads=1)

    def stop(fraction: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(LENET5, limited(dataset, 300), seed=0, epochs=1, threads=1, progress=stop)
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == before
    assert torch.equal(torch.rand(3), expected)


def test_unfitting_dataset_is_refused(dataset: Dataset) -> None:
    with pytest.raises(
        InputError, match=r"cifar-net takes samples of shape \(32, 32, 3\) in 10 classes, digits8x8 has"
    ):
        train(catalogue.entry("cifar-net"), dataset, seed=0)
    more = dataclasses.replace(dataset, test=Split(dataset.test.x, dataset.test.y + 1))
    with pytest.raises(InputError, match="in 11"):
        train(LENET5, more, seed=0)
    with pytest.raises(InputError, match="0 epochs"):
        train(LENET5, dataset, seed=0, epochs=0)


def test_diverging_training_stops_with_a_reason(dataset: Dataset) -> None:
    def huge(split: Split) -> Split:
        return Split(split.x.astype(np.float32) * np.float32(1e36), split.y)

    broken = dataclasses.replace(
        dataset, train=huge(dataset.train), validation=huge(dataset.validation), input_scale=None, input_zero_point=None
    )
    with pytest.raises(InputError, match="training diverged: the loss of epoch 1"):
        train(LENET5, broken, seed=0, epochs=5, threads=1)
