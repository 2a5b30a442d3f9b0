"""
Acting at one sampling point: observation in, sample and action out.

A rollout asks the policy for one observation at a time, so the network of an MLP policy is evaluated in NumPy, where a
forward pass costs microseconds; any other policy runs in torch. The random numbers come from the trajectory's own
generator in both cases, never from torch's global one: a trajectory stays a pure function of its key.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    DiagGaussianDistribution,
    Distribution,
    MultiCategoricalDistribution,
    SquashedDiagGaussianDistribution,
)
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import FlattenExtractor, MlpExtractor
from torch import nn

from sb3_nigt.policies import MIN_STD, ActorPolicy, TanhGaussianDistribution

Array = npt.NDArray[Any]

SINGLE_THREAD_ELEMENTS = 9000  # OpenBLAS starts threads for larger matrix-vector products, which costs more than it saves


class Head(ABC):
    """
    From distribution parameters and random numbers to a sample and an action.

    :param action_space: the environment's action space
    """

    sample_shape: tuple[int, ...]  # of one sample as the gradient needs it
    sample_dtype: type[np.generic]

    def __init__(self, action_space: spaces.Space[Any]) -> None:
        self.action_shape: tuple[int, ...] = action_space.shape or ()
        self.action_dtype = np.dtype(action_space.dtype)

    @abstractmethod
    def noise(self, rng: np.random.Generator, n_steps: int) -> Array:
        """
        Random numbers for the next steps, one row a step.

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
    Parameters (μ, σ) side by side. The sample is u = μ + σε; the action is squashed onto the bounds, or u clipped to them.

    :param action_space: the environment's action space
    :param squash: tanh (our policies) or clip (Stable-Baselines3's diagonal Gaussian)
    """

    sample_dtype = np.float32

    def __init__(self, action_space: spaces.Box, squash: bool) -> None:
        super().__init__(action_space)
        self.low, self.high, self.squash = action_space.low, action_space.high, squash
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
        if self.squash:
            action = np.tanh(sample) * self._half_range
            action += self._middle
            action = action.reshape(sample.shape[:-1] + self.action_shape)
        else:
            action = np.clip(sample.reshape(sample.shape[:-1] + self.action_shape), self.low, self.high)
        return sample, action if action.dtype == self.action_dtype else action.astype(self.action_dtype)


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
    squashed = isinstance(dist, TanhGaussianDistribution)
    # the library's own squashed Gaussian takes a logarithm of σ, and its actions are not the samples of its Normal
    if squashed or (isinstance(dist, DiagGaussianDistribution) and not isinstance(dist, SquashedDiagGaussianDistribution)):
        assert isinstance(space, spaces.Box)
        return GaussianHead(space, squash=squashed)
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


class NumpyMlp:
    """
    Forward pass of an MLP policy in NumPy float32, equal to torch's up to rounding.

    :param layers: (weight, bias) of each linear layer, the weights of shape (out, in)
    :param activation: applied between the layers, in place
    :param n_softplus: how many outputs at the end are standard deviations
    """

    def __init__(
        self, layers: list[tuple[Array, Array]], activation: Callable[[Array, Array], Array], n_softplus: int
    ) -> None:
        # The bias is one more column of the weight and the constant 1 one more input: fewer calls, and here the calls cost.
        matrices = [np.column_stack([weight, bias]) for weight, bias in layers]
        inputs = [np.ones(matrix.shape[1], dtype=np.float32) for matrix in matrices]
        self._first = inputs[0][:-1]
        self._hidden = [
            (_row_blocks(matrix, below[:-1]), above, below[:-1])
            for matrix, above, below in zip(matrices[:-1], inputs[:-1], inputs[1:], strict=True)
        ]
        self._last, self._last_input = matrices[-1], inputs[-1]
        self._activation, self._n_softplus = activation, n_softplus

    def __call__(self, observation: Array) -> Array:
        """
        Evaluate one observation.

        :param observation: any numeric dtype and shape
        """
        self._first[:] = observation.reshape(-1)
        for blocks, x, out in self._hidden:
            for weight, part in blocks:
                weight.dot(x, part)
            self._activation(out, out)
        y: Array = self._last.dot(self._last_input)
        if self._n_softplus:
            std = y[-self._n_softplus :]
            np.logaddexp(std, np.float32(0), out=std)
            std += np.float32(MIN_STD)
        return y


def _row_blocks(matrix: Array, out: Array) -> list[tuple[Array, Array]]:
    """Cut a matrix and the vector that takes its product into blocks that BLAS does not spread over threads."""
    rows = max(1, SINGLE_THREAD_ELEMENTS // matrix.shape[1])
    return [(matrix[i : i + rows], out[i : i + rows]) for i in range(0, len(matrix), rows)]


class TorchNetwork:
    """
    Any policy, evaluated in torch.

    :param policy: the module, in evaluation mode
    """

    def __init__(self, policy: ActorCriticPolicy) -> None:
        self.policy = policy

    def __call__(self, observation: Any) -> Array:
        """
        Evaluate one observation.

        :param observation: array, or dict of arrays
        """
        with th.no_grad():
            obs_tensor, batched = self.policy.obs_to_tensor(observation)
            parameters = _distribution_parameters(self.policy.get_distribution(obs_tensor))
        array = parameters.float().cpu().numpy()
        return array if batched else array[0]


def _distribution_parameters(dist: Distribution) -> th.Tensor:
    """Flatten the parameters in the layout that the heads expect."""
    if isinstance(dist, DiagGaussianDistribution):
        return th.cat([dist.distribution.mean, dist.distribution.stddev], dim=-1)
    if isinstance(dist, MultiCategoricalDistribution):
        return th.cat([part.logits for part in dist.distribution], dim=-1)
    logits: th.Tensor = dist.distribution.logits  # type: ignore[union-attr]
    return logits


def _relu(x: Array, out: Array) -> Array:
    return np.maximum(x, np.float32(0), out=out)


ACTIVATIONS: dict[type[nn.Module], Callable[[Array, Array], Array]] = {nn.Tanh: np.tanh, nn.ReLU: _relu}


NUMPY_DISTRIBUTIONS = (TanhGaussianDistribution, CategoricalDistribution, MultiCategoricalDistribution, BernoulliDistribution)


def has_numpy_network(policy: ActorCriticPolicy) -> bool:
    """
    Tell whether ``NumpyMlp`` computes exactly this policy.

    :param policy: any policy
    """
    space = policy.observation_space
    return (
        isinstance(policy, ActorPolicy)
        and type(policy).get_distribution is ActorPolicy.get_distribution
        and type(policy)._get_action_dist_from_latent is ActorPolicy._get_action_dist_from_latent
        and type(policy).extract_features is ActorPolicy.extract_features
        and type(policy.features_extractor) is FlattenExtractor
        and type(policy.mlp_extractor) is MlpExtractor
        and type(policy.action_net) is nn.Linear
        and isinstance(space, spaces.Box)
        and not (policy.normalize_images and is_image_space(space))
        and type(policy.action_dist) in NUMPY_DISTRIBUTIONS
        and policy.activation_fn in ACTIVATIONS
        and all(
            type(layer) is (policy.activation_fn if number % 2 else nn.Linear)
            for number, layer in enumerate(policy.mlp_extractor.policy_net)
        )
        and not any(module._forward_hooks or module._forward_pre_hooks for module in policy.modules())
    )


def numpy_mlp(policy: ActorCriticPolicy, parameters: npt.NDArray[np.float32]) -> NumpyMlp:
    """
    Build the NumPy network on views of a flat parameter vector.

    :param policy: gives the architecture; ``has_numpy_network(policy)`` must hold
    :param parameters: as in ``SamplingPoint``
    """
    linear = [m for m in (*policy.mlp_extractor.policy_net, policy.action_net) if isinstance(m, nn.Linear)]
    offsets, position = {}, 0
    for p in policy.parameters():
        offsets[id(p)] = position
        position += p.numel()

    def view(p: th.Tensor) -> Array:
        return parameters[offsets[id(p)] : offsets[id(p)] + p.numel()].reshape(p.shape)

    n_softplus = linear[-1].out_features // 2 if isinstance(policy.action_dist, TanhGaussianDistribution) else 0
    return NumpyMlp([(view(m.weight), view(m.bias)) for m in linear], ACTIVATIONS[policy.activation_fn], n_softplus)
