"""
What each worker is doing and what follows from that: events in, instructions out. No I/O and no clock.

An event is a method call with the time as an argument, and with the worker's counter of steps where it is a sign of life. It
returns what is to be done now, in that order. An instruction counts as carried out: one that was not, because of Ctrl-C, shows
as the silence of a worker.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence

import numpy as np
import numpy.typing as npt

from sb3_nigt.errors import NonFiniteError
from sb3_nigt.messages import RETURNED
from sb3_nigt.vec_env.pool import instructions as do
from sb3_nigt.vec_env.pool.instructions import Instruction
from sb3_nigt.vec_env.pool.jobs import Jobs
from sb3_nigt.vec_env.pool.protocol import RemoteFailure
from sb3_nigt.vec_env.pool.reasons import in_first_line, stack_of
from sb3_nigt.vec_env.pool.restarts import RestartHistory, RestartLimits
from sb3_nigt.vec_env.pool.slot import FIRST_STEP, SILENT, Slot, State
from sb3_nigt.vec_env.pool.speeds import Speeds

START_SECONDS = 120.0  # granted to imports, making the environment and gradients, which give no sign of life
ALIVE_SECONDS = 1.0  # of silence; then look whether the process is gone: one of its children may keep its connection open
POLL_SECONDS = 0.25  # how often hung workers are looked for
START_HINT = (
    "See its output above. A worker process first imports your script, so create the workers below the line "
    'if __name__ == "__main__":, and run the script from a file, not from standard input.'
)


class Roster:
    """
    Whether each worker is there: it comes up, falls silent, fails, is restarted, has no place, is lost.

    :param task_ids: the task of each worker
    :param limits: limits of the restarts of each worker
    :param speeds: speeds of the workers
    :param timeout: seconds without any sign of life after which a worker counts as hung
    :param place_seconds: seconds without a place after which a worker counts as absent
    :param placement_timeout: seconds for which workers that are needed may be absent
    :param longest_look: largest gap in seconds between two looks in which silence counts; larger ones could hide signs of
        life. At most half of ``timeout``: after a longer one, this process may have been stopped together with its workers
    :ivar down: workers that are absent and not starting: they wait for a restart, have no place, or are lost
    :ivar jobs: what the present workers run, hold and owe
    :ivar may_lose: whether a worker that keeps raising the same exception is lost; otherwise that is an error
    :ivar is_open: whether the workers needed at the start have come up; from then on a worker that fails is restarted
    """

    def __init__(
        self,
        task_ids: Sequence[Hashable],
        limits: RestartLimits,
        speeds: Speeds,
        timeout: float,
        place_seconds: float = math.inf,
        placement_timeout: float = math.inf,
        longest_look: float = math.inf,
    ) -> None:
        self.slots = [Slot(RestartHistory(limits)) for _ in task_ids]
        self.jobs = Jobs(self.slots, speeds)
        self.speeds, self.timeout, self.placement_timeout = speeds, timeout, placement_timeout
        self.is_open = self.may_lose = False
        self.down: set[int] = set()
        self._task_ids, self._place_seconds, self._longest_look = task_ids, place_seconds, min(longest_look, timeout / 2)
        self._has_settings = False
        self._next_look = 0.0
        self._next_restart = math.inf

    # Who is where

    def within(self, *states: State) -> list[int]:
        """Workers in one of these states."""
        return [worker for worker, slot in enumerate(self.slots) if slot.state in states]

    def are_within(self, workers: Iterable[int], *states: State) -> bool:
        """Whether all of some workers are in one of these states."""
        return all(self.slots[worker].state in states for worker in workers)

    def listened_to(self) -> list[int]:
        """Workers that owe an answer."""
        owed = self.jobs.gradients_owed
        return [worker for worker, slot in enumerate(self.slots) if slot.state not in SILENT or worker in owed]

    def without_place(self, workers: Sequence[int], enough: Callable[[Iterable[bool]], bool], now: float) -> int | None:
        """
        Return the worker that has been absent for longest, if workers that are needed have been absent for too long.

        :param workers: the workers that are needed
        :param enough: ``any`` or ``all``, for how many of them must have been absent for too long
        """
        waited = {worker: now - self.slots[worker].absent_since for worker in workers}  # -inf for those that are there
        if waited and enough(seconds > self.placement_timeout for seconds in waited.values()):
            return max(waited, key=lambda worker: waited[worker])
        return None

    def predicted_durations(self, n_steps: float, now: float) -> npt.NDArray[np.float64]:
        """Seconds until a trajectory that is submitted now will end; infinite for workers that are absent or lost."""
        idle = [w for w in range(len(self.slots)) if w not in self.down and not self.jobs.is_busy(w)]
        durations = self.speeds.aged(n_steps, idle) * n_steps
        for worker in self.down:
            durations[worker] += max(0.0, self.slots[worker].restart_at - now)
        return durations

    def last_failure(self, worker: int) -> str:
        """Say why a worker has failed last, as the end of a message; empty if it has not."""
        reason = self.slots[worker].last_failure
        return f". Its last failure: {reason}" if reason else ""

    # A worker comes up

    def launched(self, worker: int, steps: int, now: float) -> None:
        """There is a process or an actor, which imports and makes its environment."""
        slot = self.slots[worker]
        slot.state, slot.job_number, slot.restart_at, slot.absent_since = State.STARTING, 0, math.inf, math.inf
        slot.heartbeat.begin(steps, now)
        self.down.discard(worker)

    def unplaced(self, worker: int, now: float) -> list[Instruction]:
        """The cluster has no place for it yet; after a while others may run what it was to run."""
        slot = self.slots[worker]
        if slot.state is not State.STARTING or slot.heartbeat.look(0, now) <= self._place_seconds:
            return []
        slot.state, slot.absent_since = State.ABSENT, now - self._place_seconds
        self.down.add(worker)
        return self.jobs.give_up(worker, RETURNED) if slot.job is not None and slot.job.committed else []

    def placed(self, worker: int, steps: int, now: float) -> None:
        """The cluster has a place for it, in which it starts."""
        if self.slots[worker].state is State.ABSENT:
            self.launched(worker, steps, now)

    def open(self) -> None:
        """All that have started wait for messages, and there are enough of them."""
        self.is_open = True

    def replied(self, worker: int, steps: int, now: float) -> list[Instruction]:
        """It has made its environment, or has taken the settings of the rounds that follow."""
        slot = self.slots[worker]
        slot.heartbeat.begin(steps, now)
        if slot.state is State.STARTING and self._has_settings:
            return self.prepare(worker, steps, now)
        return self.jobs.idle(worker, steps, now)

    def new_settings(self) -> None:
        """The rounds that follow have other settings: idle workers are told with ``prepare``, others when they start."""
        self._has_settings = True
        self.jobs.new_settings()

    def prepare(self, worker: int, steps: int, now: float) -> list[Instruction]:
        """Tell a worker of the settings of the rounds that follow."""
        slot = self.slots[worker]
        slot.state, slot.point, slot.context = State.PREPARING, None, (None, None)
        slot.held.clear()
        slot.heartbeat.begin(steps, now)
        return [do.SendPrepare(worker)]

    # It falls silent

    def is_time_to_look(self, now: float) -> bool:
        """Whether to look at the counters of the workers now; time in which no message could be received is not counted."""
        away = now - self._next_look
        if away < 0:
            return False
        self._next_look = now + POLL_SECONDS
        if away > self._longest_look:
            for slot in self.slots:
                slot.heartbeat.forgive(away, now)
        return True

    def look(self, worker: int, steps: int, now: float) -> list[Instruction]:
        """Its counter was looked at."""
        slot, owes_gradient = self.slots[worker], worker in self.jobs.gradients_owed
        if slot.state in SILENT and not owes_gradient:
            return []
        silent, allowed = slot.heartbeat.look(steps, now), slot.heartbeat.allowed(self.timeout)
        if slot.state in (State.STARTING, State.PREPARING) or owes_gradient:
            allowed = max(allowed, START_SECONDS)
        if silent > allowed:
            return [do.Examine(worker, silent)]
        return [do.CheckAlive(worker)] if silent > ALIVE_SECONDS else []

    def unheard(self, worker: int, steps: int, now: float) -> list[Instruction]:
        """Nothing that it does would be answered: Ctrl-C has come between a call and the note of it. Ask again."""
        state = self.slots[worker].state
        if state is State.PREPARING:
            return self.prepare(worker, steps, now)
        if state not in (State.BUSY, State.CANCELLING):
            return []
        return [*self.jobs.unheard(worker), *self.jobs.idle(worker, steps, now)]

    # It fails

    def hung(self, worker: int, silent: float, stack: str, now: float) -> list[Instruction]:
        """It is alive and has been silent for too long, at this place in its code."""
        said = f"no sign of life for {silent:.1f} s (timeout={self.timeout:g})\n"
        here = f"It was here:\n{stack_of(stack)}" if stack else "No stack dump was received."
        return self.failed(worker, said + here, now)

    def failed(self, worker: int, reason: str, now: float) -> list[Instruction]:
        """It has ended, hangs or has raised: it is restarted after a while, or lost."""
        slot, end = self.slots[worker], do.Kill(worker)
        if not self.is_open:
            return [end, do.Raise(worker, in_first_line("making its environment failed: ", reason, START_HINT))]
        was_needed, was_running = slot.job is not None or slot.state is State.PREPARING, slot.state is State.BUSY
        restart_at = slot.history.failed(now)
        slot.state = State.LOST if restart_at is None else State.WAITING
        slot.restart_at = math.inf if restart_at is None else restart_at
        self._next_restart = min(self._next_restart, slot.restart_at)
        self.down.add(worker)
        if was_needed and not self.jobs.ever_arrived and all(other.history.failures for other in self.slots):
            self.jobs.gone(worker)
            return [end, do.Raise(worker, f"every worker has failed before the first trajectory, this one: {reason}")]
        told = slot.describe_failure(reason)
        warning = do.Warn(f"Worker {worker} (task {self._task_ids[worker]!r}) failed: {told}")
        return [end, *self.jobs.failed(worker, slot.state is State.LOST, was_running), warning]

    def raised(self, worker: int, failure: RemoteFailure, now: float) -> list[Instruction]:
        """It has raised an exception: it is restarted, unless that repeats, since then any process would raise."""
        slot = self.slots[worker]
        before, reason = slot.raised, f"{failure.cause}\n{failure.traceback}"
        slot.note_exception(self.jobs.place_of(worker, failure))
        if slot.repeats_itself and self.may_lose:
            slot.history.broken = "the same exception again and again"
        told = self.failed(worker, reason, now)
        if failure.type_name == NonFiniteError.__name__:
            return [*told[:-1], do.PassOn(worker, failure)]
        if slot.raised is None or not isinstance(told[-1], do.Warn):
            return told
        if slot.repeats_itself and not self.may_lose:
            where = "at the first step" if slot.raised.job == FIRST_STEP else "at the same step of the same episode"
            said = f"it has raised the same exception {slot.n_raised} times in a row {where}: {reason}"
            return [*told[:-1], do.Raise(worker, said)]
        if before is None or before.job != slot.raised.job:
            self.jobs.begin_again(worker, failure.episode)
        return told

    def node_left(self, worker: int) -> list[Instruction]:
        """Its machine has gone, which is not its failure: it starts again at once, where there is a place."""
        lost = self.jobs.gone(worker)
        self.slots[worker].state = State.STARTING
        self.down.discard(worker)
        said = f"Worker {worker} (task {self._task_ids[worker]!r}) lost its node and will restart on another one."
        return [do.Kill(worker), *lost, do.StartWorker(worker), do.Warn(said)]

    def tick(self, now: float) -> list[Instruction]:
        """Time has passed: start workers that are due."""
        if now < self._next_restart:
            return []
        waiting = self.within(State.WAITING)
        due = [worker for worker in waiting if now >= self.slots[worker].restart_at]
        for worker in due:
            self.slots[worker].state = State.STARTING
        self._next_restart = min((self.slots[worker].restart_at for worker in waiting if worker not in due), default=math.inf)
        return [do.StartWorker(worker) for worker in due]
