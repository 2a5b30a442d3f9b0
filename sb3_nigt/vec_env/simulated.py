"""Workers of different speed in this process, on a clock of discrete events."""

from __future__ import annotations

import copy
import heapq
import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch as th
from stable_baselines3.common.vec_env import DummyVecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from sb3_nigt.messages import Arrival, Contribution, Job, Message, SamplingPoint, Segment, TrajectoryKey
from sb3_nigt.replica.replica import PolicyReplica
from sb3_nigt.sampling.infos import InfoCopies
from sb3_nigt.sampling.sampler import FreshNoise, Sampler
from sb3_nigt.sampling.seeding import trajectory_seeds
from sb3_nigt.sampling.segments import longest_episode
from sb3_nigt.sampling.trajectory import Trajectory
from sb3_nigt.timing.clock import SimulatedClock
from sb3_nigt.timing.link import UploadQueue, aggregation_messages
from sb3_nigt.timing.time_models import FixedTimes, TimeModel, TimePer
from sb3_nigt.vec_env.base import Cancelled, RolloutSpec, Segments, WorkerVecEnv, check_same_spaces, checked_task_ids
from sb3_nigt.vec_env.env_fns import checked_env_fns
from sb3_nigt.vec_env.positions import FlightPosition, Position
from sb3_nigt.vec_env.stepping import SimulatedSegments

DEFAULT_EPISODE_STEPS = 1000  # steps over which a lock-step run spreads a time per trajectory if the env has no limit


@dataclass(eq=False)
class _Flight:
    """A job that has not arrived."""

    job: Job
    sampler: Sampler
    order: int  # of submission; the earlier one comes first when times are equal
    started_at: float
    unit_time: float
    sent_at: float | None = None  # when its message began; it has arrived when its next event comes

    def time_of(self, step: int) -> float:
        """When the given step (counted from 1) ends."""
        return self.started_at + self.unit_time * step

    def steps_until(self, time: float) -> int:
        """How many steps have ended at ``time``, the ones that end then included."""
        steps = max(0, math.floor((time - self.started_at) / self.unit_time))
        while self.time_of(steps + 1) <= time:  # undo the rounding of the division
            steps += 1
        while steps > 0 and self.time_of(steps) > time:
            steps -= 1
        return steps


