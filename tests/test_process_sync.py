"""The synchronous API of worker processes: its numbers, the order of its calls, and errors in every command."""

import os
import threading
import time
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
from envs import DictEnv, LengthFromSeedEnv, PointEnv
from gymnasium import spaces
from paper import RennalaNIGT
from processes import hang
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_nigt import ProcessVecEnv, WorkerError

FAILED = "ignore:Worker .* failed:UserWarning"
ACTIONS = np.zeros((2, 1), dtype=np.float32)


class OwnError(Exception):
    """Can be pickled, but not loaded again: __init__ takes other arguments than it hands on."""

    def __init__(self, code, text):
        super().__init__(f"{code}: {text}")


class LockedError(Exception):
    """Cannot be pickled."""

    def __init__(self, text):
        super().__init__(text)
        self.lock = threading.Lock()


ERRORS = {
    LookupError: lambda: LookupError("the physics exploded"),
    OwnError: lambda: OwnError(3, "the physics exploded"),
    LockedError: lambda: LockedError("the physics exploded"),
}


class TroubledEnv(PointEnv):
    """Raises in the place that ``trouble`` names."""

    def __init__(self):
        super().__init__()
        self.render_mode, self.trouble, self.error, self.value = "rgb_array", None, LookupError, 0

    def _maybe(self, place):
        if self.trouble == place:
            raise ERRORS[self.error]()

    def reset(self, *, seed=None, options=None):
        self._maybe("reset")
        return super().reset(seed=seed)

    def step(self, action):
        self._maybe("step")
        return super().step(action)

    def render(self):
        self._maybe("render")
        return np.zeros((4, 4, 3), dtype=np.uint8)

    @property
    def guarded(self):
        self._maybe("get")
        return self.value

    @guarded.setter
    def guarded(self, value):
        self._maybe("set")
        self.value = value

    def ask(self, *args, **kwargs):
        self._maybe("method")
        return args, kwargs

    def lambdas(self):
        return lambda: self.value

    def lock(self):
        return threading.Lock()

    def hang(self):
        hang()

    def die(self):
        os._exit(17)


@pytest.fixture(scope="module")
def shared_env():
    """Two workers for the tests after which they are as before."""
    env = ProcessVecEnv([TroubledEnv] * 2)
    yield env
    env.close()


@pytest.fixture
def env(shared_env):
    shared_env.set_attr("trouble", None)
    shared_env.set_attr("error", LookupError)
    shared_env.set_attr("value", 0)
    shared_env.reset()
    return shared_env


@pytest.fixture
def make():
    made = []

    def make(*env_fns, **kwargs):
        made.append(ProcessVecEnv(list(env_fns), **kwargs))
        return made[-1]

    yield make
    for env in made:
        env.close()


COMMANDS = {
    "reset": lambda env: env.reset(),
    "step": lambda env: env.step(ACTIONS),
    "render": lambda env: env.render(),
    "get": lambda env: env.get_attr("guarded"),
    "set": lambda env: env.set_attr("guarded", 1),
    "method": lambda env: env.env_method("ask"),
}


@pytest.mark.parametrize("error", list(ERRORS))
@pytest.mark.parametrize("place", list(COMMANDS))
def test_an_error_keeps_its_type_and_the_worker(env, place, error):
    before = env.worker_pids
    env.set_attr("error", error)
    env.set_attr("trouble", place, indices=1)
    for _ in range(2):
        with pytest.raises(error, match="the physics exploded") as caught:
            COMMANDS[place](env)
        assert type(caught.value) is error
        remote = str(caught.value.__cause__)
        assert "in worker 1" in remote
        assert "in _maybe" in remote  # the worker's traceback, down to the line that has raised
    env.set_attr("trouble", None)
    env.reset()
    assert env.step(ACTIONS)[0].shape == (2, 2)
    assert env.worker_pids == before


def test_errors_of_the_commands_themselves(env):
    before = env.worker_pids
    with pytest.raises(AttributeError, match="no_such_thing"):
        env.get_attr("no_such_thing")
    with pytest.raises(AttributeError, match="no_such_thing"):
        env.env_method("no_such_thing")
    env.set_attr("trouble", "get")
    with pytest.raises(LookupError, match="the physics exploded"):
        env.has_attr("guarded")
    with pytest.raises(TypeError, match="cannot pickle"):
        env.env_method("lock")
    with pytest.raises(TypeError, match="cannot pickle"):
        env.env_method("ask", threading.Lock())
    with pytest.raises(IndexError):
        env.get_attr("value", indices=2)
    assert env.get_attr("value") == [0, 0]
    assert env.worker_pids == before


