"""
"It learned" as a statistical claim: a one-sided sign-flip permutation test over seeds.

Each seed gives a pair of mean evaluation returns, before and after training. If training did nothing, exchanging the two
within any pair would not matter; the p-value is the share of all exchanges whose total gain is at least the observed one.
"""

import itertools

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from paper import MaleniaNIGT, RennalaNIGT
from stable_baselines3.common.envs import IdentityEnv, IdentityEnvBox, IdentityEnvMultiBinary, IdentityEnvMultiDiscrete
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_nigt import make_worker_vec_env

SIGNIFICANCE = 0.05
STEP_TIMES = np.sqrt(np.arange(1, 11))

th.set_num_threads(1)


def permutation_p_value(gains):
    observed = np.sum(gains)
    totals = [np.dot(signs, gains) for signs in itertools.product([1, -1], repeat=len(gains))]
    return np.mean([total >= observed - 1e-9 for total in totals])


def test_permutation_test_by_hand():
    # of the 8 sign patterns of (1, 2, 3) only the observed one reaches 6, and only it and (-1, 2, 3) reach 4
    assert permutation_p_value(np.array([1.0, 2.0, 3.0])) == 1 / 8
    assert permutation_p_value(np.array([-1.0, 2.0, 3.0])) == 2 / 8


def gains_over_seeds(algorithm, env_id, timesteps, seeds):
    gains = []
    for seed in range(seeds):
        model = algorithm("MlpPolicy", make_worker_vec_env(env_id, 10, step_times=STEP_TIMES), seed=seed, device="cpu")
        eval_env = Monitor(gym.make(env_id))
        eval_env.reset(seed=seed)
        before, _ = evaluate_policy(model, eval_env, 10, deterministic=False)
        model.learn(timesteps)
        after, _ = evaluate_policy(model, eval_env, 10, deterministic=False)
        gains.append(after - before)
    return np.array(gains)


@pytest.mark.parametrize("algorithm", [RennalaNIGT, pytest.param(MaleniaNIGT, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("env_id", "timesteps"), [("CartPole-v1", 20_000), pytest.param("InvertedPendulum-v5", 15_000, marks=pytest.mark.slow)]
)
def test_defaults_improve(algorithm, env_id, timesteps):
    assert permutation_p_value(gains_over_seeds(algorithm, env_id, timesteps, seeds=5)) < SIGNIFICANCE


@pytest.mark.parametrize(
    "make_env",
    [IdentityEnv, *(pytest.param(env, marks=pytest.mark.slow) for env in (IdentityEnvMultiDiscrete, IdentityEnvMultiBinary))],
)
def test_identity_with_discrete_actions(make_env):
    """The library's own learning check, budget and threshold, with trajectories of one step and a normalised step length."""
    env = DummyVecEnv([lambda: make_env(4)])
    model = RennalaNIGT("MlpPolicy", env, learning_rate=0.2, horizon=1, n_trajectories=10, eta=0.5, seed=3)
    model.learn(1200)
    evaluate_policy(model, env, n_eval_episodes=20, reward_threshold=90, warn=False)


@pytest.mark.slow
def test_identity_with_box_actions():
    env = DummyVecEnv([lambda: IdentityEnvBox(eps=0.5)])
    model = RennalaNIGT("MlpPolicy", env, learning_rate=lambda left: 0.1 * left, horizon=1, eta=0.2, seed=0)
    model.learn(6000)
    evaluate_policy(model, env, n_eval_episodes=20, reward_threshold=90, warn=False)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_reacher_of_the_paper():
    """
    n = 10, h_i = κ_i = √i, M = 20, η = 0.1, α = 2⁻⁶, 400,000 timesteps: from about -38 to better than -20.

    The median over seeds and moments: steps of a fixed length throw a policy back now and then.
    """
    returns = []
    for seed in range(3):
        env = make_worker_vec_env("Reacher-v4", 10, step_times=STEP_TIMES, message_times=STEP_TIMES)
        model = RennalaNIGT(
            "MlpPolicy", env, learning_rate=2**-6, n_trajectories=20, eta=0.1, gamma=0.99, seed=seed, device="cpu"
        )
        for timesteps in (200_000, 100_000, 100_000):
            model.learn(timesteps, reset_num_timesteps=False)
            eval_env = Monitor(gym.make("Reacher-v4"))
            eval_env.reset(seed=seed)
            returns.append(evaluate_policy(model, eval_env, 50, deterministic=False)[0])
    print("returns", returns)
    assert np.median(returns) > -20
