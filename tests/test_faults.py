"""
Faults injected into worker processes: each kind for Rennala and Malenia, at start-up, mid-trajectory and after a restart.

The yardstick is the same training on simulated workers without faults: whoever fails repeats its trajectory with the same
random numbers, so the parameters must come out equal.
"""

import os
import re
import resource
from functools import partial

import numpy as np
import pytest
from envs import FixedLengthEnv, LengthFromSeedEnv, NanEnv, PointEnv, accepted, parameters, train_rounds
from paper import MaleniaNIGT, RennalaNIGT
from processes import FAILED, explode, hang, kill_myself, worker_processes
from stable_baselines3.common.torch_layers import FlattenExtractor

from sb3_nigt import ProcessVecEnv, SimulatedVecEnv, WorkerError
from sb3_nigt.algorithms.book import MAX_REJECTED_IN_A_ROW
from sb3_nigt.vec_env.pool import commands

ALGORITHMS = [RennalaNIGT, MaleniaNIGT]
ARGUMENTS = {"n_trajectories": 12, "learning_rate": 0.1, "seed": 1, "policy_kwargs": {"net_arch": [8]}}
MEGABYTE = 2**20


def allocate_beyond_limit():
    with open("/proc/self/statm") as statm:
        used = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 100 * MEGABYTE, resource.getrlimit(resource.RLIMIT_AS)[1]))
    leaked = []
    while True:
        leaked.append(bytearray(10 * MEGABYTE))


def leak_until_killed():
    """As the kernel does it to a process that takes too much."""
    leaked = []
    while len(leaked) < 20:
        leaked.append(bytearray(MEGABYTE))
    kill_myself()


class CannotBeUnpickled(Exception):
    def __init__(self, joint, torque):
        super().__init__(f"joint {joint} broke at {torque} Nm")


def explode_oddly():
    raise CannotBeUnpickled("knee", 300)


SHAPE, LOOKUP = r"must have shape \(2,\) and dtype float32, got shape ", r"Traceback(?s:.*)in explode(?s:.*)LookupError: the p"
HUNG = r"no sign of life for .*, it was here:\n(?s:.*)in hang"
# kind -> where it strikes, what it does or gives, what the warning says
FAULTS = {
    "process killed in step": ("step", kill_myself, r"exit code -9"),
    "process killed in reset": ("reset", kill_myself, r"exit code -9"),
    "step hangs": ("step", hang, HUNG),
    "reset hangs": ("reset", hang, HUNG),
    "step raises": ("step", explode, LOOKUP),
    "reset raises": ("reset", explode, LOOKUP),
    "step raises what cannot be unpickled": ("step", explode_oddly, "joint knee broke at 300 Nm"),
    "sys.exit": ("step", partial(exit, 3), "exit code 3"),
    "leak up to a limit": ("step", allocate_beyond_limit, r"MemoryError|exit code 1\b"),
    "leak until killed": ("step", leak_until_killed, "exit code -9"),
    "shape that would be broadcast": ("observation", np.zeros(1, np.float32), SHAPE + r"\(1,\)"),
    "text for an observation": ("observation", np.array(["a", "b"]), SHAPE + r"\(2,\) and dtype <U1"),
    "reward None": ("reward", None, "the reward must be one number, got NoneType"),
    "reward array": ("reward", np.zeros(2), "the reward must be one number, got ndarray"),
}


class FaultyEnv(LengthFromSeedEnv):
    """
    One fault of a kind, once or in each of some lives.

    :param kind: a key of ``FAULTS``
    :param when: "start": at the first trajectory, "middle": in the middle of a later one, "restart": at the first one after
        the process was killed for the first time, "construction": when the environment is made again after that
    :param memory: a file that outlives the process
    """

    def __init__(self, kind, when, memory):
        super().__init__()
        self.where, self.does, _ = FAULTS[kind]
        self.when, self.memory, self.n = when, memory, {"reset": 0, "step": 0}
        with memory.open("a") as file:
            file.write("x")
        self.life = memory.stat().st_size
        if when == "construction" and self.life == 2:
            self.does()

    def _strikes(self, where):
        in_step = where != "reset"
        if self.life == 1 and self.when in ("restart", "construction"):
            if where == "step" and self.n["step"] == 4:
                kill_myself()
            return False
        if where != self.where or self.when == "construction":
            return False
        number = self.n["step" if in_step else "reset"]
        if self.when == "middle":
            return self.life == 1 and number >= 5 and (self._t >= 1 or not in_step) and not self.struck
        # the first reset of the first life is that of ``learn``
        return self.life == (2 if self.when == "restart" else 1) and number == (2 if not in_step and self.life == 1 else 1)

    struck = False

    def reset(self, *, seed=None, options=None):
        self.n["reset"] += 1
        if self._strikes("reset"):
            self.does()
        return super().reset(seed=seed, options=options)

    def step(self, action):
        self.n["step"] += 1
        if self._strikes("step"):
            self.struck = True
            self.does()
        observation, reward, *rest = super().step(action)
        if self._strikes("observation"):
            observation = self.does
        if self._strikes("reward"):
            reward = self.does
        return observation, reward, *rest


