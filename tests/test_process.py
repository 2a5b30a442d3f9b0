"""Worker processes: the contract that all workers share, the numbers of the simulator, and failures that are injected."""

import os
import re
import signal
import subprocess
import sys
import textwrap
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
from envs import FixedLengthEnv, LengthFromSeedEnv, PointEnv, job, parameters, prepared, run, train_rounds
from paper import MaleniaNIGT, RennalaNIGT
from processes import FAILED, FaultyEnv, ends_of, explode, hang, kill_myself, worker_processes
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecNormalize

from sb3_nigt import AFedPG, ProcessVecEnv, SimulatedVecEnv, WorkerError
from sb3_nigt.testing import StepRoundsTests, WorkerVecEnvTests


class TestProcessVecEnv(WorkerVecEnvTests, StepRoundsTests):
    make_workers = ProcessVecEnv
    infos_of_all_steps = False


class CannotBeMade(PointEnv):
    def __init__(self):
        raise OSError("no such simulator")


@pytest.fixture
def make():
    with worker_processes() as make:
        yield make


@pytest.mark.one_in(2)
@pytest.mark.parametrize("algorithm", [RennalaNIGT, MaleniaNIGT])
@pytest.mark.parametrize(
    ("does", "says"),
    [(explode, "the physics exploded"), (partial(os._exit, 17), "exit code 17"), (hang, "no sign of life")],
    ids=["raises", "dies", "hangs"],
)
def test_a_failure_loses_nothing(make, tmp_path, algorithm, does, says):
    """The worker is restarted and repeats its trajectory: the same parameters as without the failure, and one warning."""
    kwargs = {"n_trajectories": 8, "learning_rate": 0.1, "seed": 1, "policy_kwargs": {"net_arch": [8]}}
    env = make(LengthFromSeedEnv, partial(FaultyEnv, does, flag=tmp_path / "happened"), timeout=4.0)
    model = algorithm("MlpPolicy", env, **kwargs)
    with pytest.warns(UserWarning, match="failed") as caught:
        train_rounds(model, 6)
    (warning,) = caught
    assert re.match(rf"Worker 1 \(task 1\) failed: .*{says}.*It is restarted", str(warning.message))
    assert os.path.dirname(warning.filename) == os.path.dirname(__file__)  # where learn() is called, not a line of the package
    assert env._roster.slots[1].history.failures == 1
    reference = algorithm("MlpPolicy", SimulatedVecEnv([LengthFromSeedEnv] * 2), **kwargs)
    train_rounds(reference, 6)
    if algorithm is RennalaNIGT:  # Malenia's tickets per task follow the measured speeds
        np.testing.assert_allclose(parameters(model), parameters(reference), rtol=2e-4, atol=2e-5)
    assert np.isfinite(parameters(model)).all()


@pytest.mark.filterwarnings(FAILED)
def test_killed_from_outside_while_it_trains(make, tmp_path):
    class Killer(BaseCallback):
        killed = 0

        def _on_rollout_end(self):
            if self.killed < 5:
                self.killed += 1
                os.kill(self.training_env.unwrapped.worker_pids[self.killed % 3], signal.SIGKILL)

        def _on_step(self):
            return True

    model = RennalaNIGT("MlpPolicy", make(*[LengthFromSeedEnv] * 3), n_trajectories=6, seed=0)
    killer = Killer()
    while model._n_updates < 20:
        model.learn(1, callback=killer, reset_num_timesteps=False)
    assert killer.killed == 5
    assert model.last_round.counts.sum() == 6
    model.save(tmp_path / "model")
    RennalaNIGT.load(tmp_path / "model", env=SimulatedVecEnv([LengthFromSeedEnv] * 3)).learn(50)


def test_environment_that_cannot_be_made():
    with pytest.raises(OSError, match="no such simulator") as caught:
        ProcessVecEnv([CannotBeMade] * 2)
    assert "in worker 0" in str(caught.value.__cause__)
    assert "in __init__" in str(caught.value.__cause__)


@pytest.mark.filterwarnings(FAILED)
def test_all_workers_fail_at_once(make):
    env = make(*[partial(FaultyEnv, explode, at=1)] * 2)
    with pytest.raises(WorkerError, match=r"every worker has failed(?s:.*)the physics exploded"):
        RennalaNIGT("MlpPolicy", env, seed=0).learn(100)


def test_the_same_failure_again_takes_one_line(make):
    model = RennalaNIGT("MlpPolicy", make(LengthFromSeedEnv, partial(FaultyEnv, kill_myself, at=2)), n_trajectories=6, seed=0)
    with pytest.warns(UserWarning, match="failed") as caught:
        train_rounds(model, 10)
    first, second = (str(warning.message) for warning in caught[:2])
    assert "exit code -9" in first
    said = "its process ended with exit code -9 (as before). It is restarted, for the 2nd time."
    assert second == f"Worker 1 (task 1) failed: {said}"


@pytest.mark.filterwarnings(FAILED)
def test_a_lost_worker(make):
    """Rennala goes on without it; Malenia cannot, because its task has no other worker."""
    env_fns = [LengthFromSeedEnv, LengthFromSeedEnv, partial(FaultyEnv, partial(os._exit, 17), at=2)]
    env = make(*env_fns, max_restarts=1)
    model = RennalaNIGT("MlpPolicy", env, n_trajectories=6, seed=0)
    train_rounds(model, 8)
    assert env.lost() == {2}
    assert model.last_round.counts[2] == 0
    malenia = MaleniaNIGT("MlpPolicy", make(*env_fns, max_restarts=1, task_ids=["a", "b", "c"]), n_trajectories=6, seed=0)
    with pytest.raises(WorkerError, match=r"Worker 2 \(task 'c'\)"):
        malenia.learn(10_000)


