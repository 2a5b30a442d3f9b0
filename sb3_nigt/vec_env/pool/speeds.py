"""
How fast each worker makes its steps: measured, or guessed until then. No I/O and no clock.

A speed is measured only where a worker runs, and a schedule lets only those run that are quick enough. So an estimate must not
last forever: one slow trajectory does not count for much, and the estimate of a worker that is left out ages towards the
others', until the worker is given a trajectory again.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

SMOOTHING = 0.1  # weight of a new trajectory in the running mean
N_RECENT = 3  # so many trajectories in a row overrule the mean,
SPREAD = 1.5  # which stays within this factor of them
SURPRISE = 2.0  # a trajectory that takes so many times its mean is a surprise
CALM = 10  # trajectories without one, after which a surprise is forgotten
MOST_SURPRISES = 4
PROBING_SHARE = 2.0**-MOST_SURPRISES  # of the time: what workers that stay slow cost in the long run


@dataclass(eq=False)
class WorkerSpeed:
    """
    What is known of one worker.

    :ivar mean: running mean of the seconds per step; NaN before the first trajectory
    :ivar surprises: how often it was recently much slower than expected
    :ivar is_left_out: whether it has been idle for longer than a trajectory would have taken it
    :ivar seen_at: when its last trajectory ended, in seconds in which some worker worked
    """

    mean: float = math.nan
    surprises: int = 0
    is_left_out: bool = False
    seen_at: float = 0.0
    _recent: deque[float] = field(default_factory=lambda: deque(maxlen=N_RECENT))
    _calm: int = 0

    def note(self, measured: float) -> None:
        """
        Take in the mean over one trajectory.

        :param measured: the measured seconds per step
        """
        self._recent.append(measured)
        if math.isnan(self.mean):
            self.mean = measured
            return
        typical = sorted(self._recent)[(len(self._recent) - 1) // 2]
        counted = min(measured, SPREAD * 2**self.surprises * typical)  # in full only where such a thing happens often
        self._count_surprises(measured)
        mean = self.mean + SMOOTHING * (counted - self.mean)
        if len(self._recent) == N_RECENT:
            mean = min(max(mean, min(self._recent) / SPREAD), SPREAD * max(self._recent))
        self.mean = mean

    def _count_surprises(self, measured: float) -> None:
        """A worker that is left out and as slow as before was hoped to be quick."""
        if measured > SURPRISE * self.mean or (self.is_left_out and measured > self.mean / SURPRISE):
            self.surprises, self._calm = min(self.surprises + 1, MOST_SURPRISES), 0
        else:
            self._calm += 1
            if self._calm % CALM == 0:
                self.surprises = max(self.surprises - 1, 0)


class Speeds:
    """
    Seconds per step of all workers.

    :param guessed: ratios of the speeds until they are measured, shape (n,)
    """

    def __init__(self, guessed: FloatArray) -> None:
        self._guessed = guessed
        self._workers = [WorkerSpeed() for _ in guessed]
        self._worked = 0.0  # seconds in which some worker worked
        self._noted_at = -math.inf

    def note(self, worker: int, seconds: float, n_steps: int, now: float) -> None:
        """
        Take in a trajectory, or the part of it that was made.

        :param worker: index of the worker that made it
        :param seconds: its duration in seconds
        :param n_steps: its length, at least 1
        :param now: current time in seconds
        """
        self._worked += min(seconds, max(0.0, now - self._noted_at))
        self._noted_at = now
        one, measured = self._workers[worker], seconds / n_steps
        is_quick_again = one.is_left_out and measured <= one.mean / SURPRISE
        one.note(measured)
        one.is_left_out = False
        if not is_quick_again:  # else it keeps its age, so that more trajectories follow at once
            one.seen_at = self._worked

    def measured(self) -> FloatArray:
        """Return the running means of the seconds per step, NaN where there is none, shape (n,)."""
        return np.array([one.mean for one in self._workers])

    def expected(self) -> FloatArray:
        """Return seconds per step, shape (n,); guesses are scaled by the median of what has been measured."""
        times = self.measured()
        known = np.isfinite(times)
        if known.all():
            return times
        scale = np.median(times[known] / self._guessed[known]) if known.any() else 1.0
        return np.where(known, times, scale * self._guessed)

    def aged(self, n_steps: float, idle: Collection[int]) -> FloatArray:
        """
        Return seconds per step, shape (n,), where workers that are left out look the quicker the longer they are idle.

        In the end they are expected to be as quick as the quickest, and a schedule gives them a trajectory. How long that
        takes grows with what it may cost: with the length of one of their trajectories, with the number of such workers, and
        twofold with every such trajectory that was slow again.

        :param n_steps: length of a trajectory
        :param idle: workers that could start one
        """
        times = self.expected()
        for worker in idle:
            one = self._workers[worker]
            one.is_left_out = self._worked - one.seen_at > one.mean * n_steps
        left_out = [worker for worker in idle if self._workers[worker].is_left_out]
        if not left_out:
            return times
        quickest = self._guessed * np.nanmin(self.measured() / self._guessed)
        for worker in left_out:
            one = self._workers[worker]
            waited = (self._worked - one.seen_at) / (one.mean * n_steps) - 1.0
            age = min(1.0, waited / (len(left_out) * 2**one.surprises))
            times[worker] -= age * max(0.0, one.mean - quickest[worker])
        return times
