"""What the communication of a round costs, against the number of parameters and of ranks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch as th
import torch.distributed as dist

from sb3_nigt.distributed.ranks import Ranks
from sb3_nigt.experiments.benchmark.places import on_ranks
from sb3_nigt.experiments.benchmark.table import Row, counted

ROUNDS = 50  # of which each repetition is the median
TIMEOUT = 60.0


def measure(n_ranks: Sequence[int], n_parameters: Sequence[int], repeats: int) -> Iterator[Row]:
    """
    Let ranks on this machine meet, exchange counts and reduce vectors, without any environment.

    :param n_ranks: numbers of ranks
    :param n_parameters: lengths of the vectors
    :param repeats: repetitions
    """
    for size in n_ranks:
        measured = on_ranks(size, partial(_times, list(n_parameters), repeats))
        yield Row(f"{counted(size, 'rank')}, look at the counter", "ms", measured.pop("look"))
        yield Row(f"{counted(size, 'rank')}, exchange of counts", "ms", measured.pop("gather"))
        for name, values in measured.items():
            yield Row(f"{counted(size, 'rank')}, reduction of {int(name):,} parameters", "ms", values)


def _times(n_parameters: list[int], repeats: int) -> dict[str, list[float]]:
    assert dist.group.WORLD is not None
    ranks = Ranks(dist.group.WORLD, TIMEOUT)
    measured = {
        "look": [_median(f"look{i}", lambda key: ranks.line.add(key, 0)) for i in range(repeats)],
        "gather": [_median(f"gather{i}", lambda key: ranks.gather(key, np.zeros(20))) for i in range(repeats)],
    }
    for n in n_parameters:
        vector = th.zeros(n)
        measured[str(n)] = [
            _median(f"reduce{n}/{i}", lambda key, vector=vector: ranks.reduce(key, vector))  # type: ignore[misc]
            for i in range(repeats)
        ]
    ranks.meet("end")
    ranks.leave(TIMEOUT)
    ranks.close()
    return measured


def _median(name: str, operation: Callable[[str], object]) -> float:
    """Milliseconds, meeting the other ranks included."""
    milliseconds = []
    for number in range(ROUNDS):
        start = time.perf_counter()
        operation(f"{name}/{number}")
        milliseconds.append(1000 * (time.perf_counter() - start))
    return float(np.median(milliseconds))
