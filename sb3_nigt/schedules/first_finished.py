"""The paper's rule: all workers are always busy, and whatever has finished when the round is complete counts."""

from __future__ import annotations

from collections.abc import Collection

from sb3_nigt.messages import TrajectoryKey
from sb3_nigt.schedules.base import FloatArray, Schedule, Start


class FirstFinished(Schedule):
    """
    A worker that finishes a trajectory starts the next one at once; trajectories in flight at the end are cancelled.

    If the duration of a trajectory depends on its content, short ones are over-represented, see ``Planned``.
    """

    def _open(self, now: float, durations: FloatArray, busy: Collection[int]) -> list[Start]:
        self._jobs = [0] * len(durations)
        return [start for worker in range(len(durations)) for start in self._next(worker, now, durations)]

    def _next(self, worker: int, now: float, durations: FloatArray) -> list[Start]:
        job = self._jobs[worker]
        self._jobs[worker] += 1
        return [Start(worker, TrajectoryKey(self.round, worker, job))]
