"""
Products with the Fisher matrix of a policy, the metric of the natural step.

F is the mean over a sample of observations of the Hessian of KL(π_θ̃(·|s) ‖ π_θ(·|s)) by θ, at θ = θ̃. Near θ̃ the divergence is
½ (θ - θ̃)ᵀ F (θ - θ̃). ``AutogradFisher`` differentiates the divergence of any policy twice and is the reference;
``MlpFisher`` makes one forward-mode and one reverse sweep by hand for MLP policies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import obs_as_tensor
from torch import nn
from torch.distributions import kl_divergence
from torch.func import functional_call
from torch.nn import functional

from sb3_nigt.parameters import Layout
from sb3_nigt.replica.fisher_heads import Product, head_fisher
from sb3_nigt.replica.kronecker import KroneckerInverse, kronecker_inverse
from sb3_nigt.replica.mlp import DERIVATIVES
from sb3_nigt.replica.network import has_numpy_network, linear_layers

Array = npt.NDArray[Any]
KRONECKER_ROWS = 500  # that the factors of a preconditioner are estimated from
Function = Callable[[ActorCriticPolicy, Any], Any]  # of a policy and a batch of observations
Outputs = Any  # what a policy says about a batch: a torch distribution, or a list of them for multi-categorical actions


def fisher_product(
    policy: ActorCriticPolicy, layout: Layout, parameters: Array, observations: Any, weights: Array | None = None
) -> Product:
    """
    Return v -> F v at given parameters, by hand where that is possible.

    What does not depend on v is computed here, once for all products. The parameters of the module itself are not used.

    :param policy: gives the architecture; its parameters without ``requires_grad`` take no part
    :param layout: of its parameters
    :param parameters: θ̃, as in ``SamplingPoint``; without the buffers at the end, those of the module are used
    :param observations: the sample, leading dimension batch, or a dict of such arrays
    :param weights: one for each observation, of any positive sum; None: equal ones
    """
    by_hand = has_numpy_network(policy) and policy.device.type == "cpu" and all(p.requires_grad for p in layout.parameters)
    return (MlpFisher if by_hand else AutogradFisher)(policy, layout, parameters, observations, weights)


def metric(product: Product, layout: Layout, parameters: Sequence[th.Tensor]) -> Callable[[list[th.Tensor]], list[th.Tensor]]:
    """
    Present a product as the ``metric`` of an optimizer.

    :param product: v -> F v
    :param layout: of the policy that the optimizer moves
    :param parameters: in the order of the optimizer's groups; those that are not the policy's, as of a layer that was
        replaced, take no part
    """

    def products(vectors: list[th.Tensor]) -> list[th.Tensor]:
        image = product(layout.join(dict(zip(parameters, vectors, strict=True))))
        return [layout.view(image, p) if p in layout else th.zeros_like(p) for p in parameters]

    return products


@th.no_grad()
def outputs_at(policy: ActorCriticPolicy, layout: Layout, parameters: Array, observations: Any) -> Outputs:
    """
    Return the action distributions at given parameters, for ``kl``.

    :param policy: see ``fisher_product``
    :param layout: see ``fisher_product``
    :param parameters: see ``fisher_product``
    :param observations: see ``fisher_product``
    """
    with layout.moved_to(parameters):
        return _distributions(policy, obs_as_tensor(observations, policy.device))


def kl(old: Outputs, new: Outputs, weights: Array | None = None) -> th.Tensor:
    """
    Mean over the sample of KL(old ‖ new).

    :param old: what ``outputs_at`` returned
    :param new: the same for other parameters and the same observations
    :param weights: as for ``fisher_product``
    :return: a scalar
    """
    pairs = zip(old, new, strict=True) if isinstance(old, list) else [(old, new)]
    parts = [kl_divergence(p, q) for p, q in pairs]
    by_observation = th.cat([part.reshape(len(part), -1) for part in parts], dim=1).sum(1)
    return by_observation @ _normalised(weights, by_observation)


class AutogradFisher:
    """
    F v as the derivative of vᵀ∇KL, for any policy. It keeps the graph of the gradient, which is large for images.

    :param policy: see ``fisher_product``
    :param layout: see ``fisher_product``
    :param parameters: see ``fisher_product``
    :param observations: see ``fisher_product``
    :param weights: see ``fisher_product``
    """

    def __init__(
        self, policy: ActorCriticPolicy, layout: Layout, parameters: Array, observations: Any, weights: Array | None = None
    ) -> None:
        self._layout = layout
        values = _values(policy, layout, parameters)
        self._leaves = {
            p: values[name].requires_grad_() for name, p in policy.named_parameters() if p in layout and p.requires_grad
        }
        here = outputs_at(policy, layout, parameters, observations)
        with th.enable_grad():
            divergence = kl(here, _call(policy, values, _distributions, observations), weights)
        leaves = list(self._leaves.values())
        self._gradients = th.autograd.grad(divergence, leaves, create_graph=True, allow_unused=True)

    def __call__(self, vector: th.Tensor) -> th.Tensor:
        """
        Return F v, zero for the parameters that take no part.

        :param vector: v, shape (n_parameters,)
        """
        with th.enable_grad():
            parts = [(self._layout.view(vector, p), g) for p, g in zip(self._leaves, self._gradients, strict=True)]
            slope = th.stack([(v * g).sum() for v, g in parts if g is not None]).sum()
        products = th.autograd.grad(slope, list(self._leaves.values()), retain_graph=True, allow_unused=True)
        return self._layout.join(dict(zip(self._leaves, products, strict=True)))


class MlpFisher:
    """
    F v = Jᵀ M J v of an MLP policy, J the Jacobian of the last layer's outputs and M the Fisher matrix of the head in them.

    J v is a sweep in forward mode, Jᵀ one in reverse. Both use the activations of the sample, which are computed once, so a
    sweep is two matrix products a layer, and one for the first layer.

    :param policy: see ``fisher_product``; linear layers on features that have no parameters, all of them trained
    :param layout: see ``fisher_product``
    :param parameters: see ``fisher_product``
    :param observations: see ``fisher_product``
    :param weights: see ``fisher_product``
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
        self._row_weights = _normalised(weights, outputs)
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
        moved = th.zeros(())
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


