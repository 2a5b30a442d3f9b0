"""Comparisons as two Markdown tables: the final return of each method, and how much sooner the first method gets there."""

from __future__ import annotations

import argparse

from sb3_nigt.experiments.arguments import output_file, picture
from sb3_nigt.experiments.commands.options import comparison


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    Describe the command line.

    :param parser: parser of the subcommand
    """
    parser.add_argument("comparisons", metavar="DIR", nargs="+", type=comparison, help="output of compare or reproduce")
    parser.add_argument(
        "--output", metavar="FILE", type=output_file, help="write the tables there as well; default: not written"
    )
    parser.add_argument("--picture", metavar="FILE", type=picture, help="draw the curves there; default: not drawn")
    parser.add_argument(
        "--axis", choices=("seconds", "timesteps"), default="seconds", help="of the picture; default: %(default)s"
    )


def run(args: argparse.Namespace) -> None:
    """
    Print, and write.

    :param args: parsed command line
    """
    from sb3_nigt.experiments import table

    table.run(args)
