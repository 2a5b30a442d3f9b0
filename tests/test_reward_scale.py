"""The reward scale: the statistics of VecNormalize, carried over rounds of any length."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_nigt import RennalaNIGT, make_worker_vec_env
from sb3_nigt.estimators.reward_scale import RewardScale, discounted_returns, unit_of
from sb3_nigt.vec_env.transforms import NormalizeRewards

N_STEPS, N_WORKERS, GAMMA = 400, 3, 0.9


class Scripted(gym.Env):
    """Random rewards; episodes end at random, some by truncation."""

    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        ends = self.rng.random() < 0.05
        truncated = bool(ends and self.rng.random() < 0.5)
        return np.zeros(1, np.float32), 2 + 5 * self.rng.standard_normal(), ends and not truncated, truncated, {}


@pytest.fixture(scope="module")
def normalized():
    """VecNormalize after N_STEPS, and the rewards and ends it saw, shape (N_STEPS, N_WORKERS)."""
    env = DummyVecEnv([lambda i=i: Scripted(i) for i in range(N_WORKERS)])
    wrapper = VecNormalize(env, norm_obs=False, gamma=GAMMA)
    wrapper.reset()
    rewards, ended = np.empty((N_STEPS, N_WORKERS)), np.empty((N_STEPS, N_WORKERS), bool)
    for t in range(N_STEPS):
        _, _, ended[t], _ = wrapper.step(np.zeros(N_WORKERS, np.int64))
        rewards[t] = wrapper.old_reward
    return wrapper, rewards, ended


def in_rounds(rewards, ended, seed):
    """Rounds of random length, other cuts for each worker; a worker without a step in a round is one of them."""
    scale = RewardScale(N_WORKERS, GAMMA)
    rng = np.random.default_rng(seed)
    cuts = [np.array([0, *np.sort(rng.integers(0, N_STEPS, size=10)), N_STEPS]) for _ in range(N_WORKERS)]
    for number in range(11):
        pieces = [slice(*c[number : number + 2]) for c in cuts]
        scale.merge([scale.advance(w, rewards[piece, w], ended[piece, w]) for w, piece in enumerate(pieces)])
    return scale


def test_the_unit_of_a_wrapper_may_change(normalized):
    """Rewards in a unit that is another one in each round give the scale of raw rewards, in the last of these units."""
    _, rewards, ended = normalized
    scale = RewardScale(N_WORKERS, GAMMA)
    for number in range(4):
        unit, piece = 2.0**-number, slice(number * 100, (number + 1) * 100)
        scale.set_unit(unit)
        scale.merge([scale.advance(w, rewards[piece, w] * unit, ended[piece, w]) for w in range(N_WORKERS)])
    raw = in_rounds(rewards, ended, seed=0)
    assert scale.scale == pytest.approx(raw.scale / 8, rel=1e-6)


@pytest.mark.parametrize(
    ("transform", "unit"), [(None, 1.0), (NormalizeRewards(4.0, 10.0), 0.25), (np.zeros_like, 1.0), (np.log, 1.0)]
)
def test_unit_of_a_wrapper(transform, unit):
    assert unit_of(transform) == pytest.approx(unit)


def test_vec_normalize_around_workers():
    """The critic's scale is the one without a wrapper, in the wrapper's unit. α = 0, so that both see the same steps."""
    env = make_worker_vec_env("Pendulum-v1", 4, seed=0)
    wrapper = VecNormalize(env, norm_obs=False, gamma=0.99, clip_reward=np.inf)
    plain, wrapped = (
        RennalaNIGT("MlpPolicy", workers, learning_rate=0.0, n_steps=50, seed=0, device="cpu").learn(1_000)
        for workers in (env, wrapper)
    )
    one, other = (model.estimator.scale for model in (plain, wrapped))
    assert other.unit < 0.1
    assert other.scale == pytest.approx(one.scale * other.unit, rel=1e-3)
    assert wrapper.ret_rms.count == pytest.approx(one.moments.weight)
    assert wrapper.ret_rms.var == pytest.approx(one.moments.variance, rel=1e-9)  # its episodes go on in the next round as well


@pytest.mark.parametrize("seed", range(3))
def test_equals_vec_normalize(normalized, seed):
    wrapper, rewards, ended = normalized
    assert ended.any(axis=0).all()
    scale = in_rounds(rewards, ended, seed)
    assert scale.moments.weight == pytest.approx(wrapper.ret_rms.count, rel=1e-12)
    assert scale.moments.mean == pytest.approx(wrapper.ret_rms.mean, rel=1e-11)
    assert scale.moments.variance == pytest.approx(wrapper.ret_rms.var, rel=1e-11)
    some = np.array([-200.0, -3.0, 0.5, 200.0])
    np.testing.assert_allclose(scale.normalize(some), wrapper.normalize_reward(some), rtol=1e-6)  # which casts to float32
    assert scale.normalize(some)[[0, -1]].tolist() == [-10.0, 10.0]


def test_returns_by_hand():
    """γ = 1/2, R = 8 before: 1 + 4 = 5, 2 + 5/2 = 4.5 (end), 3, 4 + 3/2 = 5.5."""
    rewards, ended = np.array([1.0, 2.0, 3.0, 4.0]), np.array([False, True, False, False])
    assert discounted_returns(rewards, ended, 0.5, start=8.0).tolist() == [5.0, 4.5, 3.0, 5.5]
    assert discounted_returns(rewards[:0], ended[:0], 0.5, start=8.0).tolist() == []


def test_return_is_carried_until_the_episode_ends():
    scale = RewardScale(2, 0.5)
    running = np.array([False])
    assert scale.advance(1, np.array([4.0]), running).mean == 4.0
    assert scale.advance(1, np.array([1.0]), ~running).mean == 3.0
    assert scale.advance(1, np.array([1.0]), running).mean == 1.0
    scale.restart(1)
    assert scale.advance(1, np.array([1.0]), running).mean == 1.0
    assert scale.advance(0, np.zeros(0), running[:0]).weight == 0.0


def test_rewards_are_unscaled_before_the_first_round():
    assert RewardScale(1, 0.9).normalize(np.array([0.25])) == pytest.approx([0.25], rel=1e-8)


def test_state_continues_with_the_same_bits(normalized):
    _, rewards, ended = normalized
    whole, first, second = RewardScale(1, GAMMA), RewardScale(1, GAMMA), RewardScale(1, GAMMA)
    for scale, piece in ((whole, slice(0, 7)), (whole, slice(7, 20)), (first, slice(0, 7))):
        scale.merge([scale.advance(0, rewards[piece, 0], ended[piece, 0])])
    second.load_state_dict(first.state_dict())
    second.merge([second.advance(0, rewards[7:20, 0], ended[7:20, 0])])
    for name, value in whole.state_dict().items():
        assert np.array_equal(second.state_dict()[name], value)
