"""GAE and standardisation against numbers computed by hand and against their definitions."""

import numpy as np
import pytest

from sb3_nigt.estimators.advantages import backward_sums, following_values, gae, lambda_returns
from sb3_nigt.estimators.standardize import (
    MIN_STD,
    pooled_std,
    standardize,
    task_moments,
)

# Six steps: the second terminates its episode, the fourth is truncated, the segment is cut after the sixth.
REWARDS = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
VALUES = np.array([2.0, 4.0, 6.0, 8.0, 10.0, 12.0])
TERMINATED = np.array([False, True, False, False, False, False])
ENDED = np.array([False, True, False, True, False, False])
FINAL_VALUES = np.array([100.0, 16.0, 20.0])  # after the termination, at the truncation, at the cut
FOLLOWING = [4.0, 100.0, 8.0, 16.0, 12.0, 20.0]


def gae_of_the_segment(gamma, lam):
    following = following_values(VALUES, FINAL_VALUES, ENDED)
    return gae(REWARDS, VALUES, following, TERMINATED, ENDED, gamma, lam)


def test_following_values_by_hand():
    assert following_values(VALUES, FINAL_VALUES, ENDED).tolist() == FOLLOWING
    last_step_ends = np.array([False, True])
    assert following_values(VALUES[:2], np.array([7.0]), last_step_ends).tolist() == [4.0, 7.0]
    assert following_values(np.zeros(0), np.zeros(0), np.zeros(0, bool)).shape == (0,)


def test_gae_by_hand():
    """
    γ = λ = 1/2. δ = r + γV' - V, with V' = 0 for the second step:

    (1+2-2, 2+0-4, 3+4-6, 4+8-8, 5+6-10, 6+10-12) = (1, -2, 1, 4, 1, 4). A = δ + A'/4 inside an episode and segment:
    A_0 = 1 - 2/4, A_1 = -2 (end), A_2 = 1 + 4/4, A_3 = 4 (end), A_4 = 1 + 4/4, A_5 = 4 (cut).
    """
    advantages = gae_of_the_segment(0.5, 0.5)
    assert advantages.tolist() == [0.5, -2.0, 2.0, 4.0, 2.0, 4.0]
    assert lambda_returns(advantages, VALUES).tolist() == [2.5, 2.0, 8.0, 12.0, 12.0, 16.0]


def test_gae_with_lambda_0_is_one_step():
    assert gae_of_the_segment(0.5, 0.0).tolist() == [1.0, -2.0, 1.0, 4.0, 1.0, 4.0]


def test_gae_with_lambda_1_is_the_return_minus_the_value():
    """
    γ = 1/2: returns with bootstrap of 16 at the truncation and of 20 at the cut.

    (1+2/2, 2, 3+4/2+16/4, 4+16/2, 5+6/2+20/4, 6+20/2) = (2, 2, 9, 12, 13, 16), minus V.
    """
    assert gae_of_the_segment(0.5, 1.0).tolist() == [0.0, -2.0, 3.0, 4.0, 3.0, 4.0]


def test_value_after_a_termination_is_not_read():
    following = following_values(VALUES, np.array([np.nan, 16.0, 20.0]), ENDED)
    assert np.isfinite(gae(REWARDS, VALUES, following, TERMINATED, ENDED, 0.5, 0.5)).all()


@pytest.mark.parametrize("gamma", [0.0, 0.9, 1.0])
@pytest.mark.parametrize("lam", [0.0, 0.95, 1.0])
@pytest.mark.parametrize("length", [0, 1, 2, 3, 64, 129])
def test_gae_is_its_definition(gamma, lam, length):
    """A_t = Σ_l (γλ)^l δ_{t+l} up to the first end, term by term."""
    rng = np.random.default_rng(length)
    rewards, values, following = rng.standard_normal((3, length))
    ended = rng.random(length) < 0.1
    terminated = ended & (rng.random(length) < 0.5)
    expected = []
    for t in range(length):
        total = 0.0
        for h in range(t, length):
            bootstrap = 0.0 if terminated[h] else gamma * following[h]
            total += (gamma * lam) ** (h - t) * (rewards[h] + bootstrap - values[h])
            if ended[h]:
                break
        expected.append(total)
    np.testing.assert_allclose(
        gae(rewards, values, following, terminated, ended, gamma, lam), expected, rtol=1e-12, atol=1e-12
    )


def test_backward_sums_are_the_recurrence_for_any_factors():
    rng = np.random.default_rng(1)
    for length in (1, 7, 5000):
        terms, factors = (
            rng.standard_normal(length),
            rng.choice([0.0, 1e-200, 0.5, 1.0], size=length, p=[0.01, 0.01, 0.08, 0.9]),
        )
        expected, following = np.empty(length), 0.0
        for t in reversed(range(length)):
            following = expected[t] = terms[t] + factors[t] * following
        before = terms.copy(), factors.copy()
        np.testing.assert_allclose(backward_sums(terms, factors), expected, rtol=1e-11, atol=1e-11)
        assert np.array_equal(terms, before[0])
        assert np.array_equal(factors, before[1])


