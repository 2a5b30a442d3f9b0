"""The estimator of the defaults against numbers by hand: ends of episodes, truncations, cuts, weights and tasks."""

import numpy as np
import pytest

from sb3_nigt.estimators import GeneralizedAdvantage
from sb3_nigt.estimators.gae import renumbered
from sb3_nigt.estimators.reward_scale import RewardScale
from sb3_nigt.messages import SamplingPoint, TrajectoryKey
from sb3_nigt.sampling.trajectory import Trajectory
from sb3_nigt.vec_env.base import piece_arrival

GAMMA, LAM = 0.5, 0.5
POINT = SamplingPoint(0, np.zeros(1, np.float32))


class FirstEntry:
    """A critic whose value is the observation, plus ten times the task; it keeps what it is fitted to."""

    def values(self, observations, tasks):
        return observations[:, 0].astype(np.float64) + 10.0 * tasks

    def fit(self, observations, targets, values, tasks):
        self.fitted = observations[:, 0].tolist(), targets, values, tasks.tolist()

    class network:
        n_tasks = 1

        class reward_scale:
            @staticmethod
            def fill_(value):
                pass


def piece(observations, final, rewards, worker=0, end=None, age=0, task="a"):
    """One piece with its arrival; ``end`` is "terminated", "truncated" or None for a cut."""
    rewards = np.array(rewards, dtype=np.float64)
    trajectory = Trajectory(
        key=TrajectoryKey(0, worker, 0),
        point=POINT,
        observations=np.array(observations, dtype=np.float32)[:, None],
        final_observation=np.array([final], dtype=np.float32),
        samples=np.zeros(len(rewards), dtype=np.int64),
        actions=np.zeros(len(rewards), dtype=np.int64),
        rewards=rewards,
        terminated=end == "terminated",
        truncated=end == "truncated",
        infos=[{} for _ in rewards],
        age=age,
    )
    return piece_arrival(worker, task, trajectory, 0.0, 1.0), trajectory


def estimator(n_workers=2, tasks=("a",)):
    """In units of the rewards, since the scale is one of a known deviation of 1."""
    scale = RewardScale(n_workers, GAMMA)
    scale.moments = type(scale.moments)(np.asarray(1e12), np.asarray(0.0), np.asarray(1e12))
    numbers = {task: number for number, task in enumerate(tasks)}
    return GeneralizedAdvantage(GAMMA, LAM, FirstEntry(), scale, lambda observations: observations, numbers)


def coefficients(ours, accepted, weights):
    return ours.coefficients(accepted, weights, ours.assess(accepted, None))


def raw(found, expected):
    """Undo the standardisation by the mean and deviation of what is expected."""
    expected = np.array(expected)
    np.testing.assert_allclose(np.concatenate(found), (expected - expected.mean()) / expected.std(), atol=1e-5)


def test_terminated_truncated_and_cut():
    """
    Rewards 1, 2; values 3, 5, then 7 of the final observation. δ_0 = 1 + 5/2 - 3 = 0.5 and A_0 = δ_0 + A_1/4 always.
    Terminated: A_1 = 2 - 5 = -3. Truncated or cut: A_1 = 2 + 7/2 - 5 = 0.5. Nothing of the next piece is summed.
    """
    ours = estimator()
    accepted = [piece([3, 5], 7, [1, 2], worker, end) for worker, end in enumerate(["terminated", "truncated"])]
    accepted.append(piece([3, 5], 7, [1, 2], 1))
    found = coefficients(ours, accepted, np.array([1 / 6, 1 / 6]))
    advantages = [0.5 - 0.75, -3, *[0.5 + 0.125, 0.5] * 2]
    raw(found, advantages)
    ours.learn()
    observations, targets, values, tasks = ours.critic.fitted
    assert observations == [3, 5] * 3
    np.testing.assert_allclose(targets, np.array(advantages) + [3, 5] * 3, atol=1e-5)
    np.testing.assert_allclose(values, [3, 5] * 3)
    assert tasks == [0] * 6


def test_an_episode_that_ends_inside_a_segment():
    """Two pieces of one worker: the first one terminates, the second one is the beginning of the next episode."""
    found = coefficients(estimator(), [piece([3], 9, [1], end="terminated"), piece([4, 2], 6, [0, 1])], np.array([1 / 3, 0.0]))
    # 1 - 3; then δ_1 = 1 + 6/2 - 2 = 2 and A_0 = 0 + 2/2 - 4 + 2/4
    raw(found, [-2, -2.5, 2])


def test_weights_of_the_workers_and_tasks():
    """
    One step each, A = r - V + γ V': task a has 1 and 3 with weights 1/4 and 1/4 a step, task b has -10 + 4 with 1/2.

    The mean of a is 2, that of b its own value, so C is (A - 2)/σ with σ² = (1/4 + 1/4)/(1/4 + 1/4 + 1/2) = 1/2, and 0.
    """
    ours = estimator(3, ("a", "b"))
    accepted = [piece([0], 0, [1], 0), piece([0], 0, [3], 1), piece([0], 0, [4], 2, "terminated", task="b")]
    found = np.concatenate(coefficients(ours, accepted, np.array([0.25, 0.25, 0.5])))
    np.testing.assert_allclose(found, [-(2**0.5), 2**0.5, 0], atol=1e-5)
    # weights 3/4 and 1/4 within a: mean 1.5, σ² = (3/8 + 9/16 · ... ) by the weighted squares 0.25 · 3 and 2.25 · 1
    found = np.concatenate(coefficients(ours, accepted, np.array([0.375, 0.125, 0.5])))
    sigma = (0.375 * 0.25 + 0.125 * 2.25) ** 0.5
    np.testing.assert_allclose(found, [-0.5 / sigma, 1.5 / sigma, 0], atol=1e-5)


