"""Time as an object, so that the same code runs on simulated and on real seconds."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """What the algorithms ask of a clock."""

    def now(self) -> float:
        """Seconds since some fixed moment."""
        ...


class WallClock:
    """Real seconds; the origin is the same in all processes of the machine."""

    def now(self) -> float:
        """Seconds on the machine's monotonic clock."""
        return time.monotonic()


class SimulatedClock:
    """A clock that moves when it is told to; it never sleeps."""

    def __init__(self) -> None:
        self._now = 0.0

    def now(self) -> float:
        """Seconds since the clock was made."""
        return self._now

    def advance_to(self, time: float) -> None:
        """
        Move forward to ``time``.

        :param time: seconds
        :raises ValueError: if that lies in the past
        """
        if time < self._now:
            raise ValueError(f"A clock cannot go back from {self._now!r} to {time!r} seconds.")
        self._now = time
