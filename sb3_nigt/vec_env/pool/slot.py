"""What the parent knows of one worker, across restarts of its process."""

from __future__ import annotations

import enum
import math
from dataclasses import InitVar, dataclass, field
from typing import Any, Generic, TypeVar

from sb3_nigt.messages import Job, SamplingPoint, TrajectoryKey
from sb3_nigt.vec_env.pool.handle import WorkerHandle
from sb3_nigt.vec_env.pool.heartbeat import Heartbeat
from sb3_nigt.vec_env.pool.restarts import RestartHistory, RestartLimits

SPEED_SMOOTHING = 0.1  # weight of a new trajectory in a worker's seconds per step


HandleT = TypeVar("HandleT", bound=WorkerHandle)


class State(enum.Enum):
    """What the process of a worker is doing, as far as the parent knows."""

    STARTING = "importing and making its environment"
    PREPARING = "building the policy"
    IDLE = "waiting for a message"
    BUSY = "running the job"
    CANCELLING = "told to stop a job that nobody wants any more"
    WAITING = "there is none; it will be started again"
    ABSENT = "the cluster has no place for it"
    LOST = "there is none and never will be"

    @property
    def owes_an_answer(self) -> bool:
        """Whether the parent waits for a message."""
        return self not in (State.IDLE, State.WAITING, State.LOST)


@dataclass(eq=False)
class Slot(Generic[HandleT]):
    """What the parent knows of one worker, across restarts of its process."""

    remote: HandleT
    limits: InitVar[RestartLimits]
    state: State = State.STARTING
    job: Job | None = None  # wanted, and running or to be run as soon as possible
    job_number: int = 0  # of the job that the process runs
    point: SamplingPoint | None = None  # that the process holds
    point_number: int = 0
    held: set[TrajectoryKey] = field(default_factory=set)  # finished trajectories whose steps the process still has
    restart_at: float = 0.0
    absent_since: float = math.inf
    last_failure: str = ""
    heartbeat: Heartbeat = field(default_factory=Heartbeat)
    seconds_per_step: float = math.nan  # a running mean
    context: tuple[Any, Any] = (None, None)  # that the process has, see ``WorkerHandle.send_context``

    @property
    def owes_an_answer(self) -> bool:
        """Whether the parent waits for a message."""
        return self.state.owes_an_answer or self.remote.owes_gradient

    def note_speed(self, seconds_per_step: float) -> None:
        """
        Take in one trajectory.

        :param seconds_per_step: its mean
        """
        if math.isnan(self.seconds_per_step):
            self.seconds_per_step = seconds_per_step
        self.seconds_per_step += SPEED_SMOOTHING * (seconds_per_step - self.seconds_per_step)

    def __post_init__(self, limits: RestartLimits) -> None:
        self.history = RestartHistory(limits)

    @property
    def restarts(self) -> int:
        """Failures so far, each of which was followed by a restart unless the worker is lost."""
        return self.history.failures
