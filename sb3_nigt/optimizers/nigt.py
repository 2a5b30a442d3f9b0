"""Normalized momentum with implicit gradient transport, as a torch optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch as th
from torch.optim import Optimizer

from sb3_nigt.validation import check_interval


class NIGT(Optimizer):
    r"""
    Normalized momentum with implicit gradient transport (arXiv 2002.03305; outer update of arXiv 2509.24305).

    With :math:`g_t` the gradient of the minimised function at the extrapolated point,

    .. math::
        \tilde\theta_t &= \theta_t + \tfrac{1-\eta}{\eta}(\theta_t - \theta_{t-1}) \\
        d_t &= (1-\eta)\, d_{t-1} + \eta\, g_t, \qquad d_0 = g_0 \\
        \theta_{t+1} &= \theta_t - \alpha\, d_t / \lVert d_t \rVert

    with one l2 norm over all parameters; :math:`\lVert d_t \rVert = 0` leaves the parameters where they are. The parameters
    always hold the iterate θ_t. Take gradients at ``extrapolated()``, put them into ``p.grad`` and call ``step()``.
    η = 1 is normalised gradient descent without extrapolation. A parameter without gradient is skipped.

    :param params: parameters or parameter groups, as for any torch optimizer
    :param lr: α, the length of a step, at least 0
    :param eta: η in (0, 1], the weight of the new gradient; 1 - η is what torch calls momentum
    :raises ValueError: if ``lr`` or ``eta`` is not allowed
    """

    def __init__(self, params: Any, lr: float = 0.01, eta: float = 0.1) -> None:
        super().__init__(params, {"lr": check_interval("lr", lr, 0.0, float("inf")), "eta": _checked_eta(eta)})

    @th.no_grad()
    def extrapolated(self) -> dict[th.Tensor, th.Tensor]:
        """
        Return θ̃: for each parameter of all groups a new tensor. The parameters stay as they are.

        Before the first step θ̃ = θ.
        """
        points = {}
        for group in self.param_groups:
            factor = (1 - _checked_eta(group["eta"])) / group["eta"]
            for p in group["params"]:
                last_update = self.state[p].get("last_update") if p in self.state else None
                points[p] = p.detach().clone() if last_update is None else p + factor * last_update
        return points

    def direction_norm(self) -> float:
        """Return ‖d‖, the l2 norm of the direction over all parameters; 0 before the first step."""
        directions = [state["direction"] for state in self.state.values() if "direction" in state]
        return float(_global_norm(directions)) if directions else 0.0

    @th.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """
        Make one update from the gradients in ``p.grad``.

        :param closure: reevaluates the model and returns the loss, as for any torch optimizer
        :return: the loss, if a closure was given
        """
        loss = None
        if closure is not None:
            with th.enable_grad():
                loss = closure()
        moving = [(p, group) for group in self.param_groups for p in group["params"] if p.grad is not None]
        for group in self.param_groups:
            _checked_eta(group["eta"])
        for p, group in moving:
            eta, state = group["eta"], self.state[p]
            if "direction" not in state:  # d_0 = g_0 without η
                state["direction"] = p.grad.clone()
            else:
                state["direction"].mul_(1 - eta).add_(p.grad, alpha=eta)
        if not moving:
            return loss
        norm = _global_norm([self.state[p]["direction"] for p, _ in moving])
        inverse = th.where(norm > 0, 1 / norm, th.zeros_like(norm))
        for p, group in moving:
            # in double precision, since 1/‖d‖ may leave the range of the parameter's type where d/‖d‖ does not
            update = (self.state[p]["direction"].double() * (-group["lr"] * inverse)).to(p)
            before = p.clone()
            p.add_(update)
            # what really changed, in the parameter's precision, so that θ - θ_prev is exact
            self.state[p]["last_update"] = p - before
        return loss


def _checked_eta(eta: float) -> float:
    return check_interval("eta", eta, 0.0, 1.0, open_low=True)


def _global_norm(tensors: list[th.Tensor]) -> th.Tensor:
    """l2 norm over all tensors; scaled, because squares of small or large float32 numbers leave the range."""
    norms = th.stack([th.linalg.vector_norm(t.double()) for t in tensors])
    total: th.Tensor = th.linalg.vector_norm(norms)
    return total
