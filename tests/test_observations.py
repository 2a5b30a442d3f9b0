"""Observations and rewards that do not fit the spaces: what numpy would broadcast or cast in silence is an error."""

import re
from functools import partial

import numpy as np
import pytest
from envs import DictEnv, PointEnv, accepted
from gymnasium import spaces
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.wrappers import TimeLimit
from numpy.testing import assert_array_equal
from paper import RennalaNIGT
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnvWrapper

from sb3_nigt import RennalaNIGT as Defaults
from sb3_nigt import SimulatedVecEnv
from sb3_nigt.sampling.observations import conform

BOX, WIDE = spaces.Box(-1, 1, (2,), np.float32), spaces.Box(-1, 1, (2,), np.float64)
BYTES, DISCRETE, BITS = spaces.Box(0, 255, (2,), np.uint8), spaces.Discrete(3), spaces.MultiBinary(2)
DICT = spaces.Dict(x=BOX, k=DISCRETE)

TAKEN = {
    "as it should be": (BOX, np.array([0.1, 0.2], np.float32), [np.float32(0.1), np.float32(0.2)]),
    "rounded": (BOX, np.array([0.1, 0.2]), [np.float32(0.1), np.float32(0.2)]),
    "widened": (WIDE, np.array([0.5, 1.0], np.float32), [0.5, 1.0]),
    "list": (BOX, [0.5, 1], [0.5, 1.0]),
    "integers for floats": (BOX, np.array([0, 1]), [0.0, 1.0]),
    "whole floats for integers": (BYTES, np.array([7.0, 255.0]), [7, 255]),
    "Python's integer": (DISCRETE, 2, 2),
    "numpy's integer": (DISCRETE, np.int32(2), 2),
    "array without dimensions": (DISCRETE, np.array(2), 2),
    "booleans for bits": (BITS, np.array([True, False]), [1, 0]),
    "not a number": (BOX, np.array([np.nan, 1.0]), [np.nan, 1.0]),  # rejected later, not an error
}
REFUSED = {
    "would be broadcast": (BOX, np.zeros(1, np.float32), "shape (2,) and dtype float32, got shape (1,) and dtype float32"),
    "number for an array": (BOX, 0.5, "shape (2,) and dtype float32, got shape () and dtype float64"),
    "too long": (BOX, np.zeros(3), "got shape (3,)"),
    "a row": (BOX, np.zeros((1, 2)), "got shape (1, 2)"),
    "array for a number": (DISCRETE, np.array([1]), "shape () and dtype int64, got shape (1,) and dtype int64: array([1])"),
    "text": (BOX, np.array(["0.1", "0.2"]), "shape (2,) and dtype float32, got shape (2,) and dtype <U3"),
    "objects": (BOX, np.array([0.1, None]), "got shape (2,) and dtype object"),
    "nothing": (BOX, None, "got shape () and dtype object: None"),
    "ragged": (BOX, [[1], [1, 2]], "got shape () and dtype object: [[1], [1, 2]]"),
    "complex": (BOX, np.array([1j, 1]), "got shape (2,) and dtype complex128"),
    "fractions for bytes": (
        BYTES,
        np.array([0.5, 1.0]),
        "dtype uint8, got dtype float64 with numbers that uint8",
    ),
    "too large for bytes": (BYTES, np.array([256, 1]), "dtype uint8, got dtype int64 with numbers that uint8"),
    "negative for bytes": (BYTES, np.array([-1, 1]), "dtype uint8, got dtype int64"),
    "not a number for an integer": (DISCRETE, np.nan, "dtype int64, got dtype float64"),
    "a part is missing": (DICT, {"x": np.zeros(2)}, "a dict with the keys ['k', 'x'], got the keys ['x']"),
    "no dict": (DICT, np.zeros(2), "a dict with the keys ['k', 'x'], got a ndarray"),
    "a part does not fit": (DICT, {"x": np.zeros(1), "k": 1}, "observation['x'] must have shape (2,)"),
}


@pytest.mark.parametrize(("space", "given", "expected"), TAKEN.values(), ids=TAKEN)
def test_taken(space, given, expected):
    taken = conform(given, space)
    assert taken.dtype == space.dtype
    assert taken.shape == space.shape
    assert_array_equal(taken, expected)


