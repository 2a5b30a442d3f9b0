"""AFedPG."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.type_aliases import Schedule as ProgressSchedule

from sb3_nigt.aggregators import Aggregator, Rennala
from sb3_nigt.algorithms.arguments import refuse_fixed
from sb3_nigt.algorithms.base import AsyncPolicyGradient
from sb3_nigt.algorithms.paper import PAPER_POLICY, PUBLISHED
from sb3_nigt.schedules import Immediate, Schedule


class AFedPG(AsyncPolicyGradient):
    """
    AFedPG (arXiv 2404.08003): make an update whenever a gradient arrives, however stale it is.

    Only the worker that sent the gradient gets the new extrapolated point. Each trajectory takes one upload and one
    download. With one worker it equals ``RennalaNIGT`` with M = 1.

    :param policy: as in ``AsyncPolicyGradient``, like all other arguments; there is no ``n_trajectories`` and no ``schedule``
    :param n_initial_trajectories: trajectories at θ_0 whose mean gradient is the first direction
    """

    fixed: ClassVar[Mapping[str, Any]] = {**PUBLISHED, "n_trajectories": 1, "schedule": "first_finished"}
    policy_defaults: ClassVar[Mapping[str, Any]] = PAPER_POLICY

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str,
        learning_rate: float | ProgressSchedule = 2**-6,
        n_initial_trajectories: int = 1,
        horizon: int = 1000,
        gamma: float = 0.99,
        eta: float | ProgressSchedule = 0.1,
        **kwargs: Any,
    ) -> None:
        refuse_fixed(type(self), kwargs)
        own: dict[str, Any] = {
            "n_initial_trajectories": n_initial_trajectories,
            "horizon": horizon,
            "gamma": gamma,
            "eta": eta,
        }
        super().__init__(policy, env, learning_rate, **own, **kwargs)

    def make_aggregator(self, n_trajectories: int) -> Aggregator:
        """See ``AsyncPolicyGradient.make_aggregator``."""
        return Rennala(n_trajectories)

    def make_schedule(self) -> Schedule:
        """See ``AsyncPolicyGradient.make_schedule``."""
        return Immediate()
