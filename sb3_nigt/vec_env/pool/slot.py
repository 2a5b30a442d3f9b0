"""What is known of one worker, across restarts of its process. No I/O and no clock."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field
from typing import Any

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


SILENT = (State.IDLE, State.WAITING, State.LOST)  # in which no message is waited for, apart from gradients


@dataclass(eq=False)
class Slot:
    """
    What is known of one worker.

    :param history: its failures
    :ivar job: wanted, and running or to be run as soon as possible
    :ivar job_number: of the last job of this process
    :ivar point: that the process holds
    :ivar point_number: counts the points that the worker has been sent
    :ivar context: that the process holds, see ``instructions.SendContext``
    :ivar progress: of its environment in rounds of steps, where its next segment starts
    :ivar raised: what it has raised last, and where: in which trajectory or episode, and at which step
    :ivar held: finished trajectories whose steps the process still has
    :ivar restart_at: seconds, infinite unless it waits for its restart
    :ivar absent_since: seconds, infinite unless it is absent
    """

    history: RestartHistory
    state: State = State.STARTING
    job: Job | None = None
    job_number: int = 0
    point: SamplingPoint | None = None
    point_number: int = 0
    context: tuple[Any, Any] = (None, None)
    progress: SegmentStart = field(default_factory=SegmentStart)
    raised: tuple[Any, ...] | None = None
    held: set[TrajectoryKey] = field(default_factory=set)
    heartbeat: Heartbeat = field(default_factory=Heartbeat)
    restart_at: float = math.inf
    absent_since: float = math.inf
    last_failure: str = ""

    def describe_failure(self, reason: str) -> str:
        """
        Say what has happened to it and what follows; a reason that repeats takes one line.

        :param reason: of the failure that its history has taken in last
        """
        said, self.last_failure = f"{reason.splitlines()[0]} (as before)" if reason == self.last_failure else reason, reason
        history = self.history
        what_next = f"lost ({history.broken})" if history.broken else f"restarted, for the {_ordinal(history.failures)} time"
        return in_first_line("", said, f"It is {what_next}.")


def _ordinal(n: int) -> str:
    ending = "th" if n // 10 % 10 == 1 else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n}{ending}"
