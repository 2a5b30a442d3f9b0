"""Train methods on the same workers and compare their returns: a table, and pictures over time, timesteps and messages."""

from __future__ import annotations

import argparse
import dataclasses
import warnings
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter, SymmetricalLogLocator

from sb3_nigt.experiments import statistics
from sb3_nigt.experiments.arguments import (
    FailedRunsError,
    UsageError,
    link_of,
    parse_message_times,
    parse_times,
    seeds_of,
)
from sb3_nigt.experiments.campaign import execute_all, is_finished
from sb3_nigt.experiments.given import Given, check_given
from sb3_nigt.experiments.linear import is_schedule
from sb3_nigt.experiments.methods import is_baseline, make_model
from sb3_nigt.experiments.plots import draw_band, save_picture, style_numbers
from sb3_nigt.experiments.results import (
    ALL_CURVES,
    AXES,
    Curves,
    default_threshold,
    load_curves,
    on_grid,
    save_all,
    table,
)
from sb3_nigt.experiments.setting import Budget, Run, Setting, title
from sb3_nigt.experiments.tuned import Tuned, arguments_of

LINEAR_UP_TO = 10.0  # messages, on their logarithmic axis
AXIS_LABELS = {
    "seconds": "seconds on the workers' clock",
    "timesteps": "environment steps",
    "messages": "messages to the learner",
}


def setting_of(args: argparse.Namespace) -> Setting:
    """
    Return environment and workers.

    :param args: parsed command line
    :raises UsageError: if it has arguments that do not go together
    """
    step_times = parse_times(args.step_times, args.n_workers)
    message_times = parse_message_times(args.message_times, step_times)
    link, aggregation = link_of(args)
    setting = Setting(
        args.env,
        tuple(step_times.tolist()),
        tuple(message_times.tolist()),
        args.time_per,
        args.tasks,
        final_step_times=_final_step_times(args, len(step_times)),
        change_seconds=args.seconds if args.final_step_times else 0.0,
        link=link,
        aggregation=aggregation,
    )
    try:
        setting.env_arguments()
    except ValueError as error:
        raise UsageError(str(error)) from None
    return setting


def _final_step_times(args: argparse.Namespace, n_workers: int) -> tuple[float, ...] | None:
    if args.final_step_times is None:
        return None
    if args.seconds is None:
        raise UsageError("--final-step-times needs --seconds: the times change until then")
    return tuple(parse_times(args.final_step_times, n_workers, name="--final-step-times").tolist())


def processes_of(args: argparse.Namespace) -> Setting:
    """
    Return the environment and the number of workers on real processes.

    :param args: parsed command line
    :raises UsageError: if it asks for something that only simulated workers can do
    """
    if args.n_workers is None:
        raise UsageError("--workers processes needs --n-workers, for example --n-workers 10")
    setting = setting_of(args)
    if setting != Setting(setting.env, (1.0,) * setting.n_workers, (0.0,) * setting.n_workers):
        raise UsageError(
            "--workers processes takes as long as the environments take: leave out --step-times, --final-step-times, "
            "--message-times, --link, --aggregation, --time-per and --tasks, which need --workers simulated"
        )
    if args.seconds is None:
        raise UsageError("--workers processes needs --seconds, the length of a run in real seconds")
    if "ars" in [name.partition("@")[0] for name in args.algos]:
        raise UsageError("ars does not count its steps: leave it out of --algos, or use --workers simulated")
    return dataclasses.replace(setting, workers="processes")


def run(args: argparse.Namespace) -> None:
    """
    Train, print, draw.

    :param args: parsed command line
    """
    is_real = args.workers == "processes"
    setting, seeds = processes_of(args) if is_real else setting_of(args), seeds_of(args)
    budget = Budget(args.timesteps, args.seconds, args.points, args.episodes)
    check_given(args.set, args.algos)
    baselines = [name for name in args.algos if is_baseline(name)]
    if baselines and setting.time_per == "trajectory":
        print(
            f"{', '.join(baselines)}: with --time-per trajectory a step of all workers costs h over max_episode_steps, which "
            "favours them where episodes end early; --time-per step treats all alike"
        )
    paper = args.paper or bool(args.tuned)
    runs = seeded_runs(args.algos, seeds, setting, budget, args.tuned, paper, args.set)
    check_values(runs, args.set)
    compare(runs, args.output, 1 if is_real else args.processes, args.target_return)


def check_values(runs: Sequence[Run], given: Sequence[Given]) -> None:
    """
    Make the models of methods whose arguments the user has given, before any run begins.

    What fails without these arguments as well is no fault of theirs; the runs will tell.

    :param runs: runs of a comparison
    :param given: the arguments
    :raises UsageError: if a constructor refuses them
    """
    first = {run.method: run for run in reversed(runs)}
    for one in given:
        if is_schedule(one.value) and first[one.method].budget.timesteps is None and not is_baseline(one.method):
            raise UsageError(
                f"--set {one.method}.{one.argument}={one.value}: how many timesteps a run has is not known before its end: "
                "give --timesteps in place of --seconds, or a number"
            )
    for method in dict.fromkeys(one.method for one in given):
        run = first[method]
        others = {one.argument for one in given if one.method == method}
        plain = dataclasses.replace(run, arguments={k: v for k, v in run.arguments.items() if k not in others})
        if (error := _error_of(run)) is not None and _error_of(plain) is None:
            raise UsageError(f"--set {method}: {error}") from error


