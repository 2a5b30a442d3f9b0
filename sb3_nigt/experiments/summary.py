"""Comparisons side by side: how far the first method of each is ahead of the others, over the run and at its end."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from sb3_nigt.experiments import statistics
from sb3_nigt.experiments.results import ALL_CURVES, Curve, Curves, load_all
from sb3_nigt.experiments.statistics import FloatArray


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    Describe the command line.

    :param parser: of the subcommand
    """
    parser.add_argument("directories", metavar="DIR", nargs="+", type=_comparison, help="output of compare or reproduce")


def run(args: argparse.Namespace) -> None:
    """
    Print.

    :param args: parsed command line
    """
    print("\n\n".join(f"{path.name}\n{summary(load_all(path / ALL_CURVES))}" for path in args.directories))
    print("\nReturn: mean over the time of a run, and over its last tenth; means over the runs.")
    print("Ahead by: the first method's mean less this one's, 95 % bootstrap interval, p of a permutation test.")


def summary(curves: Curves) -> str:
    """
    Compare the first method with each of the others.

    :param curves: of all methods
    """
    end = min(curve["seconds"][-1] for runs in curves.values() for curve in runs)
    means = {name: np.array([_time_average(curve, end) for curve in runs]) for name, runs in curves.items()}
    finals = {name: np.array([curve.final_return for curve in runs]) for name, runs in curves.items()}
    first, *others = curves
    width = 2 + max(6, *map(len, curves))
    lines = [f"{'method':<{width}}{'return':>9}{f'{first} ahead by':>30}{'p':>8}{'at the end':>14}{'ahead by':>30}{'p':>8}"]
    lines.append(f"{first:<{width}}{means[first].mean():>9.4g}{'':>38}{finals[first].mean():>14.4g}")
    for name in others:
        over_time, at_end = _ahead(means[first], means[name]), _ahead(finals[first], finals[name])
        lines.append(f"{name:<{width}}{means[name].mean():>9.4g}{over_time}{finals[name].mean():>14.4g}{at_end}")
    return "\n".join(lines)


def _time_average(curve: Curve, end: float) -> float:
    return statistics.time_average(curve["seconds"], curve["return"], end)


def _ahead(first: FloatArray, other: FloatArray) -> str:
    low, high = statistics.difference_interval(first, other)
    interval = f"{first.mean() - other.mean():+.3g} [{low:+.3g}, {high:+.3g}]"
    return f"{interval:>30}{statistics.permutation_p(first, other):>8.3f}"


def _comparison(text: str) -> Path:
    if not (Path(text) / ALL_CURVES).is_file():
        raise argparse.ArgumentTypeError(
            f"{text!r} has no {ALL_CURVES}: give a directory that compare or reproduce has written"
        )
    return Path(text)
