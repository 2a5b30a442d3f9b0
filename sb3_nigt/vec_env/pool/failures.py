"""Failed workers: how a failure is noticed, who is restarted when, what becomes of the trajectory, who is lost."""

from __future__ import annotations

import time
import warnings
from abc import abstractmethod
from collections import Counter, deque
from collections.abc import Hashable
from typing import Any

import numpy as np
import numpy.typing as npt

from sb3_nigt.errors import WorkerError
from sb3_nigt.messages import Arrival, SamplingPoint, TrajectoryKey
from sb3_nigt.sampling.trajectory import Trajectory
from sb3_nigt.timing.clock import WallClock
from sb3_nigt.vec_env.pool import protocol
from sb3_nigt.vec_env.pool.commands import ALIVE_SECONDS, START_SECONDS
from sb3_nigt.vec_env.pool.handle import WorkerHandle
from sb3_nigt.vec_env.pool.restarts import RestartLimits
from sb3_nigt.vec_env.pool.slot import Slot, State

START_HINT = (
    "What it has printed says more. A worker process imports your script first: the code that makes the workers must stand "
    'behind the line if __name__ == "__main__":, and the script must be a file, not the standard input.'
)
RETRIES = 2  # of a trajectory whose worker dies; then it counts as rejected, since its content may be what kills


class WorkerFailures:
    """The part of ``WorkerPool`` that deals with failures."""

    _slots: list[Slot[Any]]
    _undelivered: set[int]
    _arrived: deque[tuple[Arrival, Trajectory]]
    _restart_limits: RestartLimits
    clock: WallClock
    task_ids: tuple[Hashable, ...]
    timeout: float

    @abstractmethod
    def _start(self, index: int) -> WorkerHandle:
        """Start a worker."""

    @abstractmethod
    def _read(self, index: int, key: TrajectoryKey, point: SamplingPoint, said: protocol.RemoteArrival) -> Trajectory:
        """Copy a trajectory out of shared memory."""

    def _prepare_failures(self) -> None:
        self._job_failures: Counter[TrajectoryKey] = Counter()
        self._ever_ready = self._ever_arrived = False
        self._down: set[int] = set()  # workers without a process

    # Noticing

    def _note_progress(self, slot: Slot[Any]) -> None:
        slot.heartbeat.begin(slot.remote.steps, time.monotonic())

    def _check_progress(self, slot: Slot[Any], now: float) -> None:
        if not slot.owes_an_answer:
            return
        silent, allowed = slot.heartbeat.look(slot.remote.steps, now), slot.heartbeat.allowed(self.timeout)
        if slot.state in (State.STARTING, State.PREPARING) or slot.remote.owes_gradient:
            allowed = max(allowed, START_SECONDS)
        if silent > ALIVE_SECONDS and not slot.remote.is_alive():
            self._fail(slot, slot.remote.how_it_ended())
        elif silent > allowed:
            stack = slot.remote.stack()
            self._fail(slot, f"no sign of life for {silent:.1f} s (timeout={self.timeout:g}), it was here:\n{stack}")

    # What follows

    def _fail(self, slot: Slot[Any], reason: str) -> None:
        """Restart a worker after a while; its job stays its own, with the same random numbers, so nothing is lost."""
        index, busy = slot.remote.index, slot.job is not None or slot.state == State.PREPARING
        slot.remote.kill()
        if not self._ever_ready:
            raise WorkerError(f"making its environment failed: {reason}. {START_HINT}", index, self.task_ids[index])
        slot.held.clear()
        slot.point = None
        restart_at = slot.history.failed(time.monotonic())
        lost = restart_at is None
        slot.state = State.LOST if lost else State.WAITING
        slot.restart_at = np.inf if restart_at is None else restart_at
        self._down.add(index)
        if busy and not self._ever_arrived and all(other.history.failures for other in self._slots):
            message = f"every worker has failed before the first trajectory, this one: {reason}"
            raise WorkerError(message, index, self.task_ids[index])
        said, slot.last_failure = (f"{_last_line(reason)} (as before)" if reason == slot.last_failure else reason), reason
        what_next = f"lost ({slot.history.broken})" if lost else f"restarted, for the {_ordinal(slot.history.failures)} time"
        warnings.warn(f"Worker {index} (task {self.task_ids[index]!r}) failed: {said}. It is {what_next}.", stacklevel=2)
        if slot.job is not None:
            self._job_failures[slot.job.key] += 1
            if lost or self._job_failures[slot.job.key] > RETRIES:
                self._reject(slot, "lost" if lost else "crash")

    def _reject(self, slot: Slot[Any], reason: str) -> None:
        """Give a job up: whoever planned it must plan another one."""
        job, now = slot.job, self.clock.now()
        assert job is not None
        slot.job = None
        empty = self._read(
            slot.remote.index, job.key, job.point, protocol.RemoteArrival(0, 0, 0, 0, 0, 0, now, now, *[np.nan] * 4)
        )
        arrival = Arrival(job.worker, self.task_ids[job.worker], job.key, 0, 0.0, now, now, now, rejected=reason)
        self._job_failures.pop(job.key, None)
        self._undelivered.add(job.worker)
        self._arrived.append((arrival, empty))

    def _restart_due(self, now: float) -> None:
        for index in sorted(self._down):
            slot = self._slots[index]
            if now >= slot.restart_at:  # never, for those that are lost
                self._down.remove(index)
                self._start_again(slot)

    def _start_again(self, slot: Slot[Any]) -> None:
        slot.remote, slot.state, slot.job_number = self._start(slot.remote.index), State.STARTING, 0
        self._note_progress(slot)

    def _time_until_restart(self) -> npt.NDArray[np.float64]:
        """Seconds for which each worker will do nothing; infinite if it is lost."""
        now = time.monotonic()
        down = [index in self._down for index in range(len(self._slots))]
        return np.array([max(0.0, slot.restart_at - now) if d else 0.0 for d, slot in zip(down, self._slots, strict=True)])

    def lost(self) -> frozenset[int]:
        """See ``TrajectoryWorkers``."""
        return frozenset(index for index in self._down if self._slots[index].state == State.LOST)

    def last_failure(self, worker: int) -> str:
        """See ``TrajectoryWorkers``."""
        reason = self._slots[worker].last_failure
        return f". Its last failure: {reason}" if reason else ""


def _last_line(text: str) -> str:
    return text.rstrip().splitlines()[-1]


def _ordinal(n: int) -> str:
    ending = "th" if n // 10 % 10 == 1 else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n}{ending}"
