"""Malenia when the last worker of a task is lost: an error that names it, or on request the mean over the others."""

import os
import re
from functools import partial

import numpy as np
import pytest
from envs import LengthFromSeedEnv, parameters, train_rounds
from paper import MaleniaNIGT
from processes import FAILED, worker_processes
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, Logger

from sb3_nigt import SimulatedVecEnv, WorkerError

ARGUMENTS = {"n_trajectories": 6, "learning_rate": 0.1, "seed": 1, "policy_kwargs": {"net_arch": [8]}}
DROPPED = "All workers of task"

pytestmark = pytest.mark.filterwarnings(FAILED)


class DyingEnv(LengthFromSeedEnv):
    """Its process ends in the step of a number, counted over all processes of a worker, and in every later one."""

    def __init__(self, at, memory):
        super().__init__()
        self.at, self.memory = at, memory

    def step(self, action):
        with self.memory.open("a") as file:
            file.write("x")
        if self.memory.stat().st_size >= self.at:
            os._exit(17)
        return super().step(action)


@pytest.fixture
def make(tmp_path):
    """Make workers of which some die for good at a step; equally fast, as far as the schedule is told."""
    with worker_processes() as make:

        def make_some(*dies_at, task_ids=None):
            env_fns = [
                LengthFromSeedEnv if at is None else partial(DyingEnv, at, tmp_path / str(worker))
                for worker, at in enumerate(dies_at)
            ]
            env = make(*env_fns, task_ids=task_ids, max_restarts=1)
            env.predicted_durations = lambda n: np.where([w in env.lost() for w in range(len(dies_at))], np.inf, n)
            return env

        yield make_some


class Rounds(BaseCallback):
    """Keeps the report of every round."""

    def __init__(self):
        super().__init__()
        self.reports = []

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        self.reports.append(self.model.last_round)


class Logged(KVWriter):
    """Keeps the values of one key."""

    def __init__(self, key):
        self.key, self.values = key, []

    def write(self, key_values, key_excluded, step=0):
        self.values.append(key_values[self.key])

    def close(self):
        pass


def log_of(model, key):
    logged = Logged(key)
    model.set_logger(Logger(None, [logged]))
    return logged.values


def test_lost_before_its_first_trajectory(make):
    """From the first round on it is the training of the other two, to the last trajectory."""
    model = MaleniaNIGT("MlpPolicy", make(None, None, 1, task_ids=["a", "b", "c"]), on_lost_task="drop", **ARGUMENTS)
    with pytest.warns(UserWarning, match=DROPPED) as caught:
        train_rounds(model, 4)
    (dropped,) = (str(w.message) for w in caught if DROPPED in str(w.message))
    assert re.match(
        r"All workers of task 'c' are lost: from round 0 on the objective is the mean over the remaining 2 of 3 tasks", dropped
    )
    reference = train_rounds(MaleniaNIGT("MlpPolicy", SimulatedVecEnv([LengthFromSeedEnv] * 2), **ARGUMENTS), 4)
    np.testing.assert_allclose(parameters(model), parameters(reference), rtol=2e-4, atol=2e-5)
    assert model.last_round.counts.tolist() == [*reference.last_round.counts, 0]
    assert model.last_round.weights.tolist() == [*reference.last_round.weights, 0.0]


@pytest.mark.one_in(2)
@pytest.mark.parametrize("schedule", ["planned", "first_finished", "pipelined"])
def test_lost_in_the_middle_of_a_run(make, schedule):
    """M = 6: two of each of three tasks, then three of each of two; the round that is run again counts its steps twice."""
    env, rounds = make(None, None, 40), Rounds()
    model = MaleniaNIGT("MlpPolicy", env, on_lost_task="drop", schedule=schedule, **ARGUMENTS)
    logged = log_of(model, "async/lost_tasks")
    with pytest.warns(UserWarning, match=DROPPED) as caught:
        train_rounds(model, 20, rounds)  # worker 2 makes at least two steps a round
    counts = [report.counts.tolist() for report in rounds.reports]
    lost_in = [count[2] for count in counts].index(0)
    assert lost_in > 0
    if schedule == "first_finished":  # the counts follow the true speeds
        assert all(min(count) > 0 for count in counts[:lost_in])
        assert all(min(count[:2]) > 0 == count[2] for count in counts[lost_in:])
    else:
        assert counts == [[2, 2, 2]] * lost_in + [[3, 3, 0]] * (20 - lost_in)
    (dropped,) = (str(w.message) for w in caught if DROPPED in str(w.message))
    assert f"task 2 are lost: from round {lost_in} on" in dropped
    assert [report.round for report in rounds.reports] == list(range(20))
    for report in rounds.reports:
        assert report.weights @ report.counts == pytest.approx(1.0)
    reported = sum(report.used_steps + report.discarded_steps for report in rounds.reports)
    # the other schedules have steps that belong to no round, at least not yet
    assert reported == env.steps_executed if schedule == "planned" else reported <= env.steps_executed
    assert logged == [0] * lost_in + [1] * (20 - lost_in)
    assert np.isfinite(parameters(model)).all()


def test_another_worker_of_the_task_goes_on(make):
    """Nothing is dropped as long as the task has a worker."""
    env = make(None, None, 1, task_ids=["a", "b", "b"])
    model = MaleniaNIGT("MlpPolicy", env, on_lost_task="drop", **ARGUMENTS)
    logged = log_of(model, "async/lost_tasks")
    train_rounds(model, 4)
    assert env.lost() == {2}
    assert model.last_round.counts.tolist() == [3, 3, 0]
    assert logged == [0] * 4


def test_an_error_by_default(make):
    model = MaleniaNIGT("MlpPolicy", make(None, 5, None, task_ids=["a", "b", "c"]), **ARGUMENTS)
    with pytest.raises(WorkerError, match=r"Worker 1 \(task 'b'\): it is lost .* Malenia cannot complete a round without it"):
        model.learn(10**6)


def test_an_error_when_nobody_is_left(make):
    model = MaleniaNIGT("MlpPolicy", make(20, 60), on_lost_task="drop", **ARGUMENTS)
    says = r"Worker 1 \(task 1\): all 2 workers are lost"
    with pytest.warns(UserWarning, match=DROPPED), pytest.raises(WorkerError, match=says):
        model.learn(10**6)


def test_the_choice_is_saved_and_what_was_dropped_is_not(make, tmp_path):
    model = MaleniaNIGT("MlpPolicy", make(None, 1), on_lost_task="drop", **ARGUMENTS)
    with pytest.warns(UserWarning, match=DROPPED):
        train_rounds(model, 2)
    model.save(tmp_path / "model")
    loaded = MaleniaNIGT.load(tmp_path / "model", env=SimulatedVecEnv([LengthFromSeedEnv] * 2))
    assert loaded.on_lost_task == "drop"
    assert loaded.learn(1, reset_num_timesteps=False).last_round.counts.tolist() == [3, 3]