def test_synchronous_algorithms_and_normalization(make):
    env = VecNormalize(make(LengthFromSeedEnv, LengthFromSeedEnv))
    PPO("MlpPolicy", env, n_steps=16, batch_size=32, seed=0).learn(64)
    model = RennalaNIGT("MlpPolicy", env, n_trajectories=4, seed=0).learn(100)
    seen = env.obs_rms.count
    model.learn(1, reset_num_timesteps=False)
    assert env.obs_rms.count == pytest.approx(seen + model.last_round.used_steps)


def test_stop_by_callback_and_go_on(make):
    class Stop(BaseCallback):
        def _on_step(self):
            return self.n_calls < 4

    env = make(*[LengthFromSeedEnv] * 2)
    model = RennalaNIGT("MlpPolicy", env, n_trajectories=30, schedule="first_finished", seed=0).learn(1000, callback=Stop())
    assert model.num_timesteps == 8
    assert model.learn(50, reset_num_timesteps=False).num_timesteps >= 58


def test_straggler_does_not_gate_a_round(make):
    """No round waits for the slow worker's endless step: the rounds end, and so does the test."""
    env = make(FixedLengthEnv, FixedLengthEnv, partial(FaultyEnv, hang, at=1), timeout=30.0)
    model = RennalaNIGT("MlpPolicy", env, n_trajectories=6, schedule="first_finished", seed=0)
    train_rounds(model, 5)
    assert model.last_round.counts.tolist()[2] == 0


def test_every_arrival_is_delivered_before_its_worker_goes_on(make):
    """Several arrivals may come in at once; AFedPG gives a worker its next job when its gradient is in, not before."""
    model = AFedPG("MlpPolicy", make(*[LengthFromSeedEnv] * 4), seed=0)
    train_rounds(model, 60)
    assert model.last_round.counts.sum() == 1
    assert np.isfinite(parameters(model)).all()


@pytest.mark.parametrize("schedule", ["planned", "pipelined", "first_finished"])
def test_the_environment_may_be_asked_during_a_round(make, schedule):
    class Ask(BaseCallback):
        def _on_step(self):
            assert self.training_env.get_attr("longest") == [6, 6, 6]
            assert self.training_env.env_is_wrapped(Monitor) == [False] * 3
            return True

    model = RennalaNIGT("MlpPolicy", make(*[LengthFromSeedEnv] * 3), n_trajectories=6, schedule=schedule, seed=0)
    model.learn(100, callback=Ask())
    assert model.num_timesteps >= 100


def test_every_executed_step_is_shown(make):
    env = make(*[LengthFromSeedEnv] * 3)
    model = RennalaNIGT("MlpPolicy", env, n_trajectories=6, schedule="first_finished", seed=0)
    train_rounds(model, 15)
    env.reset()  # cancelled workers have said by now what they did; it would be shown in the next round
    late = env.steps_executed - model.num_timesteps
    assert 0 <= late < 3 + 3 * 6


def test_another_model_on_the_same_workers(make):
    """The statistics of a model with VecNormalize do not stay with the workers."""
    env = make(*[LengthFromSeedEnv] * 2)
    kwargs = {"n_trajectories": 4, "seed": 1, "learning_rate": 0.1}
    RennalaNIGT("MlpPolicy", VecNormalize(env), **kwargs).learn(100)
    after = RennalaNIGT("MlpPolicy", env, **kwargs)
    fresh = RennalaNIGT("MlpPolicy", SimulatedVecEnv([LengthFromSeedEnv] * 2), **kwargs)
    for model in (after, fresh):
        model.learn(1)
    returns = [sorted(arrival.episode_return for arrival in model.last_round.arrivals) for model in (after, fresh)]
    assert returns[0] == returns[1]


@pytest.mark.filterwarnings(FAILED)
def test_killed_between_two_calls(make):
    env = make(*[LengthFromSeedEnv] * 2)
    model = RennalaNIGT("MlpPolicy", env, n_trajectories=4, seed=0).learn(50)
    os.kill(env.worker_pids[1], signal.SIGKILL)
    env._transport.handles[1].process.join(10)
    model.learn(50)
    assert env._roster.slots[1].history.failures == 1


def test_shared_memory_that_does_not_fit(make):
    """A block larger than what is there would kill the process at the first write beyond it."""
    room = os.statvfs("/dev/shm")
    # a step of LengthFromSeedEnv takes at least 8 bytes, its reward
    n_steps = room.f_bavail * room.f_frsize // 8 + 1
    with pytest.raises(
        ValueError, match=r"MB of shared memory, but /dev/shm has only \d+ MB free: give a smaller horizon or n_steps"
    ):
        RennalaNIGT("MlpPolicy", make(LengthFromSeedEnv), horizon=n_steps, seed=0).learn(1)


@pytest.mark.slow
def test_workers_end_with_their_parent(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        textwrap.dedent(
            """
            import gymnasium as gym, signal
            from sb3_nigt import ProcessVecEnv
            if __name__ == "__main__":
                env = ProcessVecEnv([lambda: gym.make("CartPole-v1")] * 2)
                print(*env.worker_pids, flush=True)
                signal.pause()
            """
        )
    )
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent:
        try:
            pids = [int(pid) for pid in parent.stdout.readline().split()]
            with ends_of(pids):
                parent.kill()
                parent.wait()
        finally:
            parent.kill()  # also where the time limit has ended the test: it would wait for ever


def test_run_of_one_job_by_hand(make):
    env, point = prepared(make(partial(FixedLengthEnv, 3)))
    assert run(env, job(point, 0)).n_steps == 3
    assert np.isfinite(env.step_times).all()
    assert isinstance(env.observation_space, gym.spaces.Box)