def test_segments_joined_at_an_end_give_the_same_bits():
    """So it does not matter which segments a rank or a chunk computes together."""
    rng = np.random.default_rng(2)
    rewards, values, following = rng.standard_normal((3, 300))
    ended = rng.random(300) < 0.05
    ended[99] = True
    terminated = np.zeros(300, bool)
    joined = gae(rewards, values, following, terminated, ended, 0.99, 0.95)
    alone = [
        gae(rewards[s], values[s], following[s], terminated[s], ended[s], 0.99, 0.95) for s in (slice(0, 100), slice(100, 300))
    ]
    assert np.array_equal(joined, np.concatenate(alone))


# Two tasks, five steps; the two of task 0 come from workers of different weight.
ADVANTAGES = np.array([0.0, 11.0, 4.0, 11.0, 14.0])
TASKS = np.array([0, 1, 0, 1, 1])
WEIGHTS = np.array([1 / 8, 1 / 6, 3 / 8, 1 / 6, 1 / 6])


def test_standardisation_by_hand():
    """
    Task 0: m = (0/8 + 3·4/8) / (1/2) = 3, M2 = 9/8 + 3·1/8 = 3/2. Task 1: m = 12, M2 = (1 + 1 + 4)/6 = 1.

    The weights sum to 1, so σ² = 5/2 for both.
    """
    moments = task_moments(ADVANTAGES, TASKS, WEIGHTS, 2)
    np.testing.assert_allclose(moments.weight, [0.5, 0.5], rtol=1e-15)
    np.testing.assert_allclose(moments.mean, [3.0, 12.0], rtol=1e-15)
    np.testing.assert_allclose(moments.m2, [1.5, 1.0], rtol=1e-15)
    coefficients = standardize(ADVANTAGES, TASKS, moments)
    np.testing.assert_allclose(coefficients, np.array([-3.0, -1.0, 1.0, -1.0, 2.0]) / np.sqrt(2.5), rtol=1e-14)


def test_standardised_coefficients_have_mean_0_in_each_task_and_variance_1_in_all():
    rng = np.random.default_rng(3)
    tasks, weights = rng.integers(3, size=200), rng.random(200)
    advantages = rng.standard_normal(200) * (1 + tasks) + 50 * tasks
    coefficients = standardize(advantages, tasks, task_moments(advantages, tasks, weights, 3))
    sums = np.bincount(tasks, weights * coefficients)
    np.testing.assert_allclose(sums / weights.sum(), 0.0, atol=1e-12)
    assert (weights * coefficients**2).sum() / weights.sum() == pytest.approx(1.0, rel=1e-12)


def test_moments_of_workers_merge_to_those_of_all():
    """Each worker sends the moments of its own steps without weight; they are weighted when the counts are known."""
    rng = np.random.default_rng(4)
    counts, worker_tasks = np.array([4, 1, 7, 0, 3]), np.array([0, 1, 0, 1, 1])
    worker_weights = np.array([0.1, 0.3, 0.1, 0.0, 0.3])
    workers = np.repeat(np.arange(5), counts)
    advantages, tasks, weights = rng.standard_normal(15), worker_tasks[workers], worker_weights[workers]
    whole = task_moments(advantages, tasks, weights, 2)
    parts = []
    for worker, weight in enumerate(worker_weights):
        own = workers == worker
        parts.append(task_moments(advantages[own], tasks[own], np.ones(own.sum()), 2).scaled(weight))
    for order in (parts, parts[::-1]):
        merged = order[0].merge_all(order[1:])
        for name in ("weight", "mean", "m2"):
            np.testing.assert_allclose(getattr(merged, name), getattr(whole, name), rtol=1e-12)


def test_degenerate_advantages():
    """Equal ones have no direction; one step a task, a task without steps and no steps at all are no special cases."""
    equal = np.full(4, 0.1)
    moments = task_moments(equal, np.zeros(4, np.int64), np.full(4, 1 / 3), 2)
    assert pooled_std(moments) == MIN_STD
    assert np.abs(standardize(equal, np.zeros(4, np.int64), moments)).max() < 1e-7
    one_each = task_moments(np.array([5.0, -3.0]), np.array([0, 1]), np.ones(2), 2)
    assert standardize(np.array([5.0, -3.0]), np.array([0, 1]), one_each).tolist() == [0.0, 0.0]
    none = task_moments(np.zeros(0), np.zeros(0, np.int64), np.zeros(0), 2)
    assert none.vector().tolist() == [0.0] * 6
    assert pooled_std(none) == 1.0
