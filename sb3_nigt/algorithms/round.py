"""One round, beside the paper: everybody starts at θ̃, whoever finishes goes on, one aggregation when the rule says so."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from sb3_nigt.aggregators import Aggregator
from sb3_nigt.errors import LostWorkerError, WorkerError
from sb3_nigt.messages import RETURNED, Arrival, Discarded, Job, RoundReport, SamplingPoint
from sb3_nigt.schedules import Schedule, Start
from sb3_nigt.trajectory import Trajectory
from sb3_nigt.vec_env.base import RoundWorkers

LENGTH_SMOOTHING = 0.1  # weight of a new trajectory in the running mean of lengths
Told = Callable[[int, float, npt.NDArray[np.float64]], list[Start]]  # how a schedule is told of an arrival

MAX_REJECTED_IN_A_ROW = 5  # non-finite trajectories of one worker, or non-finite gradients, before a run stops


RESET_IN_A_ROUND = (
    "The workers were reset in the middle of a round, which voids the trajectories in flight. If a callback evaluates on the "
    "environment that is trained on, as EvalCallback does with its eval_env, give it another one."
)


@dataclass
class LengthEstimate:
    """
    Running mean of the lengths of all workers' trajectories; durations are predicted with it.

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
    """

    lengths: LengthEstimate
    failures: Counter[int] = field(default_factory=Counter)
    early: list[tuple[Arrival, Trajectory]] = field(default_factory=list)


def run_round(
    workers: RoundWorkers,
    schedule: Schedule,
    aggregator: Aggregator,
    following: Aggregator,
    point: SamplingPoint,
    replay: Callable[[Trajectory], bool],
    memory: BetweenRounds,
) -> tuple[RoundReport, list[tuple[Arrival, Trajectory]]] | None:
    """
    Sample one round at a point.

    :param workers: who runs the trajectories
    :param schedule: which trajectories run where
    :param aggregator: when the round is complete, and the weights
    :param following: the one of the next round
    :param point: θ̃ with its number
    :param replay: shows the steps of a trajectory to callbacks; False means stop
    :param memory: what the rounds before have left, updated here
    :return: the report and what was accepted, in order of arrival; None if a callback said stop
    :raises LostWorkerError: if the round needs a worker that is lost
    :raises WorkerError: if one worker delivers non-finite numbers several times in a row
    """
    clock, started_at, steps_before = workers.clock, workers.clock.now(), workers.steps_executed
    n_resets = workers.n_resets
    lengths = memory.lengths
    accepted, memory.early = [_now_due(point, *pair) for pair in memory.early], []
    n_steps_early = sum(arrival.n_steps for arrival, _ in accepted)  # executed before this round
    rejected: list[Arrival] = []

    durations = workers.predicted_durations(lengths.mean)
    busy = [worker for worker in range(len(durations)) if workers.busy(worker)]
    task_ids = getattr(workers, "task_ids", range(len(durations)))
    check_lost(workers.lost(), aggregator, task_ids, workers.last_failure)
    _submit(workers, schedule, point, schedule.begin(aggregator, point.round, started_at, durations, busy, following))
    while not schedule.complete:
        result = workers.next_arrival()
        if result is None or not replay(result[1]):
            return None
        if workers.n_resets != n_resets:
            raise RuntimeError(RESET_IN_A_ROUND)
        arrival, trajectory = result
        if arrival.rejected is None:
            if arrival.key.round > point.round:
                memory.early.append(result)
            else:
                accepted.append(_now_due(point, *result))
            lengths.add(arrival.n_steps)
            memory.failures[arrival.worker] = 0
            report_arrival: Told = schedule.accepted
        else:
            check_lost(workers.lost(), aggregator, task_ids, workers.last_failure)
            report_arrival = _take_rejected(schedule, arrival, rejected, memory.failures)
        starts = report_arrival(arrival.worker, clock.now(), workers.predicted_durations(lengths.mean))
        _submit(workers, schedule, point, starts)

    discarded = []
    if schedule.cancels:
        for job, job_started_at, trajectory in workers.cancel():
            discarded.append(Discarded(job.worker, trajectory.n_steps, job_started_at, clock.now()))
            if not replay(trajectory):
                return None
    if not schedule.uploads:
        workers.aggregate_messages([worker for worker, count in enumerate(schedule.counts) if count > 0])

    used_steps = sum(arrival.n_steps for arrival, _ in accepted)
    wanted_steps = used_steps - n_steps_early + sum(arrival.n_steps for arrival, _ in memory.early)
    report = RoundReport(
        round=point.round,
        counts=schedule.counts.copy(),
        weights=aggregator.weights(schedule.counts),
        arrivals=tuple(arrival for arrival, _ in accepted),
        discarded=tuple(discarded),
        rejected=tuple(rejected),
        used_steps=used_steps,
        discarded_steps=workers.steps_executed - steps_before - wanted_steps,
        started_at=started_at,
        finished_at=clock.now(),
    )
    return report, accepted


def _take_rejected(schedule: Schedule, arrival: Arrival, rejected: list[Arrival], failures: Counter[int]) -> Told:
    """Keep what enters no sum, unless somebody else can still run it; return how the schedule is told of it."""
    if arrival.rejected == RETURNED:
        return schedule.returned
    rejected.append(arrival)
    stop_if_hopeless(arrival, failures)
    return schedule.rejected


def _now_due(point: SamplingPoint, arrival: Arrival, trajectory: Trajectory) -> tuple[Arrival, Trajectory]:
    staleness = point.round - trajectory.point.round
    return dataclasses.replace(arrival, staleness=staleness) if staleness else arrival, trajectory


def _submit(workers: RoundWorkers, schedule: Schedule, point: SamplingPoint, starts: list[Start]) -> None:
    lost = workers.lost()
    for start in (start for start in starts if start.worker not in lost):
        workers.submit(Job(start.worker, start.key, point, upload=schedule.uploads, committed=not schedule.cancels))


def check_lost(
    lost: Collection[int], aggregator: Aggregator, task_ids: Sequence[Hashable], last_failure: Callable[[int], str]
) -> None:
    """
    Refuse to begin, or to go on with, a round that cannot be completed.

    :param lost: workers that will never deliver anything again
    :param aggregator: the rule of the round
    :param task_ids: one a worker
    :param last_failure: of a worker, as the end of a message; empty if it is not known
    :raises LostWorkerError: if it needs one of them
    """
    n_workers = len(task_ids)
    if not aggregator.can_do_without(lost, n_workers):
        worker = max(lost)
        others = f"all {n_workers} workers are lost" if len(lost) == n_workers else "it is lost"
        raise LostWorkerError(
            f"{others} after too many restarts (max_restarts allows more), and {type(aggregator).__name__} cannot complete a "
            f"round without it{last_failure(worker)}",
            worker,
            task_ids[worker],
        )


def stop_if_hopeless(rejected: Arrival, failures: Counter[int]) -> None:
    """
    Count a rejected trajectory.

    :param rejected: the trajectory
    :param failures: of each worker in a row
    :raises WorkerError: if a worker has delivered nothing else for a while
    """
    failures[rejected.worker] += 1
    if failures[rejected.worker] >= MAX_REJECTED_IN_A_ROW:
        non_finite = rejected.rejected in ("reward", "observation")
        ended = f"a non-finite {rejected.rejected}" if non_finite else f"its failure ({rejected.rejected})"
        raise WorkerError(
            f"{failures[rejected.worker]} trajectories in a row ended with {ended}, the last one "
            f"after {rejected.n_steps} steps. Check the environment with stable_baselines3.common.env_checker.check_env.",
            rejected.worker,
            rejected.task_id,
        )