def test_a_task_that_the_critic_does_not_know_has_the_value_of_the_first():
    found = estimator(2, ("a", "b"))
    found = coefficients(found, [piece([0], 0, [1], 0, task="c"), piece([0], 0, [3], 1, task="c")], np.full(2, 0.5))
    np.testing.assert_allclose(np.concatenate(found), [-1, 1], atol=1e-5)


@pytest.mark.parametrize(("age", "carried"), [(2, 4.0), (0, 0.0)])
def test_the_unit_of_rewards_forgets_an_episode_that_was_left(age, carried):
    """The discounted return goes on in the next piece, unless that begins a new episode: R = γ · 4 + 1 or 1."""
    ours = estimator()
    coefficients(ours, [piece([0], 0, [4.0])], np.array([1.0, 0.0]))
    coefficients(ours, [piece([0], 0, [1.0], age=age)], np.array([1.0, 0.0]))
    assert ours.scale.state_dict()["returns"][0] == GAMMA * carried + 1.0


def test_a_round_without_coefficients_is_in_no_file():
    """As where a signal ends a run while ranks exchange what they have."""
    ours = GeneralizedAdvantage(GAMMA, LAM, FirstEntry(), RewardScale(1, GAMMA), lambda observations: observations, {"a": 0})
    ours.critic.state_dict = dict
    before = ours.state_dict()
    assessment = ours.assess(accepted := [piece([3, 5], 7, [1, 2])], None)
    np.testing.assert_equal(ours.state_dict(), before)
    ours.coefficients(accepted, np.ones(1), assessment)
    after = ours.state_dict()
    assert after["lesson"] is not None
    assert (after["scale"]["moments"] != before["scale"]["moments"]).any()


def test_rewards_are_in_the_unit_of_the_rounds_before():
    """The first round has none before it and takes its own."""
    ours = GeneralizedAdvantage(0.0, 0.0, FirstEntry(), RewardScale(1, 0.0), lambda observations: observations, {"a": 0})
    first, second = [-2.0, 2.0], [-50.0, 50.0]
    coefficients(ours, [piece([0, 0], 0, first)], np.array([0.5]))
    assert ours.scale.scale == pytest.approx(2.0, rel=1e-3)
    coefficients(ours, [piece([0, 0], 0, [-6.0, 6.0])], np.array([0.5]))
    ours.learn()
    np.testing.assert_allclose(ours.critic.fitted[1], [-3, 3], rtol=1e-3)
    ours = GeneralizedAdvantage(0.0, 0.0, FirstEntry(), RewardScale(1, 0.0), lambda observations: observations, {"a": 0})
    coefficients(ours, [piece([0, 0], 0, first)], np.array([0.5]))
    coefficients(ours, [piece([0, 0], 0, second)], np.array([0.5]))
    ours.learn()
    np.testing.assert_allclose(ours.critic.fitted[1], [-10, 10], rtol=1e-3)  # 25 units, clipped


@pytest.mark.parametrize(
    ("present", "before", "n_tasks", "numbers"),
    [
        pytest.param({"b": 0, "a": 1}, {"a": 0, "b": 1}, 2, {"a": 0, "b": 1}, id="another order"),
        pytest.param({"b": 0}, {"a": 0, "b": 1}, 2, {"a": 0, "b": 1}, id="one is absent"),
        pytest.param({"c": 0, "a": 1}, {"a": 0, "b": 1}, 2, {"a": 0, "c": 1}, id="a new one takes the place of an absent one"),
        pytest.param({"c": 0, "a": 1}, {"a": 0, "b": 1}, 3, {"a": 0, "b": 1, "c": 2}, id="a number that was never used"),
        pytest.param({1: 0, 2: 1}, {"2": 0, "1": 1}, 2, {1: 1, 2: 0}, id="names on ranks"),
        pytest.param({1: 0, "1": 1}, {1: 0, "1": 1}, 2, {1: 0, "1": 1}, id="ids that print alike"),
        pytest.param({0: 0, 1: 0}, {"a": 0, "b": 1}, 2, {"b": 1, 0: 0, 1: 0}, id="workers without tasks"),
        pytest.param({"b": 0, "a": 1, "c": 2}, {"a": 0, "b": 2}, 3, {"a": 0, "b": 2, "c": 1}, id="a gap"),
        pytest.param({"b": 0, "a": 1}, {"a": 0, "b": 5}, 2, {"a": 0, "b": 1}, id="a number that there is no more"),
    ],
)
def test_tasks_keep_their_numbers(present, before, n_tasks, numbers):
    assert renumbered(present, before, n_tasks) == numbers
