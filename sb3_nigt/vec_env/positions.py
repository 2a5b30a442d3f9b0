"""Where workers are between two rounds, as data from which new workers can go on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from sb3_nigt.messages import Arrival, Job, SegmentStart
from sb3_nigt.sampling.trajectory import Trajectory


@dataclass(frozen=True)
class EpisodePosition:
    """
    One worker between two rounds of steps.

    :param start: where its next segment begins
    :param free_at: when the step in progress ends, in seconds on the clock
    :param actions: the actions that the environment has received since its episode began; None: a new episode is due
    :param observation: the observation that they led to
    """

    start: SegmentStart
    free_at: float
    actions: npt.NDArray[Any] | None
    observation: Any


@dataclass(frozen=True)
class FlightPosition:
    """
    A trajectory that has not arrived.

    :param job: what is sampled; seed, point and key say the rest
    :param started_at: when it started, in seconds on the clock
    :param unit_time: seconds of a step, or of the whole
    :param sent_at: when its message began, None before
    :param event: time and order of its next event
    """

    job: Job
    started_at: float
    unit_time: float
    sent_at: float | None
    event: tuple[float, int]


@dataclass(frozen=True)
class Position:
    """
    All workers.

    :param now: current time in seconds on their clock
    :param order: number of the next job
    :param link_free_at: when the last message will have been received
    :param flights: trajectories in flight, in the order of their starts
    :param episodes: episodes of rounds of steps, one per worker; empty where there have been none
    :param times: position of the time model
    """

    now: float
    order: int
    link_free_at: float
    flights: tuple[FlightPosition, ...]
    episodes: tuple[EpisodePosition, ...]
    times: Any


@runtime_checkable
class Resumable(Protocol):
    """Workers that can go on exactly where others were; all others begin anew."""

    def position(self) -> Position:
        """Return where they are; nothing but jobs for later rounds is in flight."""
        ...

    def go_on_from(self, position: Position, early: Sequence[tuple[Arrival, Trajectory]]) -> None:
        """
        Restore the state of other workers, after ``prepare`` and before the first job.

        :param position: the position of the same number of workers, with the same settings
        :param early: trajectories for later rounds that have arrived
        """
        ...


def same_observation(one: Any, other: Any) -> bool:
    """
    Tell whether two observations are equal, bit for bit.

    :param one: an array or a dict of arrays
    :param other: another one of the same space
    """
    if isinstance(one, dict):
        return all(np.array_equal(one[key], other[key]) for key in one)
    return bool(np.array_equal(one, other))
