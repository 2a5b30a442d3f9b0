"""AFedPG."""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.type_aliases import Schedule as ProgressSchedule

from sb3_nigt.aggregators import Aggregator, Rennala
from sb3_nigt.algorithms.base import AsyncPolicyGradient
from sb3_nigt.algorithms.checks import NOT_PUBLISHED, refuse_arguments
from sb3_nigt.algorithms.paper import as_published
from sb3_nigt.schedules import Immediate, Schedule


class AFedPG(AsyncPolicyGradient):
    """
    AFedPG (arXiv 2404.08003): an update at every arrival, with the gradient that has arrived, however stale it is.

    Only the sender gets the new extrapolated point. One upload and one download a trajectory. With n = 1 it is
    ``RennalaNIGT`` with n = 1 and M = 1.

    :param policy: as in ``AsyncPolicyGradient``, like all other arguments; there is no ``n_trajectories`` and no ``schedule``
    :param n_initial_trajectories: trajectories at θ_0 whose mean is the first direction
    """

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
        refuse_arguments("AFedPG", kwargs, "n_trajectories", "schedule", *NOT_PUBLISHED)
        own = {"n_trajectories": 1, "n_initial_trajectories": n_initial_trajectories, "horizon": horizon, "gamma": gamma}
        super().__init__(policy, env, learning_rate, **as_published(**own, eta=eta, schedule="first_finished", **kwargs))

    def make_aggregator(self, n_trajectories: int) -> Aggregator:
        """See ``AsyncPolicyGradient.make_aggregator``."""
        return Rennala(n_trajectories)

    def make_schedule(self) -> Schedule:
        """See ``AsyncPolicyGradient.make_schedule``."""
        return Immediate()
