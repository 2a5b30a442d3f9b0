"""Evaluation inside ``learn``, Ctrl-C and ``close`` with worker processes: nothing stalls and no process is left over."""

import os
import signal
import subprocess
import sys
import textwrap
from functools import partial
from multiprocessing.connection import Connection

import numpy as np
import pytest
from envs import LengthFromSeedEnv, job, parameters, prepared, train_rounds
from paper import MaleniaNIGT, RennalaNIGT
from processes import FAILED, Bell, ends_of, hang, is_running, ring, worker_processes
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_nigt import ProcessVecEnv, SimulatedVecEnv, WorkerError

ARGUMENTS = {"n_trajectories": 6, "learning_rate": 0.1, "seed": 1, "policy_kwargs": {"net_arch": [8]}}


@pytest.fixture
def make():
    with worker_processes() as make:
        yield make


# Evaluation


def monitored():
    return Monitor(LengthFromSeedEnv())


class Rounds(BaseCallback):
    def __init__(self):
        super().__init__()
        self.counts = []

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        self.counts.append(self.model.last_round.counts.sum())


@pytest.mark.one_in(3)
@pytest.mark.filterwarnings("ignore:Training and eval env are not of the same type")
@pytest.mark.parametrize("algorithm", [RennalaNIGT, MaleniaNIGT])
@pytest.mark.parametrize("kind", ["environment", "DummyVecEnv", "processes"])
@pytest.mark.parametrize("normalized", [False, True])
def test_evaluation_in_a_callback_changes_nothing(make, tmp_path, algorithm, kind, normalized):
    """The parameters are those of the simulator without any callback, whatever the callback evaluates on."""
    wrap = partial(VecNormalize, norm_reward=False) if normalized else lambda env: env
    processes = make(monitored, monitored, monitored)
    processes.predicted_durations = lambda n_steps: np.full(3, n_steps)  # measured speeds decide about Malenia's tickets
    model = algorithm("MlpPolicy", wrap(processes), **ARGUMENTS)
    eval_env = {
        "environment": monitored,
        "DummyVecEnv": lambda: DummyVecEnv([monitored] * 2),
        "processes": lambda: make(monitored, monitored),
    }[kind]()
    if normalized:
        eval_env = wrap(DummyVecEnv([lambda: eval_env]) if kind == "environment" else eval_env)
    evaluation, rounds = EvalCallback(eval_env, n_eval_episodes=3, eval_freq=4, verbose=0, log_path=tmp_path), Rounds()
    model.learn(120, callback=[evaluation, rounds])
    assert evaluation.evaluations_timesteps == list(range(12, model.num_timesteps + 1, 12))
    assert rounds.counts == [6] * model._n_updates
    assert processes.restarts == 0
    reference = algorithm("MlpPolicy", wrap(SimulatedVecEnv([monitored] * 3)), **ARGUMENTS).learn(120)
    np.testing.assert_allclose(parameters(model), parameters(reference), rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("schedule", ["planned", "pipelined", "first_finished"])
@pytest.mark.parametrize("kind", ["processes", "simulated"])
def test_evaluation_on_the_workers_themselves_is_an_error(make, kind, schedule):
    """Its resets would void the trajectories in flight, and who is in flight is no random choice."""
    env = make(monitored, monitored) if kind == "processes" else SimulatedVecEnv([monitored] * 2)
    with pytest.raises(RuntimeError, match=r"for example EvalCallback\(env\), give it a separate one"):
        RennalaNIGT("MlpPolicy", env, **ARGUMENTS, schedule=schedule).learn(
            1000, callback=EvalCallback(env, eval_freq=4, verbose=0)
        )


# Ctrl-C

SCRIPT = """
import os, signal, sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that runs the tests in the background lets it be ignored
sys.path.insert(0, {tests!r})
from envs import PointEnv
from processes import hang, ring
from stable_baselines3.common.callbacks import BaseCallback
from sb3_nigt import ProcessVecEnv, RennalaNIGT

class Env(PointEnv):
    def __init__(self):
        super().__init__()
        Path("pids", str(os.getpid())).touch()
        ring("made")
        if {slow}:
            hang()

class Told(BaseCallback):
    def _on_step(self):
        if self.n_calls == 1:
            ring("learning")
        return True

if __name__ == "__main__":
    try:
        env = ProcessVecEnv([Env] * 3)
        model = RennalaNIGT("MlpPolicy", env, n_trajectories=6, n_steps=20, seed=0)
        model.learn(10**9, callback=Told())
    except KeyboardInterrupt:
        if not {slow}:
            model.save("model")
        print("interrupted")
"""


def interrupted(tmp_path, slow, whole_group):
    """Run the script, interrupt it when it learns or makes workers; return what it says and the processes of its workers."""
    (tmp_path / "pids").mkdir()
    made, learning = Bell(tmp_path / "made"), Bell(tmp_path / "learning")
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT.format(tests=os.path.dirname(__file__), slow=slow)))
    script = subprocess.Popen(
        [sys.executable, "script.py"], cwd=tmp_path, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    with script, made, learning:
        try:
            made.wait(times=3)
            if not slow:
                learning.wait()
            pids = [int(path.name) for path in (tmp_path / "pids").iterdir()]
            with ends_of(pids):
                (os.killpg if whole_group else os.kill)(script.pid, signal.SIGINT)
                said, _ = script.communicate(timeout=60)
        finally:
            script.kill()
    assert script.returncode == 0
    return said, pids


@pytest.mark.parametrize(
    "whole_group", [pytest.param(True, id="terminal"), pytest.param(False, id="parent only", marks=pytest.mark.slow)]
)
class TestInterrupt:
    def test_during_learn(self, tmp_path, whole_group):
        said, pids = interrupted(tmp_path, False, whole_group)
        assert said == "interrupted\n"
        assert len(pids) == 3
        loaded = RennalaNIGT.load(tmp_path / "model", env=SimulatedVecEnv([LengthFromSeedEnv] * 3))
        assert np.isfinite(parameters(loaded)).all()
        loaded.learn(50)

    @pytest.mark.slow
    def test_while_the_workers_are_made(self, tmp_path, whole_group):
        said, pids = interrupted(tmp_path, True, whole_group)
        assert said == "interrupted\n"
        assert len(pids) == 3


@pytest.mark.filterwarnings(FAILED)
def test_learning_goes_on_after_an_interrupt(make):
    """As in a notebook: the same model, the same workers, the same result as from a simulator that was stopped there."""

    class Interrupt(BaseCallback):
        def _on_step(self):
            if self.n_calls == 20:
                raise KeyboardInterrupt
            return True

    model = RennalaNIGT("MlpPolicy", make(*[LengthFromSeedEnv] * 3), **ARGUMENTS)
    with pytest.raises(KeyboardInterrupt):
        model.learn(10**6, callback=Interrupt())
    assert np.isfinite(parameters(model)).all()
    n_updates = model._n_updates
    while model._n_updates < n_updates + 3:
        model.learn(1, reset_num_timesteps=False)
        assert model.last_round.counts.sum() == 6
    reference = RennalaNIGT("MlpPolicy", SimulatedVecEnv([LengthFromSeedEnv] * 3), **ARGUMENTS)
    train_rounds(reference, model._n_updates)
    np.testing.assert_allclose(parameters(model), parameters(reference), rtol=2e-4, atol=2e-5)


# close


class StuckEnv(LengthFromSeedEnv):
    """Rings when a step or ``close`` has begun, and stays there."""

    def __init__(self, where, bell):
        super().__init__()
        self.where, self.bell = where, bell

    def _stay(self, where):
        if where == self.where:
            ring(self.bell)
            hang()

    def step(self, action):
        self._stay("step")
        return super().step(action)

    def close(self):
        self._stay("close")


@pytest.fixture
def bell(tmp_path):
    with Bell(tmp_path / "stuck") as bell:
        yield bell


def close(env):
    """What is stuck would stay for ever."""
    pids = env.worker_pids
    env.close()
    env.close()
    assert not any(map(is_running, pids))


def test_close_with_workers_stuck_in_a_trajectory(bell):
    env, point = prepared(ProcessVecEnv([LengthFromSeedEnv, *[partial(StuckEnv, "step", bell.path)] * 3]))
    for worker in range(4):
        env.submit(job(point, worker))
    bell.wait(times=3)
    close(env)


def test_close_with_a_worker_stuck_in_a_command(bell):
    """As after Ctrl-C in ``env.step``."""
    env = ProcessVecEnv([LengthFromSeedEnv, partial(StuckEnv, "step", bell.path)])
    env.reset()
    env._transport.handles[1].send_command("step", np.zeros(1, dtype=np.float32))
    bell.wait()
    close(env)


def test_close_with_workers_stuck_in_the_close_of_their_environments(bell):
    close(ProcessVecEnv([partial(StuckEnv, "close", bell.path)] * 3))
    bell.wait(times=3)


def test_close_with_a_stopped_worker():
    env = ProcessVecEnv([LengthFromSeedEnv, LengthFromSeedEnv])
    os.kill(env.worker_pids[1], signal.SIGSTOP)
    close(env)


class HalfAnswerEnv(LengthFromSeedEnv):
    """Its process stops itself when it has sent a part of a long answer, or ends."""

    def long_answer(self, number):
        def half(connection, buffer):
            os.write(connection.fileno(), bytes(buffer)[: len(buffer) // 2])
            os.kill(os.getpid(), number)

        Connection._send = half  # of this process only
        return bytes(10**6)


@pytest.mark.parametrize(
    ("number", "reason"), [(signal.SIGSTOP, "in the middle of a message"), (signal.SIGKILL, "exit code -9")]
)
def test_a_worker_that_stops_in_the_middle_of_an_answer(number, reason):
    """The wait for the rest is limited like that for the answer; another process takes its place."""
    env = ProcessVecEnv([HalfAnswerEnv, HalfAnswerEnv], timeout=2.0)
    with pytest.warns(UserWarning, match="Worker 1"), pytest.raises(WorkerError, match=reason):
        env.env_method("long_answer", number, indices=1)
    env.reset()
    assert len(set(env.worker_pids)) == 2
    close(env)


class TakesEnv(LengthFromSeedEnv):
    def take(self, array):
        return len(array)


def test_a_worker_that_reads_nothing_of_a_long_message():
    env = ProcessVecEnv([TakesEnv, TakesEnv], timeout=5.0)
    os.kill(env.worker_pids[1], signal.SIGSTOP)
    with pytest.warns(UserWarning, match="Worker 1"), pytest.raises(WorkerError, match="did not read a message for 5 s"):
        env.env_method("take", np.zeros(10**6))
    assert env.env_method("take", np.zeros(10**6)) == [10**6] * 2
    close(env)


@pytest.mark.parametrize("timeout", [1e300, 1e8])
def test_a_timeout_of_many_years(timeout):
    env = ProcessVecEnv([LengthFromSeedEnv], timeout=timeout)
    env.reset()
    close(env)


@pytest.mark.filterwarnings(FAILED)
def test_close_while_a_worker_waits_for_its_restart():
    env, point = prepared(ProcessVecEnv([LengthFromSeedEnv, LengthFromSeedEnv]))
    os.kill(env.worker_pids[1], signal.SIGKILL)
    for worker in range(2):
        env.submit(job(point, worker))
    env.next_arrival()
    close(env)


class CloseAfterRound(BaseCallback):
    def _on_step(self):
        return True

    def _on_rollout_end(self):
        self.training_env.close()


def test_closing_workers_at_the_end_of_a_round_says_so(make):
    """Where gradients are in shared memory, which is no longer there."""
    model = RennalaNIGT("MlpPolicy", make(LengthFromSeedEnv, LengthFromSeedEnv), **ARGUMENTS)
    with pytest.raises(RuntimeError, match="The environment is closed"):
        model.learn(100, CloseAfterRound())


@pytest.mark.parametrize("arguments", [ARGUMENTS, {"rollout": "steps", "n_steps": 10, "gae_lambda": 0.9, "seed": 0}])
def test_learning_on_closed_workers_says_so(make, arguments):
    env = make(LengthFromSeedEnv, LengthFromSeedEnv)
    model = RennalaNIGT("MlpPolicy", env, **arguments)
    model.learn(1)
    env.close()
    for reset_num_timesteps in (True, False):
        with pytest.raises(RuntimeError, match="The environment is closed: make a new one"):
            model.learn(1, reset_num_timesteps=reset_num_timesteps)
    model.set_env(make(LengthFromSeedEnv, LengthFromSeedEnv))
    model.learn(1, reset_num_timesteps=False)
