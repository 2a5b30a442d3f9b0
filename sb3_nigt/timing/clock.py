"""Time as an object, so that the same code runs on simulated and on real seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol


class Clock(Protocol):
    """What the algorithms ask of a clock."""

    def now(self) -> float:
        """Seconds since some fixed moment."""
        ...


class WallClock:
    """
    Real seconds.

    :param now: seconds since any moment, on a clock that does not jump
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._monotonic, self._origin = now, now()

    def now(self) -> float:
        """Seconds since the clock was made."""
        return self._monotonic() - self._origin

    def at(self, monotonic: float) -> float:
        """
        Return a moment on this clock.

        :param monotonic: the same moment as ``time.monotonic()``, which is the same in all processes of the machine
        """
        return monotonic - self._origin


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
