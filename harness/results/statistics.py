"""Whether noisy times moved: the shift of a median with its bootstrap interval, and change points of a series.

For clocks that vary (silicon, host). Figures that are equal every time need no statistics: they are compared exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

# Shifts below this are no news, however quiet the baseline is: a timer has a resolution, a machine has weather.
LEAST_SHIFT = 0.005

# How many of the baseline's own standard deviations a shift must exceed.
DEVIATIONS = 4.0

# The interval holds the true shift so often, were the rounds independent.
CONFIDENCE = 0.99

_DRAWS = 2000

# A median absolute deviation times this estimates a normal distribution's standard deviation.
_MAD_TO_SIGMA = 1.4826

# A split must be so unlikely by chance; several are tried in one series.
_SPLIT_P = 0.005
_SHORTEST_SEGMENT = 4

Rounds = Sequence[Sequence[float]]


@dataclass(frozen=True)
class Shift:
    """How the median moved. before, after: medians over all rounds. ratio: after / before; low, high: its interval.

    threshold: the relative shift that is needed to be believed, from the baseline's own noise.
    """

    before: float
    after: float
    ratio: float
    low: float
    high: float
    threshold: float

    @property
    def verdict(self) -> Literal["same", "slower", "faster"]:
        """slower or faster where the whole interval lies beyond the threshold."""
        if self.low > 1 + self.threshold:
            return "slower"
        return "faster" if self.high < 1 - self.threshold else "same"


def shift(before: Rounds, after: Rounds, *, seed: int = 0) -> Shift:
    """The shift from `before` to `after`: times of repeats, in rounds that were run one after the other.

    Rounds are drawn first and then times of theirs: what is common to a round (a warm cache, a busy machine) is not
    taken for precision. The same times give the same interval. ValueError without any time, or for times of zero.
    """
    import numpy

    random = numpy.random.RandomState(seed)
    medians = [float(numpy.median(numpy.concatenate(_arrays(rounds)))) for rounds in (before, after)]
    if min(medians) <= 0:
        raise ValueError("times must be above zero")
    drawn = [_draws(_arrays(rounds), random) for rounds in (before, after)]
    tail = (1 - CONFIDENCE) / 2
    low, high = numpy.quantile(drawn[1] / drawn[0], [tail, 1 - tail])
    ratio = medians[1] / medians[0]
    return Shift(medians[0], medians[1], ratio, float(min(low, ratio)), float(max(high, ratio)), _threshold(before))


def _arrays(rounds: Rounds) -> list[NDArray[Any]]:
    import numpy

    arrays = [numpy.asarray(times, float) for times in rounds if len(times)]
    if not arrays:
        raise ValueError("there are no times")
    return arrays


def _draws(rounds: list[NDArray[Any]], random: numpy.random.RandomState) -> NDArray[Any]:
    """The median of each of _DRAWS resamplings."""
    import numpy

    lengths = numpy.array([len(times) for times in rounds])
    padded = numpy.zeros((len(rounds), lengths.max()))
    for row, times in zip(padded, rounds, strict=True):
        row[: len(times)] = times
    chosen = random.randint(0, len(rounds), (_DRAWS, len(rounds)))
    places = random.random_sample((_DRAWS, len(rounds), int(numpy.median(lengths)))) * lengths[chosen][..., None]
    drawn = padded[chosen[..., None], places.astype(int)]
    medians: NDArray[Any] = numpy.median(drawn.reshape(_DRAWS, -1), axis=1)
    return medians


def _threshold(before: Rounds) -> float:
    """The relative shift that the baseline's rounds make by themselves, several times over."""
    import numpy

    arrays = _arrays(before)
    medians = numpy.array([numpy.median(times) for times in arrays])
    several = len(medians) > 1
    spread = max(_sigma(medians), float(numpy.ptp(medians)) / 2) if several else _sigma(arrays[0])
    return max(LEAST_SHIFT, DEVIATIONS * spread / float(numpy.median(medians)))


def _sigma(values: NDArray[Any]) -> float:
    import numpy

    return _MAD_TO_SIGMA * float(numpy.median(numpy.abs(values - numpy.median(values))))


def change_points(values: Sequence[float], *, exact: bool) -> list[int]:
    """The positions from which on a series has another level, ascending.

    exact: figures that are equal every time: each change is one. Otherwise the series is split where its ranks differ
    most, as long as chance hardly ever splits it so well (permutations, fixed seed), and each part again.
    """
    if exact:
        return [index for index in range(1, len(values)) if values[index] != values[index - 1]]
    import numpy

    series = numpy.asarray(values, float)
    random = numpy.random.RandomState(0)
    found: list[int] = []
    waiting = [(0, len(series))]
    while waiting:
        start, end = waiting.pop()
        split = _split(series[start:end], random)
        if split is not None:
            found.append(start + split)
            waiting += [(start, start + split), (start + split, end)]
    return sorted(found)


def _split(series: NDArray[Any], random: numpy.random.RandomState) -> int | None:
    """Where a series falls apart into two levels, or None."""
    import numpy

    if len(series) < 2 * _SHORTEST_SEGMENT:
        return None
    ranks = numpy.argsort(numpy.argsort(series, kind="stable"), kind="stable").astype(float)
    best, score = _best_split(ranks)
    rounds = int(2 / _SPLIT_P)
    by_chance = sum(_best_split(random.permutation(ranks))[1] >= score for _ in range(rounds))
    return best if (by_chance + 1) / (rounds + 1) <= _SPLIT_P else None


def _best_split(ranks: NDArray[Any]) -> tuple[int, float]:
    """The split with the largest Mann-Whitney statistic in its own standard deviations."""
    import numpy

    count = len(ranks)
    sizes = numpy.arange(_SHORTEST_SEGMENT, count - _SHORTEST_SEGMENT + 1)
    sums = numpy.cumsum(ranks)[sizes - 1]
    expected = sizes * (count - 1) / 2
    deviation = numpy.sqrt(sizes * (count - sizes) * (count + 1) / 12)
    scores = numpy.abs(sums - expected) / deviation
    index = int(scores.argmax())
    return int(sizes[index]), float(scores[index])
