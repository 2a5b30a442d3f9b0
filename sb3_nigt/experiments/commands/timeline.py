"""Which worker ran what in a recorded run, as a picture."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from sb3_nigt.experiments.arguments import picture
from sb3_nigt.experiments.commands.options import recording


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    Describe the command line.

    :param parser: parser of the subcommand
    """
    parser.add_argument("recording", metavar="RUN", type=recording, help="file written by RunRecorder")
    parser.add_argument(
        "--rounds",
        metavar="FIRST:LAST",
        type=_rounds,
        default=slice(0, 5),
        help="which of the recorded rounds, LAST excluded; : is all of them; default: 0:5",
    )
    parser.add_argument(
        "--output", metavar="PICTURE", type=picture, default=Path("timeline.png"), help="file; default: %(default)s"
    )


def _rounds(text: str) -> slice:
    found = re.fullmatch(r"(\d*):(\d*)", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed: give two numbers with a colon between them, as in 0:5")
    return slice(*(int(number) if number else None for number in found.groups()))


def run(args: argparse.Namespace) -> None:
    """
    Draw the picture.

    :param args: parsed command line
    """
    from sb3_nigt.experiments import timeline

    timeline.run(args)
