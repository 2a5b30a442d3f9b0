"""Planned rounds without an idle tail: who has nothing to do for this round begins with the next one."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from sb3_nigt.schedules.base import FloatArray, Start
from sb3_nigt.schedules.planned import SLACK, Planned, predicted_end
from sb3_nigt.schedules.tickets import RoundTickets, Ticket


class Pipelined(Planned):
    """
    Like ``Planned``, but a worker without a ticket for this round takes one for the next round, at the current point.

    It does so if it is predicted to finish before the next round could end without it. The result counts in the next round.
    So workers are rarely idle and nothing is discarded. What counts is still decided before the content is known. A
    trajectory is at most one round stale, and its gradient is taken at the point that sampled it.
    """

    def reset(self) -> None:
        """See ``Schedule.reset``."""
        super().reset()
        self._early: RoundTickets | None = None  # of the next round; None while no worker has one
        self._counts_of_next: npt.NDArray[np.int64] = np.zeros(0, dtype=np.int64)

    def _open(self, now: float, durations: FloatArray, busy: Collection[int]) -> list[Start]:
        if self._early is None:
            self._tickets = RoundTickets(self.round, self.aggregator.tickets(durations))
        else:
            self._tickets, self._early = self._early, None
            self.counts += self._counts_of_next
        self._counts_of_next = np.zeros_like(self.counts)
        for worker in [worker for worker in self._running if worker not in busy]:  # stopped by a reset, for example
            self._tickets.give_back(self._running.pop(worker))
        pools = range(len(self._tickets.pools))
        starts = [start for pool in pools for start in self._offer(self._tickets, pool, now, durations)]
        return starts + self._offer_early(range(len(durations)), now, durations)

    def accepted(self, worker: int, now: float, durations: FloatArray) -> list[Start]:
        """See ``Schedule.accepted``."""
        ticket = self._running.pop(worker)
        counts = self.counts if ticket.round == self.round else self._counts_of_next
        counts[worker] += 1
        return self._next(worker, now, durations)

    def _tickets_of(self, ticket: Ticket) -> RoundTickets:
        tickets = self._tickets if ticket.round == self.round else self._early
        assert tickets is not None
        return tickets

    def _next(self, worker: int, now: float, durations: FloatArray) -> list[Start]:
        pool = self._tickets.pool_of.get(worker)
        starts = [] if pool is None else self._offer(self._tickets, pool, now, durations)
        return starts if self._ends_now(now, durations) else starts + self._offer_early([worker], now, durations)

    def _ends_now(self, now: float, durations: FloatArray) -> bool:
        """Whether the round is predicted to end at this very moment: then the next one begins with fresh parameters."""
        if self._tickets.any_left:
            return False
        current = ((w, ticket) for w, ticket in self._running.items() if ticket.round == self.round)
        latest = now + SLACK * abs(now)
        return all(predicted_end(ticket, float(durations[w]), now) <= latest for w, ticket in current)

    def _n_to_do(self, tickets: RoundTickets, pool: int) -> int:
        """See ``Planned``; what is left of this round is begun before the next one."""
        of_this_round = self._tickets.pool_of.get(tickets.pools[pool].workers[0])
        ahead = 0 if tickets is self._tickets or of_this_round is None else self._tickets.left(of_this_round)
        return tickets.left(pool) + ahead

    def _offer_early(self, workers: Collection[int], now: float, durations: FloatArray) -> list[Start]:
        """Offer tickets of the next round to the pools of some workers."""
        if all(worker in self._running for worker in workers):
            return []
        if self._early is None:
            self._early = RoundTickets(self.round + 1, self.following.tickets(durations))
        pools = sorted({self._early.pool_of[worker] for worker in workers if worker in self._early.pool_of})
        return [start for pool in pools for start in self._offer(self._early, pool, now, durations)]
