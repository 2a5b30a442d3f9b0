"""Who starts which trajectory of a round where the workers are spread over ranks; one class for each schedule."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter

import numpy as np
import numpy.typing as npt

from sb3_nigt.aggregators import Aggregator, Rennala, predicted_counts
from sb3_nigt.distributed.ledger import ARRIVED, REJECTED, STARTED, Entry
from sb3_nigt.distributed.line import StoreLine
from sb3_nigt.messages import TrajectoryKey
from sb3_nigt.schedules import FirstFinished, Planned, Schedule
from sb3_nigt.schedules.planned import predicted_end
from sb3_nigt.schedules.tickets import RoundTickets, Ticket
from sb3_nigt.timing.clock import Clock

FloatArray = npt.NDArray[np.float64]


class SharedRule(ABC):
    """
    A schedule whose decisions all ranks share through the store.

    :param aggregator: the rule of the round, over all workers
    :param round_: its number
    :param seconds_per_step: of all workers as exchanged before the round, the same on all ranks; NaN: not known yet,
        infinite: lost
    :param clock: of this rank
    :ivar gives_tickets: a trajectory needs one to start, and all ranks hear of it
    :ivar counts: arrivals of each worker that count
    :ivar keys: names of the store's keys that this class uses
    """

    gives_tickets = False

    def __init__(self, aggregator: Aggregator, round_: int, seconds_per_step: FloatArray, clock: Clock) -> None:
        self.aggregator, self.round, self.clock = aggregator, round_, clock
        self.seconds_per_step = seconds_per_step
        self.counts = np.zeros(len(seconds_per_step), dtype=np.int64)
        self.keys: list[str] = []

    @property
    @abstractmethod
    def complete(self) -> bool:
        """Whether the round has all it needs."""

    @abstractmethod
    def take(self, entry: Entry) -> bool:
        """
        Take in the next entry of the ledger.

        :param entry: of any rank
        :return: whether it is an arrival that counts
        """

    @abstractmethod
    def next(self, worker: int, line: StoreLine, prefix: str, duration: float, waited: float = 0.0) -> TrajectoryKey | None:
        """
        Return what an idle worker of this rank shall start now, if anything.

        :param worker: its number
        :param line: to the store
        :param prefix: of the round's keys
        :param duration: predicted seconds of a trajectory on this worker
        :param waited: seconds for which it has been idle, in rounds before this one as well
        """


class SharedFirstFinished(SharedRule):
    """
    The first to finish count, whichever workers they are: an arrival counts if the round was not complete before it.

    With Rennala(M) these are the arrivals number 1 to M; with Malenia all up to the one that completes the counts per task.
    """

    def __init__(self, aggregator: Aggregator, round_: int, seconds_per_step: FloatArray, clock: Clock) -> None:
        super().__init__(aggregator, round_, seconds_per_step, clock)
        self._jobs: Counter[int] = Counter()
        self._complete = False

    @property
    def complete(self) -> bool:
        """See ``SharedRule``."""
        return self._complete

    def take(self, entry: Entry) -> bool:
        """See ``SharedRule``."""
        if entry.kind != ARRIVED or self._complete:
            return False
        self.counts[entry.worker] += 1
        self._complete = self.aggregator.is_complete(self.counts)
        return True

    def next(self, worker: int, line: StoreLine, prefix: str, duration: float, waited: float = 0.0) -> TrajectoryKey | None:
        """See ``SharedRule``."""
        self._jobs[worker] += 1
        return TrajectoryKey(self.round, worker, self._jobs[worker] - 1)


class SharedPlanned(SharedRule):
    """
    A fixed set of tickets, all of which count, whichever worker runs them: a trajectory is a function of θ̃ and its ticket.

    So the result of a round depends on no speed. Tickets are given out by an atomic counter, to the first worker that asks. A
    worker that the round is predicted not to need leaves them to others until it has waited as long as one would take it,
    also over many rounds, so that a worker that is slow no longer can show it. When none is left, an idle worker runs one that
    another worker has as well if it is predicted to be done sooner; the first of the two counts, and they are the same
    trajectory. So no round waits for a worker that has become slow, unless it is the only one of its task.
    """

    gives_tickets = True

    def __init__(self, aggregator: Aggregator, round_: int, seconds_per_step: FloatArray, clock: Clock) -> None:
        super().__init__(aggregator, round_, seconds_per_step, clock)
        durations = filled(seconds_per_step)
        self._tickets = RoundTickets(round_, aggregator.tickets(durations))
        self.keys = [f"issued/{pool}" for pool in range(len(self._tickets.pools))]
        self._n_tickets = sum(pool.n_tickets for pool in self._tickets.pools)
        self._quota = quotas(self._tickets, durations)
        self._done: set[TrajectoryKey] = set()
        self._failed: list[list[TrajectoryKey]] = [[] for _ in self._tickets.pools]
        self._holders: dict[TrajectoryKey, int] = {}  # who has started a ticket last
        self._seen: dict[TrajectoryKey, float] = {}  # when this rank heard of that
        self._all_out: set[int] = set()  # pools whose counter has run out

    @property
    def complete(self) -> bool:
        """See ``SharedRule``."""
        return len(self._done) == self._n_tickets  # for each ticket that has failed there is one more, see _open_tickets

    def take(self, entry: Entry) -> bool:
        """See ``SharedRule``."""
        if entry.kind == STARTED:
            self._note_start(entry.key, entry.worker)
            return False
        pool = self._tickets.pool_of[entry.key.stream]
        if entry.key in self._done or entry.key in self._failed[pool]:
            return False
        if entry.kind == REJECTED:  # another ticket takes its place, see _open_tickets
            self._failed[pool].append(entry.key)
            return False
        self._done.add(entry.key)
        self.counts[entry.worker] += 1
        return True

    def _note_start(self, key: TrajectoryKey, worker: int) -> None:
        if self._holders.get(key) != worker:
            self._holders[key], self._seen[key] = worker, self.clock.now()

    def _open_tickets(self, pool: int, first: int = 0) -> list[TrajectoryKey]:
        """Tickets that are not in, from a number on; for each that has failed there is one more."""
        failed = self._failed[pool]
        numbers = range(first, self._tickets.pools[pool].n_tickets + len(failed))
        keys = (self._key(pool, number) for number in numbers)
        return [key for key in keys if key not in self._done and key not in failed]

    def _key(self, pool: int, number: int) -> TrajectoryKey:
        return self._tickets.key(Ticket(self.round, pool, number, 0.0))

    def next(self, worker: int, line: StoreLine, prefix: str, duration: float, waited: float = 0.0) -> TrajectoryKey | None:
        """See ``SharedRule``."""
        pool = self._tickets.pool_of.get(worker)
        if pool is None:
            return None
        now = self.clock.now()
        n_tickets = self._tickets.pools[pool].n_tickets
        key = next((key for key in self._open_tickets(pool, n_tickets) if key not in self._holders), None)
        if key is None and pool not in self._all_out and (self._quota[worker] > 0 or not waited < duration):
            number = line.add(f"{prefix}issued/{pool}", 1) - 1
            if number < n_tickets:
                key = self._key(pool, number)
            else:
                self._all_out.add(pool)
        if key is None and pool in self._all_out:
            key = self._to_take_over(worker, pool, now, duration)
        if key is not None:
            self._note_start(key, worker)
        return key

    def _to_take_over(self, worker: int, pool: int, now: float, duration: float) -> TrajectoryKey | None:
        """Find the ticket that another worker would finish last, if this worker is predicted to be done sooner."""
        latest, chosen = now + duration, None
        for key in self._open_tickets(pool):
            holder, seen = self._holders.get(key, worker), self._seen.setdefault(key, now)
            end = predicted_end(Ticket(self.round, pool, 0, seen), duration * self._times_slower(holder, worker), now)
            if end > latest:
                latest, chosen = end, key
        return chosen

    def _times_slower(self, one: int, other: int) -> float:
        ratio = float(self.seconds_per_step[one] / self.seconds_per_step[other])
        return ratio if np.isfinite(ratio) else 1.0


RULES: dict[type[Schedule], type[SharedRule]] = {FirstFinished: SharedFirstFinished, Planned: SharedPlanned}


def filled(seconds_per_step: FloatArray) -> FloatArray:
    """
    Guess what is not known: as quick as the median of the others.

    :param seconds_per_step: NaN where unknown
    """
    known = np.isfinite(seconds_per_step)
    guess = float(np.median(seconds_per_step[known])) if known.any() else 1.0
    return np.where(np.isnan(seconds_per_step), guess, seconds_per_step)


def quotas(tickets: RoundTickets, durations: FloatArray) -> dict[int, int]:
    """
    How many tickets each worker is predicted to run: those that would be in first.

    :param tickets: of the round
    :param durations: of a trajectory, relative to each other
    """
    planned: dict[int, int] = {}
    for pool in tickets.pools:
        workers = [worker for worker in pool.workers if np.isfinite(durations[worker])]
        if workers:
            counts = predicted_counts(Rennala(pool.n_tickets), durations[workers])
            planned.update(zip(workers, counts.tolist(), strict=True))
        planned.update({worker: 0 for worker in pool.workers if worker not in workers})
    return planned
