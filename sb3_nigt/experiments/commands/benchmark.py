"""Measure speed, memory, stragglers, start-up and communication."""

from __future__ import annotations

import argparse

from sb3_nigt.experiments.arguments import environment, positive_integer, positive_number
from sb3_nigt.schedules import SCHEDULES

PARTS = ("simulated", "startup", "memory", "steps", "stragglers", "allreduce", "store", "overhead", "scaling", "processes")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    Describe the command line.

    :param parser: parser of the subcommand
    """
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure; default: everything")
    parser.add_argument(
        "--env",
        metavar="ID",
        type=environment,
        nargs="+",
        default=["Humanoid-v5", "Hopper-v5"],
        help="ids of environments; default: Humanoid-v5 Hopper-v5",
    )
    parser.add_argument(
        "--schedule",
        choices=list(SCHEDULES),
        default="pipelined",
        help="of RennalaNIGT on processes; default: %(default)s",
    )
    parser.add_argument(
        "--start",
        metavar="ID:N",
        nargs="+",
        type=_start,
        default=[("CartPole-v1", 100), ("Humanoid-v5", 10)],
        help="environments and numbers of processes to start; default: CartPole-v1:100 Humanoid-v5:10",
    )
    parser.add_argument(
        "--memory",
        metavar="ID:N",
        nargs="+",
        type=_start,
        default=[("Humanoid-v5", 100)],
        help="environments and numbers of processes whose memory is measured; default: Humanoid-v5:100",
    )
    parser.add_argument(
        "--seconds",
        metavar="S",
        type=positive_number,
        default=5.0,
        help="of each measurement on processes; default: %(default)s",
    )
    for name, default, text in (
        ("--n-workers", 10, "number of workers"),
        ("--timesteps", 20_000, "of each simulated measurement"),
        ("--rounds", 20, "with and without a straggler, and of free steps"),
        ("--repeats", 5, "repetitions, of which the median is shown"),
    ):
        parser.add_argument(name, metavar="N", type=positive_integer, default=default, help=f"{text}; default: {default}")
    for name, defaults, text in (
        ("--n-trajectories", [20, 50], "M of the rounds on processes"),
        ("--ranks", [2, 4], "of the all-reduce"),
        ("--n-parameters", [1_000, 30_000, 1_000_000], "of the all-reduce"),
        ("--store-ranks", [64, 256, 512], "simulated, on one store"),
        ("--overhead", [2, 10], "workers whose overhead is measured"),
        ("--widths", [64, 512], "of their policy's layers"),
        ("--sizes", [1, 2, 4], "workers or ranks that train together"),
    ):
        shown = f"{text}; default: {' '.join(map(str, defaults))}"
        parser.add_argument(name, metavar="N", nargs="+", type=positive_integer, default=defaults, help=shown)


def _start(text: str) -> tuple[str, int]:
    env_id, _, number = text.rpartition(":")  # an id may have a colon too, behind its module
    if not env_id:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not allowed: give an environment and a number of processes, for example CartPole-v1:100"
        )
    return environment(env_id), positive_integer(number)


def run(args: argparse.Namespace) -> None:
    """
    Measure and print one table, row by row.

    :param args: parsed command line
    """
    from sb3_nigt.experiments.benchmark import command

    command.run(args)
