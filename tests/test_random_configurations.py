"""
Random configurations: each trains two rounds with a consistent report, or is refused before the first environment step.

A configuration is drawn together with at most one defect, so that it is known which of the two must happen. The defects that
Stable-Baselines3 refuses itself, with an error of its own, are listed in ``REFUSED_BY_SB3``.
"""

import warnings
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecCheckNan, VecFrameStack, VecMonitor, VecNormalize

from sb3_nigt import (
    AFedPG,
    FixedTimes,
    MaleniaNIGT,
    RandomTimes,
    RennalaNIGT,
    RennalaPG,
    ReplayedTimes,
    SimulatedVecEnv,
    SyncNIGT,
    SyncPG,
    VaryingTimes,
)
from sb3_nigt.parameters import flatten

ALL = [RennalaNIGT, MaleniaNIGT, SyncNIGT, SyncPG, RennalaPG, AFedPG]
WITH_SCHEDULE, WITH_ETA = (RennalaNIGT, MaleniaNIGT, RennalaPG), (RennalaNIGT, MaleniaNIGT, SyncNIGT, AFedPG)
STEP_LIMIT = 20_000  # of all environments together; two rounds need far fewer

VECTORS = {
    "Box(1)": spaces.Box(-1, 1, (1,)),
    "Box(3) unbounded": spaces.Box(-np.inf, np.inf, (3,)),
    "Box(2, 3) float64": spaces.Box(-2.0, 5.0, (2, 3), np.float64),
    "Box(2) float16": spaces.Box(-1, 1, (2,), np.float16),
    "Box(4) int8": spaces.Box(-5, 5, (4,), np.int8),
    "Box(2) uint8": spaces.Box(0, 255, (2,), np.uint8),
    "Box(2) mixed bounds": spaces.Box(np.array([-1, 0], np.float32), np.array([np.inf, 0], np.float32)),
}
OBSERVATIONS = {
    **VECTORS,
    "Discrete": spaces.Discrete(3),
    "MultiDiscrete": spaces.MultiDiscrete([2, 3]),
    "MultiBinary": spaces.MultiBinary(3),
    "MultiBinary(2, 2)": spaces.MultiBinary([2, 2]),
    "image last": spaces.Box(0, 255, (36, 36, 3), np.uint8),
    "image first": spaces.Box(0, 255, (1, 36, 36), np.uint8),
    "Dict of boxes": spaces.Dict(a=spaces.Box(-1, 1, (2,)), b=spaces.Box(-1, 1, (1, 2))),
    "Dict": spaces.Dict(a=spaces.Box(-1, 1, (2,)), b=spaces.Discrete(2), image=spaces.Box(0, 255, (36, 36, 1), np.uint8)),
}
STACKABLE = [name for name in OBSERVATIONS if "Box(" in name or "image" in name or name == "Dict of boxes"]
NORMALIZABLE = [*VECTORS, "Dict of boxes"]
ACTIONS = {
    "Box(2)": spaces.Box(-1, 1, (2,)),
    "Box(2) asymmetric": spaces.Box(np.array([0, -3], np.float32), np.array([1, 7], np.float32)),
    "Box(2, 2) float64": spaces.Box(-2.0, 2.0, (2, 2), np.float64),
    "Box(1) int": spaces.Box(-3, 3, (1,), np.int32),
    "Discrete": spaces.Discrete(3),
    "MultiDiscrete": spaces.MultiDiscrete([2, 3]),
    "MultiBinary": spaces.MultiBinary(2),
}

