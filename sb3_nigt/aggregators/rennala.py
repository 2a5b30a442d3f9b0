"""Rennala: the first M trajectories, whichever workers made them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from sb3_nigt.aggregators.base import Aggregator, FloatArray, IntArray, TicketPool


@dataclass(frozen=True)
class Rennala(Aggregator):
    """
    Complete when Σ_i c_i ≥ M; w_i = 1 / Σ_j c_j (arXiv 2509.24305, AggregateRennala).

    The mean of all accepted trajectories. It is unbiased if all workers hold the same task.

    :param n_trajectories: M
    """

    n_trajectories: int

    def is_complete(self, counts: IntArray) -> bool:
        """See ``Aggregator.is_complete``."""
        return int(counts.sum()) >= self.n_trajectories

    def weights(self, counts: IntArray) -> FloatArray:
        """See ``Aggregator.weights``."""
        return np.where(counts > 0, 1.0 / counts.sum(), 0.0)

    def can_do_without(self, lost: Collection[int], n_workers: int) -> bool:
        """One worker is enough."""
        return len(lost) < n_workers

    def tickets(self, durations: FloatArray) -> list[TicketPool]:
        """All workers are exchangeable: one pool of M."""
        return [TicketPool(tuple(range(len(durations))), self.n_trajectories)]
