"""The defaults, rounds of steps on processes, next to processes that only step and to Stable-Baselines3's PPO."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator

from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import SubprocVecEnv

from sb3_nigt.algorithms import RennalaNIGT
from sb3_nigt.experiments.benchmark.processes import learning_rate_of_steps
from sb3_nigt.experiments.benchmark.rates import RandomProcesses, cpu_seconds
from sb3_nigt.experiments.benchmark.table import Row
from sb3_nigt.vec_env import ProcessVecEnv, make_worker_vec_env

WARM_UP_SECONDS = 1.0


def measure(env_id: str, n_workers: int, seconds: float, repeats: int) -> Iterator[Row]:
    """
    Measure RennalaNIGT on ProcessVecEnv, PPO on SubprocVecEnv and processes that only step, in turn.

    The learning rate is so small that the policy stays the untrained one, whose episodes are short where falling ends them.

    :param env_id: a registered environment
    :param n_workers: number of processes of each
    :param seconds: seconds of each measurement; PPO runs for at least one rollout
    :param repeats: repetitions
    """
    raw = RandomProcesses(env_id, n_workers)
    ppo = PPO("MlpPolicy", make_vec_env(env_id, n_workers, vec_env_cls=SubprocVecEnv), learning_rate=0.0, device="cpu")
    env = make_worker_vec_env(env_id, n_workers, vec_env_cls=ProcessVecEnv)
    assert isinstance(env, ProcessVecEnv)
    # a function: of a number that small the library warns its users
    model = RennalaNIGT("MlpPolicy", env, learning_rate=lambda _: 1e-9, seed=0, device="cpu")
    learning_rate_of_steps(model, WARM_UP_SECONDS)
    workers = [pid for pid in env.worker_pids if pid is not None]
    rates, cpu = defaultdict[str, list[float]](list), defaultdict[str, list[float]](list)
    for _ in range(repeats):
        steps, before = model.num_timesteps, (cpu_seconds([os.getpid()]), cpu_seconds(workers))
        rates["ours"].append(learning_rate_of_steps(model, seconds))
        steps = model.num_timesteps - steps
        cpu["learner"].append(1e6 * (cpu_seconds([os.getpid()]) - before[0]) / steps)
        cpu["workers"].append(1e6 * (cpu_seconds(workers) - before[1]) / steps)
        raw_before = cpu_seconds(raw.pids)
        rates["raw"].append(raw.rate(seconds))
        cpu["raw"].append(1e6 * (cpu_seconds(raw.pids) - raw_before) / (rates["raw"][-1] * seconds))
        rates["ppo"].append(learning_rate_of_steps(ppo, seconds))
    env.close()
    raw.close()
    ppo.env.close()  # type: ignore[union-attr]
    what, random = f"{env_id}, {n_workers} processes, defaults", f"{n_workers} processes that step at random"
    yield Row(what, "steps/s", rates["ours"], rates["raw"], random)
    yield Row(what, "steps/s", rates["ours"], rates["ppo"], "PPO on SubprocVecEnv")
    yield Row(f"{what}: CPU of the workers", "us/step", cpu["workers"], cpu["raw"], random)
    yield Row(f"{what}: CPU of the learner", "us/step", cpu["learner"], cpu["raw"], random)
