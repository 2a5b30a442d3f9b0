"""The contract of an aggregator."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class TicketPool:
    """
    Trajectories of a planned round that may run on any of a set of exchangeable workers.

    :param workers: the workers, ascending
    :param n_tickets: how many trajectories
    """

    workers: tuple[int, ...]
    n_tickets: int


class Aggregator(ABC):
    """
    Two pure functions of the counts c_i, the accepted trajectories of each worker in this round.

    The aggregated gradient is g = Σ_i w_i S_i with S_i the sum of worker i's trajectory gradients. There is no clock and
    no I/O here, so the same object serves a simulator, a server and an all-reduce.
    """

    @abstractmethod
    def is_complete(self, counts: IntArray) -> bool:
        """
        Return whether the round is complete.

        :param counts: accepted trajectories a worker, shape (n,)
        """

    @abstractmethod
    def weights(self, counts: IntArray) -> FloatArray:
        """
        Weight of each worker's local sum.

        :param counts: accepted trajectories a worker of a complete round, shape (n,)
        :return: shape (n,)
        """

    def can_do_without(self, lost: Collection[int], n_workers: int) -> bool:
        """
        Return whether the remaining workers can complete a round.

        :param lost: workers that will never deliver anything again
        :param n_workers: n, the lost ones included
        """
        return not lost

    def tickets(self, durations: FloatArray) -> list[TicketPool]:
        """
        Fix the trajectories of a planned round before it starts.

        By default every worker gets the number that it would deliver if all durations were as predicted. Override it if
        workers are exchangeable, so that a fast worker can take over from a slow one.

        :param durations: predicted seconds per trajectory, shape (n,)
        """
        counts = predicted_counts(self, durations)
        return [TicketPool((worker,), int(count)) for worker, count in enumerate(counts) if count > 0]


def predicted_counts(aggregator: Aggregator, durations: FloatArray) -> IntArray:
    """
    Counts of the first complete round when worker i delivers at τ_i, 2τ_i, 3τ_i, ….

    Of arrivals at the same time the one that started earlier counts first, then the lower index, as on the simulated clock.

    :param aggregator: the rule that says when the round is complete
    :param durations: τ_i, positive seconds per trajectory, shape (n,); infinite where unknown
    :return: shape (n,)
    """
    unknown = np.isinf(durations)
    if unknown.any() and not aggregator.can_do_without(np.flatnonzero(unknown).tolist(), len(durations)):
        # the round will have to wait for some of them, and is planned as if they were as slow as the slowest of the others
        durations = np.where(unknown, durations[~unknown].max(initial=0.0) or 1.0, durations)

    def counts_at(time: float) -> IntArray:
        return np.floor(time / durations * (1 + 1e-12)).astype(np.int64)

    late = float(durations.min())
    while not aggregator.is_complete(counts_at(late)):
        late *= 2
    early = 0.0
    while late - early > 1e-9 * late:  # bisection, then the few arrivals in between one by one
        middle = 0.5 * (early + late)
        early, late = (early, middle) if aggregator.is_complete(counts_at(middle)) else (middle, late)
    counts = counts_at(early)
    ahead = counts_at(late) - counts
    arrivals = [(late - durations[i], i) for i in range(len(durations)) for _ in range(int(ahead[i]))]
    for _, worker in sorted(arrivals):
        counts[worker] += 1
        if aggregator.is_complete(counts):
            break
    return counts
