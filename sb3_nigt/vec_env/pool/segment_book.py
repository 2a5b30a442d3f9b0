"""What the workers do in a round of steps, read out of their arrays: which steps count, and which come too late."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sb3_nigt.messages import Arrival, Job, SamplingPoint, Segment, SegmentStart, TrajectoryKey
from sb3_nigt.sampling.steps import StepTable
from sb3_nigt.sampling.trajectory import Trajectory
from sb3_nigt.timing.clock import WallClock
from sb3_nigt.vec_env.base import Cancelled, Segments, piece_arrival
from sb3_nigt.vec_env.pool.arrays import WorkerArrays
from sb3_nigt.vec_env.pool.pieces import joined, read_pieces, steps_that_count
from sb3_nigt.vec_env.pool.protocol import SegmentArrival

IntArray = npt.NDArray[np.int64]


class Progress(NamedTuple):
    """
    Counters of all workers at one moment, of their segment jobs in progress; see ``arrays.CONTROL``.

    :param made: steps made, shape (n,); read before the others
    :param pieces: pieces that have ended, shape (n,)
    :param rejected: steps in pieces that are rejected, shape (n,)
    """

    made: IntArray
    pieces: IntArray
    rejected: IntArray


@dataclass(eq=False)
class _Part:
    """
    A worker's part of the round.

    :ivar start: where its segment began, None before
    :ivar began: when it began, in seconds on the clock
    :ivar pieces: joined pieces of jobs that have ended
    :ivar n_steps: number of steps in these
    :ivar job_start: where its last job began, of this round or of an earlier one
    :ivar n_counted: steps of that job that an earlier round counts
    :ivar counted_until: when that round was complete, in seconds on the clock
    """

    start: SegmentStart | None = None
    began: float = 0.0
    pieces: list[Trajectory] = field(default_factory=list)
    n_steps: int = 0
    job_start: SegmentStart = field(default_factory=SegmentStart)
    n_counted: int = 0
    counted_until: float = 0.0

    def begin_round(self) -> None:
        self.start, self.pieces, self.n_steps = None, [], 0


class SegmentBook:
    """
    The segments of all workers in a round, and steps that no round counts.

    :param task_ids: the task of each worker
    :param clock: the workers' clock
    :ivar is_hopeless: whether a worker has stopped by itself, since its environment gives only numbers that are not finite
    """

    def __init__(self, task_ids: Sequence[Hashable], clock: WallClock) -> None:
        self._task_ids, self._clock = task_ids, clock
        self._parts = [_Part() for _ in task_ids]
        self._taken = np.zeros(len(task_ids), dtype=np.int64)  # steps in jobs that have ended, and count
        self._runs = np.zeros(len(task_ids), dtype=bool)  # a job of this round is in progress
        self._due: list[int] = []
        self._discarded: list[Cancelled] = []
        self.is_hopeless = False

    def open(self, arrays: WorkerArrays, table: StepTable) -> None:
        """
        Take what comes from now on from here.

        :param arrays: the arrays to which the workers write their steps
        :param table: table of these steps
        """
        self._arrays, self._table = arrays, table

    # A round

    def begin_round(self, point: SamplingPoint) -> None:
        """
        Nothing has been done yet.

        :param point: θ̃ with its number
        """
        self.void()
        self._point, self.is_hopeless = point, False

    def counts(self, progress: Progress) -> IntArray:
        """
        Return the steps of each worker that count at this moment, shape (n,).

        :param progress: values of the counters
        """
        counts = self._taken + np.where(self._runs, progress.made, 0)
        if progress.rejected.any():
            for worker in np.flatnonzero(self._runs & (progress.rejected > 0)).tolist():
                counts[worker] = steps_that_count(self._pieces(worker, progress))
        return counts

    def running(self) -> npt.NDArray[np.bool_]:
        """Return which workers step for this round, shape (n,)."""
        return self._runs

    def take_due(self) -> list[int]:
        """Return the workers that have no more room and are to go on."""
        due, self._due = self._due, []
        return due

    def close_round(self, progress: Progress) -> tuple[Segments, dict[int, SegmentStart]]:
        """
        End the round; what its workers have done counts up to here.

        :param progress: values of the counters, those whose ``counts`` completed the round
        :return: what counts; and where each worker that runs is, as far as is known
        """
        now, counts = self._clock.now(), np.zeros(len(self._parts), dtype=np.int64)
        pieces: list[tuple[Arrival, Trajectory]] = []
        segments, places = [], {}
        for worker, part in enumerate(self._parts):
            if part.start is None:
                continue
            n_steps = part.n_steps
            if self._runs[worker]:
                made = int(progress.made[worker])
                part.pieces, n_before = self._pieces(worker, progress), len(part.pieces)
                begun = sum(piece.age == 0 for piece in part.pieces[n_before:])
                part.n_counted, part.counted_until, n_steps = made, now, n_steps + made
                places[worker] = SegmentStart(part.job_start.n_steps + made, part.job_start.n_episodes + begun, False)
            counts[worker] = steps_that_count(part.pieces)
            segments.append(Segment(worker, part.start, n_steps))
            pieces += self._arrivals(worker, part, now)
            part.begin_round()
        self._runs[:], self._taken[:] = False, 0
        return Segments(counts, pieces, [], tuple(segments)), places

    def _pieces(self, worker: int, progress: Progress) -> list[Trajectory]:
        made, ended = int(progress.made[worker]), int(progress.pieces[worker])
        return joined([*self._parts[worker].pieces, *self._read(worker, self._point, ended, 0, made)])

    def _arrivals(self, worker: int, part: _Part, now: float) -> list[tuple[Arrival, Trajectory]]:
        began, arrivals = part.began, []
        seconds = (now - began) / max(1, sum(piece.n_steps for piece in part.pieces))
        for piece in part.pieces:
            ended = min(now, began + piece.n_steps * seconds)
            arrivals.append((piece_arrival(worker, self._task_ids[worker], piece, began, ended), piece))
            began = ended
        return arrivals

    # What comes in

    def begun(self, worker: int, start: SegmentStart) -> None:
        """
        A worker has got a job.

        :param worker: index of the worker
        :param start: where it begins
        """
        part = self._parts[worker]
        if part.start is None:
            part.start, part.began = start, self._clock.now()
        part.job_start, part.n_counted = start, 0
        self._runs[worker] = True

    def take(self, job: Job, said: SegmentArrival) -> None:
        """
        A worker has no more room: keep what it has done so far.

        :param job: a job of this round
        :param said: the worker's message
        """
        worker = job.worker
        part = self._parts[worker]
        part.pieces = joined([*part.pieces, *self._read(worker, job.point, said.n_pieces, 0, said.n_steps)])
        part.n_steps += said.n_steps
        self._taken[worker], self._runs[worker] = steps_that_count(part.pieces), False
        if said.hopeless:
            self.is_hopeless = True
        else:
            self._due.append(worker)

    def drop(self, worker: int, point: SamplingPoint, said: SegmentArrival) -> None:
        """
        A worker has stopped: what it has done since its round was complete counts for nothing.

        :param worker: index of the worker
        :param point: the point at which it has sampled
        :param said: the worker's message
        """
        part = self._parts[worker]
        late = self._read(worker, point, said.n_pieces, part.n_counted, said.n_steps)
        began = max(part.counted_until, self._clock.at(said.started_at))
        # a step may end between the look at the counters and the end of the round
        self._discard(worker, began, max(began, self._clock.at(said.finished_at)), late)
        self._runs[worker] = False

    def lose(self, worker: int) -> None:
        """
        A worker has failed: its part of this round counts for nothing.

        :param worker: index of the worker
        """
        part = self._parts[worker]
        self._discard(worker, part.began, self._clock.now(), part.pieces)
        part.begin_round()
        self._taken[worker], self._runs[worker] = 0, False
        self._due = [other for other in self._due if other != worker]

    def void(self) -> None:
        """Nothing of an unfinished round counts."""
        for worker in range(len(self._parts)):
            self.lose(worker)

    def take_discarded(self) -> list[Cancelled]:
        """Return steps that count for nothing."""
        discarded, self._discarded = self._discarded, []
        return discarded

    def _discard(self, worker: int, began: float, ended: float, pieces: Sequence[Trajectory]) -> None:
        self._discarded += [Cancelled(Job(worker, piece.key, piece.point), began, ended, piece) for piece in pieces]

    def _read(self, worker: int, point: SamplingPoint, n_pieces: int, start: int, stop: int) -> list[Trajectory]:
        key = TrajectoryKey(point.round, worker, 0)
        return read_pieces(self._arrays.of(worker), self._table, n_pieces, start, stop, key, point)
