"""What the roster wants done: small records that compare by value, so that a test is a table of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sb3_nigt.messages import Contribution, Job, SamplingPoint, SegmentStart, TrajectoryKey
from sb3_nigt.vec_env.pool.protocol import RemoteArrival, RemoteFailure, SegmentArrival

# The life of a worker


@dataclass(frozen=True, slots=True)
class StartWorker:
    """Start a worker again; then tell the roster that it is launched."""

    worker: int


@dataclass(frozen=True, slots=True)
class Kill:
    """End a worker, whatever it does."""

    worker: int


@dataclass(frozen=True, slots=True)
class CheckAlive:
    """Find out whether a worker that has been silent for a moment has ended; then tell the roster."""

    worker: int


@dataclass(frozen=True, slots=True)
class Examine:
    """Find out whether a worker that has been silent for too long has ended, or where it hangs; then tell the roster."""

    worker: int
    silent: float  # seconds


# What a worker is told


@dataclass(frozen=True, slots=True)
class SendPrepare:
    """Let a worker take the settings of the rounds that follow."""

    worker: int


@dataclass(frozen=True, slots=True)
class SendPoint:
    """Let a worker have the parameters of the jobs that follow."""

    worker: int
    point: SamplingPoint


@dataclass(frozen=True, slots=True)
class SendContext:
    """Send what seldom changes from one point to the next: its ``transform_obs`` and ``buffers``."""

    worker: int
    context: tuple[Any, Any]


@dataclass(frozen=True, slots=True)
class Run:
    """Start a trajectory at the point that was sent last; numbers count the jobs of this process and the points."""

    job: Job
    job_number: int
    point_number: int


@dataclass(frozen=True, slots=True)
class RunSegment:
    """Let a worker step on at the point that was sent last, until it is stopped."""

    job: Job
    job_number: int
    point_number: int
    start: SegmentStart


@dataclass(frozen=True, slots=True)
class CancelJob:
    """Say that a job is no longer wanted."""

    worker: int
    job_number: int


@dataclass(frozen=True, slots=True)
class RequestGradient:
    """Ask for S_i over trajectories that the worker holds."""

    worker: int
    contributions: Sequence[Contribution]


@dataclass(frozen=True, slots=True)
class DropGradient:
    """No longer wait for a gradient."""

    worker: int


# What becomes of trajectories


@dataclass(frozen=True, slots=True)
class Deliver:
    """Read a complete trajectory, before the worker overwrites its steps with the next one, and hand it out."""

    job: Job
    said: RemoteArrival


@dataclass(frozen=True, slots=True)
class Discard:
    """Read a discarded trajectory, to count and show its steps."""

    worker: int
    key: TrajectoryKey
    point: SamplingPoint
    said: RemoteArrival


@dataclass(frozen=True, slots=True)
class Reject:
    """Give a job up: an arrival without steps says so, and why."""

    job: Job
    reason: str


# What becomes of segments


@dataclass(frozen=True, slots=True)
class TakeSegment:
    """Read a part of a segment, whose worker has no more room, before it continues."""

    job: Job
    said: SegmentArrival


@dataclass(frozen=True, slots=True)
class DropSegment:
    """Read what a worker has done since its round was complete, to count and show these steps."""

    worker: int
    point: SamplingPoint
    said: SegmentArrival


@dataclass(frozen=True, slots=True)
class LoseSegment:
    """The steps of a worker in this round do not count, since it has failed."""

    worker: int


# What the user is told


@dataclass(frozen=True, slots=True)
class Warn:
    """Warn."""

    message: str


@dataclass(frozen=True, slots=True)
class Raise:
    """Raise a ``WorkerError``."""

    worker: int
    message: str


@dataclass(frozen=True, slots=True)
class PassOn:
    """Raise what a worker has raised; that is not the worker's fault."""

    worker: int
    failure: RemoteFailure


Instruction = (
    StartWorker
    | Kill
    | CheckAlive
    | Examine
    | SendPrepare
    | SendPoint
    | SendContext
    | Run
    | RunSegment
    | CancelJob
    | RequestGradient
    | DropGradient
    | Deliver
    | Discard
    | Reject
    | TakeSegment
    | DropSegment
    | LoseSegment
    | Warn
    | Raise
    | PassOn
)
