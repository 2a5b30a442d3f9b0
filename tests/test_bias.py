"""
The bias of "first M finished" is real, and the schedules that decide before a trajectory starts have none.

Covers: mean accepted length and expected gradient, at fixed parameters, with confidence intervals.
"""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from envs import contributions
from gymnasium import spaces
from paper import MaleniaNIGT, RennalaNIGT
from scipy import stats
from stable_baselines3.common.callbacks import BaseCallback

from sb3_nigt import FixedTimes, SimulatedVecEnv
from sb3_nigt.algorithms.reporting import bias_bound

N_WORKERS, M, ROUNDS = 10, 20, 250
SHORT, LONG = 2, 20  # lengths of an episode whose first action was 0 or 1
REWARDS = (1.0, 3.0)  # of the first step
CONFIDENCE = 0.999


class LengthIsAnAction(gym.Env):
    """The first action decides how long the episode lasts and what it pays; all other actions do nothing."""

    def __init__(self):
        self.observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.ones(1, dtype=np.float32), {}

    def step(self, action):
        reward = 0.0
        if self.t == 0:
            self.length, reward = (SHORT, LONG)[int(action)], REWARDS[int(action)]
        self.t += 1
        return np.zeros(1, dtype=np.float32), reward, self.t == self.length, False, {}


class Recorder(BaseCallback):
    """Keeps what each round would be judged by; the parameters stay where they are."""

    def __init__(self):
        super().__init__()
        self.lengths, self.gradients = [], []

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        report = self.model.last_round
        lengths = [arrival.n_steps for arrival in report.arrivals]
        self.lengths.append(np.mean(lengths))
        accepted = contributions(self.model._accepted, gamma=1.0)
        gradient = self.model.workers.gradient(accepted, report.weights)
        # the bias of the last layer: two numbers, the derivatives by the logits of all steps together
        self.gradients.append(gradient[-2:].numpy())


def record(algorithm, time_model=None, **kwargs):
    """Rounds of i.i.d. samples at fixed parameters, uniform over the actions."""
    env = SimulatedVecEnv([LengthIsAnAction] * N_WORKERS, time_model)
    # one linear layer that starts at zero: both actions have probability 1/2 everywhere
    model = algorithm(
        "MlpPolicy", env, learning_rate=0.0, n_trajectories=M, gamma=1.0, seed=0, policy_kwargs={"net_arch": []}, **kwargs
    )
    with th.no_grad():
        for parameter in model.policy.parameters():
            parameter.zero_()
    recorder = Recorder()
    while model._n_updates < ROUNDS:
        model.learn(10_000, callback=recorder, reset_num_timesteps=False)
    return recorder


def interval(samples):
    """Confidence interval of a mean, rounds being independent."""
    return stats.t.interval(CONFIDENCE, len(samples) - 1, loc=np.mean(samples), scale=stats.sem(samples))


# p = 1/2: E[L] = (2 + 20) / 2 = 11.
TRUE_LENGTH = 0.5 * (SHORT + LONG)
# Only the first step is rewarded, so g = r_0 ∇ log π(a_0). For the logit of action 1 the score is (1{a_0 = 1} - 1/2):
# E[g] = 1/2 · 3 · (1 - 1/2) + 1/2 · 1 · (0 - 1/2) = 1/2.
TRUE_GRADIENT = 0.5 * REWARDS[1] * 0.5 - 0.5 * REWARDS[0] * 0.5


@pytest.fixture(scope="module")
def first_finished():
    return record(RennalaNIGT, schedule="first_finished")


def test_first_finished_samples_short_episodes_too_often(first_finished):
    _, high = interval(first_finished.lengths)
    assert high < TRUE_LENGTH


def test_first_finished_gradient_is_biased(first_finished):
    # The rewarded long episodes are missing, so ascent towards them is underestimated.
    _, high = interval([gradient[1] for gradient in first_finished.gradients])
    assert high < TRUE_GRADIENT


def test_bound_by_hand():
    # as many short as long ones: mean 11, standard deviation 9, so CV² n / M = (9/11)² · 10/20
    assert bias_bound([SHORT, LONG] * (M // 2), N_WORKERS) == pytest.approx((9 / 11) ** 2 * 0.5)
    assert bias_bound([7] * M, N_WORKERS) == 0.0  # equal lengths, no bias


@pytest.mark.parametrize("schedule", ["planned", "pipelined"])
@pytest.mark.parametrize("algorithm", [RennalaNIGT, MaleniaNIGT])
def test_planned_in_advance_is_unbiased(algorithm, schedule):
    recorder = record(algorithm, schedule=schedule)
    for samples, truth in (
        (recorder.lengths, TRUE_LENGTH),
        ([gradient[1] for gradient in recorder.gradients], TRUE_GRADIENT),
        ([gradient[0] for gradient in recorder.gradients], -TRUE_GRADIENT),
    ):
        low, high = interval(samples)
        assert low < truth < high
        assert high - low < 0.2 * abs(truth)  # narrow enough to see the bias of first_finished


def test_first_finished_is_unbiased_when_time_does_not_depend_on_content():
    recorder = record(RennalaNIGT, FixedTimes(per="trajectory"), schedule="first_finished")
    low, high = interval(recorder.lengths)
    assert low < TRUE_LENGTH < high
    assert high - low < 0.2 * TRUE_LENGTH
