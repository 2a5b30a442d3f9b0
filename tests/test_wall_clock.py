"""Comparisons on real processes: moments on a clock that ticks by hand, and short real runs."""

import csv
import json
import pickle
import re
from io import StringIO

import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize

from sb3_nigt import ProcessVecEnv, RennalaNIGT, SimulatedVecEnv, make_worker_vec_env
from sb3_nigt.__main__ import main
from sb3_nigt.errors import LostWorkerError, Preempted, WorkerError
from sb3_nigt.experiments import compare, wall_clock
from sb3_nigt.experiments.arguments import FailedRunsError
from sb3_nigt.experiments.campaign import execute_all
from sb3_nigt.experiments.setting import Budget, Run, Setting

PROCESSES = Setting("CartPole-v1", (1.0, 1.0), (0.0, 0.0), workers="processes")
COMPARE = ["compare", "--env", "CartPole-v1", "--workers", "processes", "--n-workers", "2"]
SHORT = ["--seconds", "1", "--points", "2", "--episodes", "1", "--seeds", "1"]


class Ticks:
    """A clock that is one second later at each look."""

    def __init__(self):
        self.seconds = 0.0

    def now(self):
        self.seconds += 1.0
        return self.seconds


# The moments, by hand


def moments_of(model, monkeypatch, seconds, points):
    """Counts, policy and statistics at each moment of a run whose clock ticks once a look."""
    monkeypatch.setattr(wall_clock, "WallClock", Ticks)
    callback = wall_clock.SnapshotCallback(Budget(seconds=seconds, points=points))
    model.learn(10**9, callback=callback, log_interval=None)
    assert len(callback.snapshots) == len(callback.moments) == points + 1
    counts = [(m, s.timesteps, s.messages, s.updates) for m, s in zip(callback.moments, callback.snapshots, strict=True)]
    return counts, callback.snapshots


def ppo(env):
    return PPO("MlpPolicy", env, n_steps=4, batch_size=8, n_epochs=1, seed=0, device="cpu")


def test_moments_of_ppo_by_hand(monkeypatch):
    """
    Looks: start of a rollout at 1 s, its four steps of two environments at 2 to 5 s, its end at 6 s; the update, of one epoch
    and with two messages, lasts until the next rollout starts at 7 s; its steps are at 8 to 11 s.

    The moment 6 is passed at the end of the rollout, before the update; 9 is at the second step of the next rollout.
    """
    model = ppo(VecNormalize(make_vec_env("CartPole-v1", 2)))
    counts, snapshots = moments_of(model, monkeypatch, 9.0, 3)
    assert counts == [(0.0, 0, 0, 0), (3.0, 4, 0, 0), (6.0, 8, 0, 0), (9.0, 12, 2, 1)]
    weights = [snapshot.parameters["action_net.weight"].numpy() for snapshot in snapshots]
    assert np.array_equal(weights[0], weights[2])
    assert not np.array_equal(weights[2], weights[3])
    assert [round(snapshot.observations.count) for snapshot in snapshots] == [2, 6, 10, 14]
    wall_clock.put_back(snapshots[1], model)
    assert np.array_equal(model.policy.action_net.weight.detach(), weights[1])
    assert model.get_vec_normalize_env().obs_rms is snapshots[1].observations


def test_moments_of_rennala_by_hand(monkeypatch):
    """The same looks: a callback for every two steps, four in a round; a message of each of two workers with steps in it."""
    env = make_worker_vec_env("CartPole-v1", 2, vec_env_cls=SimulatedVecEnv, seed=0)
    model = RennalaNIGT("MlpPolicy", env, n_steps=4, seed=0, device="cpu")
    counts, snapshots = moments_of(model, monkeypatch, 9.0, 3)
    assert counts == [(0.0, 0, 0, 0), (3.0, 4, 0, 0), (6.0, 8, 0, 0), (9.0, 12, 2, 1)]
    assert all(snapshot.observations is None for snapshot in snapshots)
    assert "normalizer.norms.0.mean" in snapshots[0].parameters, "the statistics are part of the policy"


@pytest.mark.parametrize(("seconds", "points"), [(6.5, 1), (6.9, 3)])
def test_an_update_that_is_not_complete_in_time_does_not_count(seconds, points, monkeypatch):
    """The update is from 6 to 7 s; with three points, 4.6 is at the end of the third step and 6.9 in the update."""
    counts, snapshots = moments_of(ppo(make_vec_env("CartPole-v1", 2)), monkeypatch, seconds, points)
    assert counts[-1] == (seconds, 8, 2, 0)
    weights = [snapshot.parameters["action_net.weight"].numpy() for snapshot in snapshots]
    assert np.array_equal(weights[0], weights[-1])


# A run


class Recording:
    """In place of the evaluation: keeps what it is asked for."""

    def __init__(self, setting, episodes, seed):
        self.envs, self.asked, self.seed = {"return": None}, [], seed
        Recording.last = self

    def returns(self, model, number):
        self.asked.append((number, model.policy.action_net.weight.detach().clone().numpy()))
        return {"return": float(number)}


