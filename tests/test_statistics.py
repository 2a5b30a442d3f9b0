"""Statistics over runs, with numbers worked out by hand."""

import numpy as np
import pytest

from sb3_nigt.experiments.statistics import (
    bootstrap_interval,
    carried_forward,
    censored_median,
    interquartile_mean,
    last_tenth,
    quantile_band,
    time_to_threshold,
)

INF = float("inf")


def array(*values):
    return np.array(values, dtype=float)


def test_interquartile_mean():
    """Of eight the two lowest and the two highest go: (3 + 4 + 5 + 6) / 4. Of five one and one. Of three none."""
    assert interquartile_mean(array(100, 1, 3, 4, 5, 6, 2, 90)) == 4.5
    assert interquartile_mean(array(5, 1, 2, 3, 1000)) == pytest.approx(10 / 3)
    assert interquartile_mean(array(1, 2, 6)) == 3
    assert interquartile_mean(array([1, 2, 6], [2, 2, 2])).tolist() == [3, 2]


@pytest.mark.parametrize(
    ("times", "median"),
    [((3, 1, 2), 2), ((1, 2, 3, 4), 3), ((1, 2, INF), 2), ((1, INF, INF), INF), ((1, 2, INF, INF), INF), ((INF,), INF)],
)
def test_censored_median(times, median):
    """A run that never got there counts as later than all others."""
    assert censored_median(array(*times)) == median


def test_bootstrap_interval_of_two_runs():
    """Means of two draws from {0, 1}: 0, 1/2, 1 with probabilities 1/4, 1/2, 1/4, so 60 % lie from 0 to 1, 40 % on 1/2."""

    def mean(values):
        return values.mean(axis=-1)

    assert bootstrap_interval(array(0, 1), mean, level=0.6) == (0, 1)
    assert bootstrap_interval(array(0, 1), mean, level=0.4) == (0.5, 0.5)
    assert bootstrap_interval(array(7, 7, 7), mean) == (7, 7)
    low, high = bootstrap_interval(array([0, 1], [7, 7]), mean)
    assert (low.tolist(), high.tolist()) == ([0, 7], [1, 7])


def test_bootstrap_interval_with_censored_times():
    """One of three never got there: the median of a resample is infinite with probability 7/27, 1 with 7/27."""
    assert bootstrap_interval(array(1, 2, INF), censored_median) == (1, INF)
    assert bootstrap_interval(array(1, 2, INF), censored_median, level=0.3) == (2, 2)


def test_bootstrap_interval_covers_about_as_often_as_it_says():
    """The percentile interval of a mean of 30 normal numbers covers a bit less than 95 %."""
    samples = np.random.default_rng(1).normal(size=(300, 30))
    low, high = bootstrap_interval(samples, lambda values: values.mean(axis=-1), n_resamples=500)
    assert 0.90 < np.mean((low <= 0) & (high >= 0)) < 0.98


def test_quantile_band():
    """Of 0, 1, …, 5 the quantile q is 5 q."""
    low, median, high = quantile_band(array([5, 3, 1, 0, 2, 4], [1, 1, 1, 1, 1, 1]))
    assert low.tolist() == pytest.approx([1, 1])
    assert median.tolist() == pytest.approx([2.5, 1])
    assert high.tolist() == pytest.approx([4, 1])


def test_carried_forward():
    grid = array(0, 0.5, 1, 2.9, 3, 100)
    assert carried_forward(array(0, 1, 3), array(10, 20, 30), grid).tolist() == [10, 10, 20, 20, 30, 30]
    # two measurements at the same place, as after an update without a message: the later one
    assert carried_forward(array(0, 0, 1), array(10, 20, 30), array(0, 1)).tolist() == [20, 30]


def test_time_to_threshold():
    assert time_to_threshold(array(0, 5, 9, 12), array(1, 3, 2, 4), 3) == 5
    assert time_to_threshold(array(0, 5), array(1, 3), 1) == 0
    assert time_to_threshold(array(0, 5), array(1, 3), 3.1) == INF


def test_last_tenth():
    assert last_tenth(np.arange(20.0)) == 18.5
    assert last_tenth(array(1, 2, 3)) == 3
