"""Statistics over runs: pure functions of arrays. Runs lie on the last axis, unless it says otherwise."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


def interquartile_mean(values: FloatArray) -> FloatArray:
    """
    Mean without the lowest and the highest quarter of the runs, ⌊R/4⌋ at each end.

    :param values: shape (..., R)
    """
    cut = values.shape[-1] // 4
    mean: FloatArray = np.sort(values, axis=-1)[..., cut : values.shape[-1] - cut].mean(axis=-1)
    return mean


def censored_median(times: FloatArray) -> FloatArray:
    """
    Median of times some of which are infinite; of the two in the middle the later one.

    :param times: shape (..., R)
    """
    median: FloatArray = np.quantile(times, 0.5, axis=-1, method="higher")
    return median


def bootstrap_interval(
    values: FloatArray, statistic: Callable[[FloatArray], FloatArray], level: float = 0.95, n_resamples: int = 2000
) -> tuple[FloatArray, FloatArray]:
    """
    Percentile interval of a statistic over runs drawn with replacement, always the same draws.

    :param values: shape (..., R); may be infinite
    :param statistic: takes away the last axis
    :param level: of the interval
    :param n_resamples: draws
    :return: lower and upper end
    """
    drawn = np.random.default_rng(0).integers(values.shape[-1], size=(n_resamples, values.shape[-1]))
    resampled = statistic(values[..., drawn])  # shape (..., n_resamples)
    tail = (1.0 - level) / 2.0
    # a value that occurs, since nothing lies between a number and infinity
    low, high = np.quantile(resampled, [tail, 1.0 - tail], axis=-1, method="inverted_cdf")
    return low, high


def quantile_band(values: FloatArray, low: float = 0.2, high: float = 0.8) -> tuple[FloatArray, FloatArray, FloatArray]:
    """
    Median and two quantiles, interpolated.

    :param values: shape (..., R)
    :param low: of the lower quantile
    :param high: of the upper quantile
    :return: lower quantile, median, upper quantile
    """
    lower, median, upper = np.quantile(values, [low, 0.5, high], axis=-1)
    return lower, median, upper


def carried_forward(x: FloatArray, y: FloatArray, grid: FloatArray) -> FloatArray:
    """
    Return y at the grid: at each point the last value that was known there.

    :param x: where y was measured, ascending; of equal ones the last counts
    :param y: same shape
    :param grid: none before x[0]
    """
    found: FloatArray = y[np.searchsorted(x, grid, side="right") - 1]
    return found


def time_to_threshold(x: FloatArray, y: FloatArray, threshold: float) -> float:
    """
    Return the first x whose y is at least the threshold; infinity if it is never reached.

    :param x: where y was measured, ascending
    :param y: same shape
    :param threshold: to be reached
    """
    reached = np.flatnonzero(y >= threshold)
    return float(x[reached[0]]) if len(reached) else float("inf")


def last_tenth(y: FloatArray) -> float:
    """
    Mean over the last tenth of the measurements, at least one.

    :param y: one run
    """
    return float(y[-max(1, len(y) // 10) :].mean())
