"""Rennala policy gradient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.type_aliases import Schedule as ProgressSchedule

from sb3_nigt.aggregators import Aggregator, Rennala
from sb3_nigt.algorithms.arguments import refuse_fixed
from sb3_nigt.algorithms.base import AsyncPolicyGradient
from sb3_nigt.algorithms.paper import PAPER_POLICY, PUBLISHED


class RennalaPG(AsyncPolicyGradient):
    """
    Plain gradient ascent θ ← θ + α g with Rennala's rounds. With equal speeds and M = n it equals ``SyncPG``.

    :param policy: as in ``AsyncPolicyGradient``, like all other arguments; there is no ``eta``
    :param learning_rate: α, the factor of the gradient, not the length of a step
    """

    optimizer_class: ClassVar[type[th.optim.Optimizer]] = th.optim.SGD
    fixed: ClassVar[Mapping[str, Any]] = {**PUBLISHED, "eta": 1.0, "n_initial_trajectories": None}
    policy_defaults: ClassVar[Mapping[str, Any]] = PAPER_POLICY

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str,
        learning_rate: float | ProgressSchedule = 1e-4,
        n_trajectories: int = 20,
        horizon: int = 1000,
        gamma: float = 0.99,
        schedule: str = "planned",
        **kwargs: Any,
    ) -> None:
        refuse_fixed(type(self), kwargs)
        own: dict[str, Any] = {"n_trajectories": n_trajectories, "horizon": horizon, "gamma": gamma, "schedule": schedule}
        super().__init__(policy, env, learning_rate, **own, **kwargs)

    def make_aggregator(self, n_trajectories: int) -> Aggregator:
        """See ``AsyncPolicyGradient.make_aggregator``."""
        return Rennala(n_trajectories)
