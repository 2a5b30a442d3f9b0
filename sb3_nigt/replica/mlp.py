"""
The policy gradient of an MLP policy by hand: one forward and one backward sweep, without autograd.

A round's gradient is small work (some hundred rows), of which torch's autograd machinery takes several times more than the
arithmetic, most of all in worker processes that do it once a round with cold caches. ``gradients.policy_gradient`` is the
reference; any other policy uses that.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch as th
from stable_baselines3.common.distributions import BernoulliDistribution, Distribution, MultiCategoricalDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn
from torch.nn import functional

from sb3_nigt.parameters import Layout
from sb3_nigt.policies import MIN_STD, HalfRangeGaussianDistribution, TanhGaussianDistribution
from sb3_nigt.replica.network import linear_layers

DERIVATIVES: dict[type[nn.Module], Callable[[th.Tensor], th.Tensor]] = {  # from what the activation has returned
    nn.Tanh: lambda y: 1 - y * y,
    nn.ReLU: lambda y: (y > 0).to(y.dtype),
}


def gaussian_score(outputs: th.Tensor, samples: th.Tensor) -> th.Tensor:
    """
    Gradient of log N(u; μ, σ) with σ = softplus(s) + MIN_STD, by the outputs (μ, s).

    With z = (u - μ)/σ: by μ it is z/σ, by σ it is (z² - 1)/σ, and dσ/ds is the logistic function of s.

    :param outputs: μ and s side by side, shape (batch, 2 * action_dim)
    :param samples: u, shape (batch, action_dim)
    :return: shape of the outputs
    """
    mean, raw_std = outputs.chunk(2, dim=-1)
    precision = 1 / (functional.softplus(raw_std) + MIN_STD)
    z = (samples - mean) * precision
    return th.cat([z * precision, (z * z - 1) * precision * th.sigmoid(raw_std)], dim=-1)


def state_independent_score(mean: th.Tensor, log_std: th.Tensor, samples: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """
    Gradient of log N(u; μ, σ) by μ and by log σ, where σ is the same for all observations.

    With z = (u - μ)/σ: by μ it is z/σ, by log σ it is z² - 1.

    :param mean: μ, shape (batch, action_dim)
    :param log_std: log σ, shape (action_dim,)
    :param samples: u, shape (batch, action_dim)
    :return: both of shape (batch, action_dim)
    """
    precision = th.exp(-log_std)
    z = (samples - mean) * precision
    return z * precision, z * z - 1


def categorical_score(outputs: th.Tensor, samples: th.Tensor) -> th.Tensor:
    """
    Gradient of log softmax(outputs)[a] by the outputs: 1{j = a} - softmax(outputs)_j.

    :param outputs: logits, shape (batch, n_categories)
    :param samples: a, shape (batch,)
    :return: shape of the outputs
    """
    score = -functional.softmax(outputs, dim=-1)
    score[th.arange(len(samples)), samples.long()] += 1
    return score


def bernoulli_score(outputs: th.Tensor, samples: th.Tensor) -> th.Tensor:
    """
    Gradient of the log-probability of independent bits b by their logits: b - logistic(outputs).

    :param outputs: shape (batch, n_bits)
    :param samples: zeros and ones, shape (batch, n_bits)
    :return: shape of the outputs
    """
    return samples.reshape(outputs.shape) - th.sigmoid(outputs)


def output_score(distribution: Distribution, outputs: th.Tensor, samples: th.Tensor) -> th.Tensor:
    """
    Gradient of the log-density of what was sampled by the outputs of the last layer.

    :param distribution: a distribution of the same kind, one of ``network.NUMPY_DISTRIBUTIONS``
    :param outputs: of the last layer, shape (batch, n_outputs)
    :param samples: as in ``Trajectory.samples``
    :return: shape of the outputs
    """
    if isinstance(distribution, TanhGaussianDistribution):
        return gaussian_score(outputs, samples)
    if isinstance(distribution, BernoulliDistribution):
        return bernoulli_score(outputs, samples)
    if isinstance(distribution, MultiCategoricalDistribution):
        parts = th.split(outputs, list(distribution.action_dims), dim=-1)
        return th.cat([categorical_score(part, samples[:, i]) for i, part in enumerate(parts)], dim=-1)
    return categorical_score(outputs, samples.reshape(-1))


class MlpGradient:
    """
    Σ_t C_t ∇ log π(a_t | s_t) of an MLP policy at given parameters.

    :param policy: the policy, of which only the architecture matters; ``has_numpy_network(policy)`` must hold
    :param layout: of its parameters
    """

    def __init__(self, policy: ActorCriticPolicy, layout: Layout) -> None:
        self._layout = layout
        self._layers = linear_layers(policy)
        self._activation = policy.activation_fn()
        self._derivative = DERIVATIVES[policy.activation_fn]
        self._distribution = policy.action_dist
        self._log_std = policy.log_std if isinstance(policy.action_dist, HalfRangeGaussianDistribution) else None

    @th.no_grad()
    def __call__(
        self,
        parameters: npt.NDArray[np.float32],
        observations: npt.NDArray[np.generic],
        samples: npt.NDArray[np.generic],
        coefficients: npt.NDArray[np.float32],
    ) -> th.Tensor:
        """
        Sweep forward and backward.

        :param parameters: as in ``SamplingPoint``
        :param observations: s_t, leading dimension batch
        :param samples: as in ``Trajectory.samples``, leading dimension batch
        :param coefficients: C_t times the weight of the trajectory, shape (batch,)
        :return: flat float32 vector over the policy's parameters
        """
        layers = self._matrices(th.from_numpy(parameters))
        inputs = [th.as_tensor(observations.reshape(len(observations), -1), dtype=th.float32)]
        for weight, bias in layers[:-1]:
            inputs.append(self._activation(functional.linear(inputs[-1], weight, bias)))
        weight, bias = layers[-1]
        outputs = functional.linear(inputs[-1], weight, bias)
        factors = th.from_numpy(coefficients)[:, None]
        gradient = th.zeros(self._layout.n_parameters, dtype=th.float32)
        if self._log_std is None:
            delta = output_score(self._distribution, outputs, th.from_numpy(samples)) * factors
        else:
            by_mean, by_log_std = state_independent_score(
                outputs, self._layout.view(th.from_numpy(parameters), self._log_std), th.from_numpy(samples)
            )
            delta = by_mean * factors
            th.sum(by_log_std * factors, 0, out=self._layout.view(gradient, self._log_std))
        by_layer = self._matrices(gradient)
        for i in reversed(range(len(layers))):
            by_weight, by_bias = by_layer[i]
            th.mm(delta.T, inputs[i], out=by_weight)
            th.sum(delta, 0, out=by_bias)
            if i > 0:
                delta = delta.mm(layers[i][0]).mul_(self._derivative(inputs[i]))
        return gradient

    def _matrices(self, vector: th.Tensor) -> list[tuple[th.Tensor, th.Tensor]]:
        """Weight and bias of each layer, as views of a flat vector."""
        view = self._layout.view
        return [(view(vector, layer.weight), view(vector, layer.bias)) for layer in self._layers]
