"""What a round costs in addition to its environment steps: coordination and communication, on every kind of workers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from sb3_nigt.algorithms import RennalaNIGT
from sb3_nigt.algorithms.paper import PAPER, PAPER_POLICY
from sb3_nigt.experiments.benchmark.places import is_first, on_ranks, processes_and_actors
from sb3_nigt.experiments.benchmark.rates import step_at_random
from sb3_nigt.experiments.benchmark.table import Row, counted
from sb3_nigt.vec_env import SimulatedVecEnv, WorkerVecEnv, make_worker_vec_env

N_TRAJECTORIES = 20
WARM_UP = 10  # rounds
COMPUTE_ENV, COMPUTE_STEPS = "Hopper-v5", 2000  # a round of twenty episodes of a hundred steps


class FreeStep(gym.Env[Any, Any]):
    """Hopper's spaces, episodes of one step, and nothing to compute."""

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (11,))
        self.action_space = gym.spaces.Box(-1.0, 1.0, (3,))
        self._observation = np.zeros(11, dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """
        See ``gymnasium.Env``.

        :param seed: has no effect
        :param options: unused
        """
        super().reset(seed=seed)
        return self._observation, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """
        See ``gymnasium.Env``.

        :param action: unused
        """
        return self._observation, 1.0, True, False, {}


class _Stopwatch(BaseCallback):
    """Milliseconds of a round and, in turn with them, of steps alone; one number of each a repetition."""

    def __init__(self, n_rounds: int, repeats: int) -> None:
        super().__init__()
        self.n_rounds, self.repeats = n_rounds, repeats
        self.rounds: list[float] = []
        self.steps: list[float] = []
        self.begun, self.since = 0, 0.0
        self.env = gym.make(COMPUTE_ENV)

    def _on_step(self) -> bool:
        return len(self.rounds) < self.repeats

    def _on_rollout_start(self) -> None:
        self.begun += 1
        if self.begun < WARM_UP or (self.begun - WARM_UP) % self.n_rounds:
            return
        if self.begun > WARM_UP:
            self.rounds.append(_milliseconds_since(self.since) / self.n_rounds)
            if is_first():  # the other ranks wait for this one
                start = time.perf_counter()
                step_at_random(self.env, COMPUTE_STEPS)
                self.steps.append(_milliseconds_since(start))
        self.since = time.perf_counter()

    def _on_training_end(self) -> None:
        self.env.close()


def _milliseconds_since(start: float) -> float:
    return 1000 * (time.perf_counter() - start)


def measure(
    n_workers: Sequence[int], n_ranks: Sequence[int], widths: Sequence[int], n_rounds: int, repeats: int
) -> Iterator[Row]:
    """
    Run rounds of twenty trajectories of one free step.

    :param n_workers: numbers of workers, measured one after the other
    :param n_ranks: numbers of ranks with two simulated workers each
    :param widths: widths of the two hidden layers
    :param n_rounds: number of rounds whose mean is one repetition
    :param repeats: repetitions
    """
    compared_with = f"{COMPUTE_STEPS:,} random steps of {COMPUTE_ENV} in one process"
    for width in widths:
        for what, cls in {"SimulatedVecEnv": SimulatedVecEnv, **processes_and_actors()}.items():
            for n in n_workers:
                d, rounds, steps = _rounds(cls, n, width, n_rounds, repeats)
                yield Row(f"{what}, {counted(n, 'worker')}, d = {d:,}", "ms/round", rounds, steps, compared_with)
        for size in n_ranks:
            d, rounds, steps = on_ranks(size, partial(_rounds, SimulatedVecEnv, 2, width, n_rounds, repeats))
            yield Row(f"{counted(size, 'rank')}, all-reduce, d = {d:,}", "ms/round", rounds, steps, compared_with)


def _rounds(
    cls: Callable[..., WorkerVecEnv], n_workers: int, width: int, n_rounds: int, repeats: int
) -> tuple[int, list[float], list[float]]:
    env = make_worker_vec_env(FreeStep, n_workers, vec_env_cls=cls)
    try:
        model = RennalaNIGT(
            "MlpPolicy",
            env,
            n_trajectories=N_TRAJECTORIES,
            **{**PAPER, "policy_kwargs": {**PAPER_POLICY, "net_arch": [width, width]}},
            device="cpu",
            seed=0,
        )
        stopwatch = _Stopwatch(n_rounds, repeats)
        model.learn(10**9, callback=stopwatch)
    finally:
        env.close()
    return sum(p.numel() for p in model.policy.parameters()), stopwatch.rounds, stopwatch.steps
