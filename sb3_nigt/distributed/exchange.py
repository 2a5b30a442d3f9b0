"""What the ranks tell each other when a round is over: one gather of numbers, and one of arrivals where no list has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sb3_nigt.algorithms.statistics import RoundStatistics
from sb3_nigt.distributed.ranks import Ranks
from sb3_nigt.estimators import Assessment, WorkerMoments
from sb3_nigt.messages import Segment, SegmentStart
from sb3_nigt.moments import Moments

FloatArray = npt.NDArray[np.float64]


class Header(NamedTuple):
    """What there is one number of for each rank."""

    goes_on: float
    round: float
    checksum: float
    timesteps: float
    executed: float
    restarts: float
    n_arrivals: float


class WorkerRow(NamedTuple):
    """What there is one number of for each worker; the last eight are zero where a worker has not begun, or has no steps."""

    n_counted: float = 0.0
    seconds_per_step: float = 0.0
    has_segment: float = 0.0
    n_steps_before: float = 0.0
    n_episodes_before: float = 0.0
    new_episode: float = 0.0
    n_steps: float = 0.0
    task: float = 0.0
    advantage_weight: float = 0.0
    advantage_mean: float = 0.0
    advantage_m2: float = 0.0


@dataclass(frozen=True)
class Told:
    """
    What one rank tells, or, with one row for each of them, what all have told.

    :param header: columns as in ``Header``, shape (7,) or (ranks, 7)
    :param workers: columns as in ``WorkerRow``, of the own workers or of all of them
    :param vectors: further numbers, each of the same length on all ranks; with a leading dimension if they are of all ranks
    """

    header: FloatArray
    workers: FloatArray
    vectors: list[FloatArray]

    def of_ranks(self, name: str) -> FloatArray:
        """
        Return one number for each rank, shape (ranks,).

        :param name: a field of ``Header``
        """
        column: FloatArray = getattr(Header(*self.header.T), name)
        return column

    def of_workers(self, name: str) -> FloatArray:
        """
        Return one number for each worker, shape (workers,).

        :param name: a field of ``WorkerRow``
        """
        column: FloatArray = getattr(WorkerRow(*self.workers.T), name)
        return column


def exchange(ranks: Ranks, key: str, own: Told, n_workers: Sequence[int]) -> Told:
    """
    Tell all ranks something, and hear the same of them.

    :param ranks: the ranks of the group
    :param key: a key that no other meeting uses
    :param own: of this rank
    :param n_workers: of each rank
    """
    padded = np.zeros((max(n_workers), own.workers.shape[1]))
    padded[: len(own.workers)] = own.workers
    parts = [own.header, padded.ravel(), *own.vectors]
    rows = ranks.gather(key, np.concatenate(parts))
    header, workers, *vectors = np.split(rows, np.cumsum([len(part) for part in parts])[:-1], axis=1)
    by_rank = workers.reshape(len(n_workers), *padded.shape)
    return Told(header, np.concatenate([block[:n] for block, n in zip(by_rank, n_workers, strict=True)]), vectors)


def worker_rows(
    own: range, counts: Sequence[int], seconds: FloatArray, segments: Sequence[Segment], statistics: RoundStatistics
) -> FloatArray:
    """
    Return what is told of each worker.

    :param own: numbers of this rank's workers
    :param counts: of each
    :param seconds: per step, of each
    :param segments: of those that have begun with a round of steps
    :param statistics: of this rank's part of the round
    """
    rows = [WorkerRow(count, second) for count, second in zip(counts, seconds.tolist(), strict=True)]
    for segment in segments:
        start, index = segment.start, segment.worker - own.start
        rows[index] = rows[index]._replace(
            has_segment=1.0,
            n_steps_before=float(start.n_steps),
            n_episodes_before=float(start.n_episodes),
            new_episode=float(start.new_episode),
            n_steps=float(segment.n_steps),
        )
    advantages = {} if statistics.assessment is None else statistics.assessment.advantages
    for worker, (task, moments) in advantages.items():
        index, (weight, mean, m2) = worker - own.start, moments.vector().tolist()
        rows[index] = rows[index]._replace(task=float(task), advantage_weight=weight, advantage_mean=mean, advantage_m2=m2)
    return np.array(rows)


def segments_told(told: Told) -> tuple[Segment, ...]:
    """
    Return the segments of all workers.

    :param told: by all ranks
    """
    rows = [WorkerRow(*row) for row in told.workers.tolist()]
    return tuple(
        Segment(
            worker,
            SegmentStart(int(row.n_steps_before), int(row.n_episodes_before), bool(row.new_episode)),
            int(row.n_steps),
        )
        for worker, row in enumerate(rows)
        if row.has_segment
    )


def statistics_vectors(statistics: RoundStatistics) -> list[FloatArray]:
    """
    Return what is told of the statistics apart from the workers' advantages.

    :param statistics: of this rank's part of the round
    """
    (observations,) = statistics.observations
    returns = [] if statistics.assessment is None else [Moments.empty().merge_all(statistics.assessment.returns).vector()]
    return [*returns, *(moments.vector() for moments in observations)]


def statistics_told(own: RoundStatistics, told: Told) -> RoundStatistics:
    """
    Return the statistics of the whole round.

    :param own: of this rank's part
    :param told: by all ranks; the last vectors are those of ``statistics_vectors``
    """
    (observations,) = own.observations
    of_observations = told.vectors[len(told.vectors) - len(observations) :]
    merged = [
        [moments.from_vector(rows[rank]) for moments, rows in zip(observations, of_observations, strict=True)]
        for rank in range(len(told.header))
    ]
    if own.assessment is None:
        return RoundStatistics(merged, None)
    of_returns = told.vectors[len(told.vectors) - len(observations) - 1]
    advantages = {
        worker: WorkerMoments(
            int(row.task), Moments(*map(np.asarray, (row.advantage_weight, row.advantage_mean, row.advantage_m2)))
        )
        for worker, row in enumerate(WorkerRow(*row) for row in told.workers.tolist())
        if row.advantage_weight
    }
    return RoundStatistics(merged, Assessment(advantages, [Moments.empty().from_vector(row) for row in of_returns]))