def test_error_of_env_is_wrapped(make):
    env = make(lambda: Monitor(PointEnv()))
    with pytest.raises(TypeError, match="isinstance"):
        env.env_is_wrapped("not a class")
    assert env.env_is_wrapped(Monitor) == [True]


def test_the_error_of_one_worker_leaves_no_answer_of_the_others(env):
    env.set_attr("trouble", "method", indices=0)
    with pytest.raises(LookupError):
        env.env_method("ask", "old")
    env.set_attr("trouble", None)
    assert env.env_method("ask", "new", key=1) == [(("new",), {"key": 1})] * 2


def test_functions_travel_both_ways(env):
    n = 3
    env.set_attr("value", lambda: n + 1)
    assert [function()() for function in env.env_method("lambdas")] == [4, 4]


def test_indices(env):
    for worker, indices in ((0, 0), (1, -1), (0, [-2])):
        env.set_attr("value", 0)
        env.set_attr("value", 5, indices=indices)
        assert env.get_attr("value") == [5 if w == worker else 0 for w in range(2)]
    assert env.get_attr("value", indices=[1, 0, 1]) == [0, 5, 0]


def test_a_command_between_step_async_and_step_wait(env):
    env.seed(0)
    env.reset()
    expected = env.step(ACTIONS)
    env.seed(0)
    env.reset()
    env.step_async(ACTIONS)
    assert env.get_attr("value") == [0, 0]
    assert env.get_attr("n_steps_executed", indices=[0])[0] >= 2
    for got, wanted in zip(env.step_wait(), expected, strict=True):
        assert np.array_equal(got, wanted)
    with pytest.raises(RuntimeError, match="call step_async"):
        env.step_wait()


def test_reset_voids_a_step(env):
    env.seed(0)
    first = env.reset()
    env.step_async(ACTIONS)
    env.seed(0)
    assert np.array_equal(env.reset(), first)
    with pytest.raises(RuntimeError, match="call step_async"):
        env.step_wait()
    assert env.step(ACTIONS)[2].tolist() == [False, False]


def test_a_step_that_raises_is_told_in_step_wait(env):
    env.set_attr("trouble", "step", indices=1)
    env.step_async(ACTIONS)
    assert env.get_attr("value") == [0, 0]
    with pytest.raises(LookupError):
        env.step_wait()


def test_actions_for_another_number_of_workers(env):
    for n_actions in (1, 3):
        with pytest.raises(ValueError, match=r"zip\(\)"):
            env.step(np.zeros((n_actions, 1), dtype=np.float32))
    assert env.step(ACTIONS)[0].shape == (2, 2)


def test_training_between_step_async_and_step_wait(make):
    """Trajectories void the step, and its answers are not taken for those of a job."""
    env = make(*[LengthFromSeedEnv] * 2)
    model = RennalaNIGT("MlpPolicy", env, n_trajectories=4, seed=0).learn(50)
    env.reset()
    env.step_async(ACTIONS)
    model.learn(1, reset_num_timesteps=False)
    with pytest.raises(RuntimeError, match="call step_async"):
        env.step_wait()
    assert env.step(ACTIONS)[0].shape == (2, 2)


def test_interrupted_command(make):
    """Answers that were not fetched are not taken for those of the next command, or of a job."""
    env = make(*[LengthFromSeedEnv] * 2)
    model = RennalaNIGT("MlpPolicy", env, n_trajectories=4, seed=0).learn(50)
    env.reset()
    for ask in (
        lambda: env.get_attr("longest") == [6, 6],
        lambda: env.reset().shape == (2, 2),
        lambda: model.learn(1, reset_num_timesteps=False).last_round.counts.sum() == 4,
    ):
        for handle in env._transport.handles:  # what a KeyboardInterrupt between sending and receiving leaves
            handle.send_command("step", np.zeros(1, dtype=np.float32))
        assert ask()


