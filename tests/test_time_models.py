"""Durations of simulated workers: what each model answers, and what it says about values it cannot use."""

import numpy as np
import pytest
from scipy import stats

from sb3_nigt import FixedTimes, RandomTimes, ReplayedTimes, TimeModel, VaryingTimes

NAN, INF = float("nan"), float("inf")


def bound(model, n_workers):
    model.bind(n_workers)
    return model


MODELS = {
    "fixed": lambda **kwargs: FixedTimes([1.0, 2.0], **kwargs),
    "random": lambda **kwargs: RandomTimes([1.0, 2.0], **kwargs),
    "varying": lambda **kwargs: VaryingTimes(lambda now: [1.0 + now, 2.0], **kwargs),
    "replayed": lambda **kwargs: ReplayedTimes([[1.0], [2.0, 3.0]], **kwargs),
}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
class TestEveryModel:
    def test_defaults(self, make):
        model = bound(make(), 2)
        assert isinstance(model, TimeModel)
        assert model.per == "step"
        assert model.message_times.tolist() == [0.0, 0.0]
        assert model.step_times(0.0).tolist() == [1.0, 2.0]
        assert type(model.unit_time(1, 0.0, seed=0)) is float

    def test_message_times(self, make):
        assert bound(make(message_times=0.5), 2).message_times.tolist() == [0.5, 0.5]
        assert bound(make(message_times=(0.0, 3)), 2).message_times.tolist() == [0.0, 3.0]
        assert bound(make(message_times=np.array([0.25, 0.75])), 2).message_times.tolist() == [0.25, 0.75]

    def test_per(self, make):
        assert make(per="trajectory").per == "trajectory"
        with pytest.raises(ValueError, match='per=\'episode\' is not allowed: give "step" or "trajectory"'):
            make(per="episode")

    def test_wrong_message_times(self, make):
        with pytest.raises(ValueError, match=r"message_times\[1\]=.*-2\.0.* is not allowed: every value .* at least 0"):
            make(message_times=[0.0, -2.0])
        with pytest.raises(ValueError, match=r"message_times has 3 values for 2 workers: give one number .* a list of 2"):
            bound(make(message_times=[1.0, 2.0, 3.0]), 2)

    def test_wrong_number_of_workers(self, make):
        # both numbers, and what to do about it
        with pytest.raises(ValueError, match=r"(step_times|recorded) has 2 .*\b3\b.*: give one .*"):
            bound(make(), 3)


def test_fixed_times_are_constant():
    model = bound(FixedTimes([1.0, 2.5, 0.25]), 3)
    for now, seed in ((0.0, 0), (1e6, 1)):
        assert [model.unit_time(worker, now, seed) for worker in range(3)] == [1.0, 2.5, 0.25]
        assert model.step_times(now).tolist() == [1.0, 2.5, 0.25]


def test_fixed_times_repeat_a_scalar_for_any_number_of_workers():
    model = FixedTimes(2)
    assert bound(model, 3).step_times(0.0).tolist() == [2.0, 2.0, 2.0]
    assert bound(model, 1).step_times(0.0).tolist() == [2.0]
    assert bound(FixedTimes(), 2).step_times(0.0).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("given", [(1, 2), range(1, 3), (h for h in (1.0, 2.0)), np.array([1, 2])])
def test_fixed_times_take_any_iterable(given):
    assert bound(FixedTimes(given), 2).step_times(0.0).tolist() == [1.0, 2.0]


def test_fixed_times_belong_to_the_model():
    """Neither the array that was given nor the one that is handed out is a way to change them."""
    given = np.array([1.0, 2.0])
    model = bound(FixedTimes(given), 2)
    given[0] = 7.0
    with pytest.raises(ValueError, match="read-only"):
        model.step_times(0.0)[0] = 7.0
    assert model.step_times(0.0).tolist() == [1.0, 2.0]


def test_random_times_have_the_given_law():
    """
    With variation c = 1/2: log-normal with s² = log(1 + c²) = log(5/4) and median (1 + c²)^(-1/2) = (4/5)^(1/2).

    So the mean is one; the mean of n draws is off by c/√n, here four times that at most.
    """
    n, h = 20_000, 3.0
    model = bound(RandomTimes([1.0, h], variation=0.5), 2)
    factors = np.array([model.unit_time(1, 0.0, seed) for seed in range(n)]) / h
    assert abs(factors.mean() - 1) < 4 * 0.5 / n**0.5
    assert stats.kstest(factors, stats.lognorm(s=np.log(1.25) ** 0.5, scale=0.8**0.5).cdf).pvalue > 1e-3
    assert model.step_times(0.0).tolist() == [1.0, h]  # what can be known beforehand


def test_random_times_are_a_function_of_the_seed():
    """Not of the moment, nor of the order of the questions."""
    model, other = (bound(RandomTimes([1.0, 4.0]), 2) for _ in range(2))
    times = [model.unit_time(0, 0.0, seed) for seed in range(5)]
    assert len(set(times)) == 5
    assert [other.unit_time(0, 100.0, seed) for seed in reversed(range(5))] == times[::-1]
    assert [other.unit_time(1, 0.0, seed) for seed in range(5)] == [4 * time for time in times]


