"""How long rounds and updates of each method take on given workers, before anything is trained."""

from __future__ import annotations

import argparse

from sb3_nigt.experiments.arguments import picture, positive_integer
from sb3_nigt.experiments.commands.options import add_link, recording
from sb3_nigt.experiments.figures import N_TRAJECTORIES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    Describe the command line.

    :param parser: parser of the subcommand
    """
    speeds = parser.add_mutually_exclusive_group(required=True)
    speeds.add_argument(
        "--step-times",
        metavar="TIMES",
        help="seconds per environment step: 1,1.4,2 or equal, sqrt, linear with --n-workers; default: --from",
    )
    speeds.add_argument(
        "--from",
        dest="recording",
        metavar="RUN",
        type=recording,
        help="recorded run whose speeds and lengths are measured; default: --step-times",
    )
    _add_sizes(parser)
    parser.add_argument(
        "--message-times", metavar="TIMES", help="seconds per message; default: 0, or those of the recorded run"
    )
    add_link(parser, "parallel, or that of the recorded run", "all_reduce, or that of the recorded run")
    parser.add_argument("--output", metavar="PICTURE", type=picture, help="timelines of all methods to write; default: none")


def _add_sizes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--rollout",
        choices=("trajectories", "steps"),
        help="rounds of trajectories, or rounds of steps as the algorithms have by default; default: trajectories, or that of"
        " the recorded run",
    )
    counts = {
        "--n-workers": "number of workers, needed with a word or a single number; default: as many as there are times",
        "--n-trajectories": f"M, trajectories of a round; default: {N_TRAJECTORIES}",
        "--n-steps": "with --rollout steps: steps of a round for each worker; default: that of the algorithms",
        "--trajectory-steps": "steps of a trajectory; default: 1000, or those of the recorded run",
    }
    for name, text in counts.items():
        parser.add_argument(name, metavar="N", type=positive_integer, help=text)


def run(args: argparse.Namespace) -> None:
    """
    Print the plan, and draw it.

    :param args: parsed command line
    """
    from sb3_nigt.experiments import plan

    plan.run(args)
