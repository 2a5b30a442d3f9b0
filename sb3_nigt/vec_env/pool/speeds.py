"""How fast each worker makes its steps: measured, or guessed until then. No I/O and no clock."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

SPEED_SMOOTHING = 0.1  # weight of a new trajectory in a worker's seconds per step


class Speeds:
    """
    Seconds per step of all workers, running means.

    :param guessed: ratios of the speeds until they are measured, shape (n,)
    :ivar seconds_per_step: one a worker, NaN before its first trajectory
    """

    def __init__(self, guessed: npt.NDArray[np.float64]) -> None:
        self._guessed = guessed
        self.seconds_per_step = [math.nan] * len(guessed)

    def note(self, worker: int, seconds_per_step: float) -> None:
        """Take in the mean over one trajectory."""
        known = self.seconds_per_step[worker]
        if math.isnan(known):
            known = seconds_per_step
        self.seconds_per_step[worker] = known + SPEED_SMOOTHING * (seconds_per_step - known)

    def expected(self) -> npt.NDArray[np.float64]:
        """Return seconds per step, shape (n,); guesses are scaled by the median of what has been measured."""
        times = np.array(self.seconds_per_step)
        known = np.isfinite(times)
        if known.all():
            return times
        scale = np.median(times[known] / self._guessed[known]) if known.any() else 1.0
        return np.where(known, times, scale * self._guessed)
