"""
The policy's network for one observation at a time.

A trajectory asks the policy for one observation after the other, so the network of an MLP policy is evaluated in NumPy,
where a forward pass costs microseconds; any other policy runs in torch.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

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
)
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import FlattenExtractor, MlpExtractor
from torch import nn

from sb3_nigt.parameters import Layout
from sb3_nigt.policies import MIN_STD, ActorPolicy, HalfRangeGaussianDistribution, TanhGaussianDistribution
from sb3_nigt.threads import one_thread

Array = npt.NDArray[Any]

SINGLE_THREAD_ELEMENTS = 9000  # OpenBLAS starts threads for larger matrix-vector products, which costs more than it saves


class NumpyMlp:
    """
    Forward pass of an MLP policy in NumPy float32, equal to torch's up to rounding.

    :param layers: (weight, bias) of each linear layer, the weights of shape (out, in)
    :param activation: applied between the layers, in place
    :param n_softplus: how many outputs at the end are arguments of softplus, for standard deviations
    :param normalize: applied to the observation first
    """

    def __init__(
        self,
        layers: list[tuple[Array, Array]],
        activation: Callable[[Array, Array], Array],
        n_softplus: int,
        normalize: Callable[[Array], Array] | None = None,
    ) -> None:
        self._normalize = normalize
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
        if self._normalize is not None:
            observation = self._normalize(observation)
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


USUAL_NAMES = frozenset(vars(nn.Module()))  # in each module, and none of them a method


NUMPY_DISTRIBUTIONS = (
    TanhGaussianDistribution,
    HalfRangeGaussianDistribution,
    CategoricalDistribution,
    MultiCategoricalDistribution,
    BernoulliDistribution,
)


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
        and type(policy).normalized is ActorPolicy.normalized
        and policy.pi_features_extractor is policy.features_extractor
        and type(policy.features_extractor) is FlattenExtractor
        and type(policy.mlp_extractor) is MlpExtractor
        and isinstance(space, spaces.Box)
        and not (policy.normalize_images and is_image_space(space))
        and type(policy.action_dist) in NUMPY_DISTRIBUTIONS
        and policy.activation_fn in ACTIVATIONS
        and type(policy.mlp_extractor.policy_net) is nn.Sequential
        and _is_plain_chain([*policy.mlp_extractor.policy_net, policy.action_net], policy.activation_fn)
        and type(policy.features_extractor.flatten) is nn.Flatten
        and not any(_is_changed(module) for module in policy.modules())
    )


def threads_for(policy: ActorCriticPolicy) -> AbstractContextManager[None]:
    """
    Keep torch on one thread if the policy is so small that more would cost more than they give.

    :param policy: the model's, or a copy
    """
    return one_thread(has_numpy_network(policy) and policy.device.type == "cpu")


def _is_plain_chain(chain: list[nn.Module], activation_fn: type[nn.Module]) -> bool:
    """Whether linear layers and activations alternate, and each layer has a weight and a bias that no other layer has."""
    if not all(type(module) is (activation_fn if number % 2 else nn.Linear) for number, module in enumerate(chain)):
        return False
    tensors = [tensor for module in chain[::2] for tensor in (module.weight, module.bias)]
    return len(chain) % 2 == 1 and all(type(t) is nn.Parameter for t in tensors) and len({*map(id, tensors)}) == len(tensors)


def _is_changed(module: nn.Module) -> bool:
    """Whether a single module does something else than its class: by hooks, or by its own methods."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks) or any(callable(getattr(type(module), name, None)) for name in vars(module).keys() - USUAL_NAMES)


def linear_layers(policy: ActorCriticPolicy) -> list[nn.Linear]:
    """
    Return the linear layers of an MLP policy, from the observation to the distribution parameters.

    :param policy: ``has_numpy_network(policy)`` must hold
    """
    return [m for m in (*policy.mlp_extractor.policy_net, policy.action_net) if isinstance(m, nn.Linear)]


def numpy_mlp(
    policy: ActorCriticPolicy,
    layout: Layout,
    parameters: npt.NDArray[np.float32],
    normalize: Callable[[Array], Array] | None = None,
) -> NumpyMlp:
    """
    Build the NumPy network on views of a flat parameter vector.

    :param policy: the policy, of which only the architecture matters; ``has_numpy_network(policy)`` must hold
    :param layout: of its parameters
    :param parameters: as in ``SamplingPoint``
    :param normalize: the policy's normaliser with the statistics of the point
    """
    linear = linear_layers(policy)
    n_softplus = linear[-1].out_features // 2 if isinstance(policy.action_dist, TanhGaussianDistribution) else 0
    layers = [(layout.view(parameters, m.weight), layout.view(parameters, m.bias)) for m in linear]
    if isinstance(policy.action_dist, HalfRangeGaussianDistribution):  # σ as outputs whose weights are zero
        weight, bias = layers[-1]
        std = np.exp(layout.view(parameters, policy.log_std))
        layers[-1] = np.concatenate([weight, np.zeros_like(weight)]), np.concatenate([bias, std])
    return NumpyMlp(layers, ACTIVATIONS[policy.activation_fn], n_softplus, normalize)
