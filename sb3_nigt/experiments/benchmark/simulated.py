"""How much of one core's raw speed is left when a policy acts and learns on simulated workers."""

from __future__ import annotations

from collections.abc import Iterator

from sb3_nigt.algorithms import RennalaNIGT
from sb3_nigt.algorithms.paper import PAPER
from sb3_nigt.experiments.benchmark.rates import rate, step_at_random
from sb3_nigt.experiments.benchmark.table import Row
from sb3_nigt.vec_env import SimulatedVecEnv, make_worker_vec_env


def measure(env_id: str, n_workers: int, timesteps: int, repeats: int) -> Iterator[Row]:
    """
    Measure both rates in turn; every repetition trains a fresh model.

    :param env_id: a registered environment
    :param n_workers: number of simulated workers
    :param timesteps: environment steps of each measurement
    :param repeats: repetitions
    """
    vec_env = make_worker_vec_env(env_id, n_workers)
    assert isinstance(vec_env, SimulatedVecEnv)
    raw, learning = [], []
    for seed in range(-1, repeats):  # the first one warms up
        model = RennalaNIGT("MlpPolicy", vec_env, seed=max(0, seed), device="cpu", **PAPER)

        def learn(model: RennalaNIGT = model) -> int:
            return model.learn(timesteps).num_timesteps

        rates = rate(lambda: step_at_random(vec_env.envs[0], timesteps)), rate(learn)
        if seed >= 0:
            raw.append(rates[0])
            learning.append(rates[1])
    vec_env.close()
    yield Row(f"{env_id}, simulated", "steps/s", learning, raw, "one environment, random actions")
