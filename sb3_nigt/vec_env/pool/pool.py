"""Workers apart from this process, on the wall clock: what processes of this machine and actors of a cluster share."""

from __future__ import annotations

import copy
import time
import weakref
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch as th

from sb3_nigt.messages import Arrival, Contribution, Job, SamplingPoint
from sb3_nigt.replica.copying import pickled
from sb3_nigt.replica.gradients import weighted_sum
from sb3_nigt.replica.replica import PolicyReplica, by_worker
from sb3_nigt.sampling.steps import StepTable
from sb3_nigt.sampling.trajectory import Trajectory
from sb3_nigt.timing.clock import WallClock
from sb3_nigt.timing.time_models import FixedTimes, TimeModel, TimePer
from sb3_nigt.validation import check_interval
from sb3_nigt.vec_env.base import Cancelled, RolloutSpec, Segments, WorkerVecEnv, check_same_spaces, checked_task_ids
from sb3_nigt.vec_env.pool.commanded import CommandedVecEnv
from sb3_nigt.vec_env.pool.commands import Commands
from sb3_nigt.vec_env.pool.driver import Driver
from sb3_nigt.vec_env.pool.inbox import Inbox
from sb3_nigt.vec_env.pool.infos import checked_info_keys
from sb3_nigt.vec_env.pool.roster import POLL_SECONDS, Roster
from sb3_nigt.vec_env.pool.segment_book import SegmentBook
from sb3_nigt.vec_env.pool.slot import State
from sb3_nigt.vec_env.pool.speeds import Speeds
from sb3_nigt.vec_env.pool.step_rounds import StepRounds
from sb3_nigt.vec_env.pool.transport import Transport

CANCEL_SECONDS = 0.005  # how long a round's end waits for cancelled workers to say what they did
INTERRUPT_SECONDS = 0.001  # interval at which the function that may interrupt the wait is called


