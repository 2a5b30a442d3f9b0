"""Claims that one method is faster than another, decided from runs with paired seeds."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sb3_nigt.experiments import statistics
from sb3_nigt.experiments.arguments import UsageError
from sb3_nigt.experiments.methods import by_first_method
from sb3_nigt.experiments.results import Curve, Curves
from sb3_nigt.experiments.statistics import FloatArray
from sb3_nigt.experiments.table import markdown_row

FACTOR = 1.5  # an interval within (1/FACTOR, FACTOR) excludes a difference of practical importance
HEAD = ("Comparison", "First", "Other", "Measure", "Effect", "95 % interval", "Not reached", "Verdict")


@dataclass(frozen=True)
class Effect:
    """
    How many times better the first method is: the ratio of gains, or of times the other way round.

    :param ratio: above 1 where the first method is better
    :param low: lower end of a 95 % bootstrap interval
    :param high: upper end
    :param censored: runs of the first and of the other method that never reached the return; empty where that has no meaning
    :param mostly_censored: more than half of the runs of one of the methods, so that the ratio is drawn towards 1
    """

    ratio: float
    low: float
    high: float
    censored: tuple[str, ...] = ()
    mostly_censored: bool = False

    @property
    def verdict(self) -> str:
        """Whether the first method is ahead, behind, not different by a factor of ``FACTOR``, or none of these."""
        if math.isnan(self.low) or math.isnan(self.high):
            return "undecided"
        if self.low > 1:
            return "ahead"
        if self.high < 1:
            return "behind"
        is_narrow = 1 / FACTOR < self.low <= self.high < FACTOR
        return "no difference" if is_narrow and not self.mostly_censored else "undecided"


def run(args: argparse.Namespace) -> None:
    """
    Print, and write.

    :param args: parsed command line
    """
    rows = [HEAD, ("---",) * len(HEAD)]
    rows += [row for name, curves in args.comparisons for row in comparison_rows(name, curves, args.returns)]
    if len(rows) == 2:
        raise UsageError("there is one method only: give comparisons of two or more")
    text = "\n".join(markdown_row(row) for row in rows)
    print(text)
    if args.output is not None:
        args.output.write_text(text + "\n", encoding="utf-8")


def comparison_rows(name: str, curves: Curves, returns: Sequence[float]) -> list[tuple[str, ...]]:
    """
    Compare the first method, with each of its schedules, with each of the others; without others, its schedules.

    :param name: name of the comparison
    :param curves: curves of all methods
    :param returns: the returns to reach
    """
    firsts, others = by_first_method(list(curves))
    if not others:
        firsts, others = firsts[:1], firsts[1:]
    return [
        (name, first, other, measure, *_cells(found))
        for first in firsts
        for other in others
        for measure, found in effects(*paired(curves[first], curves[other]), returns).items()
    ]


def paired(first: Sequence[Curve], other: Sequence[Curve]) -> tuple[list[Curve], list[Curve]]:
    """
    Return the runs of both methods with the seeds that both have, in the order of the seeds.

    :param first: one curve per seed
    :param other: one curve per seed
    :raises UsageError: if they have no seed in common
    """
    by_seed = [{curve["seed"][0]: curve for curve in runs} for runs in (first, other)]
    seeds = sorted(by_seed[0].keys() & by_seed[1].keys())
    if not seeds:
        raise UsageError("two methods have no seed in common, so their runs cannot be paired: run them with the same seeds")
    return [by_seed[0][seed] for seed in seeds], [by_seed[1][seed] for seed in seeds]


def effects(first: Sequence[Curve], other: Sequence[Curve], returns: Sequence[float]) -> dict[str, Effect]:
    """
    Compare two methods by the mean over the run, by its last quarter, and by the restricted mean time to fixed returns.

    The first two are gains over the method's own mean return before training. A run that never reaches a return counts with
    its whole length; a return that all runs of a method have before training says nothing.

    :param first: one curve per seed
    :param other: one curve per seed, in the same order
    :param returns: the returns to reach
    """
    end = min(curve["seconds"][-1] for curve in (*first, *other))
    found = {
        "mean over the run": _effect(*(_gains(runs, lambda curve: curve.mean_return(end)) for runs in (first, other))),
        "last quarter": _effect(*(_gains(runs, lambda curve: last_quarter(curve, end)) for runs in (first, other))),
    }
    for value in returns:
        times = [_of(runs, lambda curve, value=value: min(curve.time_to(value), end)) for runs in (first, other)]  # type: ignore[misc]
        censored = [sum(curve.time_to(value) > end for curve in runs) for runs in (first, other)]
        counts = tuple(f"{number}/{len(runs)}" for number, runs in zip(censored, (first, other), strict=True))
        no_run = all(number == len(runs) for number, runs in zip(censored, (first, other), strict=True))
        mostly = any(2 * number > len(runs) for number, runs in zip(censored, (first, other), strict=True))
        at_once = any(not of_method.any() for of_method in times)  # before training
        effect = Effect(math.nan, math.nan, math.nan) if no_run or at_once else _effect(times[1], times[0])
        found[f"time to {value:g}"] = Effect(effect.ratio, effect.low, effect.high, counts, mostly)
    return found


def last_quarter(curve: Curve, end: float) -> float:
    """
    Mean return over the last quarter of the time, each evaluation in force until the next one.

    :param curve: the curve of one run
    :param end: end of the time in seconds on the workers' clock, positive
    """
    return (curve.mean_return(end) - 0.75 * curve.mean_return(0.75 * end)) / 0.25


def _of(runs: Sequence[Curve], measure: Callable[[Curve], float]) -> FloatArray:
    return np.array([measure(curve) for curve in runs])


def _gains(runs: Sequence[Curve], measure: Callable[[Curve], float]) -> FloatArray:
    """Untrained policies of different methods may differ."""
    return _of(runs, measure) - float(np.mean(_of(runs, lambda curve: curve["return"][0])))


def _effect(above: FloatArray, below: FloatArray) -> Effect:
    """Ratio of two means; the runs of a seed are drawn together."""
    n_seeds = len(above)
    drawn = np.random.default_rng(0).integers(n_seeds, size=(statistics.RESAMPLES, n_seeds))
    ratios = _ratio(above[drawn].mean(axis=1), below[drawn].mean(axis=1))
    low, high = np.quantile(ratios, [0.025, 0.975], method="inverted_cdf") if n_seeds > 1 else (math.nan, math.nan)
    return Effect(float(_ratio(above.mean(), below.mean())), float(low), float(high))


def _ratio(above: FloatArray, below: FloatArray) -> FloatArray:
    """A method that has gained nothing is infinitely far behind one that has; neither: not a number."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio: FloatArray = np.where(below > 0, np.maximum(above, 0) / below, np.where(above > 0, np.inf, np.nan))
    return np.where(np.isnan(above) | np.isnan(below), np.nan, ratio)


def _cells(effect: Effect) -> tuple[str, ...]:
    interval = f"{effect.low:.2f} to {effect.high:.2f}"
    return f"{effect.ratio:.2f}", interval, " and ".join(effect.censored), effect.verdict
