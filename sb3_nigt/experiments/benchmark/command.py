"""The ``benchmark`` command: every measurement in one table."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from sb3_nigt.experiments.arguments import environment, positive_integer
from sb3_nigt.experiments.benchmark import allreduce, overhead, processes, simulated, startup, stragglers
from sb3_nigt.experiments.benchmark.table import HEADER, Row
from sb3_nigt.schedules import SCHEDULES

PARTS = ("simulated", "startup", "stragglers", "allreduce", "overhead", "processes")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    Describe the command line.

    :param parser: of the subcommand
    """
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure; everything by default")
    parser.add_argument("--env", type=environment, nargs="+", default=["Humanoid-v5", "Hopper-v5"])
    parser.add_argument("--n-workers", type=positive_integer, default=10)
    parser.add_argument(
        "--n-trajectories", nargs="+", type=positive_integer, default=[20, 50], help="M of the rounds on processes"
    )
    parser.add_argument("--schedule", choices=list(SCHEDULES), default="pipelined", help="of RennalaNIGT on processes")
    parser.add_argument("--timesteps", type=positive_integer, default=20_000, help="of each simulated measurement")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement on processes")
    parser.add_argument("--rounds", type=positive_integer, default=20, help="with and without a straggler")
    parser.add_argument(
        "--start", nargs="+", type=_start, default=[("CartPole-v1", 100), ("Humanoid-v5", 10)], help="environment:processes"
    )
    parser.add_argument("--ranks", nargs="+", type=positive_integer, default=[2, 4], help="of the all-reduce")
    parser.add_argument(
        "--n-parameters", nargs="+", type=positive_integer, default=[1_000, 30_000, 1_000_000], help="of the all-reduce"
    )
    parser.add_argument(
        "--overhead", metavar="N", nargs="+", type=positive_integer, default=[2, 10], help="workers whose overhead is measured"
    )
    parser.add_argument("--widths", nargs="+", type=positive_integer, default=[64, 512], help="of their policy's layers")
    parser.add_argument("--repeats", type=positive_integer, default=5)


def _start(text: str) -> tuple[str, int]:
    env_id, _, number = text.rpartition(":")
    return environment(env_id), positive_integer(number)


def run(args: argparse.Namespace) -> None:
    """
    Measure and print one table, row by row.

    :param args: parsed command line
    """
    print(HEADER)
    for row in _measure(args):
        print(row, flush=True)
    print(f"Medians of {args.repeats} repetitions, each beside its reference; [min, max] of the ratios.")


def _measure(args: argparse.Namespace) -> Iterator[Row]:
    if "simulated" in args.parts:
        for env_id in args.env:
            yield simulated.measure(env_id, args.n_workers, args.timesteps, args.repeats)
    if "startup" in args.parts:
        for env_id, n_workers in args.start:
            yield from startup.measure(env_id, n_workers)
    if "stragglers" in args.parts:
        yield from stragglers.measure(args.n_workers, args.rounds)
    if "allreduce" in args.parts:
        yield from allreduce.measure(args.ranks, args.n_parameters, args.repeats)
    if "overhead" in args.parts:
        yield from overhead.measure(args.overhead, args.ranks, args.widths, args.repeats)
    if "processes" in args.parts:
        for env_id in args.env:
            yield from processes.measure(
                env_id, args.n_workers, args.n_trajectories, args.schedule, args.seconds, args.repeats
            )
