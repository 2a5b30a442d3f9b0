"""Malenia: the mean over tasks of each task's own mean."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable
from dataclasses import dataclass

import numpy as np

from sb3_nigt.aggregators.base import Aggregator, FloatArray, IntArray, TicketPool, predicted_counts


@dataclass(frozen=True)
class Malenia(Aggregator):
    """
    Complete when every task has one trajectory and ((1/K) Σ_k 1/M_k)⁻¹ ≥ M/K; w_i = 1 / (K M_k(i)).

    M_k is the number of trajectories of task k, K the number of tasks: workers that share a task pool their trajectories.
    With one worker a task it is AggregateMalenia of arXiv 2509.24305. The objective is (1/K) Σ_k J_k whatever the speeds.

    :param n_trajectories: M
    :param tasks: for each worker the index of its task, 0 to K-1, each at least once; -1: the worker takes no part
    """

    n_trajectories: int
    tasks: tuple[int, ...]

    @classmethod
    def of(cls, n_trajectories: int, task_ids: Iterable[Hashable], without: Collection[Hashable] = ()) -> Malenia:
        """
        Number the tasks in the order in which they appear.

        :param n_trajectories: M
        :param task_ids: one per worker
        :param without: tasks that take no part
        """
        task_ids = list(task_ids)
        left = [task_id for task_id in dict.fromkeys(task_ids) if task_id not in without]
        numbers = {task_id: number for number, task_id in enumerate(left)}
        return cls(n_trajectories, tuple(numbers.get(task_id, -1) for task_id in task_ids))

    def per_task(self, counts: IntArray) -> IntArray:
        """
        Trajectories of each task.

        :param counts: accepted trajectories a worker, shape (n,)
        :return: M_k, shape (K,)
        """
        return np.bincount(np.add(self.tasks, 1), weights=counts)[1:].astype(np.int64)

    def is_complete(self, counts: IntArray) -> bool:
        """See ``Aggregator.is_complete``."""
        per_task = self.per_task(counts)
        # K / Σ_k 1/M_k ≥ M/K, multiplied out; the slack undoes the rounding of sums such as 1/3 + 1/3 + 1/3
        return bool(per_task.all()) and len(per_task) ** 2 >= self.n_trajectories * float((1.0 / per_task).sum()) * (1 - 1e-12)

    def weights(self, counts: IntArray) -> FloatArray:
        """See ``Aggregator.weights``."""
        per_task = self.per_task(counts)
        takes_part = (counts > 0) & np.greater_equal(self.tasks, 0)
        return np.where(takes_part, 1.0 / (len(per_task) * np.maximum(per_task, 1)[list(self.tasks)]), 0.0)

    def can_do_without(self, lost: Collection[int], n_workers: int) -> bool:
        """Every task needs a worker, or the objective would change."""
        alive = np.ones(n_workers, dtype=np.int64)
        alive[list(lost)] = 0
        return bool(self.per_task(alive).all())

    def tickets(self, durations: FloatArray) -> list[TicketPool]:
        """Workers of one task are exchangeable: one pool a task, as large as the predicted round makes it."""
        per_task = self.per_task(predicted_counts(self, durations))
        members: list[list[int]] = [[] for _ in per_task]
        for worker, task in enumerate(self.tasks):
            if task >= 0:
                members[task].append(worker)
        return [TicketPool(tuple(workers), int(count)) for workers, count in zip(members, per_task, strict=True)]
