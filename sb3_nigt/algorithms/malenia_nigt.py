"""Malenia NIGT."""

from __future__ import annotations

from typing import ClassVar

from sb3_nigt.aggregators import Aggregator, Malenia
from sb3_nigt.algorithms.base import AsyncPolicyGradient


class MaleniaNIGT(AsyncPolicyGradient):
    """
    Malenia NIGT (arXiv 2509.24305): one policy for the mean over the workers' tasks, however fast each worker is.

    A round ends when every task has a trajectory and the harmonic mean of their numbers M_k is at least M/K; g_t is the
    mean over tasks of each task's own mean; θ follows normalized momentum with implicit gradient transport (``NIGT``).
    Workers with equal ``env.task_ids`` share a task; without ids each worker is its own task, as in the paper. With a single
    task it is ``RennalaNIGT``. Arguments: see ``AsyncPolicyGradient``.
    """

    weighs_tasks_equally: ClassVar[bool] = True

    def _make_aggregator(self, n_trajectories: int) -> Aggregator:
        return Malenia.of(n_trajectories, getattr(self._workers, "task_ids", range(self.n_envs)))