BAD_ARGUMENTS = {
    "learning_rate": [-0.1, float("nan"), "0.1", None],
    "gamma": [1.5, -0.1, float("nan"), None],
    "n_steps": [0, 1.5, True],
    "eta": [0.0, 1.5, float("nan")],
    "n_trajectories": [0, -1, 2.5],
    "n_initial_trajectories": [0, 0.5],
    "schedule": ["fast", None],
    "use_sde": [True],
}
BAD_ACTIONS = {
    "Discrete start": spaces.Discrete(3, start=1),
    "MultiDiscrete start": spaces.MultiDiscrete([2, 3], start=[1, 0]),
    "unbounded": spaces.Box(-np.inf, np.inf, (2,)),
    "MultiBinary(2, 2)": spaces.MultiBinary([2, 2]),
    "Tuple": spaces.Tuple([spaces.Discrete(2), spaces.Discrete(2)]),
}
REFUSED_BY_SB3 = {
    "actions unbounded": AssertionError,  # BaseAlgorithm.__init__: finite lower and upper bound
    "actions MultiBinary(2, 2)": AssertionError,  # make_proba_distribution: one-dimensional only
    "actions Tuple": AssertionError,  # BaseAlgorithm.__init__: supported_action_spaces
    "CnnPolicy without images": AssertionError,  # NatureCNN.__init__
    "MlpPolicy for a Dict": ValueError,  # BaseAlgorithm.__init__
}


class RandomEnv(gym.Env):
    """Random observations; episodes of a fixed length, of a random length, or without end."""

    steps = 0  # of all instances since the last configuration began

    def __init__(self, observation_space, action_space, length):
        self.observation_space, self.action_space, self.length = observation_space, action_space, length

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.t = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        RandomEnv.steps += 1
        if RandomEnv.steps > STEP_LIMIT:
            raise RuntimeError("Far more steps than two rounds need.")
        assert self.action_space.contains(action), f"{action!r} is not in {self.action_space}"
        self.t += 1
        over = self.np_random.random() < 0.3 if self.length == "random" else self.t == self.length
        reward = float(np.sum(action)) + self.np_random.normal()
        truncated = over and self.length == 4
        return self.observation_space.sample(), reward, over and not truncated, truncated, {}


@dataclass
class Config:
    algorithm: Any
    kwargs: dict
    policy: str
    observation: Any
    action: Any
    lengths: list  # of the episodes of each worker; "random", or None for episodes without end
    env: str  # "simulated", "dummy" or "plain"
    time_model: Any
    task_ids: Any
    wrapper: Any
    defect: str | None

    def make_env(self):
        env_fns = [partial(RandomEnv, self.observation, self.action, length) for length in self.lengths]
        if self.defect == "spaces differ":
            env_fns[-1] = partial(RandomEnv, spaces.Box(-1, 1, (9,)), self.action, 3)
        if self.env == "plain":
            return env_fns[0]()
        if self.env == "dummy":
            env = DummyVecEnv(env_fns)
        else:
            env = SimulatedVecEnv(env_fns, time_model=self.time_model and self.time_model(), task_ids=self.task_ids)
        return env if self.wrapper is None else self.wrapper(env)


class Rounds(BaseCallback):
    """Keeps the reports, and what has been counted by the end of each round."""

    def _init_callback(self):
        self.ends = []

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        self.ends.append((self.model.last_round, self.model.num_timesteps, self.model._workers.steps_executed))


@st.composite
def time_models(draw, n):
    """Valid time models, as functions without argument (a replayed one cannot be used twice)."""
    times = st.floats(0.125, 8.0)
    message = draw(st.one_of(st.just(0.0), times, st.lists(st.floats(0.0, 4.0), min_size=n, max_size=n)))
    per = draw(st.sampled_from(["step", "trajectory"]))
    listed = draw(st.lists(times, min_size=n, max_size=n))
    kind = draw(st.sampled_from(["default", "fixed", "fixed list", "random", "varying", "replayed"]))
    return {
        "default": None,
        "fixed": partial(FixedTimes, draw(times), message, per),
        "fixed list": partial(FixedTimes, listed, message, per),
        "random": partial(RandomTimes, listed, message, per, draw(st.sampled_from([0.0, 0.5, 2.0]))),
        "varying": partial(VaryingTimes, lambda now: [h * (1 + now % 2) for h in listed], message, per),
        "replayed": partial(ReplayedTimes, [[h, 2 * h] for h in listed], message, per),
    }[kind]