def _error_of(run: Run) -> Exception | None:
    """What the constructor of the algorithm raises, or that of its environment."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with closing(dataclasses.replace(run.setting, workers="simulated").make_workers(run.seed)) as workers:
                make_model(run.method, run.setting.env, workers, run.seed, run.arguments, run.paper)
        except Exception as error:  # any: an environment may raise anything
            return error
    return None


def seeded_runs(
    names: Sequence[str],
    seeds: Sequence[int],
    setting: Setting,
    budget: Budget,
    tuned: Sequence[Tuned] = (),
    paper: bool = False,
    given: Sequence[Given] = (),
) -> list[Run]:
    """
    List the runs of a comparison, seed by seed, so that early on there is something of every method.

    :param names: names of the methods
    :param seeds: seeds of the runs of each
    :param setting: environment and workers
    :param budget: budget of each run
    :param tuned: their arguments; empty: the defaults
    :param paper: whether to use the paper's algorithms to the letter
    :param given: further arguments, which take precedence
    """
    arguments = {
        name: arguments_of(name, setting, tuned) | {one.argument: one.value for one in given if one.method == name}
        for name in names
    }
    return [Run(name, seed, setting, budget, arguments[name], paper=paper) for seed in seeds for name in names]


def compare(runs: Sequence[Run], output: Path, processes: int, threshold: float | None = None) -> None:
    """
    Execute what is not finished, and write the table and the pictures.

    :param runs: runs of one setting
    :param output: directory for all files
    :param processes: number of runs at a time
    :param threshold: return whose time is in the table; None: three quarters of what the best method has gained
    :raises FailedRunsError: if runs have failed; the files have the others
    """
    failure: FailedRunsError | None = None
    try:
        execute_all(runs, output, processes)
    except FailedRunsError as error:
        names = list(dict.fromkeys(run.label or run.method for run in runs))  # the first one stays the first
        finished = [run for run in runs if is_finished(run, output)]
        failure, runs = error, sorted(finished, key=lambda run: names.index(run.label or run.method))
        if not runs:
            raise
    curves = load_curves(runs, output)
    text = report(runs, curves, threshold)
    save_all(runs, output)
    (output / "table.txt").write_text(text + "\n", encoding="utf-8")
    draw(curves, title(runs[0].setting), output / "curves.png")
    print(f"{text}\n\n{output}: table.txt, {ALL_CURVES}, curves.png, and two files for each of {len(runs)} runs")
    if failure is not None:
        raise failure


def report(runs: Sequence[Run], curves: Curves, threshold: float | None) -> str:
    """
    Write what was compared and how it went.

    :param runs: runs of one setting
    :param curves: curves of these runs
    :param threshold: return whose time is in the table; None: three quarters of what the best method has gained
    """
    numbers = table(curves, default_threshold(curves) if threshold is None else threshold)
    return "\n".join([title(runs[0].setting), numbers, *_arguments(runs)])


def _arguments(runs: Sequence[Run]) -> list[str]:
    """One line for each method that does not have its defaults."""
    given = {run.method: run.arguments for run in runs if run.arguments}
    return [f"{name}: {', '.join(f'{key}={_text(value)}' for key, value in of_one.items())}" for name, of_one in given.items()]


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def draw(curves: Curves, heading: str, path: Path) -> None:
    """
    Write the picture: returns over time, timesteps and messages; median and interquartile mean.

    :param curves: curves of all methods
    :param heading: heading of the picture
    :param path: path of the picture
    """
    figure = Figure(figsize=(15, 8.5), layout="constrained")
    axes = figure.subplots(2, len(AXES), sharey=True, sharex="col")
    numbers = style_numbers(list(curves))
    for column, axis in zip(axes.T, AXES, strict=True):
        for name, method in curves.items():
            x, returns = on_grid(method, axis)
            low, median, high = statistics.quantile_band(returns)
            draw_band(column[0], x, median, low, high, numbers[name], name)
            low, high = statistics.bootstrap_interval(returns, statistics.interquartile_mean)
            draw_band(column[1], x, statistics.interquartile_mean(returns), low, high, numbers[name], name)
        column[1].set_xlabel(AXIS_LABELS[axis])
        column[1].locator_params(axis="x", nbins=5)  # more labels would touch
        if axis == "messages" and column[1].dataLim.xmax > LINEAR_UP_TO:
            column[1].set_xscale("symlog", linthresh=LINEAR_UP_TO, subs=[3])  # with a 0, where all begin
            column[1].xaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=LINEAR_UP_TO, subs=[1, 3]))
            column[1].xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        for ax in column:
            ax.grid(alpha=0.3)
    axes[0, 0].set_ylabel("return: median, 20 to 80 % of runs")
    axes[1, 0].set_ylabel("return: interquartile mean, 95 % interval")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=len(curves))
    figure.suptitle(heading)
    save_picture(figure, path)
