"""The same run gives the same bits: in two runs, in two processes, in two chunks, in any order."""

import hashlib
import os
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from envs import (
    DictEnv,
    FixedLengthEnv,
    LengthFromActionEnv,
    LengthFromSeedEnv,
    NeverEndingEnv,
    ScriptedLengthEnv,
    parameters,
    run_rounds,
    simulated,
)
from paper import MaleniaNIGT, RennalaNIGT, SyncNIGT
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_nigt import AFedPG, RandomTimes, RennalaPG, SimulatedVecEnv, SyncPG
from sb3_nigt.testing import StepRoundsTests, WorkerVecEnvTests

POLICY = {"net_arch": [4]}
ALGORITHMS = {
    "rennala planned": partial(RennalaNIGT, n_trajectories=7),
    "rennala pipelined": partial(RennalaNIGT, n_trajectories=7, schedule="pipelined"),
    "malenia pipelined": partial(MaleniaNIGT, n_trajectories=7, schedule="pipelined"),
    "rennala first_finished": partial(RennalaNIGT, n_trajectories=7, schedule="first_finished"),
    "malenia planned": partial(MaleniaNIGT, n_trajectories=7),
    "malenia first_finished": partial(MaleniaNIGT, n_trajectories=7, schedule="first_finished"),
    "sync": partial(SyncNIGT, n_trajectories=7),
    "rennala pg": partial(RennalaPG, n_trajectories=7),
    "sync pg": partial(SyncPG, n_trajectories=7),
    "afedpg": AFedPG,
}


class TestSimulatedVecEnv(WorkerVecEnvTests, StepRoundsTests):
    make_workers = SimulatedVecEnv


@pytest.mark.parametrize(
    "env_cls",
    [NeverEndingEnv, FixedLengthEnv, ScriptedLengthEnv, LengthFromSeedEnv, LengthFromActionEnv, DictEnv],
)
def test_environments_of_these_tests_are_valid(env_cls):
    check_env(env_cls())  # its warnings are errors here


def trained(algorithm, seed=3, n_rounds=4, env_fns=(LengthFromSeedEnv,) * 3):
    env = simulated(env_fns, [1.0, 2.0, 5.0], [0.5, 0.0, 1.0])
    model = ALGORITHMS[algorithm]("MlpPolicy", env, horizon=5, seed=seed, device="cpu", policy_kwargs=POLICY)
    reports = run_rounds(model, n_rounds)
    return parameters(model), [[(a.worker, a.key, a.n_steps, a.finished_at) for a in report.arrivals] for report in reports]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_same_seed_same_bits(algorithm):
    first, first_arrivals = trained(algorithm)
    second, second_arrivals = trained(algorithm)
    assert first_arrivals == second_arrivals
    assert np.array_equal(first, second)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_another_seed_gives_another_run(algorithm):
    assert not np.array_equal(trained(algorithm, seed=3)[0], trained(algorithm, seed=4)[0])


def test_initial_parameters_follow_the_seed():
    def initial(seed):
        return parameters(RennalaNIGT("MlpPolicy", simulated([2]), seed=seed, device="cpu", policy_kwargs=POLICY))

    assert np.array_equal(initial(3), initial(3))
    assert not np.array_equal(initial(3), initial(4))


SCRIPT = """
import hashlib
from sb3_nigt import RennalaNIGT, make_worker_vec_env
env = make_worker_vec_env("Pendulum-v1", 3, step_times=[1, 2, 5])
model = RennalaNIGT("MlpPolicy", env, n_steps=20, seed=3, device="cpu")
model.learn(1000)
print(hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.policy.parameters())).hexdigest())
"""


def test_two_processes_give_the_same_bits():
    """Another hash seed gives sets of strings another order, which must not matter."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
        )
        for hash_seed in ("1", "2")
    ]
    outputs = [process.communicate(timeout=250)[0].strip() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert outputs[0] == outputs[1]
    assert len(outputs[0]) == hashlib.sha256().digest_size * 2


CHUNKED = {
    **ALGORITHMS,
    "rennala on a plain VecEnv": partial(RennalaNIGT, n_trajectories=7),
    "afedpg on a plain VecEnv": AFedPG,
}


@pytest.mark.one_in(2)
@pytest.mark.parametrize("algorithm", CHUNKED)
def test_two_chunks_are_one_run(algorithm):
    """
    ``learn(a)`` and ``learn(b, reset_num_timesteps=False)`` go on where the first call stopped, in-flight jobs included.

    ``learn`` stops between rounds. The first call stops after some round k; the second one asks for the steps that are still
    missing, so it stops after the same round as one call for all of them.
    """

    def make():
        env_fns = [partial(FixedLengthEnv, 4)] * 2
        env = DummyVecEnv(env_fns) if "plain VecEnv" in algorithm else simulated(env_fns, [1.0, 2.0])
        return CHUNKED[algorithm]("MlpPolicy", env, horizon=5, seed=3, device="cpu", policy_kwargs=POLICY)

    whole, chunks = make(), make()
    whole.learn(200)
    chunks.learn(70)
    assert 70 <= chunks.num_timesteps < 200
    chunks.learn(200 - chunks.num_timesteps, reset_num_timesteps=False)
    assert chunks.num_timesteps == whole.num_timesteps
    assert chunks.last_round.round == whole.last_round.round > 2
    assert np.array_equal(parameters(chunks), parameters(whole))


def test_speed_of_the_workers_changes_who_runs_a_ticket_but_not_the_sample():
    """A planned round holds the same trajectories for all speeds, when the workers are exchangeable."""
    samples = []
    for step_times in ([1.0, 1.0, 1.0], [1.0, 2.0, 5.0], [7.0, 1.0, 3.0], [1000.0, 1.0, 1000.0]):
        env = simulated([LengthFromSeedEnv] * 3, step_times)
        model = RennalaNIGT("MlpPolicy", env, n_trajectories=8, horizon=5, seed=3, device="cpu", policy_kwargs=POLICY)
        (report,) = run_rounds(model, 1)
        samples.append({(a.key, a.n_steps, a.episode_return) for a in report.arrivals})
    assert len(samples[0]) == 8
    assert all(sample == samples[0] for sample in samples)


def test_random_times_follow_the_seed():
    def finish_times(seed):
        env = SimulatedVecEnv([partial(FixedLengthEnv, 2)] * 3, RandomTimes([1.0, 2.0, 5.0], variation=0.5))
        model = RennalaNIGT("MlpPolicy", env, n_trajectories=7, horizon=5, seed=seed, device="cpu", policy_kwargs=POLICY)
        return [report.finished_at for report in run_rounds(model, 3)]

    assert finish_times(3) == finish_times(3)
    assert finish_times(3) != finish_times(4)
