"""What a round costs beside its environment steps: coordination and communication, on every kind of workers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from sb3_nigt.algorithms import RennalaNIGT
from sb3_nigt.experiments.benchmark.places import on_ranks, processes_and_actors
from sb3_nigt.experiments.benchmark.rates import step_at_random
from sb3_nigt.experiments.benchmark.table import Row
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

        :param seed: of nothing
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
    """Milliseconds of a round, one number a repetition."""

    def __init__(self, n_rounds: int, repeats: int) -> None:
        super().__init__()
        self.n_rounds, self.repeats = n_rounds, repeats
        self.marks: list[float] = []
        self.begun = 0

    def _on_step(self) -> bool:
        return len(self.marks) <= self.repeats

    def _on_rollout_start(self) -> None:
        self.begun += 1
        if self.begun >= WARM_UP and (self.begun - WARM_UP) % self.n_rounds == 0:
            self.marks.append(time.perf_counter())

    @property
    def milliseconds(self) -> list[float]:
        marks = np.array(self.marks[: self.repeats + 1])
        return list(1000 * np.diff(marks) / self.n_rounds)


def measure(
    n_workers: Sequence[int], n_ranks: Sequence[int], widths: Sequence[int], n_rounds: int, repeats: int
) -> Iterator[Row]:
    """
    Run rounds of twenty trajectories of one free step.

    :param n_workers: numbers of workers, one after the other
    :param n_ranks: numbers of ranks with two simulated workers each
    :param widths: of the two hidden layers
    :param n_rounds: whose mean is one repetition
    :param repeats: repetitions
    """
    env = gym.make(COMPUTE_ENV)
    compute = []
    for _ in range(repeats):
        start = time.perf_counter()
        step_at_random(env, COMPUTE_STEPS)
        compute.append(1000 * (time.perf_counter() - start))
    compared_with = f"{COMPUTE_STEPS:,} random steps of {COMPUTE_ENV} in one process"
    for width in widths:
        for what, cls in {"SimulatedVecEnv": SimulatedVecEnv, **processes_and_actors()}.items():
            for n in n_workers:
                d, values = _rounds(cls, n, width, n_rounds, repeats)
                yield Row(f"{what}, {n} workers, d = {d:,}", "ms/round", values, compute, compared_with)
        for size in n_ranks:
            d, values = on_ranks(size, partial(_rounds, SimulatedVecEnv, 2, width, n_rounds, repeats))
            yield Row(f"{size} ranks, all-reduce, d = {d:,}", "ms/round", values, compute, compared_with)


def _rounds(
    cls: Callable[..., WorkerVecEnv], n_workers: int, width: int, n_rounds: int, repeats: int
) -> tuple[int, list[float]]:
    env = make_worker_vec_env(FreeStep, n_workers, vec_env_cls=cls)
    try:
        model = RennalaNIGT(
            "MlpPolicy",
            env,
            n_trajectories=N_TRAJECTORIES,
            policy_kwargs={"net_arch": [width, width]},
            device="cpu",
            seed=0,
        )
        stopwatch = _Stopwatch(n_rounds, repeats)
        model.learn(10**9, callback=stopwatch)
    finally:
        env.close()
    return sum(p.numel() for p in model.policy.parameters()), stopwatch.milliseconds
