"""
Ten minutes in which a random worker is killed every second: the policy learns, no round is lost, nothing is left behind.

``SOAK_SECONDS=60 python -m pytest -m slow tests/test_soak.py`` is a short one.
"""

import gc
import itertools
import os
import signal
import time

import gymnasium as gym
import numpy as np
import pytest
from paper import RennalaNIGT
from processes import FAILED, is_running
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

from sb3_nigt import ProcessVecEnv, make_worker_vec_env

SECONDS = float(os.environ.get("SOAK_SECONDS", "600"))
N_WORKERS, M, EPISODES = 10, 20, 12
SIGNIFICANCE = 0.01


class RecordingVecEnv(ProcessVecEnv):
    """Remembers every process that it has ever started, as (pid, time of its start)."""

    def _start(self, index):
        remote = super()._start(index)
        self.__dict__.setdefault("started", []).append((remote.process.pid, started_at(remote.process.pid)))
        return remote


def started_at(pid):
    """Field 22 of /proc/<pid>/stat, which tells processes with the same number apart."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return int(stat.read().rsplit(")", 1)[1].split()[19])
    except FileNotFoundError:
        return None


class Killer(BaseCallback):
    """Kills a random living worker every second, and keeps what every round says of itself."""

    def __init__(self):
        super().__init__()
        self.rng, self.kills, self.reports = np.random.default_rng(0), [], []
        self.next_kill = time.monotonic() + 1.0

    def _on_step(self):
        if time.monotonic() >= self.next_kill:
            processes = [handle.process for handle in self.training_env.unwrapped._transport.handles]
            worker = self.rng.choice([i for i, process in enumerate(processes) if process.is_alive()])
            os.kill(processes[worker].pid, signal.SIGKILL)
            self.kills.append(worker)
            self.next_kill = time.monotonic() + 1.0
        return True

    def _on_rollout_end(self):
        report = self.model.last_round
        self.reports.append((report.round, report.counts.sum(), len(report.arrivals), report.weights @ report.counts))


def open_files():
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def returns(model):
    """Of episodes that start at the same states every time."""
    env = Monitor(gym.make("CartPole-v1"))
    episodes = []
    for seed in range(EPISODES):
        env.reset(seed=seed)
        episodes += evaluate_policy(model, env, 1, return_episode_rewards=True)[0]
    return np.array(episodes)


def permutation_p_value(gains):
    """Share of the sign patterns whose total gain is at least the observed one, as in ``test_learning``."""
    totals = [np.dot(signs, gains) for signs in itertools.product([1, -1], repeat=len(gains))]
    return np.mean([total >= gains.sum() - 1e-9 for total in totals])


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 300)
@pytest.mark.filterwarnings(FAILED)
def test_a_worker_is_killed_every_second():
    make_worker_vec_env("CartPole-v1", 1, vec_env_cls=ProcessVecEnv).close()  # the fork server stays, with its files
    files_before = open_files()
    limits = {"max_restarts": 10**6, "max_restarts_per_minute": None}
    env = make_worker_vec_env("CartPole-v1", N_WORKERS, vec_env_cls=RecordingVecEnv, vec_env_kwargs=limits)
    model = RennalaNIGT("MlpPolicy", env, n_trajectories=M, seed=0, device="cpu")
    before, killer, until = returns(model), Killer(), time.monotonic() + SECONDS
    while time.monotonic() < until:
        model.learn(20_000, callback=killer, reset_num_timesteps=False)
    after, restarts = returns(model), [slot.history.failures for slot in env._roster.slots]
    processes, blocks = env.started, [block.layout.name for block in env._blocks]
    env.close()

    print(f"{len(killer.reports)} rounds, {model.num_timesteps} timesteps, {len(killer.kills)} kills, restarts {restarts}")
    print(f"returns before {before.mean():.1f}, after {after.mean():.1f}; open files {files_before} and {open_files()}")
    assert permutation_p_value(after - before) < SIGNIFICANCE
    rounds, trajectories, arrivals, weight = map(np.array, zip(*killer.reports, strict=True))
    assert rounds.tolist() == list(range(len(rounds)))
    assert (trajectories == M).all()
    assert (arrivals == M).all()
    np.testing.assert_allclose(weight, 1.0)
    assert all(np.isfinite(p.detach().numpy()).all() for p in model.policy.parameters())
    assert len(killer.kills) > SECONDS / 2
    assert set(killer.kills) == set(range(N_WORKERS)) or SECONDS < 100
    # every kill was noticed, but perhaps those after which the worker had nothing more to do
    assert all(restarts[w] <= killer.kills.count(w) <= restarts[w] + 1 for w in range(N_WORKERS))
    assert len(processes) >= len(killer.kills)
    assert not [pid for pid, start in processes if is_running(pid) and started_at(pid) == start]
    assert not set(blocks).intersection(os.listdir("/dev/shm"))
    assert open_files() == files_before
