"""
One run of the search behind the defaults, appended to a file; without arguments, the tables of all runs in it.

    python docs/defaults/search.py Ant-v5 100 300000 n_steps=100 learning_rate=0.2
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

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


def run(env_id: str, seed: int, timesteps: int, arguments: list[str]) -> None:
    """Train with ten equal simulated workers and write a line."""
    th.set_num_threads(1)
    given = dict(argument.split("=", 1) for argument in arguments)
    env = SimulatedVecEnv([partial(gym.make, env_id)] * 10)
    model = RennalaNIGT("MlpPolicy", env, seed=seed, device="cpu", **{k: json.loads(v) for k, v in given.items()})
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
