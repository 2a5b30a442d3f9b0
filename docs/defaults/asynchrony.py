"""
What asynchrony buys: predictions of the planner next to what comparisons measured, as a Markdown table.

    python docs/defaults/asynchrony.py > docs/defaults/asynchrony.md
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sb3_nigt.experiments.results import load_all
from sb3_nigt.experiments.table import markdown_row, rate, speed_cell
from sb3_nigt.planning import StepRoundsPlan, plan_steps

TEN, HUNDRED = np.arange(1.0, 11.0), np.arange(1.0, 101.0)
SQRT = {"step_times": np.sqrt(TEN)}
MESSAGES = {**SQRT, "message_times": np.sqrt(TEN)}  # in units of d^¼
SETTINGS: dict[str, tuple[str, dict[str, Any] | None]] = {  # what workers are called, and what the planner is told of them
    "one-slow": ("one of ten 10 times slower", {"step_times": np.where(TEN == 10, 10.0, 1.0)}),
    "slow-100x": ("one of ten 100 times slower", {"step_times": np.where(TEN == 10, 100.0, 1.0)}),
    "100-workers": ("ten of a hundred 10 times slower", {"step_times": np.where(HUNDRED > 90, 10.0, 1.0)}),
    "100-workers-100x": ("ten of a hundred 100 times slower", {"step_times": np.where(HUNDRED > 90, 100.0, 1.0)}),
    "changing": ("one of ten 10 times slower, changing", None),  # it takes constant speeds
    "sqrt": ("ten, √i", SQRT),
    "100-workers-sqrt": ("a hundred, √i", {"step_times": np.sqrt(HUNDRED)}),
    "link": ("ten, √i, messages take time", MESSAGES),
    "link-serial": ("ten, √i, messages one at a time", {**MESSAGES, "link": "serial", "aggregation": "server"}),
}
TASKS = {"Hopper-v5": 5126, "Humanoid-v5": 27618}  # d, the number of parameters of the default policy
METHODS = {"sync": "Synchronous", "ppo": "PPO", "trpo": "PPO"}  # TRPO steps all workers together as well


def plan_of(kind: str, task: str) -> StepRoundsPlan | None:
    """
    Return the prediction for workers of a kind; None if there is none.

    :param kind: a key of ``SETTINGS``
    :param task: a key of ``TASKS``, which decides how long a message is
    """
    _, arguments = SETTINGS[kind]
    if arguments is None:
        return None
    message_times = np.round(arguments.get("message_times", 0.0) * TASKS[task] ** 0.25, 2)
    return plan_steps(**{**arguments, "message_times": message_times})


def predicted(planned: StepRoundsPlan | None, row: str) -> tuple[str, str]:
    """
    Return how many times as many steps and updates a second RennalaNIGT makes; methods like PPO have other updates.

    :param planned: None: there is no prediction
    :param row: of the plan
    """
    if planned is None:
        return "", ""
    steps, updates = planned.lead(row)
    return f"{steps:.1f}", "" if row == "PPO" else f"{updates:.1f}"


def table() -> str:
    """Write a line for each task, setting and method that RennalaNIGT is compared with."""
    heads = ("Task", "Workers", "Method", "Predicted: steps", "Predicted: updates", "Measured: steps", "Times sooner")
    lines = [markdown_row(heads), markdown_row(["---"] * len(heads))]
    for kind, (workers, _) in SETTINGS.items():
        for task in TASKS:
            path = Path(__file__).parent / f"{task}-{kind}" / "curves.csv"
            if not path.exists():  # not measured
                continue
            curves, planned = load_all(path), plan_of(kind, task)
            for method, row in METHODS.items():
                measured = rate(curves["rennala"]) / rate(curves[method])
                numbers = (*predicted(planned, row), f"{measured:.1f}", speed_cell(curves["rennala"], curves[method]))
                lines.append(markdown_row((task, workers, method, *numbers)))
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
