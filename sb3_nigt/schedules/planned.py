"""The unbiased rule: which trajectories count is decided before they start."""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection

from sb3_nigt.schedules.base import FloatArray, Schedule, Start
from sb3_nigt.schedules.tickets import RoundTickets, Ticket

SLACK = 1e-9  # relative; sums of equal durations in another order must still compare as equal


class Planned(Schedule):
    """
    A round consists of a fixed number of tickets, each given to a worker before its trajectory starts; all of them count.

    An idle worker takes the next ticket of its pool if it is predicted to finish it before the others could finish the
    round without it. So the round does not wait for a slow worker near its end, and no trajectory is dropped because of its
    content or its length: the accepted ones are independent samples. Wrong predictions cost time only.
    """

    cancels = False

    def reset(self) -> None:
        """See ``Schedule.reset``."""
        self._running: dict[int, Ticket] = {}  # by worker

    def _open(self, now: float, durations: FloatArray, busy: Collection[int]) -> list[Start]:
        self._running.clear()
        self._tickets = RoundTickets(self.round, self.aggregator.tickets(durations))
        pools = range(len(self._tickets.pools))
        return [start for pool in pools for start in self._offer(self._tickets, pool, now, durations)]

    @property
    def complete(self) -> bool:
        """Whether all tickets are in; the aggregator's rule served to fix their number."""
        return not self._tickets.any_left and all(ticket.round != self.round for ticket in self._running.values())

    def accepted(self, worker: int, now: float, durations: FloatArray) -> list[Start]:
        """See ``Schedule.accepted``."""
        del self._running[worker]
        self.counts[worker] += 1
        return self._next(worker, now, durations)

    def rejected(self, worker: int, now: float, durations: FloatArray) -> list[Start]:
        """Issue another ticket instead of the one that failed, with fresh random numbers."""
        ticket = self._running.pop(worker)
        self._tickets_of(ticket).replace(ticket)
        return self._next(worker, now, durations)

    def returned(self, worker: int, now: float, durations: FloatArray) -> list[Start]:
        """See ``Schedule.returned``; so no trajectory is less likely to count because it is long."""
        ticket = self._running.pop(worker)
        self._tickets_of(ticket).give_back(ticket)
        return self._next(worker, now, durations)

    def _tickets_of(self, ticket: Ticket) -> RoundTickets:
        """Return the round that a ticket is from."""
        return self._tickets

    def _next(self, worker: int, now: float, durations: FloatArray) -> list[Start]:
        return self._offer(self._tickets, self._tickets.pool_of[worker], now, durations)

    def _offer(self, tickets: RoundTickets, pool: int, now: float, durations: FloatArray) -> list[Start]:
        """Offer the tickets of one pool to its idle workers, the quickest first."""
        starts: list[Start] = []
        if tickets.left(pool) == 0:
            return starts
        workers = tickets.pools[pool].workers
        quickest = float(durations[list(workers)].min())
        idle = sorted((float(durations[w]), w) for w in workers if w not in self._running)
        for duration, worker in idle:
            if tickets.left(pool) == 0:
                break
            # each of the others does so many at least, so this needs no closer look
            rounds_of_others = -(-self._n_to_do(tickets, pool) // max(1, len(workers) - 1))
            if duration > quickest * rounds_of_others and not self._in_time(worker, tickets, pool, now, durations):
                break  # slower workers are refused as well: the others could use this worker too
            ticket = self._running[worker] = tickets.take(pool, now)
            starts.append(Start(worker, tickets.key(ticket)))
        return starts

    def _in_time(self, worker: int, tickets: RoundTickets, pool: int, now: float, durations: FloatArray) -> bool:
        """Whether an idle worker is predicted to finish a trajectory before the others could do without it."""
        without = self._finish_without(worker, tickets, pool, now, durations)
        return now + float(durations[worker]) <= without + SLACK * abs(without)

    def _n_to_do(self, tickets: RoundTickets, pool: int) -> int:
        """Trajectories that the workers of a pool have to begin until all its tickets are given out."""
        return tickets.left(pool)

    def _finish_without(self, worker: int, tickets: RoundTickets, pool: int, now: float, durations: FloatArray) -> float:
        """
        Predict when a pool is done if ``worker`` takes no more of its tickets.

        The later of the predicted ends of what is in flight for this round and the rounds before, and the earliest time
        at which the others could have finished all tickets that are left after that.
        """
        latest = 0.0
        finishes: list[tuple[float, float]] = []  # next possible finish of each other worker, and its duration
        for other in tickets.pools[pool].workers:
            if other == worker:
                continue
            duration, running, free_at = float(durations[other]), self._running.get(other), now
            if running is not None:
                free_at = predicted_end(running, duration, now)
                if running.round <= tickets.round:
                    latest = max(latest, free_at)
            finishes.append((free_at + duration, duration))
        if not finishes:
            return math.inf
        heapq.heapify(finishes)
        for _ in range(self._n_to_do(tickets, pool) - 1):
            finish, duration = finishes[0]
            heapq.heapreplace(finishes, (finish + duration, duration))
        return max(latest, finishes[0][0])


def predicted_end(ticket: Ticket, duration: float, now: float) -> float:
    """
    Predict when a trajectory in flight ends.

    One that is overdue counts as "as late again", so that a hung worker does not keep tickets to itself.

    :param ticket: the ticket that is being run
    :param duration: predicted seconds from its start to its end
    :param now: seconds on the workers' clock
    """
    end = ticket.started_at + duration
    return end if end >= now else now + (now - end)