@st.composite
def valid_configs(draw):
    algorithm = draw(st.sampled_from(ALL))
    env = draw(st.sampled_from(["simulated", "simulated", "dummy", "plain"]))
    n = 1 if env == "plain" else draw(st.integers(1, 6))
    observation = draw(st.sampled_from(list(OBSERVATIONS)))
    image = observation.startswith("image")
    policy = (
        "MultiInputPolicy"
        if "Dict" in observation
        else draw(st.sampled_from(["MlpPolicy", "CnnPolicy"] if image else ["MlpPolicy"]))
    )
    kwargs = {
        "learning_rate": draw(st.sampled_from([0, 0.0, 2**-6, 0.5, lambda progress: 0.1 * progress])),
        "n_steps": draw(st.integers(1, 12)),
        "gamma": draw(st.sampled_from([0, 0.0, 0.9, 1, 1.0])),
        "seed": draw(st.integers(0, 2**31)),
    }
    if algorithm is not AFedPG:
        kwargs["n_trajectories"] = draw(st.integers(1, 8))
    if algorithm in WITH_ETA:
        kwargs["eta"] = draw(st.sampled_from([1, 1.0, 0.5, 0.01, lambda progress: 1.0 - 0.5 * progress]))
        kwargs["n_initial_trajectories"] = draw(st.integers(1, 8) if algorithm is AFedPG else st.sampled_from([None, 1, 3]))
    if algorithm in WITH_SCHEDULE:
        kwargs["schedule"] = draw(st.sampled_from(["planned", "first_finished"]))
    wrappers = [None]
    if env != "plain" and observation in NORMALIZABLE:
        wrappers.append(partial(VecNormalize, norm_reward=draw(st.booleans()), clip_obs=draw(st.sampled_from([0.5, 10.0]))))
    if env != "plain":
        wrappers.append(partial(VecNormalize, norm_obs=False))
    if env == "dummy":
        wrappers.append(VecMonitor)
        if observation in STACKABLE:
            wrappers.append(partial(VecFrameStack, n_stack=2))
    simulated = env == "simulated"
    return Config(
        algorithm,
        kwargs,
        policy,
        OBSERVATIONS[observation],
        ACTIONS[draw(st.sampled_from(list(ACTIONS)))],
        draw(st.lists(st.sampled_from([1, 2, 4, 7, "random", None]), min_size=n, max_size=n)),
        env,
        draw(time_models(n)) if simulated else None,
        draw(st.one_of(st.none(), st.lists(st.sampled_from(["a", "b", 3]), min_size=n, max_size=n))) if simulated else None,
        draw(st.sampled_from(wrappers)),
        None,
    )


@st.composite
def configs(draw):
    """Valid in three cases of four; the others have one defect."""
    config = draw(valid_configs())
    if draw(st.integers(0, 3)) > 0:
        return config
    n, simulated = len(config.lengths), config.env == "simulated"
    takes_all = config.algorithm in (RennalaNIGT, MaleniaNIGT)
    names = [name for name in BAD_ARGUMENTS if name in config.kwargs or name == "use_sde" or takes_all]
    defects = [*(f"argument {name}" for name in names), *(f"actions {name}" for name in BAD_ACTIONS)]
    defects += ["MlpPolicy for a Dict"] if isinstance(config.observation, spaces.Dict) else []
    defects += ["CnnPolicy without images"] if config.observation in VECTORS.values() else []
    defects += ["wrapper", "task_ids", "times", "lengths of times"] if simulated else []
    defects += ["spaces differ"] if simulated and n > 1 else []
    config.defect = draw(st.sampled_from(defects))
    kind, _, what = config.defect.partition(" ")
    if kind == "argument":
        config.kwargs[what] = draw(st.sampled_from(BAD_ARGUMENTS[what]))
    elif kind == "actions":
        config.action = BAD_ACTIONS[what]
    elif config.defect == "MlpPolicy for a Dict":
        config.policy = "MlpPolicy"
    elif config.defect == "CnnPolicy without images":
        config.policy = "CnnPolicy"
    elif config.defect == "wrapper":
        config.wrapper = draw(st.sampled_from([VecMonitor, VecCheckNan]))
    elif config.defect == "task_ids":
        config.task_ids = ["a"] * (n + draw(st.sampled_from([-1, 1])))
    elif config.defect == "times":
        config.time_model = partial(FixedTimes, draw(st.sampled_from([0.0, -1.0, float("nan"), float("inf")])))
    elif config.defect == "lengths of times":
        config.time_model = partial(FixedTimes, [1.0] * (n + 1))
    return config


