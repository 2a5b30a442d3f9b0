"""One rank's part of a round: its own workers, until the counts of all ranks say that the round is over."""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt

from sb3_nigt.aggregators import Aggregator
from sb3_nigt.algorithms.book import Accepted, stop_if_hopeless
from sb3_nigt.algorithms.group import RoundPlan
from sb3_nigt.algorithms.round import RESET_IN_A_ROUND
from sb3_nigt.distributed.arrivals import Arrivals, listed_arrivals
from sb3_nigt.distributed.exchange import Told
from sb3_nigt.distributed.ledger import ARRIVED, REJECTED, STARTED, Entry, Ledger
from sb3_nigt.distributed.losses import Losses
from sb3_nigt.distributed.ranks import Ranks
from sb3_nigt.distributed.rules import RULES
from sb3_nigt.distributed.workers import RankWorkers
from sb3_nigt.messages import Arrival, Discarded, Job, Segment
from sb3_nigt.sampling.trajectory import Trajectory

IDLE_LOOK_SECONDS = 0.005  # how often it is asked whether there is something to do for idle workers


class RankRound:
    """
    What this rank does in one round of trajectories.

    :param workers: of this rank
    :param aggregator: the rule of the round, over the workers of all ranks
    :param seconds_per_step: of all workers as exchanged before the round; NaN: not known yet, infinite: lost
    :param losses: workers that all ranks have lost
    :param plan: of the round; what the rounds before have left is updated here
    :ivar accepted: arrivals that count, with their trajectories; known when the round is over
    :ivar discarded: all other trajectories, finished or not
    :ivar goes_on: no callback of this rank has said stop
    """

    segments: tuple[Segment, ...] = ()
    n_arrivals = 0  # to be told; the list on the store has them

    def __init__(
        self,
        workers: RankWorkers,
        aggregator: Aggregator,
        seconds_per_step: npt.NDArray[np.float64],
        losses: Losses,
        plan: RoundPlan,
    ) -> None:
        self._workers, self._losses, self._point, self._show = workers, losses, plan.point, plan.show
        self._memory = plan.memory
        self._rule = RULES[type(plan.schedule)](aggregator, plan.point.round, seconds_per_step, workers.clock)
        lengths = plan.memory.lengths
        self._ledger = Ledger(
            workers.ranks.line, workers.prefix, plan.point.round, self._rule, lambda entry: lengths.add(entry.n_steps)
        )
        self._began_at, self._n_resets = workers.clock.now(), workers.n_resets
        self._next_look = 0.0
        self._arrived: list[tuple[Entry, Arrival, Trajectory]] = []
        self.accepted: Accepted = []
        self.discarded: list[Discarded] = []
        self.goes_on = True

    @property
    def own_counts(self) -> list[int]:
        """Trajectories that count of each worker of this rank."""
        own = [arrival.worker for arrival, _ in self.accepted]
        return [own.count(worker) for worker in self._workers.own]

    @property
    def expected(self) -> npt.NDArray[np.int64]:
        """Trajectories that count of the workers of all ranks, as the list on the store says."""
        return self._rule.counts

    @property
    def keys(self) -> list[str]:
        """Names of the keys of the store that the round has used."""
        return [*self._ledger.keys, *self._rule.keys]

    def arrivals(self, ranks: Ranks, told: Told, started_at: float) -> Arrivals:
        """
        Return the trajectories of all ranks.

        :param ranks: not asked, the list on the store has them
        :param told: not needed either
        :param started_at: when the round began here
        """
        return listed_arrivals(self._ledger.admitted, self._ledger.rejected, self._workers.task_ids, started_at)

    def run(self) -> None:
        """
        Let the workers run until the round is over on all ranks.

        A trajectory in flight at that moment ends with its current environment step; nothing more is waited for.

        :raises RankError: if another rank cannot go on, or the round needs a worker that is lost
        :raises WorkerError: if one worker delivers non-finite numbers several times in a row
        """
        workers, ledger = self._workers, self._ledger
        workers.interrupt = self._is_interrupted
        while self.goes_on and not ledger.is_over():
            self._losses.check(self._rule.aggregator)
            self._start_idle()
            result = workers.next_arrival()
            if workers.n_resets != self._n_resets:
                raise RuntimeError(RESET_IN_A_ROUND)
            if result is not None:
                self._take(*result)
            elif self._rule.gives_tickets:
                ledger.look()  # which ones are in meanwhile
        if not self.goes_on:
            ledger.end()
        workers.ranks.line.raise_failure()
        for job, started_at, stopped_at, trajectory in workers.cancel():
            self.discarded.append(Discarded(job.worker, trajectory.n_steps, started_at, stopped_at))
            self.goes_on = self._show(trajectory) and self.goes_on
        ledger.read()
        self._sort_out()

    def _is_interrupted(self) -> bool:
        """Asked after every environment step: whether there is anything more urgent than the next one."""
        if self._ledger.is_over() or self._losses.has_news:
            return True
        return time.monotonic() >= self._next_look and bool(self._workers.idle())

    def _start_idle(self) -> None:
        """Start what the rule has for idle workers."""
        workers, rule, ledger = self._workers, self._rule, self._ledger
        for worker in workers.idle():
            if ledger.is_over():
                return  # the resets may take long
            duration = float(workers.predicted_durations(self._memory.lengths.mean)[worker])
            key = rule.next(worker, workers.ranks.line, ledger.prefix, duration, workers.waited(worker))
            if key is None:
                continue
            if rule.gives_tickets:
                ledger.enter(Entry(STARTED, worker, key))
            workers.submit(Job(worker, key, self._point))
        self._next_look = time.monotonic() + IDLE_LOOK_SECONDS

    def _take(self, arrival: Arrival, trajectory: Trajectory) -> None:
        """Enter an arrival into the ledger."""
        self.goes_on = self._show(trajectory)
        times = (arrival.started_at - self._began_at, arrival.finished_at - self._began_at)
        kind = ARRIVED if arrival.rejected is None else REJECTED
        report = trajectory.report or {"l": 0, "r": 0.0}
        returns = (arrival.episode_return, report["r"])
        entry = Entry(kind, arrival.worker, arrival.key, arrival.n_steps, int(report["l"]), *returns, *times)
        self._ledger.enter(entry)
        self._arrived.append((entry, arrival, trajectory))
        if kind == REJECTED:
            stop_if_hopeless(arrival, self._memory.failures)
        else:
            self._memory.failures[arrival.worker] = 0

    def _sort_out(self) -> None:
        """Separate what counts from what came too late or was another worker's ticket."""
        admitted = set(self._ledger.admitted)
        for entry, arrival, trajectory in self._arrived:
            if entry in admitted:
                self.accepted.append((arrival, trajectory))
            elif entry.kind == ARRIVED:
                self.discarded.append(Discarded(arrival.worker, arrival.n_steps, arrival.started_at, arrival.finished_at))
