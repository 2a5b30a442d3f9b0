"""Defaults that depend on the policy: α, the size of the Fisher sample, the epochs of the critic, the unit of the damping."""

from __future__ import annotations

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_nigt.optimizers.geometry import GEOMETRIES
from sb3_nigt.policies import HalfRangeGaussianDistribution, as_actor_policy

FISHER_SAMPLES, FISHER_SAMPLES_OF_FEATURES = 200, 50  # of a round
CRITIC_EPOCHS, CRITIC_EPOCHS_OF_FEATURES = 4, 1
DISCRETE_DAMPING = 30.0  # with 1, policies that had solved CartPole and LunarLander fell back far more often


def trains_features(policy: ActorCriticPolicy) -> bool:
    """
    Whether the features of observations are learned, as those of images are.

    :param policy: the model's policy
    """
    return any(p.requires_grad for p in policy.features_extractor.parameters())


def default_rate(geometry: str, policy: ActorCriticPolicy | None) -> float:
    """
    Return the default of α: that of the geometry, half of it where KL limits the step and features are learned.

    The networks that learn features have many more parameters, so gradients are noisier.

    :param geometry: its name
    :param policy: the model's policy, None if it is not known yet
    """
    chosen = GEOMETRIES[geometry]
    is_shorter = chosen.needs_metric and policy is not None and trains_features(policy)
    return chosen.learning_rate * (0.5 if is_shorter else 1.0)


def default_fisher_samples(policy: ActorCriticPolicy) -> int:
    """
    Return the default number of observations of a round from which F is estimated; learned features make them expensive.

    :param policy: the model's policy
    """
    return FISHER_SAMPLES_OF_FEATURES if trains_features(policy) else FISHER_SAMPLES


def critic_epochs(policy: ActorCriticPolicy) -> int:
    """
    Return how often a fit of the critic passes over its rounds; where features are learned, that is most of a round's work.

    :param policy: the model's policy
    """
    return CRITIC_EPOCHS_OF_FEATURES if trains_features(policy) else CRITIC_EPOCHS


def damping_unit(policy: ActorCriticPolicy) -> float:
    """
    Return the unit of λ in F + λI.

    - Gaussian whose σ is a parameter: the mean of 1/σ² over the action components. F grows with it, so the damping keeps its
      share while σ falls in the course of a run.
    - Discrete actions: ``DISCRETE_DAMPING``. F vanishes as such a policy becomes deterministic, and λ alone bounds the step.
      Not where the features extractor is trained, as for images: there it makes steps too short.
    - All others: 1.

    :param policy: the model's policy
    """
    if not isinstance(policy.action_space, spaces.Box):
        return 1.0 if trains_features(policy) else DISCRETE_DAMPING
    actor = as_actor_policy(policy)
    if actor is None or not isinstance(actor.action_dist, HalfRangeGaussianDistribution):
        return 1.0
    return float(th.exp(-2 * actor.log_std.detach()).mean())
