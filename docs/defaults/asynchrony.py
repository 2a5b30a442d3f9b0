"""
What asynchrony buys: predictions of the planner next to what comparisons measured, as a Markdown table.

    python docs/defaults/asynchrony.py > docs/defaults/asynchrony.md
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sb3_nigt.experiments.results import load_all
from sb3_nigt.experiments.table import markdown_row, rate, speed_cell
from sb3_nigt.planning import plan_steps

TEN, HUNDRED = np.arange(1.0, 11.0), np.arange(1.0, 101.0)
SPEEDS = {
    "one-slow": ("one of ten 10 times slower", np.where(TEN == 10, 10.0, 1.0)),
    "slow-100x": ("one of ten 100 times slower", np.where(TEN == 10, 100.0, 1.0)),
    "sqrt": ("ten, √i", np.sqrt(TEN)),
    "100-workers": ("ten of a hundred 10 times slower", np.where(HUNDRED > 90, 10.0, 1.0)),
}
TASKS = ("Hopper-v5", "Humanoid-v5")
METHODS = {"sync": "Synchronous", "ppo": "PPO", "trpo": "PPO"}  # TRPO steps all workers together as well


def table() -> str:
    """Write a line for each task, setting and method that RennalaNIGT is compared with."""
    heads = ("Task", "Workers", "Method", "Predicted: steps", "Predicted: updates", "Measured: steps", "Times sooner")
    lines = [markdown_row(heads), markdown_row(["---"] * len(heads))]
    for kind, (workers, step_times) in SPEEDS.items():
        planned = plan_steps(step_times)
        for task in TASKS:
            path = Path(__file__).parent / f"{task}-{kind}" / "curves.csv"
            if not path.exists():  # not measured
                continue
            curves = load_all(path)
            for method, row in METHODS.items():
                steps, updates = planned.lead(row)
                measured = rate(curves["rennala"]) / rate(curves[method])
                sooner = speed_cell(curves["rennala"], curves[method])
                of_updates = f"{updates:.1f}" if row != "PPO" else ""
                lines.append(markdown_row((task, workers, method, f"{steps:.1f}", of_updates, f"{measured:.1f}", sooner)))
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
