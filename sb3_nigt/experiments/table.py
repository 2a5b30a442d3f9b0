"""Comparisons as Markdown tables: final returns, and how many more steps a second and how much sooner the first method is."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from sb3_nigt.experiments import statistics
from sb3_nigt.experiments.arguments import UsageError
from sb3_nigt.experiments.panels import draw_panels
from sb3_nigt.experiments.results import Curve, Curves
from sb3_nigt.experiments.statistics import FloatArray

SMALL = 2.0  # returns between -1 and 1 are common: a row without larger ones has two decimals


def run(args: argparse.Namespace) -> None:
    """
    Print, and write.

    :param args: parsed command line
    """
    text = all_tables(args.comparisons)
    print(text)
    if args.output is not None:
        args.output.write_text(text + "\n", encoding="utf-8")
    if args.picture is not None:
        draw_panels(args.comparisons, args.picture, args.axis)


def all_tables(comparisons: Sequence[tuple[str, Curves]]) -> str:
    """
    Write the tables that say something about these comparisons.

    :param comparisons: name and curves of each comparison
    """
    tables = [returns_table(comparisons)]
    if len(_methods(comparisons)) > 1:
        tables.append(speed_table(comparisons))
    if uneven := [(name, curves) for name, curves in comparisons if _is_uneven(curves)]:
        tables.append(rate_table(uneven))
    tables += [tasks_table(name, curves) for name, curves in comparisons if next(iter(curves.values()))[0].tasks]
    return "\n\n".join(tables)


def returns_table(comparisons: Sequence[tuple[str, Curves]]) -> str:
    """
    Write a line for each comparison: interquartile mean of the final returns and 95 % bootstrap interval, the best one bold.

    :param comparisons: name and curves of each comparison
    """
    methods = _methods(comparisons)
    lines = [markdown_row(["Final return", "runs", *methods]), markdown_row(["---"] * (len(methods) + 2))]
    for name, curves in comparisons:
        finals = {method: np.array([curve.final_return for curve in runs]) for method, runs in curves.items()}
        cells = returns_cells(finals)
        n_runs = [len(runs) for runs in curves.values()]
        shown = str(n_runs[0]) if min(n_runs) == max(n_runs) else f"{min(n_runs)} to {max(n_runs)}"
        lines.append(markdown_row([name, shown, *(cells.get(m, "") for m in methods)]))
    return "\n".join(lines)


def speed_table(comparisons: Sequence[tuple[str, Curves]]) -> str:
    """
    Write a line for each comparison: how many times sooner the first method has another one's final return than that one.

    :param comparisons: name and curves of each comparison
    """
    return _against_the_first("Times sooner than", comparisons, speed_cell)


def rate_table(comparisons: Sequence[tuple[str, Curves]]) -> str:
    """
    Write a line for each comparison: how many times as many steps a second the first method makes as another one.

    :param comparisons: name and curves of each comparison
    """
    return _against_the_first(
        "Times as many steps a second as", comparisons, lambda first, other: _quotient(rate(first), rate(other))
    )


def tasks_table(name: str, curves: Curves) -> str:
    """
    Write a line for each task, and one for the worst task of each run: as in ``returns_table``.

    :param name: name of the comparison
    :param curves: curves with a column for each task
    """
    finals = {
        method: {task: np.array([curve.final(task) for curve in runs]) for task in runs[0].tasks}
        for method, runs in curves.items()
    }
    for of_method in finals.values():
        of_method["worst task"] = np.min(list(of_method.values()), axis=0)
    lines = [markdown_row([name, *curves]), markdown_row(["---"] * (len(curves) + 1))]
    for task in next(iter(finals.values())):
        cells = returns_cells({method: of_method[task] for method, of_method in finals.items()})
        lines.append(markdown_row([task, *cells.values()]))
    return "\n".join(lines)


def speedup(first: Sequence[Curve], other: Sequence[Curve]) -> float:
    """
    Time that the other method takes to its own final return over the time that the first one takes to the same return.

    Both curves are interquartile means over runs, the final return that of the last tenth of the evaluations. 0 if the first
    method does not get there in its own time; not a number if a method has as much before training.

    :param first: one curve per seed
    :param other: one curve per seed
    """
    return float(speedups(first, other, np.arange(len(first))[None], np.arange(len(other))[None])[0])


def speedups(
    first: Sequence[Curve], other: Sequence[Curve], of_first: npt.NDArray[np.int64], of_other: npt.NDArray[np.int64]
) -> FloatArray:
    """
    Compute ``speedup`` for several choices of runs at once.

    :param first: one curve per seed
    :param other: one curve per seed
    :param of_first: numbers of the runs of the first method in each choice, shape (choices, R)
    :param of_other: those of the other one
    :return: shape (choices,)
    """
    finals = np.array([curve.final_return for curve in other])
    targets = statistics.interquartile_mean(finals[of_other])
    ends = np.array([curve["seconds"][-1] for curve in other])[of_other].min(axis=-1)
    own_times = np.minimum(ends, _times_to(other, of_other, targets))  # a mean may be above each point of the curve
    times = _times_to(first, of_first, targets)
    ratios: FloatArray = np.divide(own_times, times, out=np.full_like(times, np.nan), where=(own_times > 0) & (times > 0))
    return ratios


def _times_to(runs: Sequence[Curve], chosen: npt.NDArray[np.int64], targets: FloatArray) -> FloatArray:
    """
    Find the first moments at which interquartile means over runs are as high as their targets.

    :param chosen: numbers of runs, shape (choices, R)
    :param targets: shape (choices,)
    :return: shape (choices,); infinite where there is no such moment before the first of the runs ends
    """
    moments = np.unique(np.concatenate([run["seconds"] for run in runs]))  # no mean changes at any other one
    returns = np.stack([statistics.carried_forward(run["seconds"], run["return"], moments) for run in runs], axis=-1)
    ends = np.array([run["seconds"][-1] for run in runs])[chosen].min(axis=-1)
    sets, number = np.unique(np.sort(chosen, axis=-1), axis=0, return_inverse=True)  # of five runs there are 126
    means = statistics.interquartile_mean(returns[:, sets])[:, number.reshape(-1)]
    reached = means >= targets  # shape (moments, choices)
    reached &= moments[:, None] <= ends
    return np.where(reached.any(axis=0), moments[reached.argmax(axis=0)], np.inf)


def rate(runs: Sequence[Curve]) -> float:
    """
    Return the steps a second that a method makes; not a number where they are unknown.

    :param runs: one curve per seed
    """
    if any("timesteps" not in curve.columns or not curve["seconds"][-1] for curve in runs):
        return math.nan
    return float(np.mean([curve["timesteps"][-1] / curve["seconds"][-1] for curve in runs]))


def returns_cells(finals: Mapping[str, FloatArray]) -> dict[str, str]:
    """
    Write the interquartile mean of final returns with a 95 % bootstrap interval over runs; bold where no other one is higher.

    :param finals: of each method, one final return per seed
    :return: by method
    """
    means = {method: float(statistics.interquartile_mean(values)) for method, values in finals.items()}
    known = [mean for mean in means.values() if not math.isnan(mean)] or [math.nan]
    text_of = _small_number if max(map(abs, known)) < SMALL else _number
    best = text_of(max(known))  # as it is written: a difference that is not shown does not decide
    texts = {method: text_of(mean) for method, mean in means.items()}
    return {
        method: (f"**{text}**" if text == best else text) + _interval(finals[method], text_of)
        for method, text in texts.items()
    }


def _interval(finals: FloatArray, text_of: Callable[[float], str]) -> str:
    if len(finals) == 1:
        return ""
    low, high = statistics.bootstrap_interval(finals, statistics.interquartile_mean)
    return f" [{text_of(float(low))}, {text_of(float(high))}]"


def speed_cell(of_first: Sequence[Curve], of_other: Sequence[Curve]) -> str:
    """
    Write ``speedup`` with a 95 % bootstrap interval over runs.

    :param of_first: one value per seed
    :param of_other: one value per seed
    """
    text = _ratio(speedup(of_first, of_other))
    if min(len(of_first), len(of_other)) == 1:
        return text
    rng = np.random.default_rng(0)
    drawn = [rng.integers(len(runs), size=(statistics.RESAMPLES, len(runs))) for runs in (of_first, of_other)]
    ratios = speedups(of_first, of_other, *drawn)
    low, high = np.quantile(np.nan_to_num(ratios, nan=np.inf), [0.025, 0.975], method="inverted_cdf")
    return f"{text} [{_ratio(float(low))}, {_ratio(float(high))}]"


def markdown_row(cells: Sequence[str]) -> str:
    """
    Write a line of a Markdown table.

    :param cells: the cells from left to right
    """
    return f"| {' | '.join(cells)} |"


def _against_the_first(
    head: str, comparisons: Sequence[tuple[str, Curves]], cell: Callable[[Sequence[Curve], Sequence[Curve]], str]
) -> str:
    """Write a line for each comparison, and a cell for each method but the first, from the runs of both."""
    firsts = list(dict.fromkeys(next(iter(curves)) for _, curves in comparisons))
    if len(firsts) > 1:
        raise UsageError(f"the comparisons begin with different methods, {', '.join(firsts)}: give those of each separately")
    methods = _methods(comparisons)[1:]
    lines = [markdown_row([head, *methods]), markdown_row(["---"] * (len(methods) + 1))]
    for name, curves in comparisons:
        first, *others = curves
        lines.append(markdown_row([name, *(cell(curves[first], curves[m]) if m in others else "" for m in methods)]))
    return "\n".join(lines)


def _is_uneven(curves: Curves) -> bool:
    rates = [rate(runs) for runs in curves.values()]
    return max(rates) > 1.05 * min(rates)


def _methods(comparisons: Sequence[tuple[str, Curves]]) -> list[str]:
    return list(dict.fromkeys(method for _, curves in comparisons for method in curves))


def _quotient(above: float, below: float) -> str:
    return _number(above / below) if below > 0 and not math.isnan(above) else ""


def _ratio(value: float) -> str:
    if not math.isfinite(value):  # the other one has not learned anything
        return "no gain"
    return f"{value:.1f}" if value else "not reached"


def _small_number(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}"  # no -0.00


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}"
