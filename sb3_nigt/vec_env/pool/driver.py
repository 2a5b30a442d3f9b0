"""Carries out what the roster decides, and tells it what the workers say and what time it is."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

import cloudpickle
import gymnasium as gym

from sb3_nigt.errors import WorkerError, warn_user
from sb3_nigt.messages import Contribution
from sb3_nigt.vec_env.pool import instructions as do
from sb3_nigt.vec_env.pool import protocol
from sb3_nigt.vec_env.pool.inbox import Inbox
from sb3_nigt.vec_env.pool.instructions import Instruction
from sb3_nigt.vec_env.pool.roster import POLL_SECONDS, Roster
from sb3_nigt.vec_env.pool.segment_book import SegmentBook
from sb3_nigt.vec_env.pool.slot import State
from sb3_nigt.vec_env.pool.transport import Transport


class Driver:
    """
    The link between the roster, which knows no process, and the transport, which decides nothing.

    :param roster: what each worker is doing
    :param transport: how it is reached
    :param inbox: the inbox for trajectories
    :param segments: the book of segments
    :param task_ids: the task of each worker
    """

    def __init__(
        self,
        roster: Roster,
        transport: Transport[Any],
        inbox: Inbox,
        segments: SegmentBook,
        task_ids: Sequence[Hashable],
    ) -> None:
        self.roster, self.transport, self.inbox, self.task_ids = roster, transport, inbox, task_ids
        self.segments = segments
        self.now: Callable[[], float] = transport.now
        self._pending: deque[Instruction] = deque()  # so that what an exception leaves undone is done next time
        self._spaces: tuple[gym.Space[Any], gym.Space[Any]] | None = None
        self._packed: tuple[tuple[Any, Any], bytes] = (None, None), b""  # the context that was sent last

    # From the roster to the workers

    def carry_out(self, instructions: Iterable[Instruction]) -> None:
        """
        Do what the roster wants done.

        :param instructions: what to do, in this order, after those that an exception has left undone
        :raises WorkerError: if that is what it wants
        """
        self._pending.extend(instructions)
        while self._pending:
            instruction = self._pending.popleft()
            _CARRY_OUT[type(instruction)](self, instruction)

    def _start(self, said: do.StartWorker) -> None:
        try:
            self.transport.start(said.worker)
        except OSError as error:  # there are no descriptors or no processes left; later there may be
            self.carry_out(self.roster.failed(said.worker, f"it could not be started again: {error}", self.now()))
            return
        self.roster.launched(said.worker, self.transport.handles[said.worker].steps, self.now())

    def _kill(self, said: do.Kill) -> None:
        self.transport.handles[said.worker].kill()

    def _check_alive(self, said: do.CheckAlive) -> None:
        handle = self.transport.handles[said.worker]
        if not handle.is_alive():
            self.fail(said.worker, handle.how_it_ended())

    def _examine(self, said: do.Examine) -> None:
        handle = self.transport.handles[said.worker]
        if not handle.is_alive():
            self.fail(said.worker, handle.how_it_ended())
        else:
            stack = handle.stack()
            self.carry_out(self.roster.hung(said.worker, said.silent, stack, self.now()))

    def _prepare(self, said: do.SendPrepare) -> None:
        self.transport.prepare(said.worker)

    def _send_point(self, said: do.SendPoint) -> None:
        self.transport.send_point(said.worker, said.point)

    def _send_context(self, said: do.SendContext) -> None:
        is_new = any(new is not old for new, old in zip(said.context, self._packed[0], strict=True))
        if is_new or not self._packed[1]:  # once for all workers
            self._packed = said.context, cloudpickle.dumps(said.context)
        self.transport.handles[said.worker].send_context(self._packed[1])

    def _run(self, said: do.Run) -> None:
        job = said.job
        self.transport.handles[job.worker].run(said.job_number, said.point_number, job.point.round, job.key)

    def _run_segment(self, said: do.RunSegment) -> None:
        job, handle = said.job, self.transport.handles[said.job.worker]
        self.segments.begun(job.worker, said.start)
        handle.run_segment(said.job_number, said.point_number, job.point.round, said.start, job.segment_steps)

    def _cancel(self, said: do.CancelJob) -> None:
        self.transport.handles[said.worker].cancel(said.job_number)

    def _request_gradient(self, said: do.RequestGradient) -> None:
        self.transport.handles[said.worker].request_gradient(said.contributions)

    def _drop_gradient(self, said: do.DropGradient) -> None:
        self.transport.handles[said.worker].drop_gradient()

    def _deliver(self, said: do.Deliver) -> None:
        self.inbox.deliver(said.job, said.said)

    def _discard(self, said: do.Discard) -> None:
        self.inbox.discard(said.worker, said.key, said.point, said.said)

    def _reject(self, said: do.Reject) -> None:
        self.inbox.reject(said.job, said.reason)

    def _take_segment(self, said: do.TakeSegment) -> None:
        self.segments.take(said.job, said.said)

    def _drop_segment(self, said: do.DropSegment) -> None:
        self.segments.drop(said.worker, said.point, said.said)

    def _lose_segment(self, said: do.LoseSegment) -> None:
        self.segments.lose(said.worker)

    def _warn(self, said: do.Warn) -> None:
        warn_user(said.message)

    def _raise(self, said: do.Raise) -> None:
        raise WorkerError(said.message, said.worker, self.task_ids[said.worker])

    def _pass_on(self, said: do.PassOn) -> None:
        protocol.raise_remote(said.failure, said.worker)

    # From the workers to the roster

    def open(self, observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> None:
        """
        From now on a worker that fails is restarted.

        :param observation_space: the observation space of all workers
        :param action_space: the action space of all workers
        """
        self._spaces = observation_space, action_space
        self.roster.open()

    def pump(self, seconds: float) -> None:
        """Take in what the workers say within some seconds, look for hung ones, restart those that are due."""
        roster = self.roster
        active = roster.listened_to()
        for worker in self.transport.ready(active, seconds):
            self._receive(worker)
        now = self.now()
        if roster.is_time_to_look(now):
            for worker in active:
                self._look(worker, now)
        if due := roster.tick(now):
            self.carry_out(due)

    def _receive(self, worker: int) -> None:
        handle, roster = self.transport.handles[worker], self.roster
        try:
            message = handle.receive()
        except TimeoutError as error:
            self.fail(worker, str(error))
            return
        except (EOFError, OSError):
            self.fail(worker, handle.how_it_ended())
            return
        if message is None:
            if handle.is_placed:
                roster.placed(worker, handle.steps, self.now())
            return
        (kind, content), steps, now = message, handle.steps, self.now()
        if kind in (protocol.ARRIVAL, protocol.SEGMENT):
            self.carry_out(roster.jobs.arrived(worker, content, steps, now))
        elif kind == protocol.GRADIENT:
            roster.jobs.gradient_came(worker, steps, now)
        elif kind == protocol.ERROR:
            self.carry_out(roster.raised(worker, content, now))
        else:
            self._check_spaces(worker, content)
            self.carry_out(roster.replied(worker, steps, now))

    def _check_spaces(self, worker: int, described: Any) -> None:
        if self.roster.slots[worker].state is State.STARTING and described[:2] != self._spaces:
            raise ValueError(
                f"env_fns: the spaces of worker {worker} are {described[:2]}, those of the others are {self._spaces}: wrap "
                "the environments so that they agree."
            )

    def _look(self, worker: int, now: float) -> None:
        handle = self.transport.handles[worker]
        if handle.answers_to_nobody:
            self.carry_out(self.roster.unheard(worker, handle.steps, now))
        elif handle.is_placed:
            self.carry_out(self.roster.look(worker, handle.steps, now))
        else:
            self.carry_out(self.roster.unplaced(worker, now))

    def fail(self, worker: int, reason: str) -> None:
        """
        Restart a worker after a while, or give it up.

        :param worker: the worker that has ended, hangs or has raised
        :param reason: what has happened to it
        """
        if self.roster.is_open and self.transport.handles[worker].node_has_left:
            self.carry_out(self.roster.node_left(worker))
        else:
            self.carry_out(self.roster.failed(worker, reason, self.now()))

    def check_places(self, workers: Sequence[int], enough: Callable[[Iterable[bool]], bool]) -> None:
        """
        Refuse to wait forever for workers that the cluster has no place for.

        :param workers: the workers that are waited for
        :param enough: ``any`` or ``all``, for how many of them must have been absent for too long
        :raises WorkerError: if so many have been
        """
        worker = self.roster.without_place(workers, enough, self.now()) if self.roster.down else None
        if worker is not None:
            said = f"{self.transport.why_no_place(worker)} The run cannot continue without it."
            raise WorkerError(said, worker, self.task_ids[worker])

    # Several workers at once

    def collect_gradients(self, wanted: Mapping[int, Sequence[Contribution]]) -> None:
        """
        Ask workers for their local sums and wait for those that begin with it soon; ``Jobs.gradients_here`` says which came.

        :param wanted: the contributions of each worker
        """
        jobs, handles = self.roster.jobs, self.transport.handles
        jobs.begin_gradients(self.now())
        for worker, contributions in wanted.items():
            self.carry_out(jobs.ask_for_gradient(worker, contributions, handles[worker].steps, self.now()))
        while jobs.gradients_owed:
            late = [worker for worker in jobs.hesitating(self.now()) if not handles[worker].has_begun_gradient]
            for worker in late:
                self.carry_out(jobs.drop_gradient(worker))
            if not late:
                self.pump(jobs.patience(self.now()) or POLL_SECONDS)

    def prepare_idle(self) -> None:
        """Tell all workers that wait for messages of new settings."""
        self.roster.new_settings()
        for worker in self.roster.within(State.IDLE):
            self.carry_out(self.roster.prepare(worker, self.transport.handles[worker].steps, self.now()))

    def revive_idle(self) -> None:
        """Notice idle workers that have ended meanwhile."""
        for worker in self.roster.within(State.IDLE):
            handle = self.transport.handles[worker]
            if not handle.is_alive():
                self.fail(worker, handle.how_it_ended())


_CARRY_OUT: dict[type[Instruction], Callable[[Driver, Any], None]] = {
    do.StartWorker: Driver._start,
    do.Kill: Driver._kill,
    do.CheckAlive: Driver._check_alive,
    do.Examine: Driver._examine,
    do.SendPrepare: Driver._prepare,
    do.SendPoint: Driver._send_point,
    do.SendContext: Driver._send_context,
    do.Run: Driver._run,
    do.RunSegment: Driver._run_segment,
    do.CancelJob: Driver._cancel,
    do.RequestGradient: Driver._request_gradient,
    do.DropGradient: Driver._drop_gradient,
    do.Deliver: Driver._deliver,
    do.Discard: Driver._discard,
    do.Reject: Driver._reject,
    do.TakeSegment: Driver._take_segment,
    do.DropSegment: Driver._drop_segment,
    do.LoseSegment: Driver._lose_segment,
    do.Warn: Driver._warn,
    do.Raise: Driver._raise,
    do.PassOn: Driver._pass_on,
}
