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
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from paper import MaleniaNIGT, RennalaNIGT, SyncNIGT
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecCheckNan, VecFrameStack, VecMonitor, VecNormalize

import sb3_nigt
from sb3_nigt import AFedPG, FixedTimes, RandomTimes, RennalaPG, ReplayedTimes, SimulatedVecEnv, SyncPG, VaryingTimes
from sb3_nigt.parameters import flatten

TRAPS = (
    "All of the last .* trajectories were cut",
    "n_trajectories=.* is far less",
    "With eta=.* gradients are taken",
)  # test_traps.py
ENVS = ["simulated", "dummy", "plain"]
OF_STEPS = [sb3_nigt.RennalaNIGT, sb3_nigt.MaleniaNIGT, sb3_nigt.SyncNIGT]  # with the defaults of the package
ALL = [RennalaNIGT, MaleniaNIGT, SyncNIGT, SyncPG, RennalaPG, AFedPG, *OF_STEPS]
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
    "learning_rate": [-0.1, float("nan"), "0.1"],
    "gamma": [1.5, -0.1, float("nan"), None],
    "horizon": [0, 1.5, True],
    "eta": [0.0, 1.5, float("nan")],
    "n_trajectories": [0, -1, 2.5],
    "n_initial_trajectories": [0, 0.5],
    "schedule": ["fast", None],
    "use_sde": [True],
}
BAD_ARGUMENTS_OF_STEPS = {
    **{name: BAD_ARGUMENTS[name] for name in ("learning_rate", "gamma", "eta", "use_sde")},
    "n_steps": [0, -1, 2.5, True],
    "gae_lambda": [None, -0.1, 1.5, float("nan")],
    "geometry": ["l2", None],
    "rollout": ["step", None],
    "fisher_samples": [0, 1.5],
    "fisher_rounds": [0, -1],
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
        self.ends.append((self.model.last_round, self.model.num_timesteps, self.model.workers.steps_executed))


def falling_rate(progress):
    return 0.1 * progress


def falling_eta(progress):
    return 0.5 + 0.5 * progress


def time_model(rng, n):
    """Return a valid time model, as a function without argument (a replayed one cannot be used twice), or None."""
    per = rng.choice(["step", "trajectory"])
    listed = [rng.choice([0.125, 1.0, rng.uniform(0.1, 8)]) for _ in range(n)]
    message = rng.choice([0.0, rng.uniform(0, 4), [rng.choice([0.0, 1.0, 3.5]) for _ in range(n)]])
    return rng.choice(
        [
            None,
            partial(FixedTimes, rng.uniform(0.1, 8), message, per),
            partial(FixedTimes, listed, message, per),
            partial(RandomTimes, listed, message, per, rng.choice([0.0, 0.5, 2.0])),
            partial(VaryingTimes, lambda now: [h * (1 + now % 2) for h in listed], message, per),
            partial(ReplayedTimes, [[h, 2 * h] for h in listed], message, per),
        ]
    )


def wrappers(env, observation):
    """Whatever may lie around such an environment."""
    if env == "plain":
        return [None]
    found = [None, partial(VecNormalize, norm_obs=False)]
    if observation in NORMALIZABLE:
        found += [VecNormalize, partial(VecNormalize, norm_reward=False, clip_obs=0.5)]
    if env == "dummy":
        found += [VecMonitor, *[partial(VecFrameStack, n_stack=2)] * (observation in STACKABLE)]
    return found


def arguments_of_trajectories(rng, algorithm):
    kwargs = {"horizon": rng.randint(1, 12)}
    if algorithm is not AFedPG:
        kwargs["n_trajectories"] = rng.randint(1, 8)
    if algorithm in WITH_ETA:
        kwargs["eta"] = rng.choice([1, 1.0, 0.5, 0.01, falling_eta])
        kwargs["n_initial_trajectories"] = rng.choice([None, 1, 3, 8])
    if algorithm in WITH_SCHEDULE:
        kwargs["schedule"] = rng.choice(["planned", "pipelined", "first_finished"])
    return kwargs


def arguments_of_steps(rng):
    return {
        "n_steps": rng.choice([2, 5, 8]),  # of at least two steps for each task
        "eta": rng.choice([1, 1.0, 0.5, falling_eta]),
        "gae_lambda": rng.choice([0, 0.0, 0.9, 1, 1.0]),
        "geometry": rng.choice(["natural", "natural", "euclidean_kl", "euclidean", "spectral"]),
        "stagger": rng.choice([True, False]),
        "fisher_samples": rng.choice([1, 20]),
        "fisher_rounds": rng.choice([1, 10]),
        "policy_kwargs": rng.choice([None, {"normalize_observations": False}, {"head": "tanh_gaussian"}, {"net_arch": [8]}]),
    }


def valid_config(rng, algorithm, env):
    n = 1 if env == "plain" else rng.randint(1, 6)
    observation = rng.choice(list(OBSERVATIONS))
    policies = (
        ["MultiInputPolicy"] if "Dict" in observation else ["MlpPolicy", *["CnnPolicy"] * observation.startswith("image")]
    )
    kwargs = {
        "learning_rate": rng.choice([0, 0.0, 2**-6, 0.1, falling_rate]),
        "gamma": rng.choice([0, 0.0, 0.9, 1, 1.0]),
        "seed": rng.choice([0, None, rng.randrange(2**31)]),
        **(arguments_of_steps(rng) if algorithm in OF_STEPS else arguments_of_trajectories(rng, algorithm)),
    }
    simulated = env == "simulated"
    return Config(
        algorithm=algorithm,
        kwargs=kwargs,
        policy="MultiInputPolicy" if "Dict" in observation else rng.choice(policies),
        observation=OBSERVATIONS[observation],
        action=ACTIONS[rng.choice(list(ACTIONS))],
        lengths=rng.choice([[rng.choice([1, 2, 4, 7, "random", None])] * n, rng.choices([1, 2, 4, 7, "random", None], k=n)]),
        env=env,
        time_model=time_model(rng, n) if simulated else None,
        task_ids=rng.choice([None, rng.choices(["a", "b", 3], k=n)]) if simulated else None,
        wrapper=rng.choice(wrappers(env, observation)),
        defect=None,
    )


def bad_arguments(config):
    return BAD_ARGUMENTS_OF_STEPS if config.algorithm in OF_STEPS else BAD_ARGUMENTS


def defects(config):
    """What can be made wrong in a configuration."""
    simulated, everything = config.env == "simulated", config.algorithm in (RennalaNIGT, MaleniaNIGT, *OF_STEPS)
    bad = bad_arguments(config)
    found = [f"argument {name}" for name in bad if name in config.kwargs or name == "use_sde" or everything]
    found += [f"actions {name}" for name in BAD_ACTIONS]
    found += ["MlpPolicy for a Dict"] * isinstance(config.observation, spaces.Dict)
    found += ["CnnPolicy without images"] * (config.observation in VECTORS.values())
    found += ["wrapper", "task_ids", "times", "lengths of times", *["spaces differ"] * (len(config.lengths) > 1)] * simulated
    return found


def spoil(rng, config):
    """Put one defect into a valid configuration."""
    config.defect = rng.choice(defects(config))
    kind, _, what = config.defect.partition(" ")
    n = len(config.lengths)
    if kind == "argument":
        config.kwargs[what] = rng.choice(bad_arguments(config)[what])
    elif kind == "actions":
        config.action = BAD_ACTIONS[what]
    elif kind.endswith("Policy"):
        config.policy = kind
    elif kind == "wrapper":
        config.wrapper = rng.choice([VecMonitor, VecCheckNan])
    elif kind == "task_ids":
        config.task_ids = ["a"] * (n + rng.choice([-1, 1]))
    elif kind == "times":
        config.time_model = partial(FixedTimes, rng.choice([0.0, -1.0, float("nan"), float("inf")]))
    elif kind == "lengths":
        config.time_model = partial(FixedTimes, [1.0] * (n + 1))


def configs(algorithm, env):
    """
    Valid in three cases of four; the others have one defect.

    Only the seed is Hypothesis's: its own draws would vary one configuration in detail rather than visit all kinds.
    """

    def draw(rng):
        config = valid_config(rng, algorithm, env)
        if rng.random() < 0.25:
            spoil(rng, config)
        return config

    return st.randoms(use_true_random=True).map(draw)


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
        for trap in TRAPS:
            warnings.filterwarnings("ignore", message=trap)
        model = config.algorithm(config.policy, config.make_env(), **config.kwargs)
        model.learn(1, callback=rounds)
        first_timesteps = model.num_timesteps
        ends = rounds.ends
        model.learn(1, callback=rounds, reset_num_timesteps=False)
    assert 1 <= first_timesteps < model.num_timesteps
    different = config.task_ids is not None and len(set(config.task_ids)) > 1
    different = different and config.algorithm not in (MaleniaNIGT, sb3_nigt.MaleniaNIGT)
    assert [w.category for w in caught] == [UserWarning] * different, [str(w.message) for w in caught]
    ends = [*ends, *rounds.ends]
    assert len(ends) >= 2
    assert np.isfinite(flatten(model.policy)).all()
    assert all(group["lr"] >= 0 for group in model.policy.optimizer.param_groups)
    check_reports(config, ends)
    return "trained"


def check(config):
    run(config)


def check_reports(config, ends):
    n, clock, accounted, executed = len(config.lengths), 0.0, 0, 0
    for number, (report, num_timesteps, executed) in enumerate(ends):
        assert report.round == number
        assert report.counts.shape == report.weights.shape == (n,)
        assert report.rejected == ()
        counted = [a.n_steps if config.algorithm in OF_STEPS else 1 for a in report.arrivals]
        np.testing.assert_array_equal(report.counts, np.bincount([a.worker for a in report.arrivals], counted, minlength=n))
        assert report.counts.sum() == sum(counted) > 0
        assert report.weights @ report.counts == pytest.approx(1.0)
        assert all(1 <= a.n_steps <= config.kwargs.get("horizon", 10**9) for a in report.arrivals)
        assert all(a.started_at <= a.finished_at <= a.arrived_at <= report.finished_at for a in report.arrivals)
        assert clock <= report.started_at <= report.finished_at
        clock = report.finished_at

        assert report.used_steps == sum(a.n_steps for a in report.arrivals)
        assert report.discarded_steps >= sum(d.n_steps for d in report.discarded)
        pipelined = config.kwargs.get("schedule") == "pipelined"
        assert report.discarded_steps >= 0
        accounted += report.used_steps + report.discarded_steps
        # what has arrived early is accounted for in the next round
        assert accounted <= executed if pipelined else accounted == executed
        if (config.algorithm is AFedPG or pipelined) and config.env == "dummy":
            assert num_timesteps >= executed  # callbacks have seen the steps of trajectories that are still in flight
        else:
            assert num_timesteps == executed // n * n  # callbacks see n steps at once, what is left over waits
    assert executed <= RandomEnv.steps <= STEP_LIMIT


COMMON = {
    "deadline": None,
    "database": None,
    "phases": [Phase.generate],  # a seed cannot be shrunk
    "suppress_health_check": list(HealthCheck),
}


@pytest.mark.one_in(2)
@pytest.mark.parametrize("env", ENVS)
@pytest.mark.parametrize("algorithm", ALL)
def test_configurations(algorithm, env):
    settings(max_examples=3, derandomize=True, **COMMON)(given(configs(algorithm, env))(check))()


def plain_config(algorithm, kwargs, lengths, env):
    box = OBSERVATIONS["Box(1)"]
    return Config(algorithm, kwargs, "MlpPolicy", box, ACTIONS["Box(2)"], lengths, env, None, None, None, None)


def test_episode_without_end_among_others_is_not_starved():
    """The others never all end in one step, so there is no natural moment at which the environments could be reset."""
    kwargs = {"n_trajectories": 40, "horizon": 20, "schedule": "first_finished"}
    assert run(plain_config(MaleniaNIGT, kwargs, [5, 7, 9, 11, 13, None], "dummy")) == "trained"


@pytest.mark.parametrize("env", ["simulated", "dummy"])
@pytest.mark.parametrize(
    "algorithm",
    [partial(RennalaNIGT, horizon=6), partial(AFedPG, horizon=6), partial(sb3_nigt.RennalaNIGT, n_steps=6)],
    ids=["trajectories", "afedpg", "steps"],
)
def test_schedules_see_progress_from_one_to_zero(algorithm, env):
    """Also in the round that goes beyond ``total_timesteps``, and in the first round of another ``learn``."""
    seen = {"eta": [], "learning_rate": []}

    def falling(name, progress):
        seen[name].append(progress)
        return 0.1 + 0.1 * progress

    kwargs = {name: partial(falling, name) for name in seen}
    RandomEnv.steps = 0
    model = algorithm("MlpPolicy", plain_config(algorithm, {}, [4, 4], env).make_env(), **kwargs)
    for _ in range(2):
        for name in seen:
            seen[name].clear()
        model.learn(50)
        assert seen["eta"][0] == 1.0
        for values in seen.values():
            assert values == sorted(values, reverse=True)
            assert min(values) >= 0.0


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_thousand_configurations(capsys):
    outcomes = Counter()

    def count(config):
        outcomes[run(config)] += 1

    for algorithm in ALL:
        for env in ENVS:
            settings(max_examples=40, print_blob=True, **COMMON)(given(configs(algorithm, env))(count))()
    with capsys.disabled():
        print(f"\n{outcomes.total()} configurations: {dict(outcomes)}")
    assert outcomes["trained"] > outcomes["refused"] > 0
    assert outcomes.total() >= 1000
