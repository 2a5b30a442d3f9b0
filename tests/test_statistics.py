"""Statistics over runs, with numbers worked out by hand."""

import numpy as np
import pytest
import scipy.stats

from sb3_nigt.experiments.statistics import (
    bootstrap_interval,
    carried_forward,
    censored_median,
    difference_interval,
    interquartile_mean,
    last_tenth,
    permutation_p,
    quantile_band,
    time_average,
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


def test_a_run_without_a_number_is_not_left_out_as_the_best_one():
    assert np.isnan(interquartile_mean(array(1, 2, 3, 4, np.nan)))
    assert np.isnan(interquartile_mean(array([1, 2], [1, np.nan]))).tolist() == [False, True]


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


def test_intervals_of_five_runs_cover_less_than_they_say():
    """Of five normal numbers about 85 % for the mean, and 90 % for the interquartile mean and for differences."""
    samples = np.random.default_rng(5).normal(size=(4000, 5))
    for statistic, coverage in ((lambda values: values.mean(axis=-1), 0.85), (interquartile_mean, 0.90)):
        low, high = bootstrap_interval(samples[:2000], statistic, n_resamples=500)
        assert np.mean((low <= 0) & (high >= 0)) == pytest.approx(coverage, abs=0.025)
    pairs = [difference_interval(*pair) for pair in zip(samples[:1000], samples[1000:2000], strict=True)]
    assert np.mean([low <= 0 <= high for low, high in pairs]) == pytest.approx(0.90, abs=0.03)


def test_difference_of_means():
    """Of equal runs the difference is certain; of two runs each, 0 and 1 against 10, it is -10, -9.5 or -9."""
    assert difference_interval(np.array([3.0, 3.0]), np.array([1.0])) == (2.0, 2.0)
    assert difference_interval(np.array([0.0, 1.0]), np.array([10.0, 10.0])) == (-10.0, -9.0)


def test_permutation_test_by_hand():
    """Of the ten ways to deal out 1, 2, 3 | 4, 9 no other one differs by 4.5; next are 3, 4, 9 | 1, 2 and 1, 2, 4 | 3, 9."""
    assert permutation_p(array(1, 2, 3), array(4, 9)) == 0.1
    assert permutation_p(array(3, 4, 9), array(1, 2)) == 0.2
    assert np.isnan(permutation_p(array(3, np.nan, 9), array(1, 2)))
    assert permutation_p(array(1, 2, 4), array(3, 9)) == 0.3
    assert permutation_p(np.ones(3), np.ones(3)) == 1.0
    rounded = array(0.1, 0.2, 0.3)  # 0.1 + 0.2 + 0.3 is not 0.3 + 0.2 + 0.1 for a computer
    assert permutation_p(300 + rounded, 400 - rounded) == 0.1
    separate = np.arange(5.0)
    assert permutation_p(separate, separate + 10) == permutation_p(separate + 10, separate) == 2 / 252


def test_permutation_test_against_a_library():
    rng = np.random.default_rng(1)
    for _ in range(20):
        first, second = rng.normal(size=5), rng.normal(0.8, size=4)
        outcome = scipy.stats.permutation_test(
            (first, second), lambda a, b: abs(a.mean() - b.mean()), alternative="greater", n_resamples=np.inf
        )
        assert permutation_p(first, second) == pytest.approx(outcome.pvalue)
    first, second = rng.normal(size=30), rng.normal(0.5, size=30)  # of too many ways some are drawn; here a t-test is as good
    assert permutation_p(first, second) == pytest.approx(scipy.stats.ttest_ind(first, second).pvalue, abs=0.01)


def test_time_average():
    """0 until 1, then 6 until 3, then 3 until the end at 5; later measurements do not count."""
    x, y = np.array([0.0, 1.0, 3.0, 7.0]), np.array([0.0, 6.0, 3.0, 99.0])
    assert time_average(x, y, 5.0) == (0 * 1 + 6 * 2 + 3 * 2) / 5


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
