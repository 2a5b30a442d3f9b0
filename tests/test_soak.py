"""
Half an hour in which a worker fails every second: killed, stopped for two seconds, or its environment raises.

No round is lost, every worker gets its share again, the policy learns, and nothing is left behind: files, memory, processes.
``SOAK_SECONDS=60 python -m pytest -s -m slow tests/test_soak.py`` is a short one.
"""

import gc
import itertools
import os
import signal
import subprocess
import threading
import time
from collections import Counter
from contextlib import suppress
from functools import partial
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from envs import train_rounds
from processes import FAILED, descendants, ends_of
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

from sb3_nigt import PAPER, ProcessVecEnv, RennalaNIGT

SECONDS = float(os.environ.get("SOAK_SECONDS", "1800"))
N_WORKERS, EPISODES = 10, 12
KINDS = {"steps": ({}, 500), "trajectories": ({**PAPER, "n_trajectories": 20, "horizon": 100}, 20)}  # arguments, and their M
STEP_SECONDS, STOP_SECONDS = 0.002, 2.0
WARM_UP_ROUNDS, RECOVERY_ROUNDS, QUIET_ROUNDS = 10, 60, 120
SIGNIFICANCE, MOST_GROWTH = 0.01, 1.2
PROGRAM = "3141592"  # seconds that the program of an environment would sleep; to find it again


class Simulator(gym.Wrapper):
    """
    An environment with a program of its own, which raises when it is told to.

    Never twice in a row at the same step of an episode: that would look like an error that repeats, which ends a run.
    """

    def __init__(self, told):
        super().__init__(Monitor(gym.make("CartPole-v1")))
        self.told, self.program = told, subprocess.Popen(["sleep", PROGRAM])
        told.unlink(missing_ok=True)  # that was for the process before, which has ended meanwhile
        self.note, self.age = told.with_suffix(".step"), 0
        self.last = int(self.note.read_text()) if self.note.exists() else -1

    def reset(self, **kwargs):
        self.age = 0
        return super().reset(**kwargs)

    def step(self, action):
        time.sleep(STEP_SECONDS)
        self.age += 1
        if self.told.exists() and self.age != self.last:
            self.told.unlink()
            self.note.write_text(str(self.age))
            raise ArithmeticError("the simulator has diverged")
        return super().step(action)


class Faults(threading.Thread):
    """Every second something happens to a random worker."""

    def __init__(self, env, told):
        super().__init__(daemon=True)
        self.env, self.told, self.over = env, told, threading.Event()
        self.rng, self.done, self.hit = np.random.default_rng(0), Counter(), set()

    def run(self):
        faults = [self.kill, self.stop, self.let_raise]
        while not self.over.wait(1.0):
            worker, fault = int(self.rng.integers(N_WORKERS)), faults[self.rng.integers(len(faults))]
            with suppress(ProcessLookupError):  # it has been killed just now, and is not up again
                fault(worker)
                self.done[fault.__name__] += 1
                self.hit.add(worker)

    def kill(self, worker):
        os.kill(self.env.worker_pids[worker], signal.SIGKILL)

    def stop(self, worker):
        pid = self.env.worker_pids[worker]
        os.kill(pid, signal.SIGSTOP)
        threading.Timer(STOP_SECONDS, self.go_on, [pid]).start()

    @staticmethod
    def go_on(pid):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    def let_raise(self, worker):
        self.told[worker].touch()


class Reports(BaseCallback):
    """Keeps what every round says of itself; ends ``learn`` at a time."""

    def __init__(self):
        super().__init__()
        self.rounds, self.until = [], 0.0

    def _on_step(self):
        return time.monotonic() < self.until

    def _on_rollout_end(self):
        report = self.model.last_round
        arrived = sum(a.n_steps for a in report.arrivals) if self.model.rollout == "steps" else len(report.arrivals)
        self.rounds.append((report.round, report.counts.sum(), arrived, report.weights @ report.counts))


def resources():
    """Open files, processes below this one, and megabytes of this one."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return len(os.listdir("/dev/fd")), len(descendants(os.getpid())), pages * os.sysconf("SC_PAGE_SIZE") / 2**20


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


def shares(model, env, n_rounds):
    """Share of each worker in what some rounds count, over what its speed gives it."""
    counts, expected = np.zeros((2, N_WORKERS))
    for _ in range(n_rounds):
        train_rounds(model, model._n_updates + 1)
        speeds = 1.0 / env.step_times
        counts += model.last_round.counts
        expected += model.last_round.counts.sum() * speeds / speeds.sum()
    return counts / expected


@pytest.mark.slow
@pytest.mark.timeout(3 * SECONDS + 900)
@pytest.mark.filterwarnings(FAILED)
@pytest.mark.parametrize("kind", KINDS)
def test_a_worker_fails_every_second(kind, tmp_path):
    told = [tmp_path / str(worker) for worker in range(N_WORKERS)]
    limits = {"max_restarts": 10**6, "max_restarts_per_minute": None}
    env = ProcessVecEnv([partial(Simulator, path) for path in told], **limits)
    arguments, m = KINDS[kind]
    model = RennalaNIGT("MlpPolicy", env, seed=0, device="cpu", **arguments)
    before = returns(model)
    train_rounds(model, WARM_UP_ROUNDS)
    at_first = resources()
    faults, reports = Faults(env, told), Reports()
    faults.start()
    reports.until = time.monotonic() + SECONDS
    while time.monotonic() < reports.until:
        model.learn(10**6, callback=reports, reset_num_timesteps=False)
    faults.over.set()
    faults.join()
    train_rounds(model, model._n_updates + RECOVERY_ROUNDS)
    ratio, after, in_the_end = shares(model, env, QUIET_ROUNDS), returns(model), resources()
    pids, blocks = descendants(os.getpid()), [block.layout.name for block in env._transport.blocks]
    programs = [pid for pid in pids if PROGRAM in Path(f"/proc/{pid}/cmdline").read_text()]
    restarts = env.restarts

    print(f"\n{len(reports.rounds)} rounds in {SECONDS:.0f} s; {dict(faults.done)}; {restarts} restarts")
    print(f"return before {before.mean():.1f}, after {after.mean():.1f}; shares over those of the speeds {ratio.round(2)}")
    print(f"files, processes, megabytes: {at_first} before, {in_the_end} after")
    with ends_of(programs):
        env.close()
    assert len(programs) == N_WORKERS
    assert permutation_p_value(after - before) < SIGNIFICANCE
    rounds, counted, arrived, weight = map(np.array, zip(*reports.rounds, strict=True))
    assert (np.diff(rounds) == 1).all()
    assert (counted >= m).all() if kind == "steps" else (counted == m).all()
    np.testing.assert_array_equal(arrived, counted)
    np.testing.assert_allclose(weight, 1.0)
    assert all(np.isfinite(p.detach().numpy()).all() for p in model.policy.parameters())
    assert set(faults.done) == {"kill", "stop", "let_raise"}
    assert len(faults.hit) == N_WORKERS
    np.testing.assert_allclose(ratio, 1.0, atol=0.2)
    assert in_the_end[:2] == at_first[:2]
    assert in_the_end[2] < MOST_GROWTH * at_first[2]
    assert not set(blocks).intersection(os.listdir("/dev/shm"))
