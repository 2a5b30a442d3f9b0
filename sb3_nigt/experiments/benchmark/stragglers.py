"""What one worker that is a hundred times slower costs a round."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor

from sb3_nigt.algorithms import RennalaNIGT, SyncNIGT
from sb3_nigt.algorithms.paper import PAPER
from sb3_nigt.algorithms.steps import steps_of_a_round
from sb3_nigt.experiments.benchmark.table import Row
from sb3_nigt.vec_env import ProcessVecEnv

STEP_SECONDS, SLOWER = 0.001, 100
EPISODE_STEPS, N_TRAJECTORIES = 20, 20


class Slow(gym.Wrapper[Any, Any, Any, Any]):
    """
    An environment whose step takes longer.

    :param env: any environment
    :param seconds: to sleep in each step
    """

    def __init__(self, env: gym.Env[Any, Any], seconds: float) -> None:
        super().__init__(env)
        self.seconds = seconds

    def step(self, action: Any) -> Any:
        """
        Sleep, then step.

        :param action: action for the environment
        """
        time.sleep(self.seconds)
        return self.env.step(action)


def _make(seconds: float) -> gym.Env[Any, Any]:
    return Monitor(Slow(gym.make("Pendulum-v1", max_episode_steps=EPISODE_STEPS), seconds))


class RoundTimes(BaseCallback):
    """
    Takes the time from one rollout to the next and stops after some.

    :param n_rounds: number of rollouts
    """

    def __init__(self, n_rounds: int) -> None:
        super().__init__()
        self.n_rounds = n_rounds
        self.starts: list[float] = []

    def _on_rollout_start(self) -> None:
        self.starts.append(time.perf_counter())

    def _on_step(self) -> bool:
        return len(self.starts) <= self.n_rounds

    @property
    def seconds(self) -> list[float]:
        """Seconds of each rollout and its update, without the first, in which the speeds were not known."""
        return np.diff(self.starts[1:]).tolist()


ALGORITHMS: dict[str, tuple[Callable[..., BaseAlgorithm], dict[str, Any]]] = {
    "RennalaNIGT": (RennalaNIGT, {}),
    "RennalaNIGT of the paper": (RennalaNIGT, {**PAPER, "n_trajectories": N_TRAJECTORIES}),
    "SyncNIGT of the paper": (SyncNIGT, {**PAPER, "n_trajectories": N_TRAJECTORIES}),
    "PPO": (PPO, {"n_steps": 2 * EPISODE_STEPS, "batch_size": 2 * EPISODE_STEPS, "n_epochs": 1}),
}


def measure(n_workers: int, n_rounds: int) -> Iterator[Row]:
    """
    Compare the rounds with and without the slow worker.

    :param n_workers: number of processes, including the slow one
    :param n_rounds: number of rounds of RennalaNIGT; the others, which wait, run a few
    """
    for name, (algorithm, kwargs) in ALGORITHMS.items():
        medians = []
        for slow in (True, False):
            seconds = [STEP_SECONDS] * (n_workers - 1) + [SLOWER * STEP_SECONDS] * slow
            env = ProcessVecEnv([partial(_make, s) for s in seconds])
            times = RoundTimes(n_rounds if algorithm is RennalaNIGT or not slow else 4)
            of_round = kwargs or {"n_steps": steps_of_a_worker(n_workers, len(seconds))}
            algorithm("MlpPolicy", env, seed=0, device="cpu", **of_round).learn(10**9, callback=times)
            env.close()
            medians.append(float(np.median(times.seconds)))
        what = f"{name}, {n_workers} processes, one {SLOWER} times slower"
        yield Row(what, "s/round", medians[:1], medians[1:], "without that one")


def steps_of_a_worker(n_workers: int, n_present: int) -> int:
    """
    Return ``n_steps`` with which a round has the same number of steps, at least that of the defaults, without one worker.

    :param n_workers: number of processes, including the slow one
    :param n_present: number of processes, with or without the slow one
    """
    others = max(1, n_workers - 1)
    multiples = -(-steps_of_a_round(None, n_workers) // (n_workers * others))
    return multiples * n_workers * others // n_present
