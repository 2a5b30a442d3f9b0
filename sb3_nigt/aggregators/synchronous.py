"""Synchronous: the same number from every worker, the slowest sets the pace."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sb3_nigt.aggregators.base import Aggregator, FloatArray, IntArray, TicketPool


@dataclass(frozen=True)
class Synchronous(Aggregator):
    """
    Complete when every worker has ⌈M/n⌉ trajectories; w_i = 1 / Σ_j c_j.

    :param n_trajectories: M
    """

    n_trajectories: int

    def quota(self, n_workers: int) -> int:
        """
        Trajectories that each worker owes, ⌈M/n⌉.

        :param n_workers: n
        """
        return -(-self.n_trajectories // n_workers)

    def is_complete(self, counts: IntArray) -> bool:
        """See ``Aggregator.is_complete``."""
        return int(counts.min()) >= self.quota(len(counts))

    def weights(self, counts: IntArray) -> FloatArray:
        """See ``Aggregator.weights``."""
        return np.where(counts > 0, 1.0 / counts.sum(), 0.0)

    def tickets(self, durations: FloatArray) -> list[TicketPool]:
        """A barrier: no worker takes over from another one."""
        return [TicketPool((worker,), self.quota(len(durations))) for worker in range(len(durations))]