@pytest.mark.parametrize(("space", "given", "says"), REFUSED.values(), ids=REFUSED)
def test_refused(space, given, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        conform(given, space)


def test_dict_has_the_parts_of_the_space_only():
    taken = conform({"x": [0.5, 1.0], "k": 2, "debug": "?"}, DICT)
    assert set(taken) == {"x", "k"}
    assert_array_equal(taken["x"], np.array([0.5, 1.0], np.float32))


class BadEnv(PointEnv):
    """Gives something else in place of the observation or the reward, at reset (step 0) or at a step."""

    def __init__(self, what, at, gives):
        super().__init__()
        self.what, self.at, self.gives = what, at, gives

    def _or_bad(self, observation):
        return self.gives if self.what == "observation" and self._t == self.at and self.bad else observation

    bad = False  # from the second reset on; the first is that of ``learn``

    def reset(self, *, seed=None, options=None):
        observation, info = super().reset(seed=seed, options=options)
        bad, self.bad = self._or_bad(observation), True
        return bad, info

    def step(self, action):
        observation, reward, *rest = super().step(action)
        return self._or_bad(observation), self.gives if (self.what, self.at) == ("reward", self._t) else reward, *rest


FOUND = [
    ("observation", np.zeros(1, np.float32), "must have shape (2,) and dtype float32, got shape (1,)"),
    ("observation", "standing", "got shape () and dtype <U8: 'standing'"),
    ("reward", None, "the reward must be one number, got NoneType: None"),
    ("reward", "1.0", "the reward must be one number, got str: '1.0'"),
    ("reward", [1.0, 2.0], "the reward must be one number, got list: [1.0, 2.0]"),
    ("reward", np.zeros(2), "the reward must be one number, got ndarray: array([0., 0.])"),
    ("reward", 1j, "the reward must be one number, got complex: 1j"),
    ("reward", 10**400, "the reward must be one number, got int: 1000"),
]


@pytest.mark.parametrize(
    ("what", "gives", "says", "at"),
    [(*case, at) for case in FOUND for at in (0, 1, 4, 5) if (case[0], at) != ("reward", 0)],
)
def test_found_wherever_it_is(what, gives, says, at):
    """At reset, in the middle, at the last step before the horizon: it is never stored, not even as the final observation."""
    model = RennalaNIGT("MlpPolicy", SimulatedVecEnv([partial(BadEnv, what, at, gives)]), horizon=5, seed=0)
    with pytest.raises(ValueError, match=re.escape(says)):
        model.learn(1)


@pytest.mark.parametrize("reward", [1, True, np.float32(1.0), np.int64(1), np.array(1.0)])
def test_rewards_that_are_numbers(reward):
    env = SimulatedVecEnv([partial(BadEnv, "reward", 2, reward)])
    model = RennalaNIGT("MlpPolicy", env, horizon=5, n_trajectories=1, seed=0).learn(1)
    assert accepted(model)[0].rewards[1] == 1.0


class RoundedEnv(PointEnv):
    """Computes in double precision, as most simulators do."""

    def reset(self, **kwargs):
        observation, info = super().reset(**kwargs)
        return observation.astype(np.float64), info

    def step(self, action):
        observation, *rest = super().step(action)
        return observation.astype(np.float64), *rest


class ListsEnv(DictEnv):
    """Lists and integers of Python in the parts of the Dict, and one part more."""

    def _as_dict(self, point):
        return {"point": point.tolist(), "side": int(point[0] > 0), "note": "not in the space"}


@pytest.mark.parametrize(("plain", "other"), [(PointEnv, RoundedEnv), (DictEnv, ListsEnv)])
def test_other_types_with_the_same_numbers_train_the_same(plain, other):
    policy = "MultiInputPolicy" if plain is DictEnv else "MlpPolicy"
    models = [RennalaNIGT(policy, SimulatedVecEnv([env]), horizon=5, n_trajectories=2, seed=0) for env in (plain, other)]
    for model in models:
        model.learn(30)
    for first, second in zip(models[0].policy.parameters(), models[1].policy.parameters(), strict=True):
        assert_array_equal(first.detach().numpy(), second.detach().numpy())


class FirstTwo(VecEnvWrapper):
    """Changes observations, but not those that the infos have of the end of an episode."""

    def __init__(self, venv):
        space = venv.observation_space
        super().__init__(venv, spaces.Box(space.low[:2], space.high[:2]))

    def reset(self):
        return self.venv.reset()[:, :2]

    def step_wait(self):
        observations, *rest = self.venv.step_wait()
        return observations[:, :2], *rest


def test_a_wrapper_that_forgets_the_last_observation_of_an_episode():
    """Nothing depends on it where the episode has terminated."""
    env = FirstTwo(DummyVecEnv([CartPoleEnv] * 2))
    model = Defaults("MlpPolicy", env, n_steps=50, seed=0, device="cpu", policy_kwargs={"net_arch": [4]}).learn(200)
    assert model.num_timesteps >= 200
    env = FirstTwo(DummyVecEnv([lambda: TimeLimit(CartPoleEnv(), 5)] * 2))
    with pytest.raises(ValueError, match=r"'terminal_observation'.* does not fit .*: a VecEnvWrapper .* must change it"):
        Defaults("MlpPolicy", env, n_steps=50, seed=0, device="cpu", policy_kwargs={"net_arch": [4]}).learn(200)
