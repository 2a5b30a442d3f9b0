"""What many ranks ask of their store, and how soon all of them know that a round is over: ranks without environments."""

from __future__ import annotations

import multiprocessing as mp
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch.distributed as dist

from sb3_nigt.distributed.ledger import ARRIVED, Entry, Ledger
from sb3_nigt.distributed.line import StoreLine
from sb3_nigt.experiments.benchmark.table import Row, counted
from sb3_nigt.messages import TrajectoryKey

PROCESSES = 4  # that the ranks are spread over, as threads
STEP_SECONDS, STEPS = 0.05, 20  # of a trajectory; a rank looks at the store after each step
TIMEOUT = 120.0


def measure(n_ranks: Sequence[int], repeats: int) -> Iterator[Row]:
    """
    Let ranks do what they do with the store in rounds of one trajectory for each of them.

    :param n_ranks: numbers of ranks
    :param repeats: number of rounds
    """
    for size in n_ranks:
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
        parts = [list(range(size))[start::PROCESSES] for start in range(min(PROCESSES, size))]
        with ProcessPoolExecutor(len(parts), mp_context=mp.get_context("spawn")) as pool:
            of_parts = list(pool.map(partial(_train_some, size, repeats, store.port), parts))
        rounds = list(zip(*(rank for part in of_parts for rank in part), strict=True))
        name = f"store, {counted(size, 'simulated rank')}"
        yield Row(f"{name}, requests", "a second", [_rate(done) for done in rounds])
        yield Row(f"{name}, last one to know of a stop", "ms", [1000 * _delay(done) for done in rounds])


@dataclass(frozen=True)
class _Round:
    """
    A round of one rank.

    :param began: when it began, in seconds on the clock that all processes of a machine share
    :param stopped: when the rank knew that it was over
    :param n_requests: number of requests that the rank had made by then
    """

    began: float
    stopped: float
    n_requests: int


def _rate(done: Sequence[_Round]) -> float:
    seconds = max(r.stopped for r in done) - min(r.began for r in done)
    return sum(r.n_requests for r in done) / seconds


def _delay(done: Sequence[_Round]) -> float:
    stopped = [r.stopped for r in done]
    return max(stopped) - min(stopped)


class _CountingStore:
    """Counts the requests to a store."""

    def __init__(self, store: Any) -> None:
        self._store, self.n_requests = store, 0

    def __getattr__(self, name: str) -> Any:
        self.n_requests += 1
        return getattr(self._store, name)


class _Enough:
    """A rule that counts arrivals, since a machine that simulates all ranks has no time for more."""

    def __init__(self, n: int) -> None:
        self._left = n

    def take(self, entry: Entry) -> bool:
        self._left -= 1
        return self._left >= 0

    @property
    def complete(self) -> bool:
        return self._left <= 0


def _train_some(size: int, n_rounds: int, port: int, ranks: list[int]) -> list[list[_Round]]:
    with ThreadPoolExecutor(len(ranks)) as threads:
        return list(threads.map(partial(_train, size, n_rounds, port), ranks))


def _train(size: int, n_rounds: int, port: int, rank: int) -> list[_Round]:
    store = _CountingStore(dist.TCPStore("127.0.0.1", port, is_master=False, wait_for_workers=False))  # type: ignore[attr-defined]
    line: Any = StoreLine(store, rank, size, TIMEOUT)  # type: ignore[arg-type]
    first_step = int(np.random.default_rng(rank).integers(STEPS))  # so that they do not all arrive at once
    rounds = []
    for number in range(n_rounds):
        line.meet(f"{number}/meet")
        ledger = Ledger(line, f"{number}/", number, _Enough(size), lambda entry: None)
        began, n_before, n_steps = time.monotonic(), store.n_requests, first_step
        while not ledger.is_over():
            time.sleep(STEP_SECONDS)
            n_steps += 1
            if n_steps % STEPS == 0:
                ledger.enter(Entry(ARRIVED, rank, TrajectoryKey(number, rank, n_steps // STEPS)))
        rounds.append(_Round(began, time.monotonic(), store.n_requests - n_before))
    line.meet("end")
    line.close()
    return rounds
