"""Asynchronous updates: no worker is stopped, the sender of a gradient gets the newest point."""

from __future__ import annotations

from collections.abc import Collection

from sb3_nigt.messages import TrajectoryKey
from sb3_nigt.schedules.base import FloatArray, Schedule, Start


class Immediate(Schedule):
    """
    Idle workers start at the point of the current round; all others continue with the point that they have (AFedPG).

    Every gradient is sent separately as soon as it is ready.
    """

    cancels = False
    uploads = True

    def _open(self, now: float, durations: FloatArray, busy: Collection[int]) -> list[Start]:
        self._jobs = [0] * len(durations)
        idle = (worker for worker in range(len(durations)) if worker not in busy)
        return [start for worker in idle for start in self._next(worker, now, durations)]

    def _next(self, worker: int, now: float, durations: FloatArray) -> list[Start]:
        job = self._jobs[worker]
        self._jobs[worker] += 1
        return [Start(worker, TrajectoryKey(self.round, worker, job))]
