"""Train methods on the same workers and compare their returns: a table, and pictures over time, timesteps and messages."""

from __future__ import annotations

import argparse

from sb3_nigt.experiments.arguments import finite_number, positive_integer, seed
from sb3_nigt.experiments.commands.options import add_execution, add_setting, given_argument, methods, tuned_file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    Describe the command line.

    :param parser: parser of the subcommand
    """
    add_setting(parser)
    parser.add_argument(
        "--workers",
        choices=("simulated", "processes"),
        default="simulated",
        help="processes: real worker processes and real seconds, one run at a time; default: %(default)s",
    )
    parser.add_argument(
        "--algos",
        metavar="NAMES",
        type=methods,
        default=["rennala", "afedpg", "sync", "ppo"],
        help="methods, separated by commas, such as rennala,rennala:first_finished,malenia,sync,afedpg,ppo,a2c,trpo,ars; "
        "default: rennala,afedpg,sync,ppo",
    )
    parser.add_argument(
        "--seeds", metavar="N", type=positive_integer, default=5, help="runs of each method; default: %(default)s"
    )
    parser.add_argument(
        "--first-seed", metavar="N", type=seed, default=0, help="the seeds are N, N+1, …; default: %(default)s"
    )
    parser.add_argument(
        "--set",
        metavar="METHOD.ARGUMENT=VALUE",
        type=given_argument,
        action="append",
        default=[],
        help="an argument of one of --algos, such as rennala.eta=0.3 or rennala@euclidean.geometry=euclidean; may be "
        "repeated; default: none",
    )
    parser.add_argument(
        "--target-return",
        metavar="R",
        type=finite_number,
        help="the table shows the time to this return; default: three quarters of the best method's gain",
    )
    parser.add_argument(
        "--paper",
        action="store_true",
        help="the algorithms exactly as published; default: the defaults of this package",
    )
    parser.add_argument(
        "--tuned",
        metavar="FILE",
        type=tuned_file,
        default=[],
        help="file from sb3-nigt tune; implies --paper; default: none",
    )
    add_execution(parser, "compare")


def run(args: argparse.Namespace) -> None:
    """
    Train, print, draw.

    :param args: parsed command line
    """
    from sb3_nigt.experiments import compare

    compare.run(args)
