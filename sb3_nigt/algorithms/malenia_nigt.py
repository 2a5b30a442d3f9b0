"""Malenia NIGT."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, ClassVar

from stable_baselines3.common.vec_env import VecEnv

from sb3_nigt.aggregators import Aggregator, Malenia
from sb3_nigt.algorithms.base import AsyncPolicyGradient
from sb3_nigt.errors import warn_user


class MaleniaNIGT(AsyncPolicyGradient):
    """
    Malenia NIGT (arXiv 2509.24305): train one policy for the mean over different tasks, however fast their workers are.

    A round ends when every task has contributed and the harmonic mean of the tasks' counts is at least M/K, where K is the
    number of tasks and M is ``n_steps`` · n (``n_trajectories`` with ``rollout="trajectories"``). The gradient is the mean
    of the tasks' mean gradients. The outer update is ``NIGT``. Workers with equal ``env.task_ids`` share a task; without
    ids every worker is a task, as in the paper. With a single task it equals ``RennalaNIGT``. For the arguments see
    ``AsyncPolicyGradient``.
    """

    weighs_tasks_equally: ClassVar[bool] = True
    _dropped: tuple[Hashable, ...] = ()

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_dropped"]

    def collect_rollouts(self, env: VecEnv, *args: Any, **kwargs: Any) -> bool:
        """
        Run one round, see ``AsyncPolicyGradient.collect_rollouts``.

        :param env: the environment that was given to the model
        """
        goes_on = super().collect_rollouts(env, *args, **kwargs)
        if self.on_lost_task == "drop":
            self.logger.record("async/lost_tasks", len(self._dropped))
        return goes_on

    def make_aggregator(self, n_trajectories: int) -> Aggregator:
        """See ``AsyncPolicyGradient.make_aggregator``."""
        task_ids = self.workers.task_ids
        self._drop_lost_tasks(task_ids)
        return Malenia.of(n_trajectories, task_ids, self._dropped)

    def _drop_lost_tasks(self, task_ids: tuple[Hashable, ...]) -> None:
        """Find out which tasks have no worker left; if no task has one, keep all, so that the round fails."""
        lost = self.workers.lost() if self.on_lost_task == "drop" else frozenset()
        alive = {task_id for worker, task_id in enumerate(task_ids) if worker not in lost}
        before, self._dropped = self._dropped, tuple(t for t in dict.fromkeys(task_ids) if t not in alive) if alive else ()
        new = [task_id for task_id in self._dropped if task_id not in before]
        if new:
            left = len(set(task_ids)) - len(self._dropped)
            warn_user(
                f"All workers of task {', '.join(map(repr, new))} are lost: from round {self._n_updates} on the objective is "
                f'the mean over the remaining {left} of {len(set(task_ids))} tasks (on_lost_task="drop").'
            )
