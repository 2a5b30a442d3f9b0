"""Workers apart from this process, on the wall clock: what processes of this machine and actors of a cluster share."""

from __future__ import annotations

import copy
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch as th

from sb3_nigt.messages import Arrival, Contribution, Job, SamplingPoint, TrajectoryKey
from sb3_nigt.parameters import Layout
from sb3_nigt.replica.copying import pickled
from sb3_nigt.replica.gradients import weighted_sum
from sb3_nigt.replica.replica import PolicyReplica, by_worker
from sb3_nigt.sampling.steps import StepTable, read_steps
from sb3_nigt.sampling.trajectory import Trajectory
from sb3_nigt.timing.clock import WallClock
from sb3_nigt.timing.time_models import FixedTimes, TimeModel, TimePer
from sb3_nigt.validation import check_interval
from sb3_nigt.vec_env.base import RolloutSpec, WorkerVecEnv, check_same_spaces, checked_task_ids
from sb3_nigt.vec_env.pool import protocol
from sb3_nigt.vec_env.pool.arrays import WorkerArrays
from sb3_nigt.vec_env.pool.commands import SynchronousProcesses
from sb3_nigt.vec_env.pool.failures import WorkerFailures
from sb3_nigt.vec_env.pool.restarts import RestartLimits
from sb3_nigt.vec_env.pool.slot import Slot, State

GRADIENT_SECONDS = 0.05  # how long a gradient waits for a busy worker to notice; then it is computed here
CANCEL_SECONDS = 0.005  # how long a round's end waits for cancelled workers to say what they did
INTERRUPT_SECONDS = 0.001  # how often somebody who wants to interrupt the wait is asked
POLL_SECONDS = 0.25  # how often hung workers and due restarts are looked for


