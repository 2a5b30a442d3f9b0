"""
Products with the Fisher matrix of a policy, the metric of the natural step.

F is the mean over a sample of observations of the Hessian of KL(π_θ̃(·|s) ‖ π_θ(·|s)) by θ, at θ = θ̃. Near θ̃ the divergence is
½ (θ - θ̃)ᵀ F (θ - θ̃). ``AutogradFisher`` differentiates the divergence of any policy twice and is the reference;
``MlpFisher`` (in ``mlp_fisher``) makes one forward-mode and one reverse sweep by hand for MLP policies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import obs_as_tensor
from torch import nn
from torch.distributions import kl_divergence
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from sb3_nigt.parameters import Layout, unwrapped
from sb3_nigt.replica.fisher_heads import Product, normalised
from sb3_nigt.replica.mlp_fisher import MlpFisher
from sb3_nigt.replica.network import has_numpy_network

Array = npt.NDArray[Any]
Function = Callable[[ActorCriticPolicy, Any], Any]  # of a policy and a batch of observations
Outputs = Any  # what a policy says about a batch: a torch distribution, or a list of them for multi-categorical actions


def fisher_product(
    policy: ActorCriticPolicy, layout: Layout, parameters: Array, observations: Any, weights: Array | None = None
) -> Product:
    """
    Return v -> F v at given parameters, by hand where that is possible.

    What does not depend on v is computed here, once for all products. The parameters of the module itself are not used.

    :param policy: the policy, of which only the architecture matters; parameters without ``requires_grad`` take no part
    :param layout: of its parameters
    :param parameters: θ̃, as in ``SamplingPoint``; without the buffers at the end, those of the module are used
    :param observations: the sample, leading dimension batch, or a dict of such arrays
    :param weights: one for each observation, of any positive sum; None: equal ones
    """
    policy = unwrapped(policy)
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
    return by_observation @ normalised(weights, by_observation)


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
        with th.enable_grad(), sdpa_kernel(SDPBackend.MATH):  # the other kernels have no second derivatives
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
            slopes = [(v * g).sum() for v, g in parts if g is not None]
        if not slopes:  # nothing that is trained has an effect on the actions
            return th.zeros_like(vector)
        products = th.autograd.grad(th.stack(slopes).sum(), list(self._leaves.values()), retain_graph=True, allow_unused=True)
        return self._layout.join(dict(zip(self._leaves, products, strict=True)))


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
