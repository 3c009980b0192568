"""Noise raises no alarm, a shift beyond it does, and a series' change points are where it changed."""

from __future__ import annotations

import numpy as np
import pytest

from harness.results.statistics import change_points, shift


def rounds(
    random: np.random.RandomState, count: int = 5, *, level: float = 100_000, between: float = 0.004
) -> list[list[float]]:
    """Times as machines give them: each round has its own level, each time a skewed error, some are interrupted."""
    made = []
    for _ in range(count):
        own = level * (1 + random.normal(0, between))
        times = own * (1 + np.abs(random.normal(0, 0.01, 20)))
        times[random.randint(0, 20)] *= 3
        made.append(times.tolist())
    return made


def test_two_hundred_repetitions_raise_no_alarm() -> None:
    random = np.random.RandomState(2)
    assert {shift(rounds(random), rounds(random), seed=number).verdict for number in range(200)} == {"same"}


@pytest.mark.parametrize(("factor", "verdict"), [(1.08, "slower"), (0.92, "faster")])
def test_a_shift_beyond_the_noise_is_believed(factor: float, verdict: str) -> None:
    random = np.random.RandomState(3)
    found = shift(rounds(random), rounds(random, level=100_000 * factor))
    assert found.verdict == verdict
    assert found.low <= found.ratio <= found.high
    assert found.low < factor * 1.01 and found.high > factor * 0.99


def test_one_per_cent_is_seen_where_times_are_quiet() -> None:
    quiet = [[100_000, 100_002, 100_001, 100_000] for _ in range(3)]
    slower = [[value * 1.01 for value in times] for times in quiet]
    assert shift(quiet, slower).verdict == "slower"
    assert shift(quiet, quiet).verdict == "same"
    barely = [[value * 1.004 for value in times] for times in quiet]
    assert shift(quiet, barely).verdict == "same"


def test_one_round_has_the_noise_of_its_times() -> None:
    random = np.random.RandomState(4)
    times = [100_000 * (1 + random.normal(0, 0.02)) for _ in range(30)]
    assert shift([times], [[value * 1.02 for value in times]]).verdict == "same"
    assert shift([times], [[value * 1.5 for value in times]]).verdict == "slower"


def test_the_same_times_give_the_same_interval() -> None:
    random = np.random.RandomState(5)
    before, after = rounds(random), rounds(random)
    assert shift(before, after) == shift(before, after)


@pytest.mark.parametrize("bad", [[], [[]], [[0, 0]]])
def test_what_cannot_be_judged_is_refused(bad: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="times"):
        shift([[1.0]], bad)


def test_exact_series_change_where_they_change() -> None:
    assert change_points([5, 5, 4, 4, 4, 5], exact=True) == [2, 5]
    assert change_points([], exact=True) == change_points([5], exact=True) == []


def test_noisy_series_change_where_their_level_does() -> None:
    random = np.random.RandomState(6)
    level = np.repeat([100.0, 112.0, 91.0], 20) * (1 + random.normal(0, 0.02, 60))
    found = change_points(level.tolist(), exact=False)
    assert len(found) == 2
    assert abs(found[0] - 20) <= 1 and abs(found[1] - 40) <= 1


def test_noise_alone_has_no_change_point() -> None:
    random = np.random.RandomState(7)
    found = [change_points((100 + random.normal(0, 3, 40)).tolist(), exact=False) for _ in range(20)]
    assert sum(map(len, found)) <= 1
    assert change_points([1.0, 9.0, 1.0], exact=False) == []
