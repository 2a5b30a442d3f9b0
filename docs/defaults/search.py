"""
One run of the search behind the defaults, appended to a file; without arguments, the tables of all runs in it.

    python docs/defaults/search.py Ant-v5 100 300000 n_steps=100 learning_rate=0.2
    python docs/defaults/search.py Ant-v5 100 300000 entropy=0.003
    python docs/defaults/search.py Ant-v5 100 300000 follow_noise=true
    python docs/defaults/search.py Ant-v5 100 300000 extrapolation=false

The last three are no arguments of the algorithm: they change the gradient or α before each update, or θ̃ after it.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback

from sb3_nigt import RennalaNIGT
from sb3_nigt.vec_env import SimulatedVecEnv

RUNS = Path(__file__).with_suffix(".csv")
SEARCHED = ("Swimmer-v5", "Ant-v5", "InvertedDoublePendulum-v5", "Acrobot-v1")
COLUMNS = ("setting", "env", "seed", "timesteps", "last_tenth", "whole_run")


class Returns(BaseCallback):
    """Returns of the training episodes, with sampled actions at θ̃."""

    def _on_training_start(self) -> None:
        self.returns: list[tuple[int, float]] = []

    def _on_step(self) -> bool:
        self.returns += [(self.num_timesteps, info["episode"]["r"]) for info in self.locals["infos"] if "episode" in info]
        return True

    def mean_of_tenths(self, timesteps: int) -> list[float]:
        """Mean return of the episodes that ended in each tenth of the run; without those tenths in which none did."""
        ends, returns = np.array(self.returns).T
        tenths = np.minimum(ends * 10 // (timesteps + 1), 9)
        return [float(returns[tenths == tenth].mean()) for tenth in np.unique(tenths)]


class Entropy:
    """
    Adds the gradient of c · H to the gradient, for a Gaussian head: H = Σ log σ + constant, so c for each log σ.

    :param model: before training
    :param coefficient: c, where advantages have unit variance
    """

    def __init__(self, model: RennalaNIGT, coefficient: float) -> None:
        self.log_std, self.coefficient = model.policy.log_std, coefficient
        model.policy.optimizer.register_step_pre_hook(self)

    def __call__(self, optimizer: th.optim.Optimizer, *_: Any) -> None:
        """Change the gradient of what is minimised."""
        self.log_std.grad -= self.coefficient


class FollowNoise:
    """
    Makes steps long where gradients agree: α² in proportion to max(0, cos(g_t, d_{t-1})), by a factor of 1/2 to 2.

    Relative to the mean of the cosine so far, so that the mean length stays about the same.

    :param model: before training
    """

    def __init__(self, model: RennalaNIGT, is_on: bool) -> None:
        self.cosines: list[float] = []
        if is_on:
            model.policy.optimizer.register_step_pre_hook(self)

    def __call__(self, optimizer: th.optim.Optimizer, *_: Any) -> None:
        """Change α of this step."""
        moving = [p for group in optimizer.param_groups for p in group["params"] if "direction" in optimizer.state[p]]
        if not moving:
            return
        gradient, direction = (
            th.cat([tensor.flatten() for tensor in tensors])
            for tensors in ([p.grad for p in moving], [optimizer.state[p]["direction"] for p in moving])
        )
        self.cosines.append(max(0.0, float(th.cosine_similarity(gradient, direction, dim=0))))
        factor = np.clip(self.cosines[-1] / max(1e-9, float(np.mean(self.cosines))), 0.5, 2.0)
        for group in optimizer.param_groups:
            group["lr"] *= float(factor) ** 0.5


class Extrapolation:
    """
    Momentum without extrapolation: every round begins at θ.

    :param model: before training
    """

    def __init__(self, model: RennalaNIGT, is_on: bool) -> None:
        if not is_on:
            model.policy.optimizer.register_step_post_hook(self)

    def __call__(self, optimizer: th.optim.Optimizer, *_: Any) -> None:
        """Forget the last step."""
        for state in optimizer.state.values():
            state["last_update"].zero_()


CHANGES: dict[str, Callable[[RennalaNIGT, Any], object]] = {
    "entropy": Entropy,
    "follow_noise": FollowNoise,
    "extrapolation": Extrapolation,
}


def run(env_id: str, seed: int, timesteps: int, arguments: list[str]) -> None:
    """Train with ten equal simulated workers and write a line."""
    th.set_num_threads(1)
    given = {name: json.loads(value) for name, value in (argument.split("=", 1) for argument in arguments)}
    changes = {name: given.pop(name) for name in CHANGES if name in given}
    env = SimulatedVecEnv([partial(gym.make, env_id)] * 10)
    model = RennalaNIGT("MlpPolicy", env, seed=seed, device="cpu", **given)
    for name, value in changes.items():
        CHANGES[name](model, value)
    returns = Returns()
    model.learn(timesteps, callback=returns)
    tenths = returns.mean_of_tenths(timesteps)
    with RUNS.open("a", newline="", encoding="utf-8") as file:
        line = (" ".join(arguments) or "the defaults", env_id, seed, timesteps, tenths[-1], np.mean(tenths))
        csv.writer(file).writerow(f"{value:.1f}" if isinstance(value, float) else value for value in line)


def tables() -> str:
    """Returns of the last tenth and of the whole run: a table of the tasks of the search, one of those that confirmed it."""
    with RUNS.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    others = list(dict.fromkeys(row["env"] for row in rows if row["env"] not in SEARCHED))
    return "\n\n".join(_table([row for row in rows if row["env"] in tasks], tasks) for tasks in (SEARCHED, others))


def _table(rows: list[dict[str, str]], tasks: Sequence[str]) -> str:
    """One line per setting and number of steps, one column per task."""
    lines = ["| Steps | Setting | " + " | ".join(tasks) + " |", "|---" * (2 + len(tasks)) + "|"]
    for steps, setting in sorted({(int(row["timesteps"]), row["setting"]): None for row in rows}, key=lambda key: key[0]):
        same = [row for row in rows if (int(row["timesteps"]), row["setting"]) == (steps, setting)]
        cells = [[row for row in same if row["env"] == task] for task in tasks]
        lines.append(f"| {steps:,} | {setting} | " + " | ".join(map(_cell, cells)) + " |")
    return "\n".join(lines)


def _cell(rows: list[dict[str, str]]) -> str:
    if not rows:
        return ""
    last = ", ".join(f"{float(row['last_tenth']):,.0f}" for row in rows)
    return f"{last} ({np.mean([float(row['whole_run']) for row in rows]):,.0f})"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        run(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
    else:
        print(tables())
