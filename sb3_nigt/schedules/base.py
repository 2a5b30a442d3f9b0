"""The contract of a schedule: events in, starts out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sb3_nigt.aggregators import Aggregator
from sb3_nigt.messages import TrajectoryKey

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Start:
    """
    Instruction to start a trajectory now.

    :param worker: the idle worker that runs it
    :param key: its random numbers
    """

    worker: int
    key: TrajectoryKey


class Schedule(ABC):
    """
    Decides within a round which worker starts which trajectory.

    It knows only its arguments: the time, which worker has delivered, and predicted durations. ``begin`` starts a round;
    ``accepted`` or ``rejected`` report each arrival; all of them return what to start now. The key of a start names the
    round that counts the trajectory.

    :ivar cancels: trajectories in flight are cancelled when the round is complete
    :ivar uploads: every gradient is sent separately; otherwise there is one aggregation per round
    :ivar counts: accepted trajectories of the current round, shape (n,)
    """

    cancels = True
    uploads = False
    aggregator: Aggregator
    counts: npt.NDArray[np.int64]

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:  # noqa: B027, most schedules keep nothing
        """Forget what is kept from one round to the next: nothing is in flight any longer."""

    @property
    def complete(self) -> bool:
        """Whether the round may be aggregated."""
        return self.aggregator.is_complete(self.counts)

    def begin(
        self,
        aggregator: Aggregator,
        round_: int,
        now: float,
        durations: FloatArray,
        busy: Collection[int],
        following: Aggregator | None = None,
    ) -> list[Start]:
        """
        Open a round.

        :param aggregator: its rule
        :param round_: its number
        :param now: seconds on the workers' clock
        :param durations: predicted seconds per trajectory of each worker, shape (n,)
        :param busy: workers that still run something from before
        :param following: the rule of the next round; None: the same
        """
        self.aggregator, self.following, self.round = aggregator, following or aggregator, round_
        self.counts = np.zeros(len(durations), dtype=np.int64)
        return self._open(now, durations, busy)

    def accepted(self, worker: int, now: float, durations: FloatArray) -> list[Start]:
        """
        Report a trajectory that enters the sums; its worker is idle now.

        :param worker: index of the worker that delivered it
        :param now: seconds on the workers' clock
        :param durations: predicted seconds per trajectory of each worker, shape (n,)
        """
        self.counts[worker] += 1
        return [] if self.complete else self._next(worker, now, durations)

    def rejected(self, worker: int, now: float, durations: FloatArray) -> list[Start]:
        """
        Report a trajectory that must not enter any sum; its worker is idle now.

        :param worker: index of the worker that delivered it
        :param now: seconds on the workers' clock
        :param durations: predicted seconds per trajectory of each worker, shape (n,)
        """
        return self._next(worker, now, durations)

    def returned(self, worker: int, now: float, durations: FloatArray) -> list[Start]:
        """
        Report a trajectory that its worker can no longer run; another one may, with the same random numbers.

        :param worker: index of the worker that had it
        :param now: seconds on the workers' clock
        :param durations: predicted seconds per trajectory of each worker, shape (n,)
        """
        return self.rejected(worker, now, durations)

    @abstractmethod
    def _open(self, now: float, durations: FloatArray, busy: Collection[int]) -> list[Start]:
        """First starts of a round."""

    @abstractmethod
    def _next(self, worker: int, now: float, durations: FloatArray) -> list[Start]:
        """What to start now that ``worker`` has become idle and the round is not complete."""
