"""The normaliser inside the policy: the statistics of VecNormalize, the same bits in torch, in NumPy and in a float32 copy."""

import copy

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_nigt.moments import Moments
from sb3_nigt.normalization import ObservationNormalizer, RunningNorm, is_normalized

VECTOR = spaces.Box(-np.inf, np.inf, (3,), np.float64)
IMAGE = spaces.Box(0, 255, (1, 8, 8), np.uint8)
DICT = spaces.Dict({"image": IMAGE, "vector": VECTOR, "choice": spaces.Discrete(3), "scalar": spaces.Box(-9, 9, (1,))})


class Scripted(gym.Env):
    """Random observations with another mean and scale for each number; episodes end at random."""

    action_space = spaces.Discrete(2)

    def __init__(self, space, seed):
        self.observation_space, self.rng = space, np.random.default_rng(seed)
        space.seed(seed)

    def _observe(self):
        vector = 50 * np.arange(3) + np.array([0.01, 1, 30]) * self.rng.standard_normal(3)
        if isinstance(self.observation_space, spaces.Box):
            return vector
        return {**self.observation_space.sample(), "vector": vector}

    def reset(self, *, seed=None, options=None):
        return self._observe(), {}

    def step(self, action):
        return self._observe(), 0.0, bool(self.rng.random() < 0.05), False, {}


def seen_by_vec_normalize(space, keys=None, n_steps=200):
    """The wrapper, and all observations it has seen."""
    env = DummyVecEnv([lambda i=i: Scripted(space, i) for i in range(2)])
    wrapper = VecNormalize(env, norm_reward=False, norm_obs_keys=keys)
    wrapper.reset()
    seen = [wrapper.get_original_obs()]
    for _ in range(n_steps):
        wrapper.step(np.zeros(2, np.int64))
        seen.append(wrapper.get_original_obs())
    if keys is None:
        return wrapper, np.concatenate(seen)
    return wrapper, {key: np.concatenate([obs[key] for obs in seen]) for key in seen[0]}


def rows(observations, piece):
    return {k: x[piece] for k, x in observations.items()} if isinstance(observations, dict) else observations[piece]


@pytest.mark.parametrize(("space", "keys"), [(VECTOR, None), (DICT, ["vector", "scalar"])], ids=["vector", "dict"])
def test_equals_vec_normalize(space, keys):
    wrapper, observations = seen_by_vec_normalize(space, keys)
    normalizer = ObservationNormalizer(space)
    for piece in (slice(0, 7), slice(7, 7), slice(7, 300), slice(300, None)):  # rounds; nothing in one of them
        normalizer.merge(normalizer.moments_of(rows(observations, piece)))
    expected = {None: wrapper.obs_rms} if keys is None else wrapper.obs_rms
    assert set(normalizer.keys) == set(expected)
    for key, moments in zip(normalizer.keys, normalizer.moments(), strict=True):
        tolerance = 1e-5 if key == "scalar" else 1e-11  # a float32 observation: the wrapper's sums are in float32 as well
        np.testing.assert_allclose(moments.mean, expected[key].mean, rtol=tolerance, atol=1e-6)
        np.testing.assert_allclose(moments.variance, expected[key].var, rtol=tolerance)
        assert moments.weight == pytest.approx(expected[key].count, rel=1e-12)

    batch = rows(observations, slice(0, 5))
    tensors = {k: th.as_tensor(x) for k, x in batch.items()} if keys else th.as_tensor(batch)
    ours, theirs = normalizer(tensors), wrapper.normalize_obs(batch)
    if keys is None:
        np.testing.assert_allclose(ours.numpy(), theirs, atol=2e-3)  # 50 ± 0.01 in float32 is known to 4e-6
        np.testing.assert_allclose(ours[:, 1:].numpy(), theirs[:, 1:], atol=2e-5)
    else:
        np.testing.assert_allclose(ours["scalar"].numpy(), theirs["scalar"], atol=1e-5)
        for key in ("image", "choice"):
            assert th.equal(ours[key], tensors[key])
        assert set(ours) == set(theirs)


