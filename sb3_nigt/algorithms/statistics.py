"""What a round adds to running statistics: moments that processes which train together can merge."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_nigt.estimators import Accepted, Assessment
from sb3_nigt.moments import Moments
from sb3_nigt.normalization import ObservationNormalizer
from sb3_nigt.policies import as_actor_policy
from sb3_nigt.sampling.trajectory import map_observation


@dataclass(frozen=True)
class RoundStatistics:
    """
    Statistics of a round, or of the part of it that one process has.

    :param observations: of each process, to be merged in this order: moments of each entry that the policy normalises
    :param assessment: of the estimator
    """

    observations: list[list[Moments]]
    assessment: Assessment | None


def observation_moments(policy: ActorCriticPolicy, accepted: Accepted) -> list[Moments]:
    """
    Return the moments of a round's observations, one for each entry that the policy normalises.

    :param policy: of the model
    :param accepted: in worker order
    """
    normalizer = _normalizer(policy)
    if normalizer is None:
        return []
    if not accepted:
        return [Moments.empty(moments.mean.shape) for moments in normalizer.moments()]
    observations = map_observation(
        lambda *xs: np.concatenate(xs), *(trajectory.policy_observations for _, trajectory in accepted)
    )
    return normalizer.moments_of(observations)


def move_normalizer(policy: ActorCriticPolicy, observations: list[list[Moments]]) -> None:
    """
    Take the observations of a round into the policy's running statistics.

    :param policy: the policy to update
    :param observations: moments of the observations of each process
    """
    normalizer = _normalizer(policy)
    if normalizer is not None:
        for moments in observations:
            normalizer.merge(moments)


def _normalizer(policy: ActorCriticPolicy) -> ObservationNormalizer | None:
    actor = as_actor_policy(policy)
    return None if actor is None else actor.normalizer
