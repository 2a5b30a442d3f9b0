"""What is known of one worker, across restarts of its process. No I/O and no clock."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sb3_nigt.messages import Job, SamplingPoint, SegmentStart, TrajectoryKey
from sb3_nigt.vec_env.pool.heartbeat import Heartbeat
from sb3_nigt.vec_env.pool.reasons import in_first_line
from sb3_nigt.vec_env.pool.restarts import RestartHistory


class State(enum.Enum):
    """What the process of a worker is doing, as far as the parent knows."""

    STARTING = "importing and making its environment"
    PREPARING = "building the policy"
    IDLE = "waiting for a message"
    BUSY = "running the job"
    CANCELLING = "told to stop a discarded job"
    WAITING = "there is none; it will be started again"
    ABSENT = "the cluster has no place for it"
    LOST = "there is none and never will be"


FIRST_STEP = "first step"
TRIES, FIRST_STEP_TRIES = 2, 5  # in the first step more: what the environment needs from outside may not be back yet

SILENT = (State.IDLE, State.WAITING, State.LOST)  # in which no message is waited for, apart from gradients


class Place(NamedTuple):
    """
    Where a worker has raised an exception, and which: equal places mean that it repeats.

    :param job: key of the trajectory, or number of the episode; ``FIRST_STEP``: the reset or the first step, of whichever;
        None: while it took new settings
    :param type_name: type of the exception
    :param age: steps of the trajectory or the episode before
    """

    job: TrajectoryKey | int | str | None
    type_name: str
    age: int


@dataclass(eq=False)
class Slot:
    """
    What is known of one worker.

    :param history: history of its failures
    :ivar job: the job that is wanted, running or to be run as soon as possible
    :ivar job_number: number of the last job of this process
    :ivar point: the point that the process holds
    :ivar point_number: number of points that the worker has been sent
    :ivar context: the context that the process holds, see ``instructions.SendContext``
    :ivar progress: progress of its environment in rounds of steps, where its next segment starts
    :ivar raised: where it raised last, and what
    :ivar n_raised: how often in a row it has raised the same there
    :ivar held: finished trajectories whose steps the process still has
    :ivar restart_at: time of its restart in seconds, infinite unless it waits for one
    :ivar absent_since: time in seconds since which it has been absent, infinite unless it is
    """

    history: RestartHistory
    state: State = State.STARTING
    job: Job | None = None
    job_number: int = 0
    point: SamplingPoint | None = None
    point_number: int = 0
    context: tuple[Any, Any] = (None, None)
    progress: SegmentStart = field(default_factory=SegmentStart)
    raised: Place | None = None
    n_raised: int = 0
    held: set[TrajectoryKey] = field(default_factory=set)
    heartbeat: Heartbeat = field(default_factory=Heartbeat)
    restart_at: float = math.inf
    absent_since: float = math.inf
    last_failure: str = ""

    def note_exception(self, place: Place | None) -> None:
        """
        Take in an exception.

        :param place: where it was; None: in no job
        """
        self.n_raised = self.n_raised + 1 if place == self.raised else 1
        self.raised = place

    @property
    def repeats_itself(self) -> bool:
        """Whether it has raised the same exception at the same place so often that another process would raise it as well."""
        if self.raised is None:
            return False
        return self.n_raised >= (FIRST_STEP_TRIES if self.raised.job == FIRST_STEP else TRIES)

    def describe_failure(self, reason: str) -> str:
        """
        Say what has happened to it and what follows; a reason that repeats takes one line.

        :param reason: reason of the last failure in its history
        """
        said, self.last_failure = f"{reason.splitlines()[0]} (as before)" if reason == self.last_failure else reason, reason
        history = self.history
        what_next = f"lost ({history.broken})" if history.broken else f"restarted, for the {_ordinal(history.failures)} time"
        return in_first_line("", said, f"It is {what_next}.")


def _ordinal(n: int) -> str:
    ending = "th" if n // 10 % 10 == 1 else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n}{ending}"
