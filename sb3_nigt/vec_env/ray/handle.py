"""The parent's handle on one worker in a Ray actor. Nothing here waits for an answer without a bound."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import astuple
from typing import Any

import cloudpickle
import ray
from ray.exceptions import RayError

from sb3_nigt.messages import Contribution, SegmentStart, TrajectoryKey
from sb3_nigt.vec_env.pool import protocol
from sb3_nigt.vec_env.pool.handle import WorkerHandle
from sb3_nigt.vec_env.ray.actor import N_CALLS, make_actor_class
from sb3_nigt.vec_env.ray.buffers import ReceivedArrays

FETCH_SECONDS = 60.0  # granted to an answer that is there for coming over the network
STACK_SECONDS = 1.0  # granted to a hung worker for saying where it is
ALIVE_SECONDS = 1.0  # granted to an idle worker for saying that it is alive; a frozen one counts as alive
FORMATS = {
    protocol.ARRIVAL: protocol.ARRIVAL_FORMAT,
    protocol.SEGMENT: protocol.SEGMENT_ARRIVAL_FORMAT,
    protocol.GRADIENT: protocol.NUMBER_FORMAT,
}
BEGUN_SECONDS = 0.05  # granted to a worker for saying whether it has begun with a gradient


class RayWorker(WorkerHandle):
    """
    One worker in an actor. Ray never restarts it: for another one make another handle.

    :param index: index of the worker
    :param env_fn: cloudpickled function that makes its environment
    :param options: options of the actor: resources and where it may run
    :param beat_seconds: seconds between two requests for its signs of life, while they are needed
    :param now: a function that returns seconds on a clock that does not jump
    """

    def __init__(
        self, index: int, env_fn: bytes, options: dict[str, Any], beat_seconds: float, now: Callable[[], float]
    ) -> None:
        self.index, self._now = index, now
        self.node_id = ""
        self.pid = None
        self.arrays: ReceivedArrays | None = None
        self._end: str | None = None
        self._parameters: Any = None
        self._context: bytes | None = None
        self._gradient_number = 0
        self._beat: Any = None
        self._beat_seconds, self._next_beat = beat_seconds, 0.0
        self._steps = self._answering = 0
        self._actor = self._new_actor(options)
        self._where = self._actor.where.remote()
        self._command = self._actor.start.remote(env_fn)
        self._job: Any = None
        self._gradient: Any = None

    def _new_actor(self, options: dict[str, Any]) -> Any:
        # a task that has begun is never repeated by Ray, so nothing can arrive twice
        options = {**options, "max_restarts": 0, "max_task_retries": 0, "max_concurrency": N_CALLS}
        return ray.remote(**options)(make_actor_class()).remote()

    # Life

    @property
    def is_placed(self) -> bool:  # type: ignore[override]
        """Whether the cluster had a place for it."""
        return self.pid is not None

    @property
    def node_has_left(self) -> bool:  # type: ignore[override]
        """Whether the node on which it ran is known to be gone."""
        return any(node["NodeID"] == self.node_id and not node["Alive"] for node in ray.nodes())

    @property
    def has_ended(self) -> bool:
        """Whether its end is known."""
        return self._end is not None

    def is_alive(self) -> bool:
        """See ``WorkerHandle``; an idle one is asked."""
        if self._end is None and not self.awaited:
            self._take(self._actor.where.remote(), ALIVE_SECONDS)
        return self._end is None

    def how_it_ended(self) -> str:
        """See ``WorkerHandle``."""
        return self._end or "it was ended"

    def kill(self, dump_stack: bool = False) -> None:
        """See ``WorkerHandle``; Ray kills also a process that is stopped, after some seconds."""
        if dump_stack and self._end is None:
            sys.stderr.write(self.stack())
        self._end = self._end or "it was killed"
        self._where = self._command = self._job = self._gradient = self._beat = None
        if ray.is_initialized():
            with contextlib.suppress(RayError, ValueError):  # it has gone already, or so has the cluster
                ray.kill(self._actor)

    def hang_up(self) -> None:
        """See ``WorkerHandle``."""
        self._command = self._actor.close.remote()

    def close(self, seconds: float) -> None:
        """See ``WorkerHandle``."""
        if self._command is not None:
            ray.wait([self._command], timeout=seconds)
        self.kill()

    def stack(self) -> str:
        """See ``WorkerHandle``."""
        told = self._take(self._actor.stack.remote(), STACK_SECONDS)
        return "" if told is None else str(told)

    # Signs of life

    @property
    def steps(self) -> int:
        """See ``WorkerHandle``; as it was told last, and asked again from time to time."""
        self._listen(0.0)
        now = self._now()
        if self._beat is None and now >= self._next_beat and self.is_placed and self._end is None:
            self._beat, self._next_beat = self._actor.counters.remote(), now + self._beat_seconds
        return self._steps

    def _listen(self, seconds: float) -> None:
        if self._beat is not None and ray.wait([self._beat], timeout=seconds)[0]:
            beat, self._beat = self._beat, None
            self._steps, self._answering = self._take(beat, FETCH_SECONDS) or (self._steps, self._answering)

    # Jobs

    def set_parameters(self, parameters: Any) -> None:
        """
        Let the next jobs have these parameters.

        :param parameters: reference to an array in the object store
        """
        self._parameters = parameters

    def send_context(self, context: bytes) -> None:
        """See ``WorkerHandle``; it goes with the next job."""
        self._context = context

    def run(self, job_number: int, point_number: int, round_: int, key: TrajectoryKey) -> None:
        """See ``WorkerHandle``."""
        self._send_job(protocol.JOB + protocol.JOB_FORMAT.pack(job_number, point_number, round_, *key))

    def run_segment(self, job_number: int, point_number: int, round_: int, start: SegmentStart, n_steps: int) -> None:
        """See ``WorkerHandle``."""
        numbers = (job_number, point_number, round_, *astuple(start), n_steps)
        self._send_job(protocol.SEGMENT + protocol.SEGMENT_FORMAT.pack(*numbers))

    def _send_job(self, message: bytes) -> None:
        self._command = None  # a late answer to the last command is no longer of interest
        self._job = self._actor.ask.remote(message, self._parameters, self._context)
        self._context = None

    def cancel(self, job_number: int) -> None:
        """See ``WorkerHandle``."""
        self._actor.cancel.remote(job_number)

    # Gradients

    def request_gradient(self, contributions: Sequence[Contribution]) -> None:
        """See ``WorkerHandle``."""
        self._gradient_number += 1
        self._gradient = self._actor.ask.remote(protocol.encode_contributions(self._gradient_number, contributions))

    @property
    def has_begun_gradient(self) -> bool:
        """See ``WorkerHandle``; a worker that does not say so at once has not."""
        if self._answering != self._gradient_number and self._end is None:
            self._beat = self._beat or self._actor.counters.remote()
            self._listen(BEGUN_SECONDS)
        return self._answering == self._gradient_number

    def drop_gradient(self) -> None:
        """See ``WorkerHandle``."""
        self._gradient = None

    # Messages

    def send_call(self, call: bytes) -> None:
        """See ``WorkerHandle``."""
        self._command = self._actor.ask.remote(protocol.COMMAND + protocol.NUMBER_FORMAT.pack(0) + call)

    @property
    def awaited(self) -> list[Any]:
        """References to the answers that are waited for."""
        if not self.is_placed:
            return [] if self._where is None else [self._where]
        return [ref for ref in (self._command, self._job, self._gradient) if ref is not None]

    @property
    def answers_to_nobody(self) -> bool:  # type: ignore[override]
        """Whether it lives, and no answer of it is waited for."""
        return self.is_placed and not self.has_ended and not self.awaited

    def receive(self, seconds: float = 0.0) -> tuple[bytes, Any] | None:
        """See ``WorkerHandle``; that there is a place for it is not a message."""
        if self._end is not None:
            raise EOFError
        awaited = self.awaited
        done = ray.wait(awaited, timeout=seconds)[0] if awaited else []
        if not done:
            return None
        (ref,) = done
        answer = self._take(ref, FETCH_SECONDS)
        if answer is None:
            self._end = self._end or f"its answer was not received within {FETCH_SECONDS:g} s"
            raise EOFError
        if ref == self._where:
            self._where, (self.node_id, self.pid) = None, answer
            return None
        try:
            content = self._content(answer)
        except ValueError as error:
            self._end = f"it sent invalid data: {error}"
            raise EOFError from error
        # last, so that what is interrupted before this is received once more
        self._command, self._job, self._gradient = (
            None if ref == other else other for other in (self._command, self._job, self._gradient)
        )
        return content

    def _take(self, ref: Any, seconds: float) -> Any:
        """Return an answer; None if the worker has ended, or if there is no answer in time."""
        if not ray.wait([ref], timeout=seconds)[0]:
            return None
        try:
            return ray.get(ref, timeout=FETCH_SECONDS)
        except RayError as error:
            self._end = _told(error)
            return None

    def _content(self, answer: Any) -> tuple[bytes, Any]:
        if isinstance(answer, bytes):  # REPLY or ERROR
            return answer[:1], cloudpickle.loads(answer[1 + protocol.NUMBER_FORMAT.size :])
        assert self.arrays is not None
        kind = answer[:1].tobytes()
        format_ = FORMATS[kind]
        head, rest = answer[1 : 1 + format_.size], answer[1 + format_.size :]
        if kind == protocol.GRADIENT:
            self.arrays.take_gradient(self.index, rest)
            return kind, None
        said: protocol.RemoteArrival | protocol.SegmentArrival
        if kind == protocol.SEGMENT:
            said = protocol.SegmentArrival(*format_.unpack(head))
            self.arrays.take_segment(self.index, said.n_steps, said.n_pieces, rest)
        else:
            said = protocol.RemoteArrival(*format_.unpack(head))
            self.arrays.take_trajectory(self.index, said.n_steps, rest)
        # clocks of other machines have another zero
        now = self._now()
        return kind, said._replace(started_at=now - (said.finished_at - said.started_at), finished_at=now)


def _told(error: RayError) -> str:
    """What Ray says of the end of an actor, without Ray's internal names."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, ray.exceptions.ActorDiedError):
        labels = ("class_name:", "actor_id:", "pid:", "namespace:", "ip:")
        return "its actor has died\n" + "\n".join(line for line in lines[1:] if not line.startswith(labels))
    return f"{type(error).__name__}: {error}"
