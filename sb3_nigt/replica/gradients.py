"""From trajectories to a policy gradient: pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import obs_as_tensor

from sb3_nigt.parameters import Layout
from sb3_nigt.policies import TanhGaussianDistribution
from sb3_nigt.sampling.trajectory import Trajectory, map_observation

Coefficients = Sequence[npt.NDArray[np.floating[Any]]]  # one array per trajectory, one number per step

MAX_ELEMENTS = 2**24  # numbers of observation in one backward pass, bounds the memory of long rounds of images


def policy_gradient(policy: ActorCriticPolicy, trajectories: Sequence[Trajectory], coefficients: Coefficients) -> th.Tensor:
    """
    Weighted sum of scores: Σ_j Σ_t c_jt ∇ log π(a_jt | s_jt), the direction of ascent.

    One backward pass of one surrogate over all steps (in pieces of bounded size where memory asks for it).

    :param policy: the policy that sampled the trajectories, at the parameters with which it did
    :param trajectories: complete trajectories
    :param coefficients: c_jt, for each trajectory an array of shape (L,)
    :return: flat float32 vector, see ``Layout``; zeros for parameters that take no part
    """
    layout = Layout(policy)
    gradient = th.zeros(layout.n_parameters, dtype=th.float32, device=policy.device)
    wanted = [p for p in layout.parameters if p.requires_grad]
    for observations, actions, factors in batches(trajectories, coefficients):
        obs_tensor = obs_as_tensor(observations, policy.device)
        log_prob = sample_log_prob(policy, obs_tensor, th.as_tensor(actions, device=policy.device))
        surrogate = (th.as_tensor(factors, device=policy.device) * log_prob).sum()
        grads = th.autograd.grad(surrogate, wanted, allow_unused=True)
        gradient += layout.join(dict(zip(wanted, grads, strict=True)))
    return gradient


def sample_log_prob(policy: ActorCriticPolicy, obs: Any, samples: th.Tensor) -> th.Tensor:
    """
    Log-density of what was sampled, up to terms without θ.

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
    :param weights: w_i, one per worker
    :return: flat vector
    """
    total = th.zeros_like(next(iter(local_sums.values())))
    for worker, local_sum in local_sums.items():
        total += float(weights[worker]) * local_sum
    return total


def batches(
    trajectories: Sequence[Trajectory], coefficients: Coefficients
) -> Iterator[tuple[Any, npt.NDArray[Any], npt.NDArray[np.float32]]]:
    """
    Concatenate trajectories to batches of at most MAX_ELEMENTS numbers of observation.

    :param trajectories: complete trajectories
    :param coefficients: c_jt, for each trajectory an array of shape (L,)
    :return: observations as the policy saw them, samples, and the coefficients of their scores
    """
    batch: list[tuple[Any, npt.NDArray[Any], npt.NDArray[np.float32]]] = []
    room = MAX_ELEMENTS
    for trajectory, exact in zip(trajectories, coefficients, strict=True):
        rounded = in_float32(exact)
        rows = max(1, MAX_ELEMENTS // trajectory.observation_size)
        for start in range(0, trajectory.n_steps, rows):
            piece = slice(start, start + rows)
            observations = map_observation(lambda x, piece=piece: x[piece], trajectory.policy_observations)
            size = min(rows, trajectory.n_steps - start) * trajectory.observation_size
            if batch and size > room:
                yield _concatenated(batch)
                batch, room = [], MAX_ELEMENTS
            batch.append((observations, trajectory.samples[piece], rounded[piece]))
            room -= size
    if batch:
        yield _concatenated(batch)


def in_float32(coefficients: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float32]:
    """
    Round coefficients to what gradients are computed with; one beyond the range of float32 makes the gradient infinite.

    :param coefficients: c_t
    """
    with np.errstate(over="ignore"):  # the algorithm looks at the gradient, and skips one that is not finite
        return coefficients.astype(np.float32)


def _concatenated(
    batch: list[tuple[Any, npt.NDArray[Any], npt.NDArray[np.float32]]],
) -> tuple[Any, npt.NDArray[Any], npt.NDArray[np.float32]]:
    observations, samples, factors = zip(*batch, strict=True)
    return map_observation(lambda *xs: np.concatenate(xs), *observations), np.concatenate(samples), np.concatenate(factors)
