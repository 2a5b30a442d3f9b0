"""Repeat an experiment of the paper: its workers, its methods, its picture."""

from __future__ import annotations

import argparse

from sb3_nigt.experiments.arguments import positive_integer, positive_number
from sb3_nigt.experiments.commands.options import add_execution, add_link, tuned_file
from sb3_nigt.experiments.figures import FIGURES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    Describe the command line.

    :param parser: parser of the subcommand
    """
    parser.add_argument("figure", metavar="FIGURE", choices=FIGURES, help=", ".join(FIGURES))
    parser.add_argument(
        "--scale",
        metavar="S",
        type=positive_number,
        default=1.0,
        help="length of the runs, 1 is the full one; default: %(default)s",
    )
    parser.add_argument(
        "--seeds", metavar="N", type=positive_integer, default=5, help="runs of each method; default: %(default)s"
    )
    parser.add_argument(
        "--time-per", choices=("step", "trajectory"), default="step", help="how h_i is read; default: %(default)s"
    )
    add_link(parser, "that of the figure", "that of the figure")
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--tune",
        metavar="N",
        type=positive_integer,
        help="first choose each method's learning rate among N of the paper's grid; default: not tuned",
    )
    source.add_argument(
        "--tuned",
        metavar="FILE",
        type=tuned_file,
        default=[],
        help="file from sb3-nigt tune; default: those of the paper",
    )
    add_execution(parser, "reproduce")


def run(args: argparse.Namespace) -> None:
    """
    Tune if that is wanted; train, print, draw.

    :param args: parsed command line
    """
    from sb3_nigt.experiments import reproduce

    reproduce.run(args)
