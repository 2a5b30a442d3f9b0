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
from sb3_nigt.messages import Arrival, Job, Message, RoundReport, SamplingPoint, TrajectoryKey
from sb3_nigt.sampling.trajectory import Trajectory
from sb3_nigt.schedules import Schedule
from sb3_nigt.timing import SimulatedClock
from sb3_nigt.timing.link import Aggregation, Link, UploadQueue, aggregation_messages
from sb3_nigt.vec_env.base import Cancelled, RoundWorkers

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Workload:
    """
    What a planner knows about workers and their trajectories.

    :param step_times: h_i, seconds per environment step, shape (n,)
    :param message_times: κ_i, seconds per message, shape (n,)
    :param lengths: steps of a trajectory; one of them is drawn for each
    :param task_ids: one per worker
    :param link: how messages reach the learner, see ``TimeModel``
    :param aggregation: the same
    """

    step_times: FloatArray
    message_times: FloatArray
    lengths: tuple[int, ...]
    task_ids: tuple[Hashable, ...]
    link: Link = "parallel"
    aggregation: Aggregation = "all_reduce"

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
        Steps of one trajectory, the same whichever worker runs it and whenever.

        :param key: its name
        """
        if len(self.lengths) == 1:
            return self.lengths[0]
        return self.lengths[np.random.default_rng(key).integers(len(self.lengths))]


@dataclass(eq=False)
class _Flight:
    """A job that has not arrived."""

    job: Job
    order: int  # of submission
    started_at: float
    ends_at: float
    sent_at: float | None = None  # when its message began


class PacedWorkers(RoundWorkers):
    """
    Workers that do nothing but take the time of a workload.

    :param workload: speeds, messages and lengths
    """

    clock: SimulatedClock

    def __init__(self, workload: Workload) -> None:
        self.clock, self.workload, self.task_ids = SimulatedClock(), workload, workload.task_ids
        self.link, self.aggregation = workload.link, workload.aggregation
        self._uploads = UploadQueue(self.link)
        self._flights: dict[int, _Flight] = {}  # by worker
        self._events: list[tuple[float, int, int]] = []  # (time of the next thing to happen, order, worker)
        self._order = count()

    def busy(self, worker: int) -> bool:
        """See ``RoundWorkers``."""
        return worker in self._flights

    def submit(self, job: Job) -> None:
        """See ``RoundWorkers``."""
        now, worker = self.clock.now(), job.worker
        ends_at = now + float(self.workload.step_times[worker]) * self.workload.length_of(job.key)
        flight = self._flights[worker] = _Flight(job, next(self._order), now, ends_at)
        heapq.heappush(self._events, (ends_at, flight.order, worker))

    def next_arrival(self) -> tuple[Arrival, Trajectory]:
        """See ``RoundWorkers``."""
        while True:
            time, _, worker = heapq.heappop(self._events)
            flight = self._flights[worker]
            if flight.sent_at is not None or not flight.job.upload:
                return self._arrive(self._flights.pop(worker), time)
            flight.sent_at, arrives_at = self._uploads.send(time, float(self.workload.message_times[worker]))
            # those that arrive together come in the order of the queue, or of their starts where there is none
            order = next(self._order) if self._uploads.is_serial else flight.order
            heapq.heappush(self._events, (arrives_at, order, worker))

    def _arrive(self, flight: _Flight, arrived_at: float) -> tuple[Arrival, Trajectory]:
        job, worker = flight.job, flight.job.worker
        self.clock.advance_to(max(arrived_at, self.clock.now()))  # it may have arrived while a round was aggregated
        n_steps = self.workload.length_of(job.key)
        self.steps_executed += n_steps
        times = flight.started_at, flight.ends_at, arrived_at
        arrival = Arrival(worker, self.workload.task_ids[worker], job.key, n_steps, 0.0, *times, sent_at=flight.sent_at)
        return arrival, _blank_trajectory(job, n_steps)

    def cancel(self) -> list[Cancelled]:
        """See ``RoundWorkers``."""
        cancelled = []
        for worker, flight in sorted(self._flights.items()):
            job, started_at = flight.job, flight.started_at
            ended = int((self.clock.now() - started_at) / self.workload.step_times[worker] * (1 + 1e-12))
            n_steps = min(ended, self.workload.length_of(job.key))
            self.steps_executed += n_steps
            cancelled.append(Cancelled(job, started_at, self.clock.now(), _blank_trajectory(job, n_steps)))
        self._flights.clear()
        self._events.clear()
        self._uploads.clear()
        return cancelled

    def predicted_durations(self, n_steps: float) -> FloatArray:
        """See ``RoundWorkers``."""
        return self.workload.step_times * n_steps

    def aggregate_messages(self, workers: Sequence[int]) -> None:
        """See ``RoundWorkers``."""
        self.clock.advance_to(max(message.ended for message in self.aggregation_messages(workers)))

    def aggregation_messages(self, workers: Sequence[int]) -> tuple[Message, ...]:
        """See ``RoundWorkers``."""
        message_times = self.workload.message_times[list(workers)].tolist()
        return aggregation_messages(workers, message_times, self.clock.now(), self.aggregation)


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
    """Nothing but a length, which takes no memory: a round looks at no step."""
    nothing = np.zeros(0)
    rewards = np.broadcast_to(0.0, n_steps)
    return Trajectory(job.key, job.point, nothing, nothing, nothing, nothing, rewards, False, False, [])
