"""Options that several commands have, and converters that import what they need when they are used."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from sb3_nigt.envs.tasks import FAMILIES
from sb3_nigt.experiments.arguments import directory, environment, positive_integer, positive_number
from sb3_nigt.timing.link import Aggregation, Link

if TYPE_CHECKING:
    from sb3_nigt.experiments.given import Given
    from sb3_nigt.experiments.results import Curves
    from sb3_nigt.experiments.tuned import Tuned
    from sb3_nigt.recording import Recording


def add_setting(parser: argparse.ArgumentParser) -> None:
    """
    Describe environment, workers and length of the runs.

    :param parser: parser of a subcommand
    """
    parser.add_argument(
        "--env", metavar="ID", type=environment, required=True, help="id of the environment, for example CartPole-v1"
    )
    parser.add_argument(
        "--n-workers",
        metavar="N",
        type=positive_integer,
        help="number of workers, needed with a word or a single number; default: as many as there are times",
    )
    _add_times(parser)
    add_link(parser)
    parser.add_argument(
        "--time-per", choices=("step", "trajectory"), default="step", help="what --step-times measures; default: %(default)s"
    )
    parser.add_argument("--tasks", choices=FAMILIES, help="the workers hold different tasks, see the guide; default: the same")
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument(
        "--timesteps", metavar="N", type=positive_integer, help="length of a run in environment steps; default: --seconds"
    )
    length.add_argument(
        "--seconds", metavar="S", type=positive_number, help="length of a run on the workers' clock; default: --timesteps"
    )


def _add_times(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--step-times",
        metavar="TIMES",
        default="equal",
        help="seconds per step: 1,1.4,2 or equal, sqrt, linear; default: %(default)s",
    )
    parser.add_argument(
        "--final-step-times",
        metavar="TIMES",
        help="what the seconds per step have become at the end of a run, by equal factors in equal times; needs --seconds; "
        "default: they stay the same",
    )
    parser.add_argument(
        "--message-times", metavar="TIMES", default="0", help="seconds per message, in the same format; default: %(default)s"
    )


def add_link(parser: argparse.ArgumentParser, link: str = "parallel", aggregation: str = "all_reduce") -> None:
    """
    Describe how messages reach the learner.

    :param parser: parser of a subcommand
    :param link: the default, for the help text
    :param aggregation: the same
    """
    parser.add_argument(
        "--link",
        choices=get_args(Link),
        help=f"whether the learner receives messages in parallel or one at a time; default: {link}",
    )
    parser.add_argument(
        "--aggregation",
        choices=get_args(Aggregation),
        help=f"whether a round takes the time of its longest message, or of all (with --link serial); default: {aggregation}",
    )


def add_execution(parser: argparse.ArgumentParser, output: str) -> None:
    """
    Describe how the runs are executed.

    :param parser: parser of a subcommand
    :param output: where the files go by default
    """
    parser.add_argument(
        "--points",
        metavar="N",
        type=positive_integer,
        default=30,
        help="evaluations per run, approximately; default: %(default)s",
    )
    parser.add_argument(
        "--episodes", metavar="N", type=positive_integer, default=10, help="episodes per evaluation; default: %(default)s"
    )
    parser.add_argument(
        "--processes",
        metavar="N",
        type=positive_integer,
        default=os.cpu_count(),
        help="runs at a time; default: one for each core, %(default)s",
    )
    parser.add_argument(
        "--output", metavar="DIR", type=directory, default=Path(output), help="directory for all files; default: %(default)s"
    )


def methods(text: str) -> list[str]:
    """
    Read names of methods.

    :param text: what the user typed
    """
    from sb3_nigt.experiments.methods import check_method

    try:
        return list(dict.fromkeys(check_method(name) for name in text.split(",")))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def tunable_methods(text: str) -> list[str]:
    """
    Read names of methods that have a grid.

    :param text: what the user typed
    """
    from sb3_nigt.methods import METHODS

    names = methods(text)
    for name in names:
        if "@" in name or name.partition(":")[0] not in METHODS:
            raise argparse.ArgumentTypeError(f"{name!r} has no grid: give some of {', '.join(METHODS)}")
    return names


def given_argument(text: str) -> Given:
    """
    Read an argument of a method.

    :param text: what the user typed
    """
    from sb3_nigt.experiments import given

    return given.given_argument(text)


def tuned_file(text: str) -> list[Tuned]:
    """
    Read the result of tuning.

    :param text: its file
    """
    from sb3_nigt.experiments import tuned

    return tuned.tuned_file(text)


def comparison(text: str) -> tuple[str, Curves]:
    """
    Read the output of a comparison.

    :param text: its directory
    """
    from sb3_nigt.experiments import results

    return results.comparison(text)


def recording(text: str) -> Recording:
    """
    Read a recorded run.

    :param text: its file
    """
    from sb3_nigt.recording import Recording

    try:
        run = Recording.load(text)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error.strerror}. Give a file written by RunRecorder") from None
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if not run.rounds:
        raise argparse.ArgumentTypeError(f"{text} has no complete round: give the file of a longer run")
    return run
