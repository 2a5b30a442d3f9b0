"""Find the learning rate, η and M of each method on given workers: the paper's grid, by successive halving."""

from __future__ import annotations

import argparse

from sb3_nigt.experiments.arguments import positive_integer
from sb3_nigt.experiments.commands.options import add_execution, add_setting, tunable_methods


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    Describe the command line.

    :param parser: parser of the subcommand
    """
    add_setting(parser)
    parser.add_argument(
        "--algos",
        metavar="NAMES",
        type=tunable_methods,
        default=["rennala", "afedpg", "sync"],
        help="methods, separated by commas, of rennala, malenia, sync, syncpg, rennalapg, afedpg, with a schedule or "
        "without; default: rennala,afedpg,sync",
    )
    parser.add_argument(
        "--candidates",
        metavar="N",
        type=positive_integer,
        default=16,
        help="points of the grid to begin with; each gets one seed, the better half another one, and so on; "
        "default: %(default)s",
    )
    add_execution(parser, "tune")


def run(args: argparse.Namespace) -> None:
    """
    Tune, and write the result.

    :param args: parsed command line
    """
    from sb3_nigt.experiments import tune

    tune.run(args)
