"""Find the learning rate, η and M of each method on given workers: the paper's grid, by successive halving."""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sb3_nigt.experiments.arguments import FailedRunsError
from sb3_nigt.experiments.campaign import execute_all, is_finished
from sb3_nigt.experiments.compare import setting_of
from sb3_nigt.experiments.methods import make_model
from sb3_nigt.experiments.results import load_curves
from sb3_nigt.experiments.setting import Budget, Run, Setting
from sb3_nigt.experiments.tuned import Tuned, load, save
from sb3_nigt.methods import METHODS
from sb3_nigt.parameters import flatten

EXPONENTS = range(-10, 0)  # of two: α
PLAIN_EXPONENTS = range(-24, -4, 2)  # of plain ascent, whose steps grow with the gradient: the paper does not say
ETAS = (0.001, 0.01, 0.1)
N_TRAJECTORIES = (20, 30, 50)  # M = M_init
Candidates = dict[str, dict[str, Any]]  # arguments of an algorithm, by label
FIRST_SEED = 1000  # a comparison begins at 0: what was chosen on a seed would look too good on it


def learning_rates(method: str, n_candidates: int) -> Candidates:
    """
    Return α's evenly spaced over the grid, from its largest one to its smallest, with η and M as in the paper's pictures.

    :param method: its name
    :param n_candidates: number of candidates; one of them is the largest α
    """
    etas, ms = {ETAS[-1], None}, N_TRAJECTORIES[0]
    of_alpha = [
        (label, arguments)
        for label, arguments in grid(method).items()
        if arguments.get("eta") in etas and ms in arguments.values()
    ][::-1]
    chosen = np.unique(np.linspace(0, len(of_alpha) - 1, n_candidates).round().astype(int))
    return dict(of_alpha[number] for number in chosen)


def drawn(candidates: Candidates, n_candidates: int) -> Candidates:
    """
    Draw without replacement, from equal grids the same ones.

    :param candidates: all candidates
    :param n_candidates: number of candidates
    """
    numbers = np.random.default_rng(0).permutation(len(candidates))[:n_candidates]
    labels = list(candidates)
    return {labels[number]: candidates[labels[number]] for number in numbers}


def grid(method: str) -> Candidates:
    """
    Return the arguments of all candidates, by label.

    :param method: its name
    """
    of_method = METHODS[method.partition(":")[0]]
    found: Candidates = {}
    exponents, etas = (EXPONENTS, ETAS) if of_method.takes("eta") else (PLAIN_EXPONENTS, (None,))
    for exponent, eta, m in itertools.product(exponents, etas, N_TRAJECTORIES):
        arguments: dict[str, Any] = {"learning_rate": 2.0**exponent, of_method.size_argument: m}
        if eta is not None:
            arguments["eta"] = eta
        found[f"{method}-alpha=2^{exponent}" + ("" if eta is None else f"-eta={eta}") + f"-M={m}"] = arguments
    return found


def at_edges(chosen: dict[str, Any], candidates: Candidates) -> list[str]:
    """
    Say where the best values may lie outside of the grid.

    :param chosen: the best candidate's arguments
    :param candidates: the grid
    """
    texts = []
    for name, value in chosen.items():
        values = {arguments[name] for arguments in candidates.values()}
        for edge, word, better in ((min(values), "smallest", "smaller"), (max(values), "largest", "larger")):
            if value == edge and len(values) > 1:
                texts.append(f"{name}={value:g} is the {word} of the grid, so a {better} one may do better")
    return texts


def far_lookahead(method: str, arguments: dict[str, Any], setting: Setting) -> list[str]:
    """
    Say when gradients are taken farther from the policy than its parameters are long.

    :param method: its name
    :param arguments: the best candidate's arguments
    :param setting: environment and workers, which determine the size of the policy
    """
    if "eta" not in arguments:
        return []
    eta, alpha = arguments["eta"], arguments["learning_rate"]
    lookahead = (1 - eta) / eta * alpha
    model = make_model(method, setting.env, setting.make_workers(0), 0, arguments, paper=True)
    norm = float(np.linalg.norm(flatten(model.policy)))
    if lookahead <= norm:
        return []
    return [
        f"eta={eta:g} with learning_rate={alpha:g} samples at a distance of (1 - eta) / eta * learning_rate = "
        f"{lookahead:.3g} from the policy, and its initial parameters have a length of {norm:.3g} only: give more "
        "--candidates, or a larger eta"
    ]


def run(args: argparse.Namespace) -> None:
    """
    Tune one method after the other, and write the result.

    :param args: parsed command line
    """
    setting, budget = setting_of(args), Budget(args.timesteps, args.seconds, args.points, args.episodes)
    path = args.output / "tuned.json"
    if path.exists():
        load(path)  # what cannot be added to shall not cost the runs before it is found out
    candidates = {method: drawn(grid(method), args.candidates) for method in args.algos}
    for best in tune(candidates, setting, budget, args.output, args.processes):
        save(best, path)
        values = ", ".join(f"{name}={value:g}" for name, value in best.arguments.items())
        returns = ", ".join(f"{value:.4g}" for value in best.returns)
        print(f"{best.method}: {values}; mean returns of its runs: {returns}")
        for text in at_edges(best.arguments, grid(best.method)) + far_lookahead(best.method, best.arguments, setting):
            print(f"{best.method}: {text}")
    print(f"{path}: for sb3-nigt compare and reproduce, --tuned {path}")


def tune(candidates: dict[str, Candidates], setting: Setting, budget: Budget, output: Path, processes: int) -> list[Tuned]:
    """
    Successive halving over seeds: every candidate that is left gets one more seed, then the worse half of its method goes.

    :param candidates: candidates of each method, by its name
    :param setting: environment and workers
    :param budget: budget of each run
    :param output: directory for the files of the runs
    :param processes: number of runs at a time
    :return: the best of each method
    :raises FailedRunsError: if all candidates of a method have broken a run
    """
    left = {method: list(labels) for method, labels in candidates.items()}
    finals: dict[str, dict[str, list[float]]] = {method: {} for method in left}
    for n_seeds in itertools.count(1):
        open_methods = [method for method in left if len(left[method]) > 1 or not finals[method]]
        if not open_methods:
            break
        seeds = range(FIRST_SEED, FIRST_SEED + n_seeds)
        runs = [
            Run(method, seed, setting, budget, candidates[method][label], label, paper=True)
            for method in open_methods
            for label in left[method]
            for seed in seeds
        ]
        found = _mean_returns(runs, output, processes)
        for method in open_methods:
            finals[method] = {label: found[label] for label in left[method] if label in found}
            means = {label: float(np.mean(of_label)) for label, of_label in finals[method].items()}
            ranked = sorted(means, key=lambda label: math.inf if math.isnan(means[label]) else -means[label])
            left[method] = ranked[: (len(left[method]) + 1) // 2]
    return [Tuned(m, setting, budget, candidates[m][left[m][0]], finals[m][left[m][0]]) for m in left]


def _mean_returns(runs: Sequence[Run], output: Path, processes: int) -> dict[str, list[float]]:
    """Execute, and average each run's return over its time; a candidate that breaks a run is out."""
    try:
        execute_all(runs, output, processes)
    except FailedRunsError as error:
        print(error)
        broken = {run.label for run in runs if not is_finished(run, output)}
        methods_before = {run.method for run in runs}
        runs = [run for run in runs if run.label not in broken]
        if methods_before != {run.method for run in runs}:  # one has nothing left
            raise
    return {
        label: [curve.mean_return(curve["seconds"][-1]) for curve in curves]
        for label, curves in load_curves(runs, output).items()
    }
