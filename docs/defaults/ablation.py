"""
The ablation of the defaults as a Markdown table: a line for each change, final returns on each task.

    python docs/defaults/ablation.py > docs/defaults/ablation.md
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from sb3_nigt.experiments.results import load_all
from sb3_nigt.experiments.table import markdown_row, returns_cells

FOLDER = Path(__file__).parent
CHANGES = {
    "rennala": "the defaults",
    "rennala@trajectories": "rounds of trajectories",
    "rennala@no_critic": "rounds of trajectories, no critic",
    "rennala@raw_observations": "observations not normalised",
    "rennala@one_fisher_round": "Fisher sample of one round (200 observations)",
    "rennala@euclidean_kl": "paper's direction, length in KL",
    "rennala@euclidean": "Euclidean step of the paper",
    "rennala@spectral": "spectral step",
    "rennala@eta_01": "η = 0.1",
    "rennala@eta_03": "η = 0.3",
    "rennala@eta_1": "η = 1",
}


def table() -> str:
    """Write a line for each change, a column for each task; the best mean of a task is bold."""
    finals = {folder.name.removesuffix("-ablation"): _finals(folder) for folder in sorted(FOLDER.glob("*-ablation"))}
    cells = {task: returns_cells(of_task) for task, of_task in finals.items()}
    lines = [markdown_row(["Change", *finals]), markdown_row(["---"] * (len(finals) + 1))]
    lines += [markdown_row([text, *(of_task[method] for of_task in cells.values())]) for method, text in CHANGES.items()]
    return "\n".join(lines)


def _finals(folder: Path) -> dict[str, npt.NDArray[np.float64]]:
    """Final returns of each method, one a seed."""
    curves = load_all(folder / "curves.csv")
    return {method: np.array([curve.final_return for curve in runs]) for method, runs in curves.items()}


if __name__ == "__main__":
    print(table())
