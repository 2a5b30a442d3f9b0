"""
From distribution parameters to a sample and an action.

The random numbers come from the trajectory's own generator, never from torch's global one: a trajectory stays a pure
function of its key.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    DiagGaussianDistribution,
    MultiCategoricalDistribution,
    SquashedDiagGaussianDistribution,
)
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_nigt.dtypes import as_actions
from sb3_nigt.policies import HalfRangeGaussianDistribution, TanhGaussianDistribution

Array = npt.NDArray[Any]

GAUSSIANS = {TanhGaussianDistribution: "tanh", HalfRangeGaussianDistribution: "half_range", DiagGaussianDistribution: "clip"}
_MINUS_ONE, _ONE = np.float32(-1), np.float32(1)


class Head(ABC):
    """
    From distribution parameters and random numbers to a sample and an action.

    :param action_space: the environment's action space
    """

    sample_shape: tuple[int, ...]  # of one sample as the gradient needs it
    sample_dtype: type[np.generic]

    def __init__(self, action_space: spaces.Space[Any]) -> None:
        self.action_space = action_space
        self.action_shape: tuple[int, ...] = action_space.shape or ()
        self.action_dtype = np.dtype(action_space.dtype)

    @abstractmethod
    def noise(self, rng: np.random.Generator, n_steps: int) -> Array:
        """
        Random numbers for the next steps, one row per step.

        :param rng: the trajectory's generator
        :param n_steps: number of rows
        """

    @abstractmethod
    def draw(self, parameters: Array, noise: Array) -> tuple[Array, Array]:
        """
        Sample.

        :param parameters: distribution parameters, one vector or a batch of them
        :param noise: a row of ``noise()``, or a batch of rows
        :return: the sample for the gradient and the action for the environment
        """


class GaussianHead(Head):
    """
    Parameters (μ, σ) side by side. The sample is u = μ + σε; how it becomes an action is a matter of the distribution.

    :param action_space: the environment's action space
    :param how: "tanh": tanh(u) is mapped onto the bounds; "half_range": u is clipped to [-1, 1] and mapped onto the bounds;
        "clip": u is clipped to the bounds, as with Stable-Baselines3's diagonal Gaussian
    """

    sample_dtype = np.float32

    def __init__(self, action_space: spaces.Box, how: str) -> None:
        super().__init__(action_space)
        self.low, self.high = action_space.low, action_space.high
        self.how = how if how != "half_range" or action_space.is_bounded() else "clip"
        self.size = int(np.prod(action_space.shape))
        self.sample_shape = (self.size,)
        working_dtype = np.float32 if self.action_dtype == np.float32 else np.float64
        low, high = (bound.reshape(-1).astype(np.float64) for bound in (action_space.low, action_space.high))
        self._middle = (0.5 * low + 0.5 * high).astype(working_dtype)
        self._half_range = _inside(self._middle, (0.5 * high - 0.5 * low).astype(working_dtype), action_space)

    def noise(self, rng: np.random.Generator, n_steps: int) -> Array:
        """See ``Head.noise``."""
        return rng.standard_normal((n_steps, self.size), dtype=np.float32)

    def draw(self, parameters: Array, noise: Array) -> tuple[Array, Array]:
        """See ``Head.draw``."""
        sample = parameters[..., self.size :] * noise
        sample += parameters[..., : self.size]
        if self.how != "clip":
            inside = np.tanh(sample) if self.how == "tanh" else np.minimum(np.maximum(sample, _MINUS_ONE), _ONE)
            action = inside * self._half_range
            action += self._middle
            action = action.reshape(sample.shape[:-1] + self.action_shape)
        else:
            action = np.clip(sample.reshape(sample.shape[:-1] + self.action_shape), self.low, self.high)
        return sample, action if action.dtype == self.action_dtype else as_actions(self.action_space, action)


def _inside(middle: Array, half_range: Array, space: spaces.Box) -> Array:
    """Shrink the half range by the last bits that rounding would put outside of the bounds."""
    low, high = space.low.reshape(-1), space.high.reshape(-1)
    last_bit = np.spacing(np.maximum(np.abs(low), np.abs(high)).astype(middle.dtype))
    for _ in range(2):
        outside = (middle + half_range > high) | (middle - half_range < low)
        half_range = np.where(outside, np.maximum(half_range - last_bit, 0), half_range)
    return half_range.astype(middle.dtype)


class CategoricalHead(Head):
    """
    One or more independent categorical variables, logits side by side; sampled with Gumbel noise.

    :param action_space: the environment's action space
    :param sizes: number of categories of each variable
    """

    sample_dtype = np.int64

    def __init__(self, action_space: spaces.Space[Any], sizes: list[int]) -> None:
        super().__init__(action_space)
        self.ends = np.cumsum(sizes).tolist()
        self.starts = [0, *self.ends[:-1]]
        self.sample_shape = () if isinstance(action_space, spaces.Discrete) else (len(sizes),)

    def noise(self, rng: np.random.Generator, n_steps: int) -> Array:
        """See ``Head.noise``."""
        return rng.gumbel(size=(n_steps, self.ends[-1]))

    def draw(self, parameters: Array, noise: Array) -> tuple[Array, Array]:
        """See ``Head.draw``."""
        perturbed = parameters + noise
        if not self.sample_shape:
            sample = perturbed.argmax(axis=-1)
            return sample, sample.astype(self.action_dtype, copy=False)
        choices = [perturbed[..., a:b].argmax(axis=-1) for a, b in zip(self.starts, self.ends, strict=True)]
        sample = np.stack(choices, axis=-1)
        return sample, sample.astype(self.action_dtype, copy=False)


class BernoulliHead(Head):
    """
    Independent bits, one logit each.

    :param action_space: the environment's action space
    """

    sample_dtype = np.float32

    def __init__(self, action_space: spaces.MultiBinary) -> None:
        super().__init__(action_space)
        self.sample_shape = self.action_shape

    def noise(self, rng: np.random.Generator, n_steps: int) -> Array:
        """See ``Head.noise``."""
        return rng.logistic(size=(n_steps, *self.action_shape))

    def draw(self, parameters: Array, noise: Array) -> tuple[Array, Array]:
        """See ``Head.draw``."""
        sample = parameters + noise > 0
        return sample.astype(np.float32), sample.astype(self.action_dtype)


def make_head(policy: ActorCriticPolicy) -> Head:
    """
    Return the head that fits the policy's distribution.

    :param policy: any actor-critic policy with one of Stable-Baselines3's distributions
    :raises ValueError: for another distribution
    """
    dist, space = policy.action_dist, policy.action_space
    for cls, how in GAUSSIANS.items():
        # the library's own squashed Gaussian takes a logarithm of σ, and its actions are not the samples of its Normal
        if isinstance(dist, cls) and not (how == "clip" and isinstance(dist, SquashedDiagGaussianDistribution)):
            assert isinstance(space, spaces.Box)
            return GaussianHead(space, how)
    if isinstance(dist, CategoricalDistribution):
        return CategoricalHead(space, [dist.action_dim])
    if isinstance(dist, MultiCategoricalDistribution):
        return CategoricalHead(space, list(dist.action_dims))
    if isinstance(dist, BernoulliDistribution):
        assert isinstance(space, spaces.MultiBinary)
        return BernoulliHead(space)
    raise ValueError(
        f"policy={type(policy).__name__} uses {type(dist).__name__}, which has no score here: "
        "use a Gaussian, categorical or Bernoulli distribution (gSDE is not supported)."
    )


class Network(Protocol):
    """Distribution parameters from one observation, or from a batch of them."""

    def __call__(self, observation: Any) -> Array:
        """Return a float32 vector, or a batch of them if the observation has a leading batch dimension."""
        ...
