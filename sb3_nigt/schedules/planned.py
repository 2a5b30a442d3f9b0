"""The unbiased rule: which trajectories count is decided before they start."""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection

from sb3_nigt.aggregators import TicketPool
from sb3_nigt.messages import TrajectoryKey
from sb3_nigt.schedules.base import FloatArray, Schedule, Start

SLACK = 1e-9  # relative; sums of equal durations in another order must still compare as equal


class Planned(Schedule):
    """
    A round consists of a fixed number of tickets, each given to a worker before its trajectory starts; all of them count.

    An idle worker takes the next ticket of its pool if it is predicted to finish it before the others could finish the
    round without it. So a slow worker stays idle near the end instead of being waited for, and no trajectory is dropped
    because of its content or its length: the accepted ones are independent draws. Wrong predictions cost time only.
    """

    cancels = False

    def _open(self, now: float, durations: FloatArray, busy: Collection[int]) -> list[Start]:
        self._pools = self.aggregator.tickets(durations)
        self._pool_of = {worker: number for number, pool in enumerate(self._pools) for worker in pool.workers}
        self._unassigned = [pool.n_tickets for pool in self._pools]
        self._next_ticket = [0] * len(self._pools)
        self._started: dict[int, float] = {}  # workers with a ticket, and since when
        return [start for number in range(len(self._pools)) for start in self._offer(number, now, durations)]

    @property
    def complete(self) -> bool:
        """Whether all tickets are in; the aggregator's rule served to fix their number."""
        return not self._started and not any(self._unassigned)

    def accepted(self, worker: int, now: float, durations: FloatArray) -> list[Start]:
        """See ``Schedule.accepted``."""
        self.counts[worker] += 1
        return self._next(worker, now, durations)

    def rejected(self, worker: int, now: float, durations: FloatArray) -> list[Start]:
        """Issue another ticket in place of the one that failed, with fresh random numbers."""
        self._unassigned[self._pool_of[worker]] += 1
        return self._next(worker, now, durations)

    def _next(self, worker: int, now: float, durations: FloatArray) -> list[Start]:
        del self._started[worker]
        return self._offer(self._pool_of[worker], now, durations)

    def _offer(self, number: int, now: float, durations: FloatArray) -> list[Start]:
        """Offer the tickets of one pool to its idle workers, the quickest first."""
        pool, starts = self._pools[number], []
        idle = sorted((float(durations[w]), w) for w in pool.workers if w not in self._started)
        for duration, worker in idle:
            if self._unassigned[number] == 0:
                break
            without = self._finish_without(worker, pool, self._unassigned[number], now, durations)
            if now + duration > without + SLACK * abs(without):
                break  # whoever is slower is refused as well: the others could use this worker too
            self._started[worker] = now
            self._unassigned[number] -= 1
            starts.append(Start(worker, self._key(pool, number)))
        return starts

    def _key(self, pool: TicketPool, pool_number: int) -> TrajectoryKey:
        """Ticket k has the random numbers of the k-th trajectory in a round-robin over the pool, whoever runs it."""
        ticket = self._next_ticket[pool_number]
        self._next_ticket[pool_number] += 1
        number, position = divmod(ticket, len(pool.workers))
        return TrajectoryKey(self.round, pool.workers[position], number)

    def _finish_without(self, worker: int, pool: TicketPool, n_tickets: int, now: float, durations: FloatArray) -> float:
        """
        Predict when the pool is done if ``worker`` takes no ticket any more.

        The later of the predicted ends of what is in flight and the ``n_tickets``-th earliest of what the others could
        finish after that.
        """
        latest = 0.0
        finishes: list[tuple[float, float]] = []  # next possible finish of each other worker, and its duration
        for other in pool.workers:
            duration, started = float(durations[other]), self._started.get(other)
            if other == worker:
                continue
            free_at = now
            if started is not None:
                # somebody overdue counts as "as late again", or a hung worker would keep the tickets to itself
                free_at = started + duration if started + duration >= now else now + (now - started - duration)
                latest = max(latest, free_at)
            finishes.append((free_at + duration, duration))
        if not finishes:
            return math.inf
        heapq.heapify(finishes)
        for _ in range(n_tickets - 1):
            finish, duration = finishes[0]
            heapq.heapreplace(finishes, (finish + duration, duration))
        return max(latest, finishes[0][0])
