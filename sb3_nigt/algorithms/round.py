"""One round, next to the paper: all start at θ̃, a worker that finishes continues, one aggregation when the rule says so."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Sequence

from sb3_nigt.aggregators import Aggregator
from sb3_nigt.algorithms.book import BetweenRounds, Book, RoundResult
from sb3_nigt.errors import LostWorkerError
from sb3_nigt.messages import RETURNED, Arrival, Job, SamplingPoint
from sb3_nigt.sampling.trajectory import Trajectory
from sb3_nigt.schedules import Schedule, Start
from sb3_nigt.vec_env.base import RoundWorkers

Show = Callable[[Trajectory], bool]  # shows the steps of a trajectory to callbacks; False means stop

RESET_IN_A_ROUND = (
    "The workers were reset in the middle of a round, which voids the trajectories in flight. If a callback evaluates on the "
    "training environment, for example EvalCallback(env), give it a separate one."
)


def run_round(
    workers: RoundWorkers,
    schedule: Schedule,
    aggregator: Aggregator,
    following: Aggregator,
    point: SamplingPoint,
    show: Show,
    memory: BetweenRounds,
) -> RoundResult | None:
    """
    Sample one round at a point.

    :param workers: the workers that run the trajectories
    :param schedule: the schedule, which decides which trajectories run where
    :param aggregator: when the round is complete, and the weights
    :param following: the one of the next round
    :param point: θ̃ with its number
    :param show: shows the steps of a trajectory to callbacks
    :param memory: what the rounds before have left, updated here
    :return: None if a callback said stop
    :raises LostWorkerError: if the round needs a worker that is lost
    :raises WorkerError: if one worker delivers non-finite numbers several times in a row
    """
    book, n_resets = Book(workers, point, memory), workers.n_resets
    check_lost(workers.lost(), aggregator, workers.task_ids, workers.last_failure)
    durations = workers.predicted_durations(memory.lengths.mean)
    busy = [worker for worker in range(len(durations)) if workers.busy(worker)]
    _submit(workers, schedule, point, schedule.begin(aggregator, point.round, workers.clock.now(), durations, busy, following))
    while not schedule.complete:
        arrived = workers.next_arrival()
        if arrived is None or not show(arrived[1]):
            return None
        if workers.n_resets != n_resets:
            raise RuntimeError(RESET_IN_A_ROUND)
        arrival, trajectory = arrived
        if arrival.rejected is None:
            book.accept(arrival, trajectory)
        else:
            check_lost(workers.lost(), aggregator, workers.task_ids, workers.last_failure)
            book.reject(arrival)
        report = _how_to_report(schedule, arrival)
        starts = report(arrival.worker, workers.clock.now(), workers.predicted_durations(memory.lengths.mean))
        _submit(workers, schedule, point, starts)
    if schedule.cancels:
        cancelled = workers.cancel()
        book.discard(cancelled)
        if not all(show(one.trajectory) for one in cancelled):
            return None
    if not schedule.uploads:
        book.aggregate([worker for worker, count in enumerate(schedule.counts) if count > 0])
    return book.close(schedule.counts, aggregator.weights(schedule.counts))


def _how_to_report(schedule: Schedule, arrival: Arrival) -> Callable[..., list[Start]]:
    if arrival.rejected is None:
        return schedule.accepted
    return schedule.returned if arrival.rejected == RETURNED else schedule.rejected


def _submit(workers: RoundWorkers, schedule: Schedule, point: SamplingPoint, starts: Iterable[Start]) -> None:
    lost = workers.lost()
    for start in (start for start in starts if start.worker not in lost):
        workers.submit(Job(start.worker, start.key, point, upload=schedule.uploads, committed=not schedule.cancels))


def abandon(workers: RoundWorkers, schedule: Schedule, memory: BetweenRounds) -> None:
    """
    Cancel all jobs in flight and drop early results.

    :param workers: the workers that run them
    :param schedule: the schedule that planned them
    :param memory: what the last round has left, updated here
    """
    workers.cancel()
    memory.early.clear()
    memory.announced = None
    schedule.reset()


def check_lost(
    lost: Collection[int], aggregator: Aggregator, task_ids: Sequence[Hashable], last_failure: Callable[[int], str]
) -> None:
    """
    Refuse to begin, or to go on with, a round that cannot be completed.

    :param lost: workers that will never deliver anything again
    :param aggregator: the rule of the round
    :param task_ids: one per worker
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
