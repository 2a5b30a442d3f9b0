"""The book of one round: what was accepted, what came early, what was rejected, what was dropped."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from sb3_nigt.aggregators import Aggregator
from sb3_nigt.algorithms.statistics import RoundStatistics
from sb3_nigt.errors import NonFiniteError, WorkerError
from sb3_nigt.messages import RETURNED, Arrival, Discarded, Message, RoundReport, SamplingPoint, Segment
from sb3_nigt.sampling.actions import diverged
from sb3_nigt.sampling.segments import MAX_BAD_EPISODES
from sb3_nigt.sampling.trajectory import Trajectory
from sb3_nigt.vec_env.base import Cancelled, RoundWorkers

LENGTH_SMOOTHING = 0.1  # weight of a new trajectory in the running mean of lengths
# Non-finite trajectories of one worker, or non-finite gradients, before a run stops; the sampler has stopped stepping then.
MAX_REJECTED_IN_A_ROW = MAX_BAD_EPISODES

Accepted = list[tuple[Arrival, Trajectory]]


@dataclass
class LengthEstimate:
    """
    Running mean of the lengths of all workers' trajectories; durations are predicted with it.

    It is one for all workers, so an outlier changes their durations alike, and no worker is left out for it.

    :param mean: steps; before the first trajectory any guess, since only ratios of durations matter then
    :param seen: whether the mean is one of real trajectories
    """

    mean: float
    seen: bool = False

    def add(self, n_steps: int) -> None:
        """
        Take in one trajectory.

        :param n_steps: its length
        """
        self.mean = (1 - LENGTH_SMOOTHING) * self.mean + LENGTH_SMOOTHING * n_steps if self.seen else float(n_steps)
        self.seen = True


@dataclass
class BetweenRounds:
    """
    What one round leaves to the next.

    :param lengths: running mean of lengths
    :param failures: rejected trajectories in a row of each worker
    :param early: trajectories of the next round that have arrived already
    :param announced: the rule of the next round, as the schedule knows it
    """

    lengths: LengthEstimate
    failures: Counter[int] = field(default_factory=Counter)
    early: Accepted = field(default_factory=list)
    announced: Aggregator | None = None


@dataclass(frozen=True)
class RoundResult:
    """
    A round that is over.

    :param report: what happened
    :param accepted: what counts, in order of arrival; of several ranks each has its own part
    :param statistics: of the whole round, where this process has only a part of it
    """

    report: RoundReport
    accepted: Accepted
    statistics: RoundStatistics | None = None

    def in_worker_order(self) -> Accepted:
        """Return what counts in an order that does not depend on which came first."""
        return sorted(self.accepted, key=lambda pair: (pair[0].worker, pair[0].key))


class Book:
    """
    Keeps the trajectories of one round apart, and counts their steps.

    :param workers: the workers that run the round, which begins now
    :param point: θ̃ with its number
    :param memory: what the rounds before have left, updated here
    """

    def __init__(self, workers: RoundWorkers, point: SamplingPoint, memory: BetweenRounds) -> None:
        self._workers, self._point, self._memory = workers, point, memory
        self._started_at, self._steps_before = workers.clock.now(), workers.steps_executed
        self._accepted = [self._now_due(*pair) for pair in memory.early]
        memory.early = []
        self._steps_before_round = sum(arrival.n_steps for arrival, _ in self._accepted)
        self._rejected: list[Arrival] = []
        self._discarded: list[Discarded] = []
        self._messages: tuple[Message, ...] = ()

    def accept(self, arrival: Arrival, trajectory: Trajectory) -> None:
        """
        Enter a trajectory that counts, for this round or for the next one.

        :param arrival: its key names the round that counts it
        :param trajectory: its steps
        """
        if arrival.key.round > self._point.round:
            self._memory.early.append((arrival, trajectory))
        else:
            self._accepted.append(self._now_due(arrival, trajectory))
        self._memory.lengths.add(arrival.n_steps)
        if trajectory.age == 0:  # else it may be what is left of an episode with a fault, in environments stepped together
            self._memory.failures[arrival.worker] = 0

    def reject(self, arrival: Arrival) -> None:
        """
        Enter a trajectory that must not enter any sum; one that another worker can still run is not noted.

        :param arrival: says why
        :raises WorkerError: if its worker has delivered nothing else for a while
        """
        if arrival.rejected != RETURNED:
            self._rejected.append(arrival)
            stop_if_hopeless(arrival, self._memory.failures)

    def discard(self, cancelled: Iterable[Cancelled]) -> None:
        """
        Enter what was in flight when the round was complete.

        :param cancelled: by the workers
        """
        self._discarded += [
            Discarded(one.job.worker, one.trajectory.n_steps, one.started_at, one.stopped_at) for one in cancelled
        ]

    def aggregate(self, workers: Sequence[int]) -> None:
        """
        Let the aggregation of the round take its time, and enter its messages.

        :param workers: those that take part
        """
        self._messages = self._workers.aggregation_messages(workers)
        self._workers.aggregate_messages(workers)

    def close(
        self, counts: npt.NDArray[np.int64], weights: npt.NDArray[np.float64], segments: tuple[Segment, ...] = ()
    ) -> RoundResult:
        """
        End the round.

        :param counts: accepted trajectories a worker, or steps
        :param weights: w_i, one per worker
        :param segments: of a round of steps
        """
        used_steps = sum(arrival.n_steps for arrival, _ in self._accepted)
        for_next = sum(arrival.n_steps for arrival, _ in self._memory.early)
        wanted = used_steps - self._steps_before_round + for_next
        report = RoundReport(
            round=self._point.round,
            counts=counts.copy(),
            weights=weights,
            arrivals=tuple(arrival for arrival, _ in self._accepted),
            discarded=tuple(self._discarded),
            rejected=tuple(self._rejected),
            used_steps=used_steps,
            discarded_steps=self._workers.steps_executed - self._steps_before - wanted,
            started_at=self._started_at,
            finished_at=self._workers.clock.now(),
            segments=segments,
            messages=self._messages,
        )
        return RoundResult(report, self._accepted)

    def _now_due(self, arrival: Arrival, trajectory: Trajectory) -> tuple[Arrival, Trajectory]:
        staleness = self._point.round - trajectory.point.round
        return dataclasses.replace(arrival, staleness=staleness) if staleness else arrival, trajectory


def stop_if_hopeless(rejected: Arrival, failures: Counter[int]) -> None:
    """
    Count a rejected trajectory.

    :param rejected: the trajectory
    :param failures: of each worker in a row
    :raises WorkerError: if a worker has delivered nothing else for a while
    :raises NonFiniteError: if that is the policy's fault
    """
    worker = rejected.worker
    failures[worker] += 1
    if failures[worker] >= MAX_REJECTED_IN_A_ROW:
        if rejected.rejected == "action":
            raise NonFiniteError(
                f"In {failures[worker]} trajectories in a row worker {worker} got actions that are not finite: "
                f"{diverged(rejected.key.round)}"
            )
        non_finite = rejected.rejected in ("reward", "observation")
        ended = f"a non-finite {rejected.rejected}" if non_finite else f"its failure ({rejected.rejected})"
        raise WorkerError(
            f"{failures[worker]} trajectories in a row ended with {ended}, the last one "
            f"after {rejected.n_steps} steps. Check the environment with stable_baselines3.common.env_checker.check_env.",
            worker,
            rejected.task_id,
        )