@pytest.mark.parametrize("method", ["rennala", "ppo"])
def test_every_moment_is_evaluated_with_its_policy(method, monkeypatch):
    closed = []

    class Closing(SimulatedVecEnv):
        def close(self):
            closed.append(self)
            super().close()

    env = make_worker_vec_env("CartPole-v1", 2, vec_env_cls=Closing, seed=7)
    monkeypatch.setattr(wall_clock, "WallClock", Ticks)
    monkeypatch.setattr(wall_clock, "Evaluator", Recording)
    monkeypatch.setattr(wall_clock, "make_workers", lambda run: env)
    arguments = {"n_steps": 4, **({"batch_size": 8, "n_epochs": 1} if method == "ppo" else {})}
    file = StringIO()
    model = wall_clock.train(Run(method, 7, PROCESSES, Budget(seconds=16.0, points=2), arguments, paper=method == "ppo"), file)
    assert [line["return"] for line in csv.DictReader(StringIO(file.getvalue()))] == ["0.0", "1.0", "2.0"]
    assert closed == [env]
    assert (model.seed, model.n_steps, Recording.last.seed) == (7, 4, 7)
    assert model.get_vec_normalize_env() is None, "PPO as in the paper"
    numbers, weights = zip(*Recording.last.asked, strict=True)
    assert numbers == (0, 1, 2)
    assert len({weight.tobytes() for weight in weights}) == 3


def test_processes_of_our_methods():
    workers = wall_clock.make_workers(Run("rennala", 0, PROCESSES, Budget(seconds=1.0)))
    assert type(workers) is ProcessVecEnv
    assert workers.num_envs == 2
    workers.close()


@pytest.mark.parametrize("faster", [DummyVecEnv, SubprocVecEnv])
def test_baselines_get_the_faster_kind(faster, monkeypatch):
    def rate(env):
        env.close()
        return float(isinstance(env, faster))

    monkeypatch.setattr(wall_clock, "random_steps_a_second", rate)
    workers = wall_clock.make_workers(Run("ppo", 0, PROCESSES, Budget(seconds=1.0)))
    assert type(workers) is faster
    assert workers.num_envs == 2
    wall_clock.close(workers)


def test_random_steps(monkeypatch):
    """All steps count, whatever time they take: a stopwatch that says that it was two seconds."""
    made = []
    env = make_vec_env("CartPole-v1", 2)
    monkeypatch.setattr(env, "step_async", lambda actions: made.extend(actions))
    monkeypatch.setattr(env, "step_wait", lambda: None)
    monkeypatch.setattr(wall_clock, "rate", lambda work: work() / 2.0)
    monkeypatch.setattr(wall_clock, "TRIAL_SECONDS", 0.05)
    assert wall_clock.random_steps_a_second(env) == len(made) / 2.0


@pytest.mark.slow
def test_a_comparison_on_processes(tmp_path, capsys, monkeypatch):
    given = []
    monkeypatch.setattr(compare, "execute_all", lambda *args: (given.append(args[2]), execute_all(*args)))
    main([*COMPARE, *SHORT, "--processes", "4", "--algos", "rennala,ppo", "--output", str(tmp_path)])
    assert given == [1], "one run at a time"
    assert "2 workers, real seconds" in capsys.readouterr().out
    for method in ("rennala", "ppo"):
        lines = list(csv.DictReader((tmp_path / f"{method}-seed0.csv").read_text().splitlines()))
        assert [float(line["seconds"]) for line in lines] == [0.0, 0.5, 1.0]
        assert json.loads((tmp_path / f"{method}-seed0.json").read_text())["run"]["setting"]["workers"] == "processes"


# What goes wrong


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (DummyVecEnv, "ValueError: out of coffee"),
        (SubprocVecEnv, "RuntimeError: an environment of ppo has failed, the traceback of its process is above"),
    ],
)
def test_an_environment_of_a_baseline_that_fails(kind, message, monkeypatch):
    monkeypatch.setattr(wall_clock, "random_steps_a_second", lambda env: (env.close(), isinstance(env, kind))[1])
    made, make_workers = [], wall_clock.make_workers
    monkeypatch.setattr(wall_clock, "make_workers", lambda run: made.append(make_workers(run)) or made[0])
    run = Run(
        "ppo", 0, Setting("fails_later:FailsLater-v0", (1.0, 1.0), (0.0, 0.0), workers="processes"), Budget(seconds=60.0)
    )
    with pytest.raises(Exception) as caught:  # noqa: PT011
        wall_clock.train(run, StringIO())
    text = f"{type(caught.value).__name__}: {caught.value}"
    assert re.search(message, text, re.DOTALL), text
    assert not any(process.is_alive() for process in getattr(made[0], "processes", []))


@pytest.mark.parametrize(
    "error", [WorkerError("out of coffee", 3, "gravity=2"), LostWorkerError("is gone", 0, 0), Preempted("SIGTERM on rank 1")]
)
def test_errors_come_back_from_the_process_of_a_run(error):
    found = pickle.loads(pickle.dumps(error))
    assert (type(found), str(found), vars(found)) == (type(error), str(error), vars(error))


@pytest.mark.slow  # test_compare.py has the same on simulated workers
def test_a_failed_run_says_why(tmp_path):
    run = Run("rennala", 0, Setting("fails_later:FailsLater-v0", (1.0,), (0.0,), workers="processes"), Budget(seconds=60.0))
    with pytest.raises(FailedRunsError, match=r"rennala-seed0: .*out of coffee"):
        execute_all([run], tmp_path, 1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--seconds", "1", "--step-times", "sqrt"], "leave out --step-times"),
        (["--seconds", "1", "--tasks", "flipped"], "leave out --step-times"),
        (["--timesteps", "100"], "needs --seconds"),
        (["--seconds", "1", "--algos", "rennala,ars"], "ars does not count its steps"),
    ],
)
def test_what_only_simulated_workers_can_do(given, message, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([*COMPARE, *given, "--output", str(tmp_path)])
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_number_of_processes_is_needed(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([*COMPARE[:-2], "--seconds", "1", "--output", str(tmp_path)])
    assert "--workers processes needs --n-workers, for example --n-workers 10" in capsys.readouterr().err