def run(config):
    """Train two rounds and check the reports, or check the refusal; return which of the two it was."""
    RandomEnv.steps = 0
    if config.defect is not None:
        error = REFUSED_BY_SB3.get(config.defect, ValueError)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of Stable-Baselines3, or of different tasks, before the refusal
            with pytest.raises(error):
                config.algorithm(config.policy, config.make_env(), **config.kwargs)
        assert RandomEnv.steps == 0
        return "refused"
    rounds = Rounds()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = config.algorithm(config.policy, config.make_env(), **config.kwargs)
        model.learn(1, callback=rounds)
        first_timesteps = model.num_timesteps
        ends = rounds.ends
        model.learn(1, callback=rounds, reset_num_timesteps=False)
    assert 1 <= first_timesteps < model.num_timesteps
    different = config.task_ids is not None and len(set(config.task_ids)) > 1 and config.algorithm is not MaleniaNIGT
    assert [w.category for w in caught] == [UserWarning] * different, [str(w.message) for w in caught]
    ends = [*ends, *rounds.ends]
    assert len(ends) >= 2
    assert np.isfinite(flatten(model.policy)).all()
    check_reports(config, ends)
    return "trained"


def check_reports(config, ends):
    n, clock, executed_before = len(config.lengths), 0.0, 0
    for number, (report, num_timesteps, executed) in enumerate(ends):
        assert report.round == number
        assert report.counts.shape == report.weights.shape == (n,)
        assert report.rejected == ()
        np.testing.assert_array_equal(report.counts, np.bincount([a.worker for a in report.arrivals], minlength=n))
        assert report.counts.sum() == len(report.arrivals) > 0
        assert report.weights @ report.counts == pytest.approx(1.0)
        assert all(1 <= a.n_steps <= config.kwargs["n_steps"] for a in report.arrivals)
        assert all(a.started_at <= a.finished_at <= a.arrived_at <= report.finished_at for a in report.arrivals)
        assert clock <= report.started_at <= report.finished_at
        clock = report.finished_at

        assert report.used_steps == sum(a.n_steps for a in report.arrivals)
        assert report.discarded_steps >= sum(d.n_steps for d in report.discarded)
        assert report.used_steps + report.discarded_steps == executed - executed_before
        executed_before = executed
        # callbacks see n steps at once, what is left over waits
        assert num_timesteps == executed // n * n
    assert executed_before <= RandomEnv.steps <= STEP_LIMIT


COMMON = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}


@settings(max_examples=40, derandomize=True, **COMMON)
@given(configs())
def test_configuration(config):
    run(config)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_thousand_configurations(capsys):
    outcomes = Counter()

    @settings(max_examples=1000, print_blob=True, **COMMON)
    @given(configs())
    def many(config):
        outcomes[run(config)] += 1

    many()
    with capsys.disabled():
        print(f"\n{sum(outcomes.values())} configurations: {dict(outcomes)}")
    assert outcomes["trained"] > outcomes["refused"] > 0
