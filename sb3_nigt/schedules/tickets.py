"""The tickets of one planned round: which are out, which are left, and whose random numbers they carry."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

from sb3_nigt.aggregators import TicketPool
from sb3_nigt.messages import TrajectoryKey


@dataclass(frozen=True, slots=True)
class Ticket:
    """
    The right to one trajectory that counts.

    :param round: the round that counts it
    :param pool: index of its pool
    :param number: number of the ticket in its pool
    :param started_at: seconds on the workers' clock
    """

    round: int
    pool: int
    number: int
    started_at: float


class RoundTickets:
    """
    All tickets of a round.

    :param round_: its number
    :param pools: the pools of workers, with their numbers of tickets
    """

    def __init__(self, round_: int, pools: list[TicketPool]) -> None:
        self.round, self.pools = round_, pools
        self.pool_of = {worker: index for index, pool in enumerate(pools) for worker in pool.workers}
        self._free = [list(range(pool.n_tickets)) for pool in pools]  # heaps of numbers
        self._issued = [pool.n_tickets for pool in pools]

    def left(self, pool: int) -> int:
        """
        Count the tickets that no worker has.

        :param pool: index of the pool
        """
        return len(self._free[pool])

    @property
    def any_left(self) -> bool:
        """Whether some ticket is not given out yet."""
        return any(self._free)

    def take(self, pool: int, now: float) -> Ticket:
        """
        Give out the lowest number.

        :param pool: index of the pool
        :param now: seconds on the workers' clock
        """
        return Ticket(self.round, pool, heapq.heappop(self._free[pool]), now)

    def give_back(self, ticket: Ticket) -> None:
        """
        Let another worker run a ticket whose run was stopped, with the same random numbers.

        :param ticket: of this round
        """
        heapq.heappush(self._free[ticket.pool], ticket.number)

    def replace(self, ticket: Ticket) -> None:
        """
        Issue another ticket instead of one that failed, with fresh random numbers.

        :param ticket: of this round
        """
        heapq.heappush(self._free[ticket.pool], self._issued[ticket.pool])
        self._issued[ticket.pool] += 1

    def key(self, ticket: Ticket) -> TrajectoryKey:
        """
        Ticket k has the random numbers of the k-th trajectory in a round-robin over the pool, whichever worker runs it.

        :param ticket: of this round
        """
        workers = self.pools[ticket.pool].workers
        number, position = divmod(ticket.number, len(workers))
        return TrajectoryKey(self.round, workers[position], number)
