"""Decide from long runs whether the first method of each comparison is faster than the others, by several measures."""

from __future__ import annotations

import argparse

from sb3_nigt.experiments.arguments import finite_number, output_file
from sb3_nigt.experiments.commands.options import comparison


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    Describe the command line.

    :param parser: parser of the subcommand
    """
    parser.add_argument("comparisons", metavar="DIR", nargs="+", type=comparison, help="output of compare or reproduce")
    parser.add_argument(
        "--returns",
        metavar="R",
        nargs="+",
        type=finite_number,
        default=[],
        help="returns whose times are compared; default: none",
    )
    parser.add_argument(
        "--output", metavar="FILE", type=output_file, help="write the table there as well; default: not written"
    )


def run(args: argparse.Namespace) -> None:
    """
    Print, and write.

    :param args: parsed command line
    """
    from sb3_nigt.experiments import verdicts

    verdicts.run(args)