@pytest.mark.parametrize(
    ("space", "normalized"),
    [
        (VECTOR, True),
        (spaces.Box(-1, 1, (4, 3)), True),
        (spaces.Box(-1, 1, ()), True),
        (spaces.Box(0, 255, (128,), np.uint8), True),  # memory of a console, no picture
        (IMAGE, False),
        (spaces.Box(0, 1, (3, 8, 8), np.float32), False),
        (spaces.Discrete(4), False),
        (spaces.MultiBinary(4), False),
    ],
)
def test_which_spaces_are_normalized(space, normalized):
    assert is_normalized(space) == normalized
    observation = th.as_tensor(np.array([space.sample()]))
    normalizer = ObservationNormalizer(space)
    normalizer.merge([Moments(np.asarray(10.0), np.full(space.shape, 7.0), np.ones(space.shape))] if normalized else [])
    assert th.equal(normalizer(observation), observation) != normalized


def statistics():
    """Means, variances and observations over many orders of magnitude, and the limits of float32."""
    rng = np.random.default_rng(0)
    size = 5000
    mean = rng.standard_normal(size) * 10.0 ** rng.integers(-6, 6, size)
    std = 10.0 ** rng.uniform(-7, 5, size)
    observations = mean + std * 5 * rng.standard_normal((20, size))
    observations[:, :3] = [np.nan, np.inf, -np.inf]
    norm = RunningNorm((size,))
    norm.set_moments(Moments(np.asarray(1000.0), mean, 1000.0 * std**2))
    return norm, observations


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64, np.uint8, np.bool_])
def test_numpy_and_torch_give_the_same_bits(dtype):
    norm, observations = statistics()
    if np.dtype(dtype).kind != "f":
        observations = np.nan_to_num(observations, posinf=1, neginf=1).clip(0, 200)
    observations = observations.astype(dtype)
    in_torch, in_numpy = norm(th.as_tensor(observations)), norm.frozen()
    assert in_torch.dtype == th.float32
    assert np.array_equal(in_torch.numpy(), in_numpy(observations), equal_nan=True)
    before = observations.copy()
    assert np.array_equal(in_torch[3].numpy(), in_numpy(observations[3]), equal_nan=True)
    assert np.array_equal(observations, before, equal_nan=True)
    assert in_torch[~in_torch.isnan()].abs().max() == 10.0


def test_copy_that_received_float32_statistics_gives_the_same_bits():
    norm, observations = statistics()
    copied = RunningNorm(norm.shape)
    for name, buffer in norm.named_buffers():
        if buffer.dtype == th.float32:
            getattr(copied, name).copy_(buffer)
    assert not th.equal(norm.mean.double(), norm.exact_mean)  # something was rounded
    batch = th.as_tensor(observations)
    assert th.equal(copied(batch).nan_to_num(), norm(batch).nan_to_num())


def test_frozen_function_does_not_follow_later_statistics():
    normalizer = ObservationNormalizer(VECTOR)
    frozen, observation = normalizer.frozen(), np.array([1.0, 2.0, 3.0])
    before = frozen(observation)
    normalizer.merge([Moments.of(np.random.default_rng(0).standard_normal((10, 3)) * 100)])
    assert np.array_equal(frozen(observation), before)
    assert not np.array_equal(normalizer.frozen()(observation), before)


def test_frozen_function_of_other_spaces():
    observation = DICT.sample()
    normalized = ObservationNormalizer(DICT).frozen()(observation)
    assert normalized["image"] is observation["image"]
    assert normalized["vector"].dtype == np.float32
    assert ObservationNormalizer(IMAGE).frozen()(observation["image"]) is observation["image"]


def test_statistics_are_saved_with_the_module_and_are_not_trained():
    normalizer = ObservationNormalizer(DICT)
    normalizer.merge([Moments.of(np.random.default_rng(1).standard_normal((10, *DICT[k].shape))) for k in normalizer.keys])
    again = ObservationNormalizer(DICT)
    again.load_state_dict(normalizer.state_dict())
    for a, b in zip(again.moments(), copy.deepcopy(normalizer).moments(), strict=True):
        assert np.array_equal(a.vector(), b.vector())
    assert list(normalizer.parameters()) == []
