"""The workers of all ranks behind the interface of a rank's own ones: global numbers, one wall clock, one reduction."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch as th

from sb3_nigt.distributed.ranks import Ranks
from sb3_nigt.errors import RankError, WorkerError
from sb3_nigt.messages import Arrival, Contribution, Job, SamplingPoint, TrajectoryKey
from sb3_nigt.sampling.trajectory import Trajectory
from sb3_nigt.timing.clock import WallClock
from sb3_nigt.timing.time_models import TimePer
from sb3_nigt.vec_env.base import Cancelled, RolloutSpec, Segments, TrajectoryWorkers, WorkerVecEnv
from sb3_nigt.vec_env.pool.speeds import Speeds

IDLE_SECONDS = 0.001  # how long a rank without work waits before it looks again


class RankWorkers(TrajectoryWorkers):
    """
    The workers of this rank, numbered over all ranks; those of the others cannot be given jobs from here.

    Time is real time also for a ``SimulatedVecEnv``: its simulated seconds could not be compared with those of other ranks.

    :param inner: this rank's workers
    :param ranks: all ranks
    :param n_workers: of each rank
    :param task_ids: of the workers of all ranks
    """

    def __init__(self, inner: WorkerVecEnv, ranks: Ranks, n_workers: Sequence[int], task_ids: tuple[Hashable, ...]) -> None:
        self.inner, self.ranks, self.task_ids = inner, ranks, task_ids
        self._ends = np.cumsum(n_workers)  # one after the number of each rank's last worker
        self.offset = int(self._ends[ranks.rank]) - inner.num_envs
        self.own = range(self.offset, self.offset + inner.num_envs)
        self.tasks_differ = len(set(task_ids)) > 1
        self.sums_by_worker = inner.sums_by_worker
        self.clock = WallClock()
        self.prefix = ""  # of the store's keys for the current round
        self.total_restarts = 0  # of processes, on all ranks
        self._is_real_time = isinstance(inner.clock, WallClock)
        self._began: dict[int, float] = {}  # busy workers, numbered over all ranks
        self._idle_since = dict.fromkeys(self.own, self.clock.now())
        self._speeds = Speeds(np.ones(inner.num_envs))
        inner.interrupt = self._asked
        inner.rollout_spec = None  # to be prepared again, now that it may be interrupted

    @property
    def time_per(self) -> TimePer:
        """See ``TrajectoryWorkers``."""
        return "step"

    def release(self) -> None:
        """Give the rank's workers back as they were."""
        self.inner.interrupt = self.inner.steps_left = None
        self.inner.rollout_spec = None

    def rank_of(self, worker: int) -> int:
        """
        Find a worker.

        :param worker: its number over all ranks
        :return: the rank that it runs on
        """
        return int(np.searchsorted(self._ends, worker, side="right"))

    # Jobs

    def prepare(self, spec: RolloutSpec) -> None:
        """See ``TrajectoryWorkers``."""
        self._began.clear()
        self.inner.prepare(replace(spec, first_worker=self.offset))
        self.rollout_spec = spec

    def busy(self, worker: int) -> bool:
        """See ``TrajectoryWorkers``."""
        return worker in self._began

    def idle(self) -> list[int]:
        """Own workers that could start something."""
        lost = self.lost()
        return [worker for worker in self.own if worker not in self._began and worker not in lost]

    def waited(self, worker: int) -> float:
        """
        Return the seconds since the last trajectory of an idle worker, also over several rounds.

        :param worker: of this rank
        """
        return self.clock.now() - self._idle_since[worker]

    def submit(self, job: Job) -> None:
        """See ``TrajectoryWorkers``."""
        self.ranks.line.stepping(not self._is_real_time)
        self._began[job.worker] = self.clock.now()
        self.inner.submit(replace(job, worker=job.worker - self.offset))
        self.ranks.line.stepping(False)

    def next_arrival(self) -> tuple[Arrival, Trajectory] | None:
        """See ``TrajectoryWorkers``; without work it waits for a moment and returns None."""
        if not self._began:
            time.sleep(IDLE_SECONDS)
            return None
        self.ranks.line.stepping(not self._is_real_time)
        try:
            result = self.inner.next_arrival()
        except WorkerError as error:
            raise self._told(error) from error
        finally:
            self.ranks.line.stepping(False)
        if result is None:
            return None
        arrival, trajectory = result
        worker, now = arrival.worker + self.offset, self.clock.now()
        began, self._idle_since[worker] = self._began.pop(worker), now
        self._note_speed(worker, now - began, arrival.n_steps, now)
        arrival = replace(
            arrival,
            worker=worker,
            task_id=self.task_ids[worker],
            started_at=began,
            finished_at=now,
            arrived_at=now,
        )
        return arrival, trajectory

    def _told(self, error: WorkerError) -> RankError:
        """Tell all ranks that a worker of this one cannot go on, by its number among those of all ranks."""
        worker = error.worker + self.offset
        reason = f"rank {self.ranks.rank}: {WorkerError(error.message, worker, self.task_ids[worker])}"
        self.ranks.line.fail(reason)
        return RankError(reason)

    def _asked(self) -> bool:
        """Called after every environment step of this rank, and while waiting for processes."""
        self.ranks.line.stepping(not self._is_real_time)
        return self.interrupt is not None and self.interrupt()

    def cancel(self) -> list[Cancelled]:
        """See ``TrajectoryWorkers``."""
        now, cancelled = self.clock.now(), []
        for job, _, _, trajectory in self.inner.cancel():
            worker = job.worker + self.offset
            began, self._idle_since[worker] = self._began.pop(worker, now), now
            self._note_speed(worker, now - began, max(1, trajectory.n_steps), now)
            cancelled.append(Cancelled(replace(job, worker=worker), began, now, trajectory))
        self._idle_since.update(dict.fromkeys(self._began, now))
        self._began.clear()
        return cancelled

    def _note_speed(self, worker: int, seconds: float, n_steps: int, now: float) -> None:
        """Measure where the workers do not measure themselves."""
        if n_steps > 0 and seconds > 0 and not self._is_real_time:
            self._speeds.note(worker - self.offset, seconds, n_steps, now)

    # Rounds of steps

    def run_segments(
        self,
        point: SamplingPoint,
        is_complete: Callable[[npt.NDArray[np.int64]], bool],
        meanwhile: Callable[[], None],
    ) -> Segments | None:
        """See ``TrajectoryWorkers``; counts are those of this rank's workers, and ``steps_left`` says when the round ends."""
        inner, line = self.inner, self.ranks.line

        def steps_left(counts: npt.NDArray[np.int64]) -> int:
            line.stepping(False)
            left = 1 - is_complete(counts) if self.steps_left is None else self.steps_left(counts)
            line.stepping(left > 0 and not self._is_real_time)
            return left

        began: list[float] = []

        def meanwhile_and_begin() -> None:
            meanwhile()
            began.append(self.clock.now())

        inner.steps_left = steps_left
        try:
            segments = inner.run_segments(point, is_complete, meanwhile_and_begin)
        except WorkerError as error:
            raise self._told(error) from error
        finally:
            inner.steps_left = None
            line.stepping(False)
        if segments is None:
            return None
        now = self.clock.now()
        for worker, n_steps in enumerate(segments.counts.tolist()):
            self._note_speed(worker + self.offset, now - began[0], n_steps, now)
        return self._numbered(segments, began[0])

    def _numbered(self, segments: Segments, began: float) -> Segments:
        """The same with the numbers that the workers have among those of all ranks, and real times."""
        now = self.clock.now()

        def numbered(arrival: Arrival) -> Arrival:
            worker = arrival.worker + self.offset
            key = arrival.key._replace(stream=worker)
            arrival = replace(arrival, worker=worker, task_id=self.task_ids[worker], key=key)
            return replace(arrival, started_at=began, finished_at=now, arrived_at=now)

        return replace(
            segments,
            pieces=[(numbered(arrival), piece) for arrival, piece in segments.pieces],
            discarded=[
                Cancelled(replace(late.job, worker=late.job.worker + self.offset), began, now, late.trajectory)
                for late in segments.discarded
            ],
            segments=tuple(replace(segment, worker=segment.worker + self.offset) for segment in segments.segments),
        )

    # Reduction

    def gradient(self, contributions: Sequence[Contribution], weights: npt.NDArray[np.float64]) -> th.Tensor:
        """See ``TrajectoryWorkers``: this rank's part, then one reduction over the ranks."""
        own = [replace(c, worker=c.worker - self.offset, key=self._own_key(c.key)) for c in contributions]
        mine = weights[self.own.start : self.own.stop]
        part = self.inner.gradient(own, mine).cpu() if own else th.zeros(self.n_parameters)
        return self.ranks.reduce(f"{self.prefix}reduce", part)

    def _own_key(self, key: TrajectoryKey) -> TrajectoryKey:
        """The key under which the rank's workers know a piece, see ``run_segments``; of a trajectory they know it as it is."""
        has_steps = self.rollout_spec is not None and self.rollout_spec.round_steps is not None
        return key._replace(stream=key.stream - self.offset) if has_steps else key

    n_parameters: int = 0

    def forget(self, before_round: int) -> None:
        """See ``TrajectoryWorkers``."""
        self.inner.forget(before_round)

    # Speeds and losses

    @property
    def n_resets(self) -> int:  # type: ignore[override]
        """See ``RoundWorkers``."""
        return self.inner.n_resets

    @property
    def steps_executed(self) -> int:  # type: ignore[override]
        """See ``RoundWorkers``."""
        return self.inner.steps_executed

    @property
    def restarts(self) -> int | None:
        """See ``TrajectoryWorkers``; those of all ranks up to the last exchange, None where this one has no processes."""
        return None if self.inner.restarts is None else self.total_restarts

    def lost(self) -> frozenset[int]:
        """See ``TrajectoryWorkers``; the lost ones of this rank."""
        return frozenset(worker + self.offset for worker in self.inner.lost())

    def last_failure(self, worker: int) -> str:
        """See ``TrajectoryWorkers``; known on the worker's rank only."""
        return self.inner.last_failure(worker - self.offset) if worker in self.own else ""

    @property
    def seconds_per_step(self) -> npt.NDArray[np.float64]:
        """Of this rank's workers; NaN: not measured yet, infinite: lost."""
        seconds = self.inner.step_times.copy() if self._is_real_time else self._speeds.measured()
        seconds[[worker - self.offset for worker in self.lost()]] = np.inf
        return seconds

    def predicted_durations(self, n_steps: float) -> npt.NDArray[np.float64]:
        """See ``TrajectoryWorkers``; of the own workers, unknown where they belong to other ranks."""
        durations = np.full(len(self.task_ids), np.nan)
        durations[self.own.start : self.own.stop] = self.seconds_per_step * n_steps
        return durations

    def aggregate_messages(self, workers: Sequence[int]) -> None:
        """Real messages take their time by themselves."""
