"""Synchronous NIGT."""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule

from sb3_nigt.aggregators import Aggregator, Synchronous
from sb3_nigt.algorithms.base import AsyncPolicyGradient
from sb3_nigt.algorithms.checks import refuse_arguments


class SyncNIGT(AsyncPolicyGradient):
    """
    NIGT with a barrier: every worker makes ⌈M/n⌉ trajectories, the slowest one sets the pace.

    :param policy: as in ``AsyncPolicyGradient``, like all other arguments; there is no ``schedule``
    """

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule | None = None,
        n_steps: int | None = None,
        gamma: float = 0.99,
        gae_lambda: float | None = 0.95,
        eta: float | Schedule = 0.5,
        geometry: str = "natural",
        rollout: str = "steps",
        n_trajectories: int = 20,
        n_initial_trajectories: int | None = None,
        horizon: int = 1000,
        **kwargs: Any,
    ) -> None:
        refuse_arguments("SyncNIGT", kwargs, "schedule")
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
            **kwargs,
        )

    def make_aggregator(self, n_trajectories: int) -> Aggregator:
        """See ``AsyncPolicyGradient.make_aggregator``."""
        return Synchronous(n_trajectories)