class WorkerPool(CommandedVecEnv):
    """
    Workers that run whole trajectories elsewhere with their own copy of the policy; the parent of ``ProcessVecEnv``.

    It is made of parts: the roster decides, the transport reaches the workers, the driver links the two, the inbox holds
    trajectories, commands are the synchronous API. A subclass brings the transport.
    """

    clock: WallClock

    def _take_arguments(
        self,
        n_workers: int,
        task_ids: Sequence[Hashable] | None,
        timeout: float,
        time_model: TimeModel | None,
        info_keys: Sequence[str] | None,
    ) -> Speeds:
        """Check and keep what all subclasses are given; nothing is started here."""
        self.timeout = check_interval("timeout", timeout, 0.0, float("inf"), open_low=True)
        self.info_keys = checked_info_keys(info_keys)
        self.task_ids = checked_task_ids(task_ids, n_workers)
        self.task_ids_given = task_ids is not None
        self.tasks_differ = task_ids is not None and len(set(task_ids)) > 1
        if time_model is not None and not isinstance(time_model, TimeModel):
            raise ValueError(f"time_model={time_model!r} is not allowed: give a TimeModel, for example FixedTimes().")
        guess = FixedTimes() if time_model is None else copy.copy(time_model)
        guess.bind(n_workers)
        self._now: Callable[[], float] = time.monotonic
        self.clock = WallClock(self._now)
        return Speeds(guess.step_times(0.0))

    def _assemble(self, roster: Roster, transport: Transport[Any]) -> None:
        """Put the parts together; the transport ends with this object, also when ``__init__`` raises."""
        self._roster, self._transport, self._inbox = roster, transport, Inbox(self.task_ids, self.clock)
        self._segments = SegmentBook(self.task_ids, self.clock)
        self._driver = Driver(roster, transport, self._inbox, self._segments, self.task_ids)
        self._step_rounds = StepRounds(self._driver, self._segments)
        self._commands = Commands(self._driver, self.timeout)
        self._finalizer = weakref.finalize(self, transport.end)

    def _start_all(self) -> None:
        self._transport.start_all()
        for worker, handle in enumerate(self._transport.handles):
            self._roster.launched(worker, handle.steps, self._now())

    def _open(self, described: Sequence[tuple[Any, ...]]) -> None:
        """
        Become a ``VecEnv``.

        :param described: what the workers report about their environments
        """
        check_same_spaces([(observation_space, action_space) for observation_space, action_space, *_ in described])
        observation_space, action_space, _, metadata = described[0]
        self._driver.open(observation_space, action_space)
        self.metadata = metadata
        WorkerVecEnv.__init__(self, self._transport.n_workers, observation_space, action_space)

    # Workers

    @property
    def worker_pids(self) -> list[int | None]:
        """Process ids of the workers, of the last process where one has died; None: never had one."""
        return [handle.pid for handle in self._transport.handles]

    @property
    def restarts(self) -> int:
        """See ``TrajectoryWorkers``."""
        return sum(slot.history.failures for slot in self._roster.slots)

    def lost(self) -> frozenset[int]:
        """See ``TrajectoryWorkers``."""
        return frozenset(worker for worker in self._roster.down if self._roster.slots[worker].state is State.LOST)

    def last_failure(self, worker: int) -> str:
        """See ``TrajectoryWorkers``."""
        return self._roster.last_failure(worker)

    @property
    def step_times(self) -> npt.NDArray[np.float64]:
        """Measured seconds per step, a running mean; NaN before the first trajectory."""
        return self._roster.speeds.measured()

    @property
    def message_times(self) -> npt.NDArray[np.float64]:
        """Zero: messages are part of the measured time."""
        return np.zeros(self._transport.n_workers)

    @property
    def time_per(self) -> TimePer:
        """See ``WorkerVecEnv``."""
        return "step"

    def predicted_durations(self, n_steps: float) -> npt.NDArray[np.float64]:
        """See ``TrajectoryWorkers``; guessed until measured, later for workers that are down, infinite for lost ones."""
        return self._roster.predicted_durations(n_steps, self._now())

    def aggregate_messages(self, workers: Sequence[int]) -> None:
        """Real messages take their time by themselves."""

    # Trajectories

    def prepare(self, spec: RolloutSpec) -> None:
        """See ``TrajectoryWorkers``."""
        self._settle()
        replica = PolicyReplica(spec.policy.to("cpu"))
        table = StepTable.of(self.observation_space, replica.head)
        let_go = self._transport.take_settings(pickled(spec.policy), spec, table, replica.layout)
        self.rollout_spec, self._replica, self._roster.may_lose = spec, replica, spec.may_lose
        self._inbox.open(self._transport.arrays, table)
        self._segments.open(self._transport.arrays, table)
        self._driver.prepare_idle()
        self._settle()
        let_go()

    def busy(self, worker: int) -> bool:
        """See ``TrajectoryWorkers``."""
        return self._roster.jobs.is_busy(worker)

    def submit(self, job: Job) -> None:
        """See ``TrajectoryWorkers``; a worker that is still stopping or restarting begins as soon as it can."""
        self._commands.check_open()
        self._commands.needs_reset = True
        steps = self._transport.handles[job.worker].steps
        self._driver.carry_out(self._roster.jobs.submit(job, steps, self._now()))

    def next_arrival(self) -> tuple[Arrival, Trajectory] | None:
        """See ``TrajectoryWorkers``."""
        while not self._inbox.arrived:
            waited_for = self._roster.jobs.under_way()
            if not waited_for:
                raise RuntimeError("There is nothing to wait for: no worker has a job.")
            if self.interrupt is not None and self.interrupt():
                return None
            self._driver.check_places(waited_for, all)
            self._driver.pump(POLL_SECONDS if self.interrupt is None else INTERRUPT_SECONDS)
        arrival, trajectory = self._inbox.take()
        self._roster.jobs.delivered(arrival.worker)
        self.steps_executed += trajectory.n_steps
        return arrival, trajectory

    def cancel(self) -> list[Cancelled]:
        """
        See ``TrajectoryWorkers``.

        It returns after an instant; what a slow worker had done is returned by a later call.
        """
        if self.closed:
            return []
        self._driver.carry_out(self._roster.jobs.cancel())
        self._inbox.void()
        self._segments.void()
        self._roster.jobs.leave_episodes()  # their last steps are in no round, so a replay could not go on from them
        until = self._now() + CANCEL_SECONDS
        while self._roster.within(State.CANCELLING) and (left := until - self._now()) > 0:
            self._driver.pump(left)
        return self._take_discarded()

    def _take_discarded(self) -> list[Cancelled]:
        discarded = self._inbox.take_discarded() + self._segments.take_discarded()
        self.steps_executed += sum(cancelled.trajectory.n_steps for cancelled in discarded)
        return discarded

    def run_segments(
        self, point: SamplingPoint, is_complete: Callable[[npt.NDArray[np.int64]], bool], meanwhile: Callable[[], None]
    ) -> Segments | None:
        """See ``TrajectoryWorkers``; a worker in the middle of a long step is not waited for, its step is reported later."""
        self._commands.check_open()
        self._commands.needs_reset = True
        segments = self._step_rounds.run(point, is_complete, meanwhile, self.interrupt, self.steps_left)
        if segments is None:
            return None
        self.steps_executed += sum(piece.n_steps for _, piece in segments.pieces)
        self._inbox.keep(segments.pieces)
        return replace(segments, discarded=self._take_discarded())

    def gradient(self, contributions: Sequence[Contribution], weights: npt.NDArray[np.float64]) -> th.Tensor:
        """
        See ``TrajectoryWorkers``.

        For a worker that has died, or is in the middle of a long step, the same sum is computed here. The steps of a round of
        steps are all here, where one sweep over them costs less than messages to all workers.
        """
        if self.rollout_spec is not None and self.rollout_spec.round_steps is not None:
            return self._replica.aggregate(self._inbox.kept, contributions, weights)
        self._commands.check_open()
        wanted = by_worker(contributions)
        self._driver.collect_gradients(wanted)
        local_sums = {}
        for worker, mine in wanted.items():
            if worker in self._roster.jobs.gradients_here:
                local_sums[worker] = th.from_numpy(self._transport.arrays.of(worker)["gradient"])
            else:
                local_sums[worker] = self._replica.local_sum(self._inbox.kept, mine)
        return weighted_sum(local_sums, weights)

    def forget(self, before_round: int) -> None:
        """See ``TrajectoryWorkers``."""
        self._inbox.forget(before_round)

    # Life

    def __getstate__(self) -> Any:
        """Workers elsewhere cannot be copied, so neither can a model that trains on them."""
        raise TypeError(
            f"A {type(self).__name__} cannot be pickled or copied, since its workers are processes: use model.save(path) and "
            f"load(path, env=workers), with new workers or with these."
        )

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._commands.is_closed

    def _settle(self) -> None:
        """Cancel all jobs and wait until every worker is free for commands, also those that have died meanwhile."""
        self._commands.check_open()
        self.cancel()
        self._commands.free_all()
        self._take_discarded()
        self._commands.check_lost()

    def close(self) -> None:
        """End all workers within seconds, also hung ones; may be called again."""
        if not self.closed:
            self._commands.is_closed = True
            self._driver.carry_out(self._roster.jobs.cancel())
            self._transport.close(self._roster.within(State.IDLE, State.CANCELLING))
            self._finalizer()
