"""Comparisons side by side: how far the first method, with each schedule, is ahead of the others, over time and at the end."""

from __future__ import annotations

import argparse

import numpy as np

from sb3_nigt.experiments import statistics
from sb3_nigt.experiments.methods import by_first_method
from sb3_nigt.experiments.results import Curves
from sb3_nigt.experiments.statistics import FloatArray


def run(args: argparse.Namespace) -> None:
    """
    Print.

    :param args: parsed command line
    """
    print("\n\n".join(f"{name}, {summary(curves)}" for name, curves in args.comparisons))
    print("\nReturn: mean over the seconds named above, which every run of the comparison has, and mean over the last tenth")
    print("of the evaluations of a run, at least one, wherever it ends; means over the runs.")
    print("Ahead by: difference of the means, 95 % bootstrap interval if there are several runs, p of a permutation test.")


def summary(curves: Curves) -> str:
    """
    Compare the first method with each of the others, then the same method under other schedules with what is not itself.

    :param curves: curves of all methods
    """
    end = min(curve["seconds"][-1] for runs in curves.values() for curve in runs)
    means = {name: np.array([curve.mean_return(end) for curve in runs]) for name, runs in curves.items()}
    finals = {name: np.array([curve.final_return for curve in runs]) for name, runs in curves.items()}
    first, *others = curves
    of_first, competitors = by_first_method(list(curves))
    width = 2 + max(6, *map(len, curves))
    lines = [f"{end:,.0f} seconds"]
    for reference in of_first if competitors else [first]:
        ahead = f"{reference} ahead by"
        lines += [f"{'method':<{width}}{'return':>9}{ahead:>33}{'p':>8}{'at the end':>14}{'ahead by':>30}{'p':>8}"]
        lines += [f"{reference:<{width}}{means[reference].mean():>9.4g}{'':>41}{finals[reference].mean():>14.4g}"]
        for name in others if reference == first else competitors:
            over_time, at_end = _ahead(means[reference], means[name]), _ahead(finals[reference], finals[name])
            lines += [f"{name:<{width}}{means[name].mean():>9.4g}{over_time:>41}{finals[name].mean():>14.4g}{at_end}"]
    return "\n".join(lines)


def _ahead(first: FloatArray, other: FloatArray) -> str:
    low, high = statistics.difference_interval(first, other)
    interval = f" [{low:+.3g}, {high:+.3g}]" if len(first) > 1 and len(other) > 1 else ""
    return f"{f'{first.mean() - other.mean():+.3g}{interval}':>30}{statistics.permutation_p(first, other):>8.3f}"
