"""One rank's part of a round: its own workers, until the counts of all ranks say that the round is over."""

from __future__ import annotations

import time

from sb3_nigt.algorithms.book import Accepted, BetweenRounds, stop_if_hopeless
from sb3_nigt.algorithms.round import RESET_IN_A_ROUND, Show
from sb3_nigt.distributed.ledger import ARRIVED, REJECTED, STARTED, Entry, Ledger
from sb3_nigt.distributed.losses import Losses
from sb3_nigt.distributed.rules import SharedRule
from sb3_nigt.distributed.workers import RankWorkers
from sb3_nigt.messages import Arrival, Discarded, Job, SamplingPoint
from sb3_nigt.sampling.trajectory import Trajectory

IDLE_LOOK_SECONDS = 0.005  # how often it is asked whether there is something to do for idle workers


class RankRound:
    """
    What this rank does in one round.

    :param workers: of this rank
    :param rule: who starts what, what counts
    :param ledger: what has happened on all ranks
    :param losses: workers that all ranks have lost
    :param point: θ̃ with its number
    :param show: shows the steps of a trajectory to callbacks; False means stop
    :param memory: what the rounds before have left, updated here
    :ivar accepted: arrivals that count, with their trajectories; known when the round is over
    :ivar discarded: all other trajectories, finished or not
    :ivar goes_on: no callback of this rank has said stop
    """

    def __init__(
        self,
        workers: RankWorkers,
        rule: SharedRule,
        ledger: Ledger,
        losses: Losses,
        point: SamplingPoint,
        show: Show,
        memory: BetweenRounds,
    ) -> None:
        self._workers, self._rule, self._ledger, self._losses, self._point = workers, rule, ledger, losses, point
        self._show, self._memory = show, memory
        self._began_at, self._n_resets = workers.clock.now(), workers.n_resets
        self._next_look = 0.0
        self._arrived: list[tuple[Entry, Arrival, Trajectory]] = []
        self.accepted: Accepted = []
        self.discarded: list[Discarded] = []
        self.goes_on = True

    def run(self) -> None:
        """
        Let the workers run until the round is over on all ranks.

        A trajectory in flight at that moment ends with its current environment step; nobody waits for more.

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
        for job, started_at, trajectory in workers.cancel():
            self.discarded.append(Discarded(job.worker, trajectory.n_steps, started_at, workers.clock.now()))
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
        is_episode = trajectory.terminated or trajectory.truncated
        entry = Entry(kind, arrival.worker, arrival.key, arrival.n_steps, is_episode, arrival.episode_return, *times)
        self._ledger.enter(entry)
        self._arrived.append((entry, arrival, trajectory))
        if kind == REJECTED:
            stop_if_hopeless(arrival, self._memory.failures)
        else:
            self._memory.failures[arrival.worker] = 0

    def _sort_out(self) -> None:
        """Separate what counts from what came too late or was somebody else's ticket."""
        admitted = set(self._ledger.admitted)
        for entry, arrival, trajectory in self._arrived:
            if entry in admitted:
                self.accepted.append((arrival, trajectory))
            elif entry.kind == ARRIVED:
                self.discarded.append(Discarded(arrival.worker, arrival.n_steps, arrival.started_at, arrival.finished_at))
