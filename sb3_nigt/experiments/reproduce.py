"""Repeat an experiment of the paper: its workers, its methods, its picture."""

from __future__ import annotations

import argparse
import dataclasses
import warnings
from pathlib import Path

from sb3_nigt.experiments.arguments import link_of
from sb3_nigt.experiments.campaign import OUT_OF_DATE
from sb3_nigt.experiments.compare import compare, seeded_runs
from sb3_nigt.experiments.figures import FIGURES
from sb3_nigt.experiments.setting import Budget
from sb3_nigt.experiments.tune import learning_rates, tune
from sb3_nigt.experiments.tuned import load, save
from sb3_nigt.methods import METHODS


def run(args: argparse.Namespace) -> None:
    """
    Tune if that is wanted; train, print, draw.

    :param args: parsed command line
    """
    usual = FIGURES[args.figure]
    link, aggregation = link_of(args, usual.link, usual.aggregation)
    experiment = dataclasses.replace(usual, link=link, aggregation=aggregation)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=OUT_OF_DATE)
        setting = experiment.setting(args.time_per, args.scale)
        seconds = args.scale * experiment.seconds(args.time_per)
    methods = experiment.methods_for(args.time_per)
    budget = Budget(seconds=seconds, points=args.points, episodes=args.episodes)
    others = [value for value in (link, aggregation) if value not in (usual.link, usual.aggregation)]
    output: Path = args.output / f"{'-'.join([args.figure, *others])}-per-{args.time_per}"
    tuned = args.tuned
    if args.tune is not None:
        candidates = {m: learning_rates(m, args.tune) for m in methods if m.partition(":")[0] in METHODS}
        for best in tune(candidates, setting, budget, output / "tune", args.processes):
            save(best, output / "tuned.json")
        tuned = load(output / "tuned.json")
    compare(seeded_runs(methods, range(args.seeds), setting, budget, tuned, paper=True), output, args.processes)
