"""How long a worker has been silent, and how long it may be. No I/O and no clock: the time is an argument."""

from __future__ import annotations

from dataclasses import dataclass

WINDOW = 600.0  # seconds; a slow step is forgotten after one to two of them
SLOW_FACTOR = 10.0  # a worker may be silent for so many of its own slowest steps


@dataclass
class Heartbeat:
    """
    Signs of life of one worker: a counter of its steps that the parent looks at now and then.

    Of silences that ended, the longest one of the last two windows is known.
    """

    _longest: float = 0.0  # in this window
    _longest_before: float = 0.0  # in the window before
    _window_began: float = 0.0
    _count: int = 0
    _changed: float = 0.0
    _looked: float = 0.0

    def begin(self, count: int, now: float) -> None:
        """
        Count silence from here.

        :param count: number of the worker's steps
        :param now: current time in seconds
        """
        self._count, self._changed, self._looked = count, now, now

    def look(self, count: int, now: float) -> float:
        """
        Look at the counter.

        :param count: number of the worker's steps
        :param now: current time in seconds
        :return: seconds of silence up to now
        """
        if count != self._count:
            # It was silent up to the last look. How long after that is not known: a parent that was away, in a callback
            # that evaluates, must not take its own absence for a slow step.
            self._note(self._looked - self._changed, now)
            self.begin(count, now)
        self._looked = now
        return now - self._changed

    @property
    def slowest(self) -> float:
        """Seconds of the longest silence that ended lately."""
        return max(self._longest, self._longest_before)

    def _note(self, silence: float, now: float) -> None:
        age = now - self._window_began
        if age > WINDOW:
            self._longest_before = self._longest if age <= 2 * WINDOW else 0.0
            self._longest, self._window_began = 0.0, now
        self._longest = max(self._longest, silence)

    def forgive(self, seconds: float, now: float) -> None:
        """
        Do not count some seconds in which the parent could not look.

        :param seconds: their number, up to now
        :param now: current time in seconds
        """
        self._changed, self._looked = min(self._changed + seconds, now), min(self._looked + seconds, now)

    def allowed(self, timeout: float) -> float:
        """
        Return how many seconds of silence are no reason for worry.

        :param timeout: the least to return, in seconds
        """
        return max(timeout, SLOW_FACTOR * self.slowest)
