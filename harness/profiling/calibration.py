"""Fits a core's free parameters to measured cycles. Knows neither where those come from nor how they are shown.

Apart from rounding to whole cycles, modelled cycles are linear in every parameter: one run per parameter gives its
slope, and bounded linear least squares on relative errors the rest.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.emulators.simulator.cycles.tables import CoreTable, Parameter
from harness.errors import InputError

# Cycles that some code takes under a set of parameters, in the order of the measurements.
Predict = Callable[[Mapping[str, float]], Sequence[float]]

# How strongly parameters that the measurements say little about stay where they were: a move over a parameter's whole
# range weighs as much as this relative error of one measurement.
_PRIOR = 0.05
# Parameters that move the predictions less than this, relative, are not fitted.
_INSENSITIVE = 1e-4


@dataclass(frozen=True)
class Measurement:
    """Cycles that silicon took. name: what ran."""

    name: str
    cycles: float


@dataclass(frozen=True)
class Row:
    """One measurement and what the model says. errors: predicted / measured - 1. left_out: with parameters that were
    fitted without this measurement; None where there are too few."""

    name: str
    measured: float
    predicted: float
    left_out: float | None

    @property
    def error(self) -> float:
        """With the parameters that were fitted to all measurements."""
        return self.predicted / self.measured - 1


@dataclass(frozen=True)
class Calibration:
    """values: of all parameters. fitted: those that were free. rows: in the order of the measurements."""

    values: dict[str, float]
    fitted: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def median_error(self) -> float:
        """Median of the absolute errors."""
        return statistics.median(abs(row.error) for row in self.rows)

    @property
    def worst_error(self) -> float:
        """Largest absolute error, left-out ones included: what a band has to cover."""
        return max(max(abs(row.error), abs(row.left_out or 0.0)) for row in self.rows)


def fit(
    table: CoreTable, start: Mapping[str, float], measurements: Sequence[Measurement], predict: Predict
) -> Calibration:
    """The parameters nearest to `start` that explain the measurements best. InputError when there is none."""
    if not measurements:
        raise InputError("there is nothing to calibrate with", hint="measure at least one network on the board")
    measured = np.array([one.cycles for one in measurements], np.float64)
    if not (measured > 0).all():
        raise InputError("a measurement of 0 cycles cannot be explained")
    base = np.array(predict(start), np.float64)
    if base.shape != measured.shape:
        raise ValueError("one prediction for each measurement")
    free: list[Parameter] = []
    slopes: list[np.ndarray] = []
    for parameter in (one for one in table.parameters if one.fitted):
        moved = dict(start)
        step = _step(parameter, start[parameter.name])
        moved[parameter.name] += step
        slope = (np.array(predict(moved), np.float64) - base) / step
        if (np.abs(slope) * (parameter.high - parameter.low) / measured).max() > _INSENSITIVE:
            free.append(parameter)
            slopes.append(slope)
    values = dict(start)
    left_out: list[float | None] = [None] * len(measured)
    if free:
        matrix = np.stack(slopes, axis=1)
        origin = np.array([start[parameter.name] for parameter in free])
        everything = np.ones(len(measured), bool)
        solution = _solve(matrix, base, measured, free, origin, everything)
        values |= {parameter.name: float(value) for parameter, value in zip(free, solution, strict=True)}
        if len(measured) > 2:
            for index in range(len(measured)):
                kept = everything.copy()
                kept[index] = False
                others = _solve(matrix, base, measured, free, origin, kept)
                left_out[index] = float((base + matrix @ (others - origin))[index] / measured[index] - 1)
    predicted = predict(values)
    rows = tuple(
        Row(one.name, one.cycles, float(cycles), error)
        for one, cycles, error in zip(measurements, predicted, left_out, strict=True)
    )
    return Calibration(values, tuple(parameter.name for parameter in free), rows)


def _step(parameter: Parameter, value: float) -> float:
    """A change that is large enough to be seen through rounding, and stays possible."""
    up, down = parameter.high - value, value - parameter.low
    size = max(1.0, (parameter.high - parameter.low) / 2) if parameter.high > 1 else 1.0
    return min(up, size) if up >= down else -min(down, size)


def _solve(
    matrix: np.ndarray,
    base: np.ndarray,
    measured: np.ndarray,
    free: Sequence[Parameter],
    origin: np.ndarray,
    kept: np.ndarray,
) -> np.ndarray:
    """The free parameters for the measurements that are `kept`: whole cycles, and shares in hundredths."""
    rows = matrix[kept] / measured[kept, None]
    wanted = (measured - base)[kept] / measured[kept]
    low = np.array([parameter.low for parameter in free]) - origin
    high = np.array([parameter.high for parameter in free]) - origin
    span = high - low
    rows = np.vstack([rows, np.diag(_PRIOR / span)])
    wanted = np.concatenate([wanted, np.zeros(len(free))])
    moves = _bounded(rows, wanted, low, high)
    whole = np.array([parameter.high > 1 for parameter in free])
    # Costs are whole cycles: the best of all ways to round them, with the shares fitted again to each.
    best, least = moves, np.inf
    for up in itertools.product((False, True), repeat=int(whole.sum())):
        rounded = np.where(up, np.ceil(moves[whole] - 1e-9), np.floor(moves[whole] + 1e-9))
        tried = moves.copy()
        tried[whole] = np.clip(rounded, np.ceil(low[whole] - 1e-9), np.floor(high[whole] + 1e-9))
        if not whole.all():
            rest = wanted - rows[:, whole] @ tried[whole]
            tried[~whole] = np.round(_bounded(rows[:, ~whole], rest, low[~whole], high[~whole]), 2)
        cost = float(((rows @ tried - wanted) ** 2).sum())
        if cost < least:
            best, least = tried, cost
    solution: np.ndarray = origin + best
    return solution


def _bounded(rows: np.ndarray, wanted: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    from scipy.optimize import lsq_linear

    found: np.ndarray = np.asarray(lsq_linear(rows, wanted, bounds=(low, high)).x, np.float64)
    return found
