"""The ``benchmark`` command: every measurement in one table."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from itertools import chain

from sb3_nigt.experiments.arguments import environment, positive_integer, positive_number
from sb3_nigt.experiments.benchmark import allreduce, overhead, processes, scaling, simulated, startup, store, stragglers
from sb3_nigt.experiments.benchmark.table import HEADER, Row
from sb3_nigt.schedules import SCHEDULES

_all = chain.from_iterable
PARTS: dict[str, Callable[[argparse.Namespace], Iterable[Row]]] = {
    "simulated": lambda args: _all(simulated.measure(env, args.n_workers, args.timesteps, args.repeats) for env in args.env),
    "startup": lambda args: _all(startup.measure(env, n_workers) for env, n_workers in args.start),
    "stragglers": lambda args: stragglers.measure(args.n_workers, args.rounds),
    "allreduce": lambda args: allreduce.measure(args.ranks, args.n_parameters, args.repeats),
    "store": lambda args: store.measure(args.store_ranks, args.repeats),
    "overhead": lambda args: overhead.measure(args.overhead, args.ranks, args.widths, args.rounds, args.repeats),
    "scaling": lambda args: _all(scaling.measure(env, args.sizes, args.seconds, args.repeats) for env in args.env),
    "processes": lambda args: _all(
        processes.measure(env, args.n_workers, args.n_trajectories, args.schedule, args.seconds, args.repeats)
        for env in args.env
    ),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    Describe the command line.

    :param parser: of the subcommand
    """
    parser.add_argument(
        "--parts", nargs="+", choices=list(PARTS), default=list(PARTS), help="what to measure; everything by default"
    )
    parser.add_argument("--env", type=environment, nargs="+", default=["Humanoid-v5", "Hopper-v5"])
    parser.add_argument("--n-workers", type=positive_integer, default=10)
    parser.add_argument(
        "--n-trajectories", nargs="+", type=positive_integer, default=[20, 50], help="M of the rounds on processes"
    )
    parser.add_argument("--schedule", choices=list(SCHEDULES), default="pipelined", help="of RennalaNIGT on processes")
    parser.add_argument("--timesteps", type=positive_integer, default=20_000, help="of each simulated measurement")
    parser.add_argument("--seconds", type=positive_number, default=5.0, help="of each measurement on processes")
    parser.add_argument("--rounds", type=positive_integer, default=20, help="with and without a straggler, and of free steps")
    parser.add_argument(
        "--start", nargs="+", type=_start, default=[("CartPole-v1", 100), ("Humanoid-v5", 10)], help="environment:processes"
    )
    parser.add_argument("--ranks", nargs="+", type=positive_integer, default=[2, 4], help="of the all-reduce")
    parser.add_argument(
        "--n-parameters", nargs="+", type=positive_integer, default=[1_000, 30_000, 1_000_000], help="of the all-reduce"
    )
    parser.add_argument(
        "--store-ranks", metavar="N", nargs="+", type=positive_integer, default=[64, 256, 512], help="simulated, on one store"
    )
    parser.add_argument(
        "--overhead", metavar="N", nargs="+", type=positive_integer, default=[2, 10], help="workers whose overhead is measured"
    )
    parser.add_argument("--widths", nargs="+", type=positive_integer, default=[64, 512], help="of their policy's layers")
    parser.add_argument(
        "--sizes",
        metavar="N",
        nargs="+",
        type=positive_integer,
        default=[1, 2, 4],
        help="workers or ranks that train together",
    )
    parser.add_argument("--repeats", type=positive_integer, default=5)


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
    print(HEADER)
    for row in _all(PARTS[part](args) for part in PARTS if part in args.parts):
        print(row, flush=True)
    print(f"Medians of {args.repeats} repetitions, each beside its reference; [min, max] of the ratios.")
