"""Rennala policy gradient."""

from __future__ import annotations

from typing import Any, ClassVar

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.type_aliases import Schedule as ProgressSchedule

from sb3_nigt.aggregators import Aggregator, Rennala
from sb3_nigt.algorithms.base import AsyncPolicyGradient
from sb3_nigt.algorithms.checks import NOT_PUBLISHED, refuse_arguments
from sb3_nigt.algorithms.paper import as_published


class RennalaPG(AsyncPolicyGradient):
    """
    Plain gradient ascent θ ← θ + α g on Rennala's rounds. With equal speeds and M = n it is ``SyncPG``.

    :param policy: as in ``AsyncPolicyGradient``, like all other arguments; there is no ``eta``
    """

    optimizer_class: ClassVar[type[th.optim.Optimizer]] = th.optim.SGD

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
        refuse_arguments("RennalaPG", kwargs, "eta", "n_initial_trajectories", *NOT_PUBLISHED)
        own = {"n_trajectories": n_trajectories, "horizon": horizon, "gamma": gamma, "eta": 1.0, "schedule": schedule}
        super().__init__(policy, env, learning_rate, **as_published(**own, **kwargs))

    def make_aggregator(self, n_trajectories: int) -> Aggregator:
        """See ``AsyncPolicyGradient.make_aggregator``."""
        return Rennala(n_trajectories)