def _normalised(weights: Array | None, like: th.Tensor) -> th.Tensor:
    """One weight for each row, of sum 1."""
    if weights is None:
        return like.new_full((len(like),), 1 / len(like))
    given = th.as_tensor(weights, dtype=like.dtype, device=like.device)
    return given / given.sum()


def _values(policy: ActorCriticPolicy, layout: Layout, parameters: Array) -> dict[str, th.Tensor]:
    """Copy the parameters, and the float buffers where the vector has them, by name."""
    vector = th.from_numpy(np.array(parameters)).to(policy.device)
    named: list[tuple[str, th.Tensor]] = [(name, p) for name, p in policy.named_parameters() if p in layout]
    if len(vector) == layout.size:
        named += [(name, buffer) for name, buffer in policy.named_buffers() if buffer in layout]
    return {name: layout.view(vector, tensor).detach().to(tensor.dtype) for name, tensor in named}


def _call(policy: ActorCriticPolicy, values: dict[str, th.Tensor], function: Function, observations: Any) -> Any:
    """Evaluate a function of the policy and of observations with other values in the policy."""
    arguments = (obs_as_tensor(observations, policy.device),)
    return functional_call(_Function(policy, function), _everywhere(policy, values), arguments, tie_weights=False)


def _everywhere(policy: ActorCriticPolicy, values: dict[str, th.Tensor]) -> dict[str, th.Tensor]:
    """
    Name each place of each tensor once.

    A tied tensor has several places. A module that has two names, as a shared features extractor has, is one place: replaced
    under both, it would keep the second value for good.
    """
    by_tensor = {id(t): values[n] for n, t in (*policy.named_parameters(), *policy.named_buffers()) if n in values}
    places = {}
    for path, module in policy.named_modules(prefix="policy"):
        own = {"recurse": False, "remove_duplicate": False}
        for name, tensor in (*module.named_parameters(**own), *module.named_buffers(**own)):
            if id(tensor) in by_tensor:
                places[f"{path}.{name}"] = by_tensor[id(tensor)]
    return places


class _Function(nn.Module):
    def __init__(self, policy: ActorCriticPolicy, function: Function) -> None:
        super().__init__()
        self.policy, self._function = policy, function

    def forward(self, observations: Any) -> Any:
        return self._function(self.policy, observations)


def _distributions(policy: ActorCriticPolicy, observations: Any) -> Outputs:
    distribution: Any = policy.get_distribution(observations)
    outputs, distribution.distribution = distribution.distribution, None  # or the policy would keep the graph
    return outputs


def _features(policy: ActorCriticPolicy, observations: Any) -> th.Tensor:
    features = policy.extract_features(observations)
    return features if isinstance(features, th.Tensor) else features[0]  # not shared with a critic
