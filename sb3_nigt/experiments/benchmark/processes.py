"""Real workers next to processes that only step, and next to Stable-Baselines3's A2C on as many environments."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from stable_baselines3 import A2C
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import SubprocVecEnv

from sb3_nigt.algorithms import RennalaNIGT
from sb3_nigt.algorithms.paper import PAPER
from sb3_nigt.experiments.benchmark.rates import RandomProcesses
from sb3_nigt.experiments.benchmark.table import Row
from sb3_nigt.vec_env import ProcessVecEnv, make_worker_vec_env


class Seconds(BaseCallback):
    """
    Stops training when a rollout begins after some seconds.

    :param seconds: real seconds
    """

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def _on_training_start(self) -> None:
        self.started, self.enough = time.perf_counter(), False

    def _on_rollout_start(self) -> None:
        self.enough = time.perf_counter() - self.started >= self.seconds

    def _on_step(self) -> bool:
        return not self.enough


def learning_rate_of_steps(model: BaseAlgorithm, seconds: float) -> float:
    """
    Train for some seconds, everything included.

    :param model: the model to train; it continues where it was
    :param seconds: minimum duration
    :return: environment steps per second
    """
    before, start = model.num_timesteps, time.perf_counter()
    model.learn(10**9, callback=Seconds(seconds), reset_num_timesteps=False)
    return (model.num_timesteps - before) / (time.perf_counter() - start)


def measure(
    env_id: str, n_workers: int, n_trajectories: Sequence[int], schedule: str, seconds: float, repeats: int
) -> Iterator[Row]:
    """
    Measure RennalaNIGT on ProcessVecEnv, A2C on SubprocVecEnv and processes that only step, in turn.

    The learning rate is so small that the policy stays the untrained one, whose episodes are short where falling ends them.

    :param env_id: a registered environment
    :param n_workers: number of processes of each
    :param n_trajectories: values of M
    :param schedule: schedule of RennalaNIGT
    :param seconds: seconds of each measurement
    :param repeats: repetitions
    """
    raw = RandomProcesses(env_id, n_workers)
    a2c = A2C("MlpPolicy", make_vec_env(env_id, n_workers, vec_env_cls=SubprocVecEnv), learning_rate=0.0, device="cpu")
    for m in n_trajectories:
        env = make_worker_vec_env(env_id, n_workers, vec_env_cls=ProcessVecEnv)
        kwargs: dict[str, Any] = {**PAPER, "n_trajectories": m, "schedule": schedule, "learning_rate": 1e-9}
        model = RennalaNIGT("MlpPolicy", env, seed=0, device="cpu", **kwargs)
        for warm in (model, a2c):
            learning_rate_of_steps(warm, 1.0)
        rates = [
            (learning_rate_of_steps(model, seconds), raw.rate(seconds), learning_rate_of_steps(a2c, seconds))
            for _ in range(repeats)
        ]
        env.close()
        ours, limit, theirs = zip(*rates, strict=True)
        what = f"{env_id}, {n_workers} processes, M={m}, {schedule}"
        yield Row(what, "steps/s", ours, limit, f"{n_workers} processes that step at random")
        yield Row(what, "steps/s", ours, theirs, "A2C on SubprocVecEnv")
    raw.close()
    a2c.env.close()  # type: ignore[union-attr]
