"""How much of an environment's raw speed is left when a policy acts and learns on it."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sb3_nigt.algorithms import RennalaNIGT
from sb3_nigt.experiments.arguments import environment, positive_integer
from sb3_nigt.vec_env import SimulatedVecEnv, make_worker_vec_env


@dataclass(frozen=True)
class Throughput:
    """
    Environment steps per second of two things measured in turn.

    :param env_id: the environment
    :param raw: random actions and resets, nothing else, on one environment; one value a repetition
    :param learning: RennalaNIGT on simulated workers, gradient and update included
    """

    env_id: str
    raw: list[float]
    learning: list[float]

    @property
    def ratio(self) -> float:
        """Median over the repetitions of learning / raw."""
        return float(np.median(np.array(self.learning) / np.array(self.raw)))


def measure_throughput(env_id: str, n_workers: int, timesteps: int, repeats: int) -> Throughput:
    """
    Measure both rates in turn, so that a machine whose speed drifts changes both.

    Every repetition trains a fresh model.

    :param env_id: a registered environment with at least one action
    :param n_workers: simulated workers
    :param timesteps: environment steps of each measurement
    :param repeats: repetitions
    """
    vec_env = make_worker_vec_env(env_id, n_workers)
    assert isinstance(vec_env, SimulatedVecEnv)
    env = vec_env.envs[0]

    def step_at_random() -> int:
        env.reset()
        for _ in range(timesteps):
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            if terminated or truncated:
                env.reset()
        return timesteps

    raw, learning = [], []
    for seed in range(-1, repeats):  # the first one warms up
        model = RennalaNIGT("MlpPolicy", vec_env, seed=max(0, seed), device="cpu")

        def learn(model: RennalaNIGT = model) -> int:
            return model.learn(timesteps).num_timesteps

        rates = _rate(step_at_random), _rate(learn)
        if seed >= 0:
            raw.append(rates[0])
            learning.append(rates[1])
    vec_env.close()
    return Throughput(env_id, raw, learning)


def _rate(work: Callable[[], int]) -> float:
    start = time.perf_counter()
    steps = work()
    return steps / (time.perf_counter() - start)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    Describe the command line.

    :param parser: of the subcommand
    """
    parser.add_argument("--env", type=environment, nargs="+", default=["Humanoid-v5", "Hopper-v5"])
    parser.add_argument("--n-workers", type=positive_integer, default=10)
    parser.add_argument("--timesteps", type=positive_integer, default=20_000, help="environment steps of each measurement")
    parser.add_argument("--repeats", type=positive_integer, default=5)


def run(args: argparse.Namespace) -> None:
    """
    Measure and print one table.

    :param args: parsed command line
    """
    print(f"{'environment':<16}{'raw steps/s':>14}{'learning steps/s':>18}{'ratio':>8}{'overhead µs/step':>18}")
    for env_id in args.env:
        result = measure_throughput(env_id, args.n_workers, args.timesteps, args.repeats)
        raw, learning = float(np.median(result.raw)), float(np.median(result.learning))
        overhead = 1e6 / learning - 1e6 / raw
        print(f"{env_id:<16}{raw:>14,.0f}{learning:>18,.0f}{result.ratio:>8.2f}{overhead:>18.0f}")
    print(f"Medians of {args.repeats} repetitions; raw: one environment, random actions and resets, nothing else.")
