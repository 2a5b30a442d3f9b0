"""Products with the Fisher matrix of an MLP policy by hand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import obs_as_tensor
from torch.nn import functional

from sb3_nigt.parameters import Layout
from sb3_nigt.replica.fisher_heads import Product, head_fisher, normalised
from sb3_nigt.replica.kronecker import KroneckerInverse, kronecker_inverse
from sb3_nigt.replica.mlp import DERIVATIVES
from sb3_nigt.replica.network import linear_layers

Array = npt.NDArray[Any]
KRONECKER_ROWS = 500  # that the factors of a preconditioner are estimated from


class MlpFisher:
    """
    F v = Jᵀ M J v of an MLP policy, J the Jacobian of the last layer's outputs and M the Fisher matrix of the head in them.

    J v is a sweep in forward mode, Jᵀ one in reverse. Both use the activations of the sample, which are computed once, so a
    sweep is two matrix products a layer, and one for the first layer.

    :param policy: see ``fisher.fisher_product``; linear layers on features that have no parameters, all of them trained
    :param layout: see ``fisher.fisher_product``
    :param parameters: see ``fisher.fisher_product``
    :param observations: see ``fisher.fisher_product``
    :param weights: see ``fisher.fisher_product``
    """

    @th.no_grad()
    def __init__(
        self, policy: ActorCriticPolicy, layout: Layout, parameters: Array, observations: Any, weights: Array | None = None
    ) -> None:
        self._layout, self._layers = layout, linear_layers(policy)
        vector = th.from_numpy(np.array(parameters))
        self._weights = [layout.view(vector, layer.weight) for layer in self._layers]
        biases = [layout.view(vector, layer.bias) for layer in self._layers]
        with layout.moved_to(parameters):
            features = _features(policy, obs_as_tensor(observations, policy.device))
        self._inputs = [features.to(vector.dtype)]  # of each layer
        for weight, bias in zip(self._weights[:-1], biases[:-1], strict=True):
            self._inputs.append(policy.activation_fn()(functional.linear(self._inputs[-1], weight, bias)))
        self._slopes = [DERIVATIVES[policy.activation_fn](y) for y in self._inputs[1:]]
        outputs = functional.linear(self._inputs[-1], self._weights[-1], biases[-1])
        self._log_std = getattr(policy, "log_std", None)  # a parameter apart from the network
        log_std = layout.view(vector, self._log_std) if self._log_std is not None else None
        self._row_weights = normalised(weights, outputs)
        self._head = head_fisher(policy.action_dist, outputs, self._row_weights, log_std)
        self._n_outputs = outputs.shape[1]

    @th.no_grad()
    def __call__(self, vector: th.Tensor) -> th.Tensor:
        """
        Return F v, zero for the parameters that take no part.

        :param vector: v, shape (n_parameters,)
        """
        product = th.zeros_like(vector)
        for i, delta in self._backward(self._head.product(self._forward(vector)), slice(None)):
            layer = self._layers[i]
            # the transposed product: BLAS takes up to four times longer for the other one where the layer is narrow
            self._layout.view(product, layer.weight).copy_(th.mm(self._inputs[i].T, delta).T)
            th.sum(delta, 0, out=self._layout.view(product, layer.bias))
        if self._log_std is not None:  # a Gaussian has ∂²KL/∂(log σ)² = 2, whatever the state
            self._layout.view(product, self._log_std).copy_(self._layout.view(vector, self._log_std)).mul_(2)
        return product

    def _forward(self, vector: th.Tensor) -> th.Tensor:
        """J v: how the outputs of the last layer move along v, shape (batch, n_outputs)."""
        moved = th.zeros((), dtype=th.float32)
        for i, layer in enumerate(self._layers):
            by_weight, by_bias = self._layout.view(vector, layer.weight), self._layout.view(vector, layer.bias)
            below, moved = moved, th.addmm(by_bias, self._inputs[i], by_weight.T)
            if i > 0:
                moved.addmm_(below.mul_(self._slopes[i - 1]), self._weights[i].T)
        return moved

    def _backward(self, delta: th.Tensor, rows: slice) -> Iterator[tuple[int, th.Tensor]]:
        """The last layer first: its number, and the vector in reverse mode at its outputs."""
        for i in reversed(range(len(self._layers))):
            yield i, delta
            if i > 0:
                delta = delta.mm(self._weights[i]).mul_(self._slopes[i - 1][rows])

    @th.no_grad()
    def approximate_inverse(self, damping: float) -> Product | None:
        """
        Return a symmetric positive definite v -> P v with P ≈ (F + λI)⁻¹, see ``kronecker``; None where there is none.

        :param damping: λ > 0
        """
        rows = slice(None, None, max(1, len(self._row_weights) // KRONECKER_ROWS))
        noise = th.randn(len(self._row_weights), self._n_outputs, generator=th.Generator().manual_seed(0))
        inverses: dict[int, KroneckerInverse] = {}
        for i, delta in self._backward(self._head.root(noise.to(self._row_weights))[rows], rows):
            inverse = kronecker_inverse(self._inputs[i][rows], delta, self._row_weights[rows], damping)
            if inverse is None:
                return None
            inverses[i] = inverse

        def product(vector: th.Tensor) -> th.Tensor:
            image = vector / (2 + damping)  # that of log σ; the rest is overwritten
            for i, inverse in inverses.items():
                places = self._layers[i].weight, self._layers[i].bias
                for place, part in zip(places, inverse(*(self._layout.view(vector, p) for p in places)), strict=True):
                    self._layout.view(image, place).copy_(part)
            return image

        return product


def _features(policy: ActorCriticPolicy, observations: Any) -> th.Tensor:
    features = policy.extract_features(observations)
    return features if isinstance(features, th.Tensor) else features[0]  # not shared with a critic
