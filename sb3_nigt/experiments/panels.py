"""Comparisons as small pictures side by side: return over the workers' clock."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sb3_nigt.experiments import statistics
from sb3_nigt.experiments.plots import draw_band, save_picture, style_numbers
from sb3_nigt.experiments.results import Curves, on_grid

COLUMNS = (4, 3)  # whichever leaves fewer places empty
NAMES = {"rennala": "RennalaNIGT", "malenia": "MaleniaNIGT", "sync": "SyncNIGT", "ppo": "PPO", "trpo": "TRPO", "a2c": "A2C"}


def draw_panels(comparisons: Sequence[tuple[str, Curves]], path: Path, axis: str = "seconds") -> None:
    """
    Draw one panel for each comparison: interquartile mean over the runs, with its 95 % bootstrap interval.

    :param comparisons: name and curves of each comparison
    :param path: path of the picture
    :param axis: "seconds" or "timesteps"
    """
    n = len(comparisons)
    columns = n if n <= max(COLUMNS) else min(COLUMNS, key=lambda columns: -n % columns)
    rows = math.ceil(n / columns)
    figure = Figure(figsize=(max(6.0, 3.6 * columns), 2.9 * rows + 0.5), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flat
    methods = list(dict.fromkeys(method for _, curves in comparisons for method in curves))
    numbers = style_numbers(methods)
    lines = {}
    for (name, curves), ax in zip(comparisons, panels, strict=False):  # in this order, or zip takes one panel too many
        for method, runs in curves.items():
            x, returns = on_grid(runs, axis)
            low, high = statistics.bootstrap_interval(returns, statistics.interquartile_mean)
            draw_band(ax, x, statistics.interquartile_mean(returns), low, high, numbers[method], method)
        ax.set_title(name, fontsize="medium")
        ax.grid(alpha=0.3)
        ax.xaxis.set_major_locator(MaxNLocator(4))  # more labels would touch each other
        lines.update({label: handle for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)})
    for ax in list(panels):  # those that are left
        ax.set_axis_off()
    figure.supxlabel("seconds on the workers' clock" if axis == "seconds" else "environment steps", fontsize="medium")
    figure.supylabel("return", fontsize="medium")
    labels = [_label(name) for name in lines]
    figure.legend(list(lines.values()), labels, loc="outside upper center", ncols=min(len(labels), 2 * columns))
    save_picture(figure, path)


def _label(method: str) -> str:
    base, colon, rest = method.partition(":")
    name = NAMES.get(base, base)
    return f"{name}, {rest}" if colon else name