def test_random_times_without_variation_are_fixed():
    model = bound(RandomTimes([1.0, 3.0], variation=0.0), 2)
    assert [model.unit_time(1, 0.0, seed) for seed in range(3)] == [3.0] * 3


def test_varying_times_follow_their_function():
    """h_0 = 1 + t and h_1 = 5 until t = 10, 0.5 from then on."""
    model = bound(VaryingTimes(lambda now: (1.0 + now, 5.0 if now < 10 else 0.5)), 2)
    for now, expected in ((0.0, [1.0, 5.0]), (9.0, [10.0, 5.0]), (10.0, [11.0, 0.5])):
        assert model.step_times(now).tolist() == expected
        assert [model.unit_time(worker, now, seed=0) for worker in (0, 1)] == expected


def test_replayed_times_come_in_order_and_the_last_repeats():
    """Worker 0 has recorded 1, 2, 3 and worker 1 has 5: each counts its own trajectories."""
    model = bound(ReplayedTimes([[1.0, 2.0, 3.0], (5,)]), 2)
    seen = []
    for worker in (0, 1, 0, 1, 0, 0):
        seen.append((model.step_times(0.0).tolist(), model.unit_time(worker, 0.0, seed=0)))
    assert seen == [
        ([1.0, 5.0], 1.0),
        ([2.0, 5.0], 5.0),
        ([2.0, 5.0], 2.0),
        ([3.0, 5.0], 5.0),
        ([3.0, 5.0], 3.0),
        ([3.0, 5.0], 3.0),
    ]


@pytest.mark.parametrize("make", [FixedTimes, RandomTimes])
@pytest.mark.parametrize("value", [0, -1.0, NAN, INF])
def test_wrong_step_times(make, value):
    rule = rf"=.*{float(value)!r}.* is not allowed: every value must be finite and greater than 0"
    with pytest.raises(ValueError, match=r"^step_times" + rule):
        make(value)
    with pytest.raises(ValueError, match=r"^step_times\[2\]" + rule):
        make([1.0, 1.0, value])


@pytest.mark.parametrize("value", [-0.5, NAN, INF, "high", None, True])
def test_wrong_variation(value):
    with pytest.raises(ValueError, match=rf"^variation={value!r} is not allowed: give a finite number in \[0, inf\)\.$"):
        RandomTimes(variation=value)


@pytest.mark.parametrize("value", [None, 1.0, [1.0, 2.0]])
def test_varying_times_without_a_function(value):
    with pytest.raises(ValueError, match=r"^step_times=.* is not allowed: give a function of the time, or use FixedTimes\.$"):
        VaryingTimes(value)


def test_varying_times_with_wrong_values():
    """At once where the start shows it, otherwise at the moment that does."""
    with pytest.raises(ValueError, match=r"^step_times\[1\]=.*0\.0.* is not allowed: .* greater than 0"):
        VaryingTimes(lambda now: [1.0, 0.0])
    model = bound(VaryingTimes(lambda now: [1.0, 2.0 - now]), 2)
    assert model.unit_time(1, 1.0, seed=0) == 1.0
    with pytest.raises(ValueError, match=r"^step_times\[1\]=.*-1\.0.* is not allowed: .* greater than 0"):
        model.unit_time(0, 3.0, seed=0)
    model = bound(VaryingTimes(lambda now: [1.0] * (2 if now < 5 else 3)), 2)
    with pytest.raises(ValueError, match=r"^step_times has 3 values for 2 workers: give one number .* a list of 2"):
        model.step_times(5.0)


@pytest.mark.parametrize("recorded", [[], [[1.0], []]])
def test_replayed_times_that_are_missing(recorded):
    with pytest.raises(ValueError, match=r"^recorded has a worker without any time: give at least one number for each worker"):
        ReplayedTimes(recorded)


@pytest.mark.parametrize("value", [0.0, -1.0, NAN, INF])
def test_replayed_times_with_wrong_values(value):
    rule = rf"^recorded\[1\]\[2\]=.*{value!r}.* is not allowed: every value must be finite and greater than 0"
    with pytest.raises(ValueError, match=rule):
        ReplayedTimes([[1.0], [1.0, 2.0, value]])


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: FixedTimes(None), "step_times=None is not allowed"),
        (lambda: FixedTimes("fast"), "step_times='fast' is not allowed"),
        (lambda: FixedTimes([1.0, [2.0, 3.0]]), "step_times=.* is not allowed"),
        (lambda: FixedTimes(1.0, message_times=None), "message_times=None is not allowed"),
        (lambda: VaryingTimes(lambda now: "fast"), "step_times='fast' is not allowed"),
        (lambda: ReplayedTimes([1.0, 2.0]), r"recorded(\[0\])?=.* is not allowed"),
        (lambda: ReplayedTimes([["a"]]), r"recorded\[0\]=.* is not allowed"),
    ],
)
def test_values_of_another_type(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_replayed_times_from_an_array():
    model = bound(ReplayedTimes(np.array([[1.0, 2.0], [3.0, 4.0]])), 2)
    assert model.step_times(0.0).tolist() == [1.0, 3.0]
