"""The ``benchmark`` command: every measurement in one table."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from itertools import chain

from sb3_nigt.experiments.benchmark import (
    allreduce,
    memory,
    overhead,
    processes,
    scaling,
    simulated,
    startup,
    steps,
    store,
    stragglers,
)
from sb3_nigt.experiments.benchmark.table import HEADER, Row

_all = chain.from_iterable
PARTS: dict[str, Callable[[argparse.Namespace], Iterable[Row]]] = {
    "simulated": lambda args: _all(simulated.measure(env, args.n_workers, args.timesteps, args.repeats) for env in args.env),
    "startup": lambda args: _all(startup.measure(env, n_workers) for env, n_workers in args.start),
    "memory": lambda args: _all(memory.measure(env, n_workers) for env, n_workers in args.memory),
    "steps": lambda args: _all(steps.measure(env, args.n_workers, args.seconds, args.repeats) for env in args.env),
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


def run(args: argparse.Namespace) -> None:
    """
    Measure and print one table, row by row.

    :param args: parsed command line
    """
    print(HEADER)
    for row in _all(PARTS[part](args) for part in PARTS if part in args.parts):
        print(row, flush=True)
    print(f"Medians of {args.repeats} repetitions, each next to its reference; [min, max] of the ratios.")
