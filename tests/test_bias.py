"""
The bias of "first M finished" is real; schedules that decide before a trajectory starts have none, nor have rounds of steps.

Covers: mean accepted length and expected gradient, at fixed parameters, with confidence intervals.
"""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from envs import contributions, run_rounds
from gymnasium import spaces
from paper import MaleniaNIGT, RennalaNIGT
from scipy import stats
from stable_baselines3.common.callbacks import BaseCallback

from sb3_nigt import FixedTimes, SimulatedVecEnv
from sb3_nigt.algorithms.reporting import bias_bound
from sb3_nigt.estimators.advantages import gae
from sb3_nigt.messages import Contribution

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
        accepted = contributions(self.model.accepted, gamma=1.0)
        gradient = self.model.workers.gradient(accepted, report.weights)
        # the bias of the last layer: two numbers, the derivatives by the logits of all steps together
        self.gradients.append(gradient[-2:].numpy())


def record(algorithm, time_model=None, recorder=Recorder, rounds=ROUNDS, **kwargs):
    """Rounds at fixed parameters, uniform over the actions."""
    env = SimulatedVecEnv([LengthIsAnAction] * N_WORKERS, time_model)
    # one linear layer that starts at zero: both actions have probability 1/2 everywhere
    arguments = {"learning_rate": 0.0, "gamma": 1.0, "seed": 0, "policy_kwargs": {"net_arch": []}, **kwargs}
    model = algorithm("MlpPolicy", env, **arguments)
    with th.no_grad():
        for parameter in model.policy.parameters():
            parameter.zero_()
    recorded = recorder()
    run_rounds(model, rounds, recorded)
    return recorded


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
    return record(RennalaNIGT, n_trajectories=M, schedule="first_finished")


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "schedule"),
    [
        (RennalaNIGT, "planned"),
        pytest.param(RennalaNIGT, "pipelined", marks=pytest.mark.slow),
        (MaleniaNIGT, "planned"),
        pytest.param(MaleniaNIGT, "pipelined", marks=pytest.mark.slow),  # the rule and the schedule are above
    ],
)
def test_planned_in_advance_is_unbiased(algorithm, schedule):
    recorder = record(algorithm, n_trajectories=M, schedule=schedule)
    for samples, truth in (
        (recorder.lengths, TRUE_LENGTH),
        ([gradient[1] for gradient in recorder.gradients], TRUE_GRADIENT),
        ([gradient[0] for gradient in recorder.gradients], -TRUE_GRADIENT),
    ):
        low, high = interval(samples)
        assert low < truth < high
        assert high - low < 0.2 * abs(truth)  # narrow enough to see the bias of first_finished


@pytest.mark.slow
def test_first_finished_is_unbiased_when_time_does_not_depend_on_content():
    recorder = record(RennalaNIGT, FixedTimes(per="trajectory"), n_trajectories=M, schedule="first_finished")
    low, high = interval(recorder.lengths)
    assert low < TRUE_LENGTH < high
    assert high - low < 0.2 * TRUE_LENGTH


# Rounds of steps

SETTLED = 100  # rounds after which the ages of the episodes no longer show that all have begun at once
BLOCKS, IN_A_BLOCK = 20, 25  # rounds that follow on each other are not independent, blocks of them nearly are


class StepRecorder(BaseCallback):
    """Means over the steps of each round, with the weights of the aggregator: rewards, and raw advantages times scores."""

    def __init__(self):
        super().__init__()
        self.rewards, self.gradients = [], []

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        report = self.model.last_round
        self.rewards.append(sum(report.weights[a.worker] * piece.rewards.sum() for a, piece in self.model.accepted))
        scored = [Contribution(a.worker, a.key, advantages_without_critic(piece)) for a, piece in self.model.accepted]
        gradient = self.model.workers.gradient(scored, report.weights)
        self.gradients.append(gradient[-2:].numpy())


def advantages_without_critic(piece):
    """λ = γ = 1 and V = 0, which is the true value behind every cut: the first step alone is rewarded."""
    nothing, ended = np.zeros(piece.n_steps), np.arange(piece.n_steps) == piece.n_steps - 1
    return gae(piece.rewards, nothing, nothing, ended & piece.terminated, ended, 1.0, 1.0)


SQRT = np.sqrt(np.arange(1, N_WORKERS + 1)).tolist()


@pytest.mark.parametrize(
    ("algorithm", "times"),
    [
        (RennalaNIGT, SQRT),
        pytest.param(MaleniaNIGT, SQRT, marks=pytest.mark.slow),
        pytest.param(RennalaNIGT, 1.0, marks=pytest.mark.slow),
    ],
)
def test_rounds_of_steps_are_unbiased(algorithm, times):
    """One step in eleven is the first one of an episode: means over episodes, as above, divided by their mean length."""
    arguments = {"rollout": "steps", "gae_lambda": 1.0, "n_steps": 5}
    recorder = record(algorithm, FixedTimes(times), StepRecorder, rounds=SETTLED + BLOCKS * IN_A_BLOCK, **arguments)
    for samples, truth in (
        (recorder.rewards, np.mean(REWARDS) / TRUE_LENGTH),
        ([gradient[1] for gradient in recorder.gradients], TRUE_GRADIENT / TRUE_LENGTH),
        ([gradient[0] for gradient in recorder.gradients], -TRUE_GRADIENT / TRUE_LENGTH),
    ):
        errors = np.array(samples[SETTLED:]).reshape(BLOCKS, IN_A_BLOCK).mean(axis=1) - truth
        low, high = interval(errors)
        assert low < 0 < high
        assert high - low < 0.2 * abs(truth)
