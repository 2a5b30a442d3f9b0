"""Rounds without environments: the same loop and the same schedules on workers that only take time."""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
import numpy.typing as npt

from sb3_nigt.aggregators import Aggregator
from sb3_nigt.algorithms.book import BetweenRounds, LengthEstimate
from sb3_nigt.algorithms.round import run_round
from sb3_nigt.messages import Arrival, Job, RoundReport, SamplingPoint, TrajectoryKey
from sb3_nigt.sampling.trajectory import Trajectory
from sb3_nigt.schedules import Schedule
from sb3_nigt.timing import SimulatedClock
from sb3_nigt.vec_env.base import RoundWorkers

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Workload:
    """
    What a planner knows about workers and their trajectories.

    :param step_times: h_i, seconds per environment step, shape (n,)
    :param message_times: κ_i, seconds per message, shape (n,)
    :param lengths: steps of a trajectory; one of them is drawn for each
    :param task_ids: one a worker
    """

    step_times: FloatArray
    message_times: FloatArray
    lengths: tuple[int, ...]
    task_ids: tuple[Hashable, ...]

    @property
    def n_workers(self) -> int:
        """Number of workers, n."""
        return len(self.step_times)

    @property
    def mean_length(self) -> float:
        """Mean steps of a trajectory."""
        return float(np.mean(self.lengths))

    @property
    def durations(self) -> FloatArray:
        """τ_i, mean seconds per trajectory."""
        return self.step_times * self.mean_length

    def length_of(self, key: TrajectoryKey) -> int:
        """
        Steps of one trajectory, the same whoever runs it and whenever.

        :param key: its name
        """
        if len(self.lengths) == 1:
            return self.lengths[0]
        return self.lengths[np.random.default_rng(key).integers(len(self.lengths))]


class PacedWorkers(RoundWorkers):
    """
    Workers that do nothing but take the time of a workload.

    :param workload: speeds, messages and lengths
    """

    clock: SimulatedClock

    def __init__(self, workload: Workload) -> None:
        self.clock, self.workload, self.task_ids = SimulatedClock(), workload, workload.task_ids
        self._flights: dict[int, tuple[Job, float]] = {}  # by worker: the job and its start
        self._events: list[tuple[float, int, int]] = []  # (arrival, order of submission, worker)
        self._n_submitted = 0

    def busy(self, worker: int) -> bool:
        """See ``RoundWorkers``."""
        return worker in self._flights

    def submit(self, job: Job) -> None:
        """See ``RoundWorkers``."""
        now, worker = self.clock.now(), job.worker
        self._flights[worker] = job, now
        message = float(self.workload.message_times[worker]) if job.upload else 0.0
        heapq.heappush(self._events, (self._end(job, now) + message, self._n_submitted, worker))
        self._n_submitted += 1

    def next_arrival(self) -> tuple[Arrival, Trajectory]:
        """See ``RoundWorkers``."""
        arrived_at, _, worker = heapq.heappop(self._events)
        job, started_at = self._flights.pop(worker)
        self.clock.advance_to(max(arrived_at, self.clock.now()))  # it may have arrived while a round was aggregated
        n_steps = self.workload.length_of(job.key)
        self.steps_executed += n_steps
        times = started_at, self._end(job, started_at), arrived_at
        arrival = Arrival(worker, self.workload.task_ids[worker], job.key, n_steps, 0.0, *times)
        return arrival, _blank_trajectory(job, n_steps)

    def cancel(self) -> list[tuple[Job, float, Trajectory]]:
        """See ``RoundWorkers``."""
        cancelled = []
        for worker, (job, started_at) in sorted(self._flights.items()):
            ended = int((self.clock.now() - started_at) / self.workload.step_times[worker] * (1 + 1e-12))
            n_steps = min(ended, self.workload.length_of(job.key))
            self.steps_executed += n_steps
            cancelled.append((job, started_at, _blank_trajectory(job, n_steps)))
        self._flights.clear()
        self._events.clear()
        return cancelled

    def predicted_durations(self, n_steps: float) -> FloatArray:
        """See ``RoundWorkers``."""
        return self.workload.step_times * n_steps

    def aggregate_messages(self, workers: Sequence[int]) -> None:
        """See ``RoundWorkers``."""
        self.clock.advance_to(self.clock.now() + float(self.workload.message_times[list(workers)].max()))

    def _end(self, job: Job, started_at: float) -> float:
        return started_at + float(self.workload.step_times[job.worker]) * self.workload.length_of(job.key)


def simulate(workload: Workload, aggregator: Aggregator, schedule: Schedule) -> Iterator[RoundReport]:
    """
    Run rounds on workers that only take time, one after the other without end.

    :param workload: speeds, messages and lengths
    :param aggregator: when a round is complete
    :param schedule: a fresh one
    """
    workers, memory = PacedWorkers(workload), BetweenRounds(LengthEstimate(workload.mean_length, seen=True))
    for round_ in count():
        point = SamplingPoint(round_, np.zeros(0, dtype=np.float32))
        result = run_round(workers, schedule, aggregator, aggregator, point, lambda trajectory: True, memory)
        assert result is not None  # only a callback can stop a round
        yield result.report


def _blank_trajectory(job: Job, n_steps: int) -> Trajectory:
    """Nothing but a length: a round looks at no step."""
    nothing = np.zeros(0)
    return Trajectory(job.key, job.point, nothing, nothing, nothing, nothing, np.zeros(n_steps), False, False, [])