@pytest.fixture
def make():
    with worker_processes() as make:
        yield make


def train_until_restarts(model, wanted):
    """Train for a few rounds, and more if a worker has not failed as often as wanted by then."""
    slots = model.env._roster.slots
    train_rounds(model, 3)
    while any(slot.history.failures < n for slot, n in zip(slots, wanted, strict=True)):
        assert model._n_updates < 300
        train_rounds(model, model._n_updates + 1)


def with_equal_speeds(env):
    """Measured speeds decide how many trajectories Malenia wants of each task; here they are equal, as in the simulator."""
    measured = env.predicted_durations
    env.predicted_durations = lambda n_steps: np.where(np.isfinite(measured(n_steps)), n_steps, np.inf)
    return env


def assert_equal_training(model, n_workers):
    reference = type(model)("MlpPolicy", SimulatedVecEnv([LengthFromSeedEnv] * n_workers), **ARGUMENTS)
    train_rounds(reference, model._n_updates)
    assert reference.last_round.counts.sum() == model.last_round.counts.sum() == 12
    np.testing.assert_allclose(parameters(model), parameters(reference), rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_changes_nothing(make, tmp_path, algorithm, kind):
    """Three of four workers have it, each at another moment; the one that has it after a restart fails twice."""
    whens, hangs = ["start", "middle", "restart"], "hangs" in kind
    env_fns = [LengthFromSeedEnv, *(partial(FaultyEnv, kind, when, tmp_path / when) for when in whens)]
    env = with_equal_speeds(make(*env_fns, timeout=2.0 if hangs else 60.0, task_ids=list("abcd")))
    env.tasks_differ = False
    model = algorithm("MlpPolicy", env, **ARGUMENTS)
    with pytest.warns(UserWarning, match="failed") as caught:
        train_until_restarts(model, [0, 1, 1, 2])
    assert_equal_training(model, 4)
    said = [str(warning.message) for warning in caught]
    for worker in (1, 2, 3):
        pattern = rf"Worker {worker} \(task '{'abcd'[worker]}'\) failed: (?s:.*){FAULTS[kind][2]}(?s:.*)It is restarted"
        assert any(re.match(pattern, text) for text in said), said
    assert hangs or len(said) == 4


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("kind", ["step raises", "process killed in step", "sys.exit"])
def test_a_constructor_that_fails_after_a_restart(make, tmp_path, algorithm, kind):
    """The second process does not come up, the third does."""
    env = with_equal_speeds(make(LengthFromSeedEnv, partial(FaultyEnv, kind, "construction", tmp_path / "lives")))
    model = algorithm("MlpPolicy", env, **ARGUMENTS)
    with pytest.warns(UserWarning, match="failed") as caught:
        train_until_restarts(model, [0, 2])
    assert_equal_training(model, 2)
    first, second = (str(warning.message) for warning in caught)
    assert re.match(r"Worker 1 \(task 1\) failed: .*exit code -9\. It is restarted, for the 1st time", first)
    assert re.match(rf"Worker 1 \(task 1\) failed: (?s:.*){FAULTS[kind][2]}(?s:.*)for the 2nd time", second)


class AlwaysDying(LengthFromSeedEnv):
    def step(self, action):
        kill_myself()


@pytest.mark.parametrize(
    ("limits", "said_last"),
    [
        ({"max_restarts": 2}, "It is lost (max_restarts=2)."),
        ({"max_restarts": 10**6, "max_restarts_per_minute": 2}, "It is lost (max_restarts_per_minute=2)."),
    ],
)
def test_who_fails_again_and_again_is_lost_and_the_others_go_on(make, limits, said_last):
    env = make(LengthFromSeedEnv, LengthFromSeedEnv, AlwaysDying, **limits)
    model = RennalaNIGT("MlpPolicy", env, **ARGUMENTS)
    with pytest.warns(UserWarning, match="failed") as caught:
        train_until_restarts(model, [0, 0, 3])
    train_rounds(model, model._n_updates + 3)
    assert env.lost() == {2}
    assert env._roster.slots[2].history.failures == 3
    assert [str(warning.message).split(". ")[-1] for warning in caught][-1] == said_last
    assert model.last_round.counts.sum() == 12
    assert model.last_round.counts[2] == 0
    assert np.isfinite(parameters(model)).all()


# Start-up


class BadFromTheStart(PointEnv):
    """Fails in the constructor or in the first reset, which is that of ``learn``."""

    def __init__(self, where, does):
        super().__init__()
        self.does = does
        if where == "constructor":
            does()

    def reset(self, *, seed=None, options=None):
        self.does()


ERRORS = [
    (explode, LookupError, "the physics exploded"),
    (kill_myself, WorkerError, r"Worker 1 \(task 'b'\): .*exit code -9"),
    (hang, WorkerError, r"Worker 1 \(task 'b'\): .*(no answer|no sign of life)"),
]


@pytest.mark.parametrize(("does", "error", "says"), ERRORS)
def test_a_constructor_that_fails_at_start_up_is_an_error_at_once(monkeypatch, does, error, says):
    monkeypatch.setattr(commands, "START_SECONDS", 3.0)
    with pytest.raises(error, match=says) as caught:
        ProcessVecEnv([PointEnv, partial(BadFromTheStart, "constructor", does)], task_ids=["a", "b"], timeout=3.0)
    if error is LookupError:
        assert re.search(r"in worker 1:\n(?s:.*)in explode", str(caught.value.__cause__))


@pytest.mark.filterwarnings(FAILED)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(("does", "error", "says"), ERRORS)
def test_a_reset_that_fails_at_start_up_is_an_error_at_once(make, algorithm, does, error, says):
    env = make(PointEnv, partial(BadFromTheStart, "reset", does), task_ids=["a", "b"], timeout=2.0)
    env.tasks_differ = False
    with pytest.raises(error, match=says):
        algorithm("MlpPolicy", env, **ARGUMENTS).learn(1)


class PolicyPart(FlattenExtractor):
    """Can be unpacked in the process of the test only."""

    def __init__(self, observation_space, pid):
        super().__init__(observation_space)
        self.pid = pid

    def __setstate__(self, state):
        super().__setstate__(state)
        if os.getpid() != self.pid:
            explode()


@pytest.mark.filterwarnings(FAILED)
def test_a_policy_that_no_worker_can_unpack_is_an_error_at_once(make):
    kwargs = {"features_extractor_class": PolicyPart, "features_extractor_kwargs": {"pid": os.getpid()}}
    model = RennalaNIGT("MlpPolicy", make(PointEnv, PointEnv), policy_kwargs=kwargs)
    with pytest.raises(WorkerError, match=r"every worker has failed before the first(?s:.*)the physics exploded"):
        model.learn(1)


# Numbers that are not finite


class NanOnce(NanEnv):
    """One trajectory of the worker's whole life goes wrong, counted from 0."""

    def __init__(self, what, number):
        super().__init__(what)
        self.number, self.n_resets = number, -1  # the first reset is that of ``learn``

    def reset(self, *, seed=None, options=None):
        self.n_resets += 1
        observation, info = super().reset(seed=seed, options=options)
        if self.what == "reset" and self.n_resets - 1 == self.number:
            observation[1] = np.inf
        return observation, info

    def step(self, action):
        step = super().step if self.n_resets - 1 == self.number else super(NanEnv, self).step
        return step(action)

    def _episode_length(self, first_action):
        return 3


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("what", ["reward", "observation", "reset"])
@pytest.mark.parametrize("number", [0, 2])
def test_a_number_that_is_not_finite(make, algorithm, what, number):
    """Another trajectory takes its place; nobody is restarted, and nothing warns."""
    env = with_equal_speeds(make(partial(FixedLengthEnv, 3), partial(NanOnce, what, number)))
    model, rejected = algorithm("MlpPolicy", env, **ARGUMENTS), []
    while not rejected:
        train_rounds(model, model._n_updates + 1)
        assert model._n_updates < 300
        rejected += [(arrival.worker, arrival.rejected) for arrival in model.last_round.rejected]
        assert model.last_round.counts.sum() == len(model.last_round.arrivals) == 12
        assert model.last_round.weights @ model.last_round.counts == pytest.approx(1.0)
        assert np.isfinite(parameters(model)).all()
    assert rejected == [(1, "observation" if what == "reset" else what)]
    assert env.restarts == 0


class HugeRewards(FixedLengthEnv):
    """Rewards of some trajectories are finite, but their sum is beyond float32, so that the gradient is not."""

    def __init__(self, is_huge):
        super().__init__(3)
        self.is_huge, self.n_resets = is_huge, -1

    def reset(self, *, seed=None, options=None):
        self.n_resets += 1
        return super().reset(seed=seed, options=options)

    def step(self, action):
        observation, reward, *rest = super().step(action)
        return observation, 3e38 if self.is_huge(self.n_resets - 1) else reward, *rest


def second(trajectory):
    return trajectory == 1


def always(trajectory):
    return True


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_gradient_that_is_not_finite_never_reaches_the_parameters(make, algorithm):
    """The round that has it moves nothing, the others do."""
    env = with_equal_speeds(make(PointEnv, partial(HugeRewards, second)))
    model, huge = algorithm("MlpPolicy", env, **ARGUMENTS, horizon=3), []
    while not any(huge[:-1]):
        assert model._n_updates < 300
        before = parameters(model)
        train_rounds(model, model._n_updates + 1)
        huge.append(any((trajectory.rewards > 1e38).any() for trajectory in accepted(model)))
        assert np.isfinite(parameters(model)).all()
        assert np.array_equal(parameters(model), before) == huge[-1]
    assert sum(huge) == 1
    assert env.restarts == 0


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_gradients_that_are_never_finite_stop_the_run(make, algorithm):
    env = with_equal_speeds(make(PointEnv, partial(HugeRewards, always)))
    model = algorithm("MlpPolicy", env, **ARGUMENTS, horizon=3)
    before = parameters(model)
    with pytest.raises(RuntimeError, match=f"{MAX_REJECTED_IN_A_ROW} rounds in a row were not finite"):
        model.learn(10**6)
    assert np.array_equal(parameters(model), before)
