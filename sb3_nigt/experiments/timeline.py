"""Which worker ran what in a recorded run, as a picture."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from sb3_nigt.experiments.arguments import UsageError
from sb3_nigt.experiments.plots import TIMELINE_KEY, draw_timeline, save_picture
from sb3_nigt.messages import RoundReport


def run(args: argparse.Namespace) -> None:
    """
    Draw the picture.

    :param args: parsed command line
    """
    reports = args.recording.reports
    shown = reports[args.rounds]
    if not shown:
        raise UsageError(f"--rounds: the run has {len(reports)} rounds, give two numbers within 0:{len(reports)}")
    draw(shown, args.recording.algorithm, args.output)
    print(f"{args.output}: rounds {shown[0].round} to {shown[-1].round} of {args.recording.algorithm}")


def draw(reports: Sequence[RoundReport], title: str, path: Path) -> None:
    """
    Write the picture of some rounds.

    :param reports: consecutive rounds, at least one
    :param title: title of the picture
    :param path: path of the picture
    """
    n_workers = len(reports[0].counts)
    figure = Figure(figsize=(10, min(12.0, 1.5 + 0.3 * n_workers)), layout="constrained")
    ax = figure.subplots()
    draw_timeline(ax, reports)
    ax.set_title(f"{title}\n{TIMELINE_KEY}", fontsize="medium")
    save_picture(figure, path)
