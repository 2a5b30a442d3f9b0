"""Malenia NIGT."""

from __future__ import annotations

import warnings
from collections.abc import Hashable
from typing import Any, ClassVar

from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.type_aliases import Schedule as ProgressSchedule
from stable_baselines3.common.vec_env import VecEnv

from sb3_nigt.aggregators import Aggregator, Malenia
from sb3_nigt.algorithms.base import AsyncPolicyGradient

ON_LOST_TASK = ("raise", "drop")


class MaleniaNIGT(AsyncPolicyGradient):
    """
    Malenia NIGT (arXiv 2509.24305): one policy for the mean over the workers' tasks, however fast each worker is.

    A round ends when every task has a trajectory and the harmonic mean of their numbers M_k is at least M/K; g_t is the
    mean over tasks of each task's own mean; θ follows normalized momentum with implicit gradient transport (``NIGT``).
    Workers with equal ``env.task_ids`` share a task; without ids each worker is its own task, as in the paper. With a single
    task it is ``RennalaNIGT``.

    :param policy: as in ``AsyncPolicyGradient``, like all other arguments
    :param on_lost_task: what follows when a task's last worker is lost. "raise": a ``WorkerError`` that names it; "drop": a
        warning, and from then on the objective is the mean over the tasks that are left
    """

    weighs_tasks_equally: ClassVar[bool] = True
    _dropped: tuple[Hashable, ...] = ()

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str,
        learning_rate: float | ProgressSchedule | None = None,
        n_steps: int | None = None,
        gamma: float = 0.99,
        gae_lambda: float | None = 0.95,
        eta: float | ProgressSchedule = 0.5,
        geometry: str = "natural",
        rollout: str = "steps",
        n_trajectories: int = 20,
        n_initial_trajectories: int | None = None,
        horizon: int = 1000,
        schedule: str = "planned",
        on_lost_task: str = "raise",
        **kwargs: Any,
    ) -> None:
        self.on_lost_task = on_lost_task
        super().__init__(
            policy,
            env,
            learning_rate,
            n_steps,
            gamma,
            gae_lambda,
            eta,
            geometry,
            rollout,
            n_trajectories,
            n_initial_trajectories,
            horizon,
            schedule,
            **kwargs,
        )

    def _check_arguments(self) -> None:
        super()._check_arguments()
        if self.on_lost_task not in ON_LOST_TASK:
            raise ValueError(
                f"on_lost_task={self.on_lost_task!r} is not allowed: give one of {', '.join(map(repr, ON_LOST_TASK))}."
            )

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
        """Find out which tasks have nobody left; if none has anybody, keep all, so that the round fails."""
        lost = self.workers.lost() if self.on_lost_task == "drop" else frozenset()
        alive = {task_id for worker, task_id in enumerate(task_ids) if worker not in lost}
        before, self._dropped = self._dropped, tuple(t for t in dict.fromkeys(task_ids) if t not in alive) if alive else ()
        new = [task_id for task_id in self._dropped if task_id not in before]
        if new:
            left = len(set(task_ids)) - len(self._dropped)
            warnings.warn(
                f"All workers of task {', '.join(map(repr, new))} are lost: from round {self._n_updates} on the objective is "
                f'the mean over the remaining {left} of {len(set(task_ids))} tasks (on_lost_task="drop").',
                stacklevel=2,
            )
