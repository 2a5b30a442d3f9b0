"""From trajectories to a policy gradient: pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import obs_as_tensor

from sb3_nigt.policies import TanhGaussianDistribution
from sb3_nigt.trajectory import Trajectory, map_observation

MAX_ELEMENTS = 2**24  # numbers of observation in one backward pass, bounds the memory of long rounds of images


def score_weights(rewards: npt.NDArray[np.float64], gamma: float) -> npt.NDArray[np.float64]:
    """
    Per-step weights of the score in the estimator g_H: C_t = Σ_{h≥t} γ^h r_h.

    The discount counts from time 0, there is no baseline and no bootstrapping (arXiv 2509.24305, the estimator of Section 2).

    :param rewards: r_0 … r_{L-1}, shape (L,)
    :param gamma: γ in [0, 1]
    :return: shape (L,)
    """
    discounted = gamma ** np.arange(len(rewards)) * rewards
    return np.cumsum(discounted[::-1])[::-1]


def policy_gradient(
    policy: ActorCriticPolicy, trajectories: Sequence[Trajectory], weights: Sequence[float], gamma: float
) -> th.Tensor:
    """
    Weighted sum of trajectory gradients: Σ_j w_j Σ_t C_t ∇ log π(a_t | s_t), the direction of ascent.

    One backward pass of one surrogate over all steps (in pieces of bounded size where memory asks for it).

    :param policy: the policy that sampled the trajectories, at the parameters with which it did
    :param trajectories: complete trajectories
    :param weights: w_j, one a trajectory
    :param gamma: γ in [0, 1]
    :return: flat float32 vector over ``policy.parameters()``; zeros for parameters that take no part
    """
    parameters = list(policy.parameters())
    gradient = th.zeros(sum(p.numel() for p in parameters), device=policy.device)
    wanted = [p for p in parameters if p.requires_grad]
    for observations, actions, coefficients in batches(trajectories, weights, gamma):
        obs_tensor = obs_as_tensor(observations, policy.device)
        log_prob = sample_log_prob(policy, obs_tensor, th.as_tensor(actions, device=policy.device))
        surrogate = (th.as_tensor(coefficients, device=policy.device) * log_prob).sum()
        grads = iter(th.autograd.grad(surrogate, wanted, allow_unused=True))
        per_parameter = [next(grads) if p.requires_grad else None for p in parameters]
        gradient += th.cat(
            [(th.zeros_like(p) if g is None else g).reshape(-1) for p, g in zip(parameters, per_parameter, strict=True)]
        )
    return gradient


def sample_log_prob(policy: ActorCriticPolicy, obs: Any, samples: th.Tensor) -> th.Tensor:
    """
    Log-density of what was sampled, up to terms without θ.

    :param policy: the policy
    :param obs: batch of observations as tensors
    :param samples: what ``Trajectory.samples`` holds: u before the tanh, or the action of Stable-Baselines3's distributions
    :return: shape (batch,)
    """
    distribution = policy.get_distribution(obs)
    if isinstance(distribution, TanhGaussianDistribution):
        return distribution.log_prob_gaussian(samples)
    return distribution.log_prob(samples)


def weighted_sum(local_sums: Mapping[int, th.Tensor], weights: npt.NDArray[np.float64]) -> th.Tensor:
    """
    Reduce the local sums of the workers: g = Σ_i w_i S_i, added up in the order of the mapping.

    :param local_sums: S_i of the workers that take part, by worker, flat vectors
    :param weights: w_i, one a worker
    :return: flat vector
    """
    total = th.zeros_like(next(iter(local_sums.values())))
    for worker, local_sum in local_sums.items():
        total += float(weights[worker]) * local_sum
    return total


def batches(
    trajectories: Sequence[Trajectory], weights: Sequence[float], gamma: float
) -> Iterator[tuple[Any, npt.NDArray[Any], npt.NDArray[np.float32]]]:
    """
    Concatenate trajectories to batches of at most MAX_ELEMENTS numbers of observation.

    :param trajectories: complete trajectories
    :param weights: w_j, one a trajectory
    :param gamma: γ in [0, 1]
    :return: observations as the policy saw them, samples, and the coefficients w_j C_t of their scores
    """
    batch: list[tuple[Any, npt.NDArray[Any], npt.NDArray[np.float32]]] = []
    room = MAX_ELEMENTS
    for trajectory, weight in zip(trajectories, weights, strict=True):
        coefficients = (weight * score_weights(trajectory.learning_rewards, gamma)).astype(np.float32)
        rows = max(1, MAX_ELEMENTS // trajectory.observation_size)
        for start in range(0, trajectory.n_steps, rows):
            piece = slice(start, start + rows)
            observations = map_observation(lambda x, piece=piece: x[piece], trajectory.policy_observations)
            size = min(rows, trajectory.n_steps - start) * trajectory.observation_size
            if batch and size > room:
                yield _concatenated(batch)
                batch, room = [], MAX_ELEMENTS
            batch.append((observations, trajectory.samples[piece], coefficients[piece]))
            room -= size
    if batch:
        yield _concatenated(batch)


def _concatenated(
    batch: list[tuple[Any, npt.NDArray[Any], npt.NDArray[np.float32]]],
) -> tuple[Any, npt.NDArray[Any], npt.NDArray[np.float32]]:
    observations, samples, coefficients = zip(*batch, strict=True)
    return (
        map_observation(lambda *xs: np.concatenate(xs), *observations),
        np.concatenate(samples),
        np.concatenate(coefficients),
    )
