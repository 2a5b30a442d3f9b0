"""From the files of finished runs to a table and to bands over seeds."""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sb3_nigt.experiments import statistics
from sb3_nigt.experiments.curve_file import COLUMNS
from sb3_nigt.experiments.setting import Run
from sb3_nigt.experiments.statistics import FloatArray
from sb3_nigt.experiments.training import files_of

ALL_CURVES = "curves.csv"  # the curves of all runs in one file
AXES = ("seconds", "timesteps", "messages")
GRID_POINTS = 200
THRESHOLD_SHARE = 0.75  # of the way from the return at the start to that of the best method at the end


@dataclass(frozen=True)
class Curve:
    """
    One run.

    :param columns: columns of its file, by name
    """

    columns: dict[str, FloatArray]

    @classmethod
    def load(cls, path: Path) -> Curve:
        """
        Read a file.

        :param path: a file written by ``CurveFile``
        """
        with path.open(newline="", encoding="utf-8") as file:
            return cls.of(list(csv.DictReader(file)))

    @classmethod
    def of(cls, rows: Sequence[dict[str, str]]) -> Curve:
        """
        Take the rows of one run.

        :param rows: rows in the order of time
        :raises ValueError: if there are none, or one is cut off
        """
        if not rows or any(None in row.values() for row in rows):
            raise ValueError("there are no rows" if not rows else "a line is cut off")
        return cls({name: np.array([float(row[name]) for row in rows]) for name in rows[0] if name != "method"})

    def __getitem__(self, column: str) -> FloatArray:
        return self.columns[column]

    @property
    def tasks(self) -> list[str]:
        """Names of the columns with the returns on single tasks; none if all workers hold the same."""
        return [name for name in self.columns if name not in COLUMNS]

    @property
    def final_return(self) -> float:
        """Mean over the last tenth of the evaluations."""
        return self.final("return")

    def final(self, column: str) -> float:
        """
        Mean over the last tenth of the evaluations.

        :param column: "return", or a task
        """
        return statistics.last_tenth(self[column])

    def mean_return(self, end: float) -> float:
        """
        Mean over time, each evaluation in force until the next one.

        :param end: end of the time in seconds on the workers' clock, positive
        """
        return statistics.time_average(self["seconds"], self["return"], end)

    def time_to(self, threshold: float) -> float:
        """
        Seconds on the workers' clock until the return was reached; infinite if it never was.

        :param threshold: the return
        """
        return statistics.time_to_threshold(self["seconds"], self["return"], threshold)


Curves = dict[str, list[Curve]]  # of each method, one a seed


def load_curves(runs: Sequence[Run], directory: Path) -> Curves:
    """
    Read the curves of finished runs.

    :param runs: the runs to read
    :param directory: where the files are
    """
    curves: Curves = {}
    for run in runs:
        curves.setdefault(run.label or run.method, []).append(Curve.load(files_of(run, directory)[0]))
    return curves


def save_all(runs: Sequence[Run], directory: Path) -> None:
    """
    Write the curves of finished runs into one file.

    :param runs: the runs to join
    :param directory: where their files are, and where it goes
    """
    texts = [files_of(run, directory)[0].read_text(encoding="utf-8").splitlines() for run in runs]
    lines = [texts[0][0], *(line for text in texts for line in text[1:])]
    (directory / ALL_CURVES).write_text("\n".join(lines) + "\n", encoding="utf-8")