class SimulatedVecEnv(DummyVecEnv, WorkerVecEnv):
    """
    Workers of different speed in this process, on a simulated clock.

    Workers act exactly as real ones do; only the times come from a ``TimeModel``. Steps are executed in the order of the
    clock, so a cancelled worker has executed the steps up to that moment, and no more.

    The synchronous API (``reset``, ``step``) is that of ``DummyVecEnv``. One ``step()`` takes as long as the slowest
    worker: max_i h_i seconds. With a time model per trajectory, it takes its share of a full episode,
    max_i h_i / ``max_episode_steps``.

    :param env_fns: one function per worker that makes its environment
    :param time_model: durations of steps and messages; ``FixedTimes()``, one second per step, by default
    :param task_ids: the task of each worker; workers with equal ids are exchangeable. None: unspecified
    :raises ValueError: if lengths differ from the number of workers, or spaces differ between workers
    """

    clock: SimulatedClock
    can_be_interrupted = True
    sums_by_worker = False  # one sweep over all trajectories is quicker in one process

    def __init__(
        self,
        env_fns: Sequence[Callable[[], gym.Env[Any, Any]]],
        time_model: TimeModel | None = None,
        task_ids: Sequence[Hashable] | None = None,
    ) -> None:
        env_fns = checked_env_fns(env_fns)
        self.task_ids = checked_task_ids(task_ids, len(env_fns))
        self.task_ids_given = task_ids is not None
        self.tasks_differ = task_ids is not None and len(set(task_ids)) > 1
        if time_model is not None and not isinstance(time_model, TimeModel):
            raise ValueError(
                f"time_model={time_model!r} is not allowed: give a TimeModel, for example FixedTimes(step_times)."
            )
        # a copy, since the model may serve another environment with another number of workers
        self.time_model = FixedTimes() if time_model is None else copy.copy(time_model)
        self.time_model.bind(len(env_fns))
        super().__init__(env_fns)
        check_same_spaces([(env.observation_space, env.action_space) for env in self.envs])
        self.clock = SimulatedClock()
        self.link, self.aggregation = self.time_model.link, self.time_model.aggregation
        self._order = 0  # number of the next event
        self._needs_reset = self._interrupted = False
        self._episode_steps = longest_episode(self.envs[0]) or DEFAULT_EPISODE_STEPS
        self._begin_unprepared()

    def _begin_unprepared(self) -> None:
        self.rollout_spec = None
        self._uploads = UploadQueue(self.link)
        self._flights: dict[int, _Flight] = {}
        self._events: list[tuple[float, int, int]] = []  # (time of the next thing to happen, order, worker)
        self._kept: dict[tuple[int, TrajectoryKey], Trajectory] = {}
        self._networks: tuple[SamplingPoint, Any] | None = None
        self._segments: SimulatedSegments | None = None

    def __getstate__(self) -> dict[str, Any]:
        """For pickles and copies: without what ``prepare`` has made and what is in flight."""
        made = ("rollout_spec", "_uploads", "_flights", "_events", "_kept", "_networks", "_segments", "_replica", "_samplers")
        return {name: value for name, value in vars(self).items() if name not in made}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """
        Restore a pickled or copied object, before ``prepare``.

        :param state: the result of ``__getstate__``
        """
        vars(self).update(state)
        self._begin_unprepared()

    # Speeds

    @property
    def step_times(self) -> npt.NDArray[np.float64]:
        """h_i at this moment, see ``WorkerVecEnv``."""
        return self.time_model.step_times(self.clock.now())

    @property
    def message_times(self) -> npt.NDArray[np.float64]:
        """κ_i, see ``WorkerVecEnv``."""
        return self.time_model.message_times

    @property
    def time_per(self) -> TimePer:
        """See ``WorkerVecEnv``."""
        return self.time_model.per

    def predicted_durations(self, n_steps: float) -> npt.NDArray[np.float64]:
        """See ``TrajectoryWorkers``."""
        return self.step_times * (n_steps if self.time_per == "step" else 1.0)

    def aggregate_messages(self, workers: Sequence[int]) -> None:
        """The slowest message among the workers that take part, max κ_i; through a server all of them, Σ κ_i."""
        self.clock.advance_to(max(message.ended for message in self.aggregation_messages(workers)))

    def aggregation_messages(self, workers: Sequence[int]) -> tuple[Message, ...]:
        """See ``RoundWorkers``."""
        return aggregation_messages(workers, self.message_times[list(workers)].tolist(), self.clock.now(), self.aggregation)

    # Synchronous API

    def reset(self) -> VecEnvObs:
        """Reset all environments; trajectories in flight are void."""
        self.n_resets += 1
        self._void_flights()
        self._needs_reset = False
        if self._segments is not None:
            self._segments.leave_episodes()
        self._options = [copy.deepcopy(options) for options in self._options]  # each environment may write to its own
        observations = super().reset()
        self._keep_reset_infos(range(self.num_envs))
        return observations

    def step_async(self, actions: npt.NDArray[Any]) -> None:
        """
        Keep the actions for ``step_wait``.

        :param actions: one action per worker
        """
        if self._needs_reset:  # trajectories have run since the last reset
            self.reset()
        super().step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """Step all environments; the clock moves on by the time of the slowest worker."""
        now = self.clock.now()
        slowest = max(self.time_model.unit_time(worker, now, seed=self._next_number()) for worker in range(self.num_envs))
        self.clock.advance_to(now + slowest / (1 if self.time_per == "step" else self._episode_steps))
        result = super().step_wait()
        self._keep_reset_infos(np.flatnonzero(result[2]).tolist())
        return result

    def _keep_reset_infos(self, workers: Iterable[int]) -> None:
        for worker in workers:
            self.reset_infos[worker] = InfoCopies()(self.reset_infos[worker])

    # Trajectories

    def prepare(self, spec: RolloutSpec) -> None:
        """See ``TrajectoryWorkers``."""
        self._void_flights()
        self.rollout_spec = spec
        self._seed = spec.seed
        self._replica = PolicyReplica(spec.policy)
        self._networks = None
        after_step = None if self.interrupt is None else self._goes_on
        self._samplers = [Sampler(env, self._replica.head, spec.n_steps, after_step, InfoCopies()) for env in self.envs]
        self._segments = SimulatedSegments(
            self.envs, self._replica.head, spec.seed, spec.stagger, self.task_ids, self._episode_steps, spec.first_worker
        )
        self._kept.clear()

    def busy(self, worker: int) -> bool:
        """See ``TrajectoryWorkers``."""
        return worker in self._flights

    def submit(self, job: Job) -> None:
        """See ``TrajectoryWorkers``."""
        assert job.worker not in self._flights, f"worker {job.worker} is busy"
        now = self.clock.now()
        unit_time = self.time_model.unit_time(job.worker, now, trajectory_seeds(self._seed, job.key).time)
        flight = self._begin(job, self._next_number(), now, unit_time)
        # The end of the first step, or of the whole; a sampler that has ended already (a bad reset) ends after 0 steps.
        first = flight.time_of(0 if self.time_per == "step" and flight.sampler.finished else 1)
        heapq.heappush(self._events, (first, flight.order, job.worker))

    def _begin(self, job: Job, order: int, started_at: float, unit_time: float) -> _Flight:
        if self._networks is None or self._networks[0] is not job.point:
            self._networks = (job.point, self._replica.network(job.point))
        seeds, sampler = trajectory_seeds(self._seed, job.key), self._samplers[job.worker]
        sampler.begin(job.key, job.point, self._networks[1], seeds.env, FreshNoise(sampler.head, seeds.actions))
        self._flights[job.worker] = flight = _Flight(job, sampler, order, started_at, unit_time)
        self._needs_reset = True
        return flight

    def next_arrival(self) -> tuple[Arrival, Trajectory] | None:
        """See ``TrajectoryWorkers``; moves the clock to the arrival, if that lies ahead."""
        self._interrupted = False
        while not self._interrupted:
            time, order, worker = heapq.heappop(self._events)
            flight = self._flights[worker]
            if flight.sent_at is None and not self._has_ended(flight, time):
                heapq.heappush(self._events, (self._advance(flight, time), order, worker))
            elif flight.sent_at is None and flight.job.upload:
                self._send(flight, time)
            else:
                return self._arrive(flight, time)
        return None

    def cancel(self) -> list[Cancelled]:
        """See ``TrajectoryWorkers``."""
        now, cancelled = self.clock.now(), []
        for worker in sorted(self._flights):
            flight = self._flights[worker]
            # who can be interrupted is in a hurry: what has been executed counts, and nothing is made up for
            n_steps = self._steps_made(flight, now) if self.interrupt is None else None
            trajectory = flight.sampler.episode(n_steps)
            self.steps_executed += trajectory.n_steps
            cancelled.append(Cancelled(flight.job, flight.started_at, now, trajectory))
        self._void_flights()
        if self._segments is not None:
            self._segments.leave_episodes()  # their last steps are in no round, so a replay could not go on from them
        return cancelled

    def gradient(self, contributions: Sequence[Contribution], weights: npt.NDArray[np.float64]) -> th.Tensor:
        """See ``TrajectoryWorkers``."""
        return self._replica.aggregate(self._kept, contributions, weights, self.sums_by_worker)

    def run_segments(
        self, point: SamplingPoint, is_complete: Callable[[npt.NDArray[np.int64]], bool], meanwhile: Callable[[], None]
    ) -> Segments:
        """See ``TrajectoryWorkers``."""
        meanwhile()
        assert self._segments is not None
        network = self._replica.network(point)
        if self.steps_left is not None:
            return self._take(self._segments.run_part(point, network, self.clock, self.time_model, self.steps_left))
        return self._take(self._segments.run(point, network, self.clock, self.time_model, is_complete))

    def repeat_segments(self, point: SamplingPoint, segments: Sequence[Segment]) -> Segments:
        """
        Make the steps of a recorded round of steps; those of the rounds before have been repeated, from the first one on.

        :param point: θ̃ with its number
        :param segments: the segments of the recorded round
        """
        assert self._segments is not None
        return self._take(self._segments.repeat(point, self._replica.network(point), segments, self.clock.now()))

    def _take(self, segments: Segments) -> Segments:
        self._kept.update({(arrival.worker, arrival.key): piece for arrival, piece in segments.pieces})
        self.steps_executed += sum(piece.n_steps for _, piece in segments.pieces)
        self.steps_executed += sum(late.trajectory.n_steps for late in segments.discarded)
        self._needs_reset = True
        return segments

    def _next_number(self) -> int:
        """Events at the same time happen in the order of their numbers."""
        self._order += 1
        return self._order - 1

    def forget(self, before_round: int) -> None:
        """See ``TrajectoryWorkers``."""
        self._kept = {name: kept for name, kept in self._kept.items() if name[1].round >= before_round}

    # From one process to the next

    def position(self) -> Position:
        """See ``Resumable``."""
        events = {worker: (time, order) for time, order, worker in self._events}
        in_order = sorted(self._flights.items(), key=lambda item: item[1].order)
        flights = tuple(FlightPosition(f.job, f.started_at, f.unit_time, f.sent_at, events[w]) for w, f in in_order)
        episodes = () if self._segments is None else self._segments.positions()
        return Position(self.clock.now(), self._order, self._uploads.free_at, flights, episodes, self.time_model.position())

    def go_on_from(self, position: Position, early: Sequence[tuple[Arrival, Trajectory]]) -> None:
        """See ``Resumable``; trajectories in flight are sampled once more, with the same random numbers."""
        self.clock.advance_to(max(self.clock.now(), position.now))
        shift = self.clock.now() - position.now
        self._order = position.order
        self._uploads.free_at = position.link_free_at + shift
        self._kept.update({(arrival.worker, arrival.key): trajectory for arrival, trajectory in early})
        for old in position.flights:
            flight = self._begin(old.job, old.event[1], old.started_at + shift, old.unit_time)
            flight.sampler.advance(flight.sampler.n_steps)  # nothing will cancel it
            flight.sent_at = None if old.sent_at is None else old.sent_at + shift
            heapq.heappush(
                self._events,
                (self._end(flight) if old.sent_at is None else old.event[0] + shift, *old.event[1:], old.job.worker),
            )
        if position.times is not None:
            self.time_model.go_on_from(position.times)
        if self._segments is not None:
            self._segments.go_on_from(position.episodes, shift)

    # Events

    def _goes_on(self) -> bool:
        """Called after every step."""
        self._interrupted = self.interrupt is not None and self.interrupt()
        return not self._interrupted

    def _has_ended(self, flight: _Flight, time: float) -> bool:
        return flight.sampler.finished and time == self._end(flight)

    def _advance(self, flight: _Flight, time: float) -> float:
        """Execute steps up to the next event of another worker, at least one; return when the next thing happens."""
        sampler = flight.sampler
        if self.time_per == "trajectory":
            sampler.advance(sampler.n_steps)
            return time
        others = self._events[0][0] if self._events else math.inf
        if flight.job.committed or math.isinf(others):
            sampler.advance(sampler.n_steps)
        else:
            sampler.advance(max(1, flight.steps_until(others) - sampler.n_done))
        return flight.time_of(sampler.n_done + (0 if sampler.finished else 1))

    def _send(self, flight: _Flight, time: float) -> None:
        worker = flight.job.worker
        flight.sent_at, arrives_at = self._uploads.send(time, float(self.message_times[worker]))
        # those that arrive together come in the order of the queue, or of their starts where there is none
        order = self._next_number() if self._uploads.is_serial else flight.order
        heapq.heappush(self._events, (arrives_at, order, worker))

    def _arrive(self, flight: _Flight, arrived_at: float) -> tuple[Arrival, Trajectory]:
        worker, trajectory = flight.job.worker, flight.sampler.episode()
        del self._flights[worker]
        self.clock.advance_to(max(arrived_at, self.clock.now()))  # it may have arrived while a round was aggregated
        self.steps_executed += trajectory.n_steps
        self._kept[worker, flight.job.key] = trajectory
        arrival = Arrival(
            worker=worker,
            task_id=self.task_ids[worker],
            key=flight.job.key,
            n_steps=trajectory.n_steps,
            episode_return=trajectory.episode_return,
            started_at=flight.started_at,
            finished_at=self._end(flight),
            arrived_at=arrived_at,
            sent_at=flight.sent_at,
            rejected=trajectory.rejected,
        )
        return arrival, trajectory

    def _end(self, flight: _Flight) -> float:
        return flight.time_of(flight.sampler.n_done if self.time_per == "step" else 1)

    def _steps_made(self, flight: _Flight, now: float) -> int:
        """Execute and count the steps that had ended when the worker was stopped."""
        sampler = flight.sampler
        if self.time_per == "step":
            steps = flight.steps_until(now)
            sampler.advance(max(0, steps - sampler.n_done))
            return min(steps, sampler.n_done)
        # The steps share the trajectory's time equally, so their number follows from the length, known only at its end.
        share = min(1.0, (now - flight.started_at) / flight.unit_time)
        if math.floor(share * sampler.n_steps + 1e-9) == 0:
            return 0
        sampler.advance(sampler.n_steps)
        return math.floor(share * sampler.n_done + 1e-9)

    def _void_flights(self) -> None:
        self._flights.clear()
        self._events.clear()
        self._uploads.clear()
