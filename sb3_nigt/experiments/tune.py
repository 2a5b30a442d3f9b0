"""Find the learning rate, η and M of each method on given workers: the paper's grid, by successive halving."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sb3_nigt.experiments.arguments import positive_integer
from sb3_nigt.experiments.campaign import FailedRunsError, execute_all, is_finished
from sb3_nigt.experiments.compare import add_execution, add_setting, methods, setting_of
from sb3_nigt.experiments.methods import OURS
from sb3_nigt.experiments.results import load_curves
from sb3_nigt.experiments.setting import Budget, Run, Setting
from sb3_nigt.experiments.tuned import Tuned, save

EXPONENTS = range(-10, 0)  # of two: α
ETAS = (0.001, 0.01, 0.1)
N_TRAJECTORIES = (20, 30, 50)  # M = M_init
FIRST_SEED = 1000  # a comparison begins at 0: what was chosen on a seed would look too good on it


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    Describe the command line.

    :param parser: of the subcommand
    """
    add_setting(parser)
    parser.add_argument(
        "--algos",
        metavar="NAMES",
        type=tunable_methods,
        default=methods("rennala,afedpg,sync"),
        help=f"methods with commas between them, of {', '.join(OURS)}, with a schedule or without",
    )
    parser.add_argument(
        "--candidates",
        metavar="N",
        type=positive_integer,
        default=16,
        help="points of the grid to begin with, 16; each gets one seed, the better half another one, and so on",
    )
    add_execution(parser, "tune")


def tunable_methods(text: str) -> list[str]:
    """
    Read names of methods that have a grid.

    :param text: what the user typed
    """
    names = methods(text)
    for name in names:
        if name.partition(":")[0] not in OURS:
            raise argparse.ArgumentTypeError(f"{name!r} has no grid: give some of {', '.join(OURS)}")
    return names


def grid(method: str) -> dict[str, dict[str, Any]]:
    """
    Return the arguments of all candidates, by label.

    :param method: its name
    """
    plain_ascent = method.partition(":")[0] in ("syncpg", "rennalapg")  # which has no η
    found: dict[str, dict[str, Any]] = {}
    for exponent, eta, m in itertools.product(EXPONENTS, (None,) if plain_ascent else ETAS, N_TRAJECTORIES):
        arguments: dict[str, Any] = {"learning_rate": 2.0**exponent}
        arguments["n_initial_trajectories" if method == "afedpg" else "n_trajectories"] = m
        if eta is not None:
            arguments["eta"] = eta
        found[f"{method}-alpha=2^{exponent}" + ("" if eta is None else f"-eta={eta}") + f"-M={m}"] = arguments
    return found


def run(args: argparse.Namespace) -> None:
    """
    Tune one method after the other, and write the result.

    :param args: parsed command line
    """
    setting, budget = setting_of(args), Budget(args.timesteps, args.seconds, args.points, args.episodes)
    path = args.output / "tuned.json"
    for method in args.algos:
        best = tune(method, setting, budget, args.candidates, args.output, args.processes)
        save(best, path)
        values = ", ".join(f"{name}={value:g}" for name, value in best.arguments.items())
        returns = ", ".join(f"{value:.4g}" for value in best.final_returns)
        print(f"{method}: {values}; final returns of its seeds: {returns}")
    print(f"{path}: for sb3-nigt compare and reproduce, --tuned {path}")


def tune(method: str, setting: Setting, budget: Budget, n_candidates: int, output: Path, processes: int) -> Tuned:
    """
    Successive halving over seeds: every candidate that is left gets one more seed, then the worse half goes.

    :param method: its name
    :param setting: environment and workers
    :param budget: of each run
    :param n_candidates: drawn from the grid without replacement, the same ones for all methods with that grid
    :param output: takes the files of the runs
    :param processes: runs at a time
    """
    candidates = grid(method)
    drawn = np.random.default_rng(0).permutation(len(candidates))[:n_candidates]
    left = [list(candidates)[number] for number in drawn]
    for n_seeds in itertools.count(1):
        seeds = range(FIRST_SEED, FIRST_SEED + n_seeds)
        runs = [Run(method, seed, setting, budget, candidates[label], label) for label in left for seed in seeds]
        finals = _final_returns(runs, output, processes)
        left = sorted(finals, key=lambda label: -float(np.mean(finals[label])))[: (len(left) + 1) // 2]
        if len(left) == 1:
            break
    return Tuned(method, setting, budget, candidates[left[0]], finals[left[0]])


def _final_returns(runs: Sequence[Run], output: Path, processes: int) -> dict[str, list[float]]:
    """Execute; a candidate that breaks a run is out."""
    try:
        execute_all(runs, output, processes)
    except FailedRunsError as error:
        print(error)
        broken = {run.label for run in runs if not is_finished(run, output)}
        runs = [run for run in runs if run.label not in broken]
        if not runs:
            raise
    return {label: [curve.final_return for curve in curves] for label, curves in load_curves(runs, output).items()}
