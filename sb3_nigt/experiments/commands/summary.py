"""Comparisons side by side: how far the first method, with each schedule, is ahead of the others, over time and at the end."""

from __future__ import annotations

import argparse

from sb3_nigt.experiments.commands.options import comparison


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    Describe the command line.

    :param parser: parser of the subcommand
    """
    parser.add_argument("comparisons", metavar="DIR", nargs="+", type=comparison, help="output of compare or reproduce")


def run(args: argparse.Namespace) -> None:
    """
    Print.

    :param args: parsed command line
    """
    from sb3_nigt.experiments import summary

    summary.run(args)