class WorkerPool(WorkerFailures, SynchronousProcesses, WorkerVecEnv):
    """
    Workers that run whole trajectories elsewhere with their own copy of the policy; the parent of ``ProcessVecEnv``.

    What the jobs, their arrivals, cancellations and gradients have to do with each other is decided here. A subclass says
    how a worker is started, how parameters reach it, where trajectories come back, and how to wait for messages.
    """

    clock: WallClock

    def _prepare_pool(
        self,
        env_fns: Sequence[Callable[[], gym.Env[Any, Any]]],
        task_ids: Sequence[Hashable] | None,
        timeout: float,
        restart_limits: RestartLimits,
        time_model: TimeModel | None,
    ) -> None:
        """Check and keep what all subclasses are given; nothing is started here."""
        self.timeout = check_interval("timeout", timeout, 0.0, float("inf"), open_low=True)
        self._restart_limits = restart_limits
        self.task_ids = checked_task_ids(task_ids, len(env_fns))
        self.task_ids_given = task_ids is not None
        self.tasks_differ = task_ids is not None and len(set(task_ids)) > 1
        if time_model is not None and not isinstance(time_model, TimeModel):
            raise ValueError(f"time_model={time_model!r} is not allowed: give a TimeModel, for example FixedTimes().")
        guess = FixedTimes() if time_model is None else copy.copy(time_model)
        guess.bind(len(env_fns))
        self._guessed_times = guess.step_times(0.0)
        self.clock = WallClock()
        self._env_fns = [cloudpickle.dumps(env_fn) for env_fn in env_fns]
        self._block: WorkerArrays | None = None
        self._blocks: list[WorkerArrays] = []
        self._next_check = 0.0  # when hung workers are looked for again
        self._undelivered: set[int] = set()  # workers whose arrival nobody has taken yet
        self._arrived: deque[tuple[Arrival, Trajectory]] = deque()
        self._discarded: list[tuple[Job, float, Trajectory]] = []
        self._kept: dict[tuple[int, TrajectoryKey], Trajectory] = {}
        self._gradients: set[int] = set()  # workers whose gradient is ready
        self._prepare_failures()
        self.closed = False
        self._slots: list[Slot[Any]] = []

    def _open(self, described: Sequence[tuple[Any, ...]]) -> None:
        """
        Become a ``VecEnv``.

        :param described: what the workers say of their environments
        """
        check_same_spaces([(observation_space, action_space) for observation_space, action_space, *_ in described])
        self._ever_ready = True
        observation_space, action_space, _, metadata = described[0]
        self.metadata = metadata
        WorkerVecEnv.__init__(self, len(self._slots), observation_space, action_space)

    @property
    def restarts(self) -> int:
        """See ``TrajectoryWorkers``."""
        return sum(slot.restarts for slot in self._slots)

    # Where the workers are

    @abstractmethod
    def _new_block(self, table: StepTable, horizon: int, layout: Layout) -> WorkerArrays:
        """Return arrays for what the workers and their parent exchange in a round."""

    @abstractmethod
    def _send_point(self, slot: Slot[Any], point: SamplingPoint) -> None:
        """Let a worker have the parameters of its next job."""

    @abstractmethod
    def _ready(self, slots: Sequence[Slot[Any]], seconds: float) -> list[Slot[Any]]:
        """Wait until one of some workers has said something; return those that have."""

    # Speeds

    @property
    def step_times(self) -> npt.NDArray[np.float64]:
        """Measured seconds per step, a running mean; NaN before the first trajectory."""
        return np.array([slot.seconds_per_step for slot in self._slots])

    @property
    def message_times(self) -> npt.NDArray[np.float64]:
        """Zero: messages are part of the measured time."""
        return np.zeros(len(self._slots))

    @property
    def time_per(self) -> TimePer:
        """See ``WorkerVecEnv``."""
        return "step"

    def predicted_durations(self, n_steps: float) -> npt.NDArray[np.float64]:
        """See ``TrajectoryWorkers``; who was not measured yet is guessed, who is down begins later, who is lost never."""
        times = self.step_times
        known = np.isfinite(times)
        if not known.all():
            scale = np.median(times[known] / self._guessed_times[known]) if known.any() else 1.0
            times = np.where(known, times, scale * self._guessed_times)
        durations = times * n_steps
        return durations + self._time_until_restart() if self._down else durations

    def aggregate_messages(self, workers: Sequence[int]) -> None:
        """Real messages take their time by themselves."""

    # Trajectories

    def prepare(self, spec: RolloutSpec) -> None:
        """See ``TrajectoryWorkers``."""
        self._settle()
        replica = PolicyReplica(spec.policy.to("cpu"))
        policy = pickled(spec.policy)
        table = StepTable.of(self.observation_space, replica.head)
        block = self._new_block(table, spec.n_steps, replica.layout)  # may not fit; then nothing has changed
        old, self._block = self._block, block
        self.rollout_spec, self._replica, self._table = spec, replica, table
        self._settings = (policy, spec.n_steps, spec.seed)  # of the workers
        self._blocks.append(self._block)
        self._kept.clear()
        self._job_failures.clear()
        for index, slot in enumerate(self._slots):
            if slot.state == State.IDLE:
                self._prepare_worker(index)
        self._settle()
        if old is not None:
            self._blocks.remove(old)
            old.close()

    def _prepare_worker(self, index: int) -> None:
        slot = self._slots[index]
        assert self._block is not None
        slot.state, slot.point, slot.context = State.PREPARING, None, (None, None)
        slot.held.clear()
        self._note_progress(slot)
        slot.remote.send_command("prepare", index, *self._settings, self._block.layout)

    def busy(self, worker: int) -> bool:
        """See ``TrajectoryWorkers``."""
        return self._slots[worker].job is not None or worker in self._undelivered

    def submit(self, job: Job) -> None:
        """See ``TrajectoryWorkers``; a worker that is still stopping or restarting begins as soon as it can."""
        slot = self._slots[job.worker]
        assert not self.busy(job.worker), f"worker {job.worker} is busy"
        slot.job = job
        self._needs_reset = True
        self._send_job(slot)

    def _send_job(self, slot: Slot[Any]) -> None:
        if slot.job is None or slot.state != State.IDLE:
            return
        job = slot.job
        if slot.point is not job.point:
            self._send_point(slot, job.point)
            context = (job.point.transform_obs, job.point.buffers or None)
            if any(new is not old for new, old in zip(context, slot.context, strict=True)):
                slot.context = context
                slot.remote.send_context(context)
            slot.point = job.point
            slot.point_number += 1
            slot.held = {key for key in slot.held if key.round >= job.point.round}
        slot.job_number += 1
        slot.state = State.BUSY
        self._note_progress(slot)
        slot.remote.run(slot.job_number, slot.point_number, job.point.round, job.key)

    def next_arrival(self) -> tuple[Arrival, Trajectory] | None:
        """See ``TrajectoryWorkers``."""
        while not self._arrived:
            waited_for = [slot.remote.index for slot in self._slots if slot.job is not None]
            if not waited_for:
                raise RuntimeError("There is nothing to wait for: no worker has a job.")
            if self.interrupt is not None and self.interrupt():
                return None
            self._check_places(waited_for, all)
            self._pump(POLL_SECONDS if self.interrupt is None else INTERRUPT_SECONDS)
        arrival, trajectory = self._arrived.popleft()
        self._undelivered.discard(arrival.worker)
        self.steps_executed += trajectory.n_steps
        self._kept[arrival.worker, arrival.key] = trajectory
        return arrival, trajectory

    def cancel(self) -> list[tuple[Job, float, Trajectory]]:
        """
        See ``TrajectoryWorkers``.

        Nobody is waited for longer than an instant: what a slow worker had done is returned by a later call.
        """
        for slot in self._slots:
            slot.job = None
            slot.remote.drop_gradient()
            if slot.state == State.BUSY:
                slot.state = State.CANCELLING
                slot.remote.cancel(slot.job_number)
        for arrival, trajectory in self._arrived:
            self._discarded.append((Job(arrival.worker, arrival.key, trajectory.point), arrival.started_at, trajectory))
        self._arrived.clear()
        self._undelivered.clear()
        until = time.monotonic() + CANCEL_SECONDS
        while any(slot.state == State.CANCELLING for slot in self._slots) and (left := until - time.monotonic()) > 0:
            self._pump(left)
        discarded, self._discarded = self._discarded, []
        self.steps_executed += sum(trajectory.n_steps for _, _, trajectory in discarded)
        return discarded

    def gradient(self, contributions: Sequence[Contribution], weights: npt.NDArray[np.float64]) -> th.Tensor:
        """
        See ``TrajectoryWorkers``.

        A worker that has died, or is in the middle of a long step, is stood in for here, by the same computation.
        """
        assert self._block is not None
        wanted = by_worker(contributions)
        self._gradients.clear()
        self._ask_for_gradients(wanted)
        patient_until = time.monotonic() + GRADIENT_SECONDS
        while pending := [slot for slot in self._slots if slot.remote.owes_gradient]:
            left = patient_until - time.monotonic()
            if left > 0:
                self._pump(left)
            elif hesitating := [s for s in pending if s.state != State.IDLE and not s.remote.has_begun_gradient]:
                for slot in hesitating:
                    slot.remote.drop_gradient()
            else:
                self._pump(POLL_SECONDS)
        local_sums = {}
        for worker, mine in wanted.items():
            if worker in self._gradients:
                local_sums[worker] = th.from_numpy(self._block.of(worker)["gradient"])
            else:
                local_sums[worker] = self._replica.local_sum(self._kept, mine)
        self._gradients.clear()
        return weighted_sum(local_sums, weights)

    def _ask_for_gradients(self, wanted: Mapping[int, Sequence[Contribution]]) -> None:
        for worker, contributions in wanted.items():
            slot, keys = self._slots[worker], {c.key for c in contributions}
            if slot.state in (State.IDLE, State.BUSY, State.CANCELLING) and slot.held.issuperset(keys):
                slot.held.difference_update(keys)
                self._note_progress(slot)
                slot.remote.request_gradient(contributions)

    def forget(self, before_round: int) -> None:
        """See ``TrajectoryWorkers``."""
        self._kept = {name: kept for name, kept in self._kept.items() if name[1].round >= before_round}

    # Messages

    def _pump(self, seconds: float) -> None:
        """Take in what the workers say within some seconds, look for hung ones, restart those that are due."""
        active = [slot for slot in self._slots if slot.owes_an_answer]
        for slot in self._ready(active, seconds):
            self._receive(slot)
        now = time.monotonic()
        if now >= self._next_check:
            self._next_check = now + POLL_SECONDS
            for slot in active:
                self._check_progress(slot, now)
        self._restart_due(now)

    def _receive(self, slot: Slot[Any]) -> None:
        try:
            message = slot.remote.receive()
        except (EOFError, OSError):
            self._fail(slot, slot.remote.how_it_ended())
            return
        if message is None:
            return
        kind, content = message
        self._note_progress(slot)
        if kind == protocol.ERROR:
            self._fail(slot, f"{content[1]}\n{content[2]}")
        elif kind == protocol.ARRIVAL:
            self._take_arrival(slot, content)
        elif kind == protocol.GRADIENT:
            self._gradients.add(slot.remote.index)
        elif slot.state == State.STARTING:
            self._take_start(slot, content)
        else:
            self._become_idle(slot)

    def _take_start(self, slot: Slot[Any], described: tuple[Any, ...]) -> None:
        if self.rollout_spec is not None:
            self._prepare_worker(slot.remote.index)
        else:
            self._become_idle(slot)

    def _become_idle(self, slot: Slot[Any]) -> None:
        slot.state = State.IDLE
        self._send_job(slot)

    def _take_arrival(self, slot: Slot[Any], said: protocol.RemoteArrival) -> None:
        index, job, point = slot.remote.index, slot.job, slot.point
        assert point is not None
        wanted = slot.state == State.BUSY and job is not None and not said.cancelled
        key = job.key if wanted and job is not None else TrajectoryKey(point.round, index, 0)
        trajectory = self._read(index, key, point, said)
        slot.history.succeeded()
        if said.n_steps:
            slot.note_speed((said.finished_at - said.started_at) / said.n_steps)
        if not wanted or job is None:
            self._discarded.append((Job(index, key, point), self.clock.at(said.started_at), trajectory))
            self._become_idle(slot)
            return
        arrival = Arrival(
            worker=index,
            task_id=self.task_ids[index],
            key=job.key,
            n_steps=said.n_steps,
            episode_return=trajectory.episode_return,
            started_at=self.clock.at(said.started_at),
            finished_at=self.clock.at(said.finished_at),
            arrived_at=self.clock.now(),
            rejected=trajectory.rejected,
        )
        self._ever_arrived = True
        slot.held.add(job.key)
        slot.job = None
        self._job_failures.pop(job.key, None)
        self._undelivered.add(index)
        self._arrived.append((arrival, trajectory))
        self._become_idle(slot)

    def _read(self, index: int, key: TrajectoryKey, point: SamplingPoint, said: protocol.RemoteArrival) -> Trajectory:
        """Copy a trajectory out of shared memory."""
        assert self._block is not None
        arrays, n = self._block.of(index), said.n_steps
        infos: list[dict[str, Any]] = [{} for _ in range(n)]
        if n and np.isfinite(said.episode_length):
            episode = {"r": said.episode_return, "l": int(said.episode_length), "t": said.episode_time}
            infos[-1]["episode"] = episode
        if n and np.isfinite(said.is_success):
            infos[-1]["is_success"] = bool(said.is_success)
        return Trajectory(
            key=key,
            point=point,
            **read_steps({name: arrays[name] for name in self._table.fields}, n),
            terminated=bool(said.terminated),
            truncated=bool(said.truncated),
            infos=infos,
            rejected=protocol.REJECTIONS[said.rejection],
        )