@pytest.mark.filterwarnings(FAILED)
@pytest.mark.parametrize(("method", "says"), [("hang", "no answer within 1 s"), ("die", "exit code 17")])
def test_a_worker_that_does_not_answer(make, method, says):
    env = make(TroubledEnv, TroubledEnv, timeout=1.0)
    before = env.worker_pids
    with pytest.raises(WorkerError, match=rf"Worker 1 \(task 1\): .*{says}"):
        env.env_method(method, indices=[1])
    assert env.reset().shape == (2, 2)
    assert env.worker_pids[0] == before[0]
    assert env.worker_pids[1] != before[1]


@pytest.mark.filterwarnings(FAILED)
def test_a_worker_that_is_killed_between_steps(make):
    env = make(TroubledEnv, TroubledEnv)
    env.reset()
    env._transport.handles[0].process.kill()
    env._transport.handles[0].process.join(10)
    with pytest.raises(WorkerError, match=r"Worker 0 .*exit code -9"):
        env.step(ACTIONS)
    assert env.step(ACTIONS)[0].shape == (2, 2)  # after a reset of all


@pytest.mark.filterwarnings(FAILED)
def test_an_interrupt_while_a_message_is_sent(make, monkeypatch):
    """Half of it may have been sent; the worker is replaced at once, not after a timeout."""
    env = make(TroubledEnv, TroubledEnv)
    env.reset()
    before, handle = env.worker_pids, env._transport.handles[0]

    def interrupted(message):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(handle.connection, "send_bytes", interrupted)
        with pytest.raises(KeyboardInterrupt):
            env.get_attr("trouble", indices=[0])
    handle.process.join(10)
    assert not handle.process.is_alive()
    with pytest.raises(WorkerError, match=r"Worker 0 .*exit code -9"):
        env.get_attr("trouble", indices=[0])
    assert env.reset().shape == (2, 2)
    assert env.worker_pids[0] != before[0]


class ClosingEnv(PointEnv):
    """Leaves a trace when it is closed; closing takes a while."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def close(self):
        time.sleep(0.1)  # what an environment has to do at its end takes a moment
        (self.folder / "closed").touch()


@pytest.mark.parametrize("stepping", [False, True])
def test_close_closes_the_environments(make, tmp_path, stepping):
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
    env = make(*[partial(ClosingEnv, folder) for folder in folders])
    if stepping:
        env.reset()
        env.step_async(ACTIONS)
    env.close()
    assert all((folder / "closed").exists() for folder in folders)


def test_closed_environment(make):
    env = make(LengthFromSeedEnv)
    env.reset()
    env.step_async(ACTIONS[:1])
    env.close()
    for call in (env.reset, env.step_wait, lambda: env.step(ACTIONS[:1]), lambda: env.get_attr("longest")):
        with pytest.raises(RuntimeError, match="closed"):
            call()


class TupleEnv(gym.Wrapper):
    """A point and a side, and actions of a type that is not the one of the space."""

    def __init__(self):
        super().__init__(DictEnv())
        self.observation_space = spaces.Tuple(tuple(self.env.observation_space.values()))

    def reset(self, **kwargs):
        observation, info = self.env.reset(**kwargs)
        return tuple(observation.values()), info

    def step(self, action):
        observation, *rest = self.env.step(action)
        return tuple(observation.values()), *rest


def make_pendulum():
    return gym.make("Pendulum-v1", max_episode_steps=5)


@pytest.mark.parametrize("env_fn", [make_pendulum, LengthFromSeedEnv, DictEnv, TupleEnv])
def test_the_same_numbers_as_in_this_process(make, env_fn):
    results = []
    for env in (make(env_fn, env_fn), DummyVecEnv([env_fn] * 2)):
        env.seed(3)
        env.action_space.seed(0)
        result = [env.reset()]
        for _ in range(12):
            result += env.step(np.array([env.action_space.sample() for _ in range(2)]))
            result.append(list(env.reset_infos))
        results.append(result)
    for got, wanted in zip(*results, strict=True):
        assert_same(got, wanted)


def assert_same(got, wanted):
    if isinstance(wanted, dict):
        assert got.keys() == wanted.keys()
        for key, value in wanted.items():
            assert_same(got[key], value)
    elif isinstance(wanted, (list, tuple)):
        for one, other in zip(got, wanted, strict=True):
            assert_same(one, other)
    elif isinstance(wanted, np.ndarray):
        assert got.dtype == wanted.dtype
        assert np.array_equal(got, wanted)
        assert got.flags.writeable
    else:
        assert got == wanted