def load_all(path: Path) -> Curves:
    """
    Read the curves of a comparison.

    :param path: a file written by ``save_all``
    :raises ValueError: if it has no runs, or is something else
    """
    rows: dict[tuple[str, str], list[dict[str, str]]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if not {"method", "seed", "seconds", "return"} <= set(reader.fieldnames or ()):
            raise ValueError(f"{path} has no curves: give a file written by compare or reproduce")
        for row in reader:
            rows.setdefault((row["method"], row["seed"]), []).append(row)
    if not rows:
        raise ValueError(f"{path} has no runs")
    curves: Curves = {}
    for (method, _), of_run in rows.items():
        curves.setdefault(method, []).append(Curve.of(of_run))
    return curves


def comparison(text: str) -> tuple[str, Curves]:
    """
    Read an argument: a directory written by compare or reproduce.

    :param text: what the user typed
    :return: name of the directory, and its curves
    """
    path = Path(text)
    try:
        return path.resolve().name, load_all(path / ALL_CURVES)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise argparse.ArgumentTypeError(
            f"{text!r} has no {ALL_CURVES} with runs ({reason}): give a directory written by compare or reproduce"
        ) from None


def on_grid(curves: Sequence[Curve], axis: str) -> tuple[FloatArray, FloatArray]:
    """
    Bring the runs of a method onto a common grid up to where the first of them ends, the last value carried forward.

    The grid is the method's own: on one for all methods, a method that is done long before the others would have no point.

    :param curves: one curve per seed
    :param axis: "seconds", "timesteps" or "messages"
    :return: the grid, and the returns there, shape (points, runs)
    """
    grid = _grid(min(curve[axis][-1] for curve in curves), axis)
    returns = [statistics.carried_forward(curve[axis], curve["return"], grid) for curve in curves]
    return grid, np.stack(returns, axis=-1)


def _grid(end: float, axis: str) -> FloatArray:
    """Equally spaced points from 0 to the end; for messages, in which methods differ much, equal ratios."""
    if axis == "messages":
        return np.concatenate([[0.0], np.geomspace(1.0, end, GRID_POINTS)]) if end >= 1.0 else np.zeros(1)
    return np.linspace(0.0, end, GRID_POINTS)


def default_threshold(curves: Curves) -> float:
    """
    Return that all methods are asked how soon they reached it: three quarters of what the best one has gained.

    :param curves: curves of all methods
    """
    start = float(np.mean([curve["return"][0] for method in curves.values() for curve in method]))
    best = max(float(np.median([curve.final_return for curve in method])) for method in curves.values())
    return start + THRESHOLD_SHARE * (best - start)


def table(curves: Curves, threshold: float) -> str:
    """
    Write the comparison as text.

    :param curves: curves of all methods
    :param threshold: the return whose time is requested
    """
    width = 2 + max(6, *map(len, curves))
    heads = (f"{'final return (IQM)':>28}", f"{f'seconds to {threshold:,.4g}':>32}", f"{'reached':>9}")
    lines = [f"{'method':<{width}}" + "".join(heads) + f"{'seconds':>12}{'timesteps':>12}{'messages':>10}{'updates':>10}"]
    lines += [f"{name:<{width}}{_row(runs, threshold)}" for name, runs in curves.items()]
    n_runs = ", ".join(dict.fromkeys(str(len(runs)) for runs in curves.values()))
    lines += [
        f"{n_runs} runs a method; 95 % bootstrap intervals in brackets; final return: mean over the last tenth of a run's",
        "evaluations, at least one, then interquartile mean over the runs; seconds to a return: median, >x where it was not",
        "reached by x; other columns: medians over whole runs. Updates are those that the algorithm counts: PPO counts",
        "epochs. Seconds are those of the workers' clock.",
    ]
    return "\n".join(lines)


def _row(runs: Sequence[Curve], threshold: float) -> str:
    finals, times = np.array([run.final_return for run in runs]), np.array([run.time_to(threshold) for run in runs])
    bounds = np.minimum(times, [run["seconds"][-1] for run in runs])  # a run is known not to have got there before its end
    final = _with_interval(finals, finals, statistics.interquartile_mean)
    counts = (
        f"{np.median([run[column][-1] for run in runs]):,.0f}" for column in ("seconds", "timesteps", "messages", "updates")
    )
    numbers = "".join(f" {count:>{size - 1}}" for count, size in zip(counts, (12, 12, 10, 10), strict=True))
    reached = f"{int(np.isfinite(times).sum())}/{len(times)}"
    return f" {final:>27} {_with_interval(times, bounds, statistics.censored_median):>31} {reached:>8}{numbers}"


def _with_interval(values: FloatArray, bounds: FloatArray, statistic: Callable[[FloatArray], FloatArray]) -> str:
    """A statistic and, of several runs, its interval; what is not the same of values and of their lower bounds is a bound."""
    of_values, of_bounds = statistic(values), statistic(bounds)
    text = _number(float(of_values), float(of_bounds))
    if len(values) == 1:
        return text
    intervals = (statistics.bootstrap_interval(numbers, statistic) for numbers in (values, bounds))
    low, high = (_number(float(value), float(bound)) for value, bound in zip(*intervals, strict=True))
    return f"{text} [{low}, {high}]"


def _number(value: float, bound: float) -> str:
    """Four digits."""
    text = f"{bound:,.0f}" if abs(bound) >= 1000 else f"{bound:.4g}"
    return text if value == bound or math.isnan(bound) else f">{text}"
