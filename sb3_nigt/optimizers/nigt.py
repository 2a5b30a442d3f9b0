"""Normalized momentum with implicit gradient transport, as a torch optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch as th
from torch.optim import Optimizer

from sb3_nigt.optimizers.geometry import Metric, Model, Step, check_geometry, global_norm
from sb3_nigt.validation import check_integer, check_interval


class NIGT(Optimizer):
    r"""
    Normalized momentum with implicit gradient transport (arXiv 2002.03305; outer update of arXiv 2509.24305).

    With :math:`g_t` the gradient of the minimised function at the extrapolated point,

    .. math::
        \tilde\theta_t &= \theta_t + \tfrac{1-\eta}{\eta}(\theta_t - \theta_{t-1}) \\
        d_t &= (1-\eta)\, d_{t-1} + \eta\, g_t, \qquad d_0 = g_0 \\
        \theta_{t+1} &= \theta_t - \alpha\, u_t / \lVert u_t \rVert

    where the geometry defines u_t and the norm. In the paper's Euclidean geometry, u_t = d_t with one l2 norm over all
    parameters. If :math:`\lVert d_t \rVert = 0`, the parameters do not change. The parameters always hold the iterate θ_t.
    Take gradients at ``extrapolated()``, store them in ``p.grad`` and call ``step()``. η = 1 is normalised gradient descent
    without extrapolation. A parameter without gradient is skipped, one that is frozen is not extrapolated either.

    The geometries ``"euclidean_kl"`` and ``"natural"`` need a metric F, symmetric and positive semidefinite. Set ``metric`` to
    a function v -> F v before ``step()``. It takes and returns one tensor per parameter, in the order of the groups; skipped
    parameters have v = 0. It is not part of the state, and a copy of the optimizer has none. The same holds for the optional
    ``preconditioner``, a function v -> P v for a symmetric positive definite P ≈ (F + λI)⁻¹, with which the natural geometry
    needs fewer products.

    :param params: parameters or parameter groups, as for any torch optimizer
    :param lr: α, the length of a step in the norm of the geometry, at least 0; groups with another one scale their part
    :param eta: η in (0, 1], the weight of the new gradient; 1 - η is what torch calls momentum
    :param geometry: a key of ``geometry.GEOMETRIES``, the same for all groups
    :param damping: λ in F + λI of the natural geometry, in units of ``damping_unit``; a bound on steps of euclidean_kl
    :param n_products: maximum number of products with F in a natural step
    :raises ValueError: if an argument is not allowed
    """

    metric: Metric | None = None
    preconditioner: Metric | None = None
    tolerance: float = 1e-5  # of the conjugate gradients, see ``Model``; not part of the state, and set by the algorithms
    damping_unit: float = 1.0  # not part of the state either; the algorithms set it, see ``damping_unit`` there
    cg_residual: float = math.nan  # of the last step, relative to ‖d‖; nan where there were no conjugate gradients
    predicted_kl: float = math.nan  # ½ ΔᵀFΔ of the last step Δ: α²/2, in the natural geometry less the share of λI
    n_fallbacks: int = 0  # steps so far for which the geometry had no usable direction
    n_halvings: int = 0  # calls of ``halve_step`` so far

    def __init__(
        self,
        params: Any,
        lr: float = 0.01,
        eta: float = 0.1,
        geometry: str = "euclidean",
        damping: float = 0.1,
        n_products: int = 15,
    ) -> None:
        check_geometry(geometry)
        defaults = {
            "lr": check_interval("lr", lr, 0.0, math.inf),
            "eta": _checked_eta(eta),
            "geometry": geometry,
            "damping": check_interval("damping", damping, 0.0, math.inf),
            "n_products": check_integer("n_products", n_products, 1),
        }
        super().__init__(params, defaults)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Complete a state from before there were geometries; torch calls this for pickles and for ``load_state_dict``."""
        super().__setstate__(state)
        for group in self.param_groups:
            for name, value in (("geometry", "euclidean"), ("damping", 0.1), ("n_products", 15)):
                group.setdefault(name, value)
                self.defaults.setdefault(name, value)

    @th.no_grad()
    def extrapolated(self) -> dict[th.Tensor, th.Tensor]:
        """
        Return θ̃: for each parameter, in the order of the groups, a new tensor. The parameters stay as they are.

        Before the first step θ̃ = θ.
        """
        points: dict[th.Tensor, th.Tensor] = {}
        for group in self.param_groups:
            factor = (1 - _checked_eta(group["eta"])) / group["eta"]
            for p in group["params"]:
                last_update = self.state[p].get("last_update") if p.requires_grad and p in self.state else None
                points[p] = p.detach().clone() if last_update is None else p + factor * last_update
        return points

    @property
    def needs_metric(self) -> bool:
        """Whether ``metric`` must be set before ``step()``."""
        return check_geometry(self.param_groups[0]["geometry"]).needs_metric

    @property
    def scaled_damping(self) -> float:
        """λ of the next step."""
        return float(self.param_groups[0]["damping"]) * self.damping_unit

    def direction_norm(self) -> float:
        """Return ‖d‖, the l2 norm of the direction over all parameters; 0 before the first step."""
        directions = [state["direction"] for state in self.state.values() if "direction" in state]
        return float(global_norm(directions)) if directions else 0.0

    @th.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """
        Make one update from the gradients in ``p.grad``.

        :param closure: reevaluates the model and returns the loss, as for any torch optimizer
        :return: the loss, if a closure was given
        :raises ValueError: if η is not allowed, groups differ in their geometry, or a metric is needed and there is none
        """
        loss = None
        if closure is not None:
            with th.enable_grad():
                loss = closure()
        self._check()
        moving = [(p, group) for group in self.param_groups for p in group["params"] if p.grad is not None]
        if not moving:
            return loss
        for p, group in moving:
            self._average(p, group["eta"])
        step = self._steepest([p for p, _ in moving])
        self._forget_updates()
        for (p, group), u in zip(moving, step.vectors, strict=True):
            # in double precision, since 1/‖u‖ may leave the range of the parameter's type where u/‖u‖ does not
            update = (u.double() * (-group["lr"] * step.inverse_norm)).to(p)
            before = p.clone()
            p.add_(update)
            # what really changed, in the parameter's precision, so that θ - θ_prev is exact
            self.state[p]["last_update"] = p - before
        return loss

    @th.no_grad()
    def halve_step(self) -> None:
        """Go half the way of the last step back; d_t stays, the extrapolation follows the half that is left."""
        for p in self._trained():
            if "last_update" in self.state.get(p, {}):
                before = p - self.state[p]["last_update"]
                p.sub_(self.state[p]["last_update"] / 2)
                self.state[p]["last_update"] = p - before
        self.predicted_kl /= 4
        self.n_halvings += 1

    @th.no_grad()
    def made_by(self, step: Callable[[], None]) -> th.Tensor:
        """
        Make a step, and be exactly where others are that take it: half a step is rounded in another way than a whole one.

        :param step: makes it, as a whole or in part
        :return: what ``take_step`` takes
        """
        before = [(p, p.detach().clone()) for p in self._trained()]
        step()
        vector = self.step_made()
        for p, value in before:
            p.copy_(value)
        self.take_step(vector)
        return vector

    @th.no_grad()
    def step_made(self) -> th.Tensor:
        """
        Return the last step as one vector for ``take_step``: where the parameters that are trained are now, and d_t.

        Before the first step d_t counts as zero.
        """
        trained = self._trained()
        directions = [
            self.state[p].get("direction", th.zeros_like(p)) if p in self.state else th.zeros_like(p) for p in trained
        ]
        return th.cat([tensor.detach().reshape(-1).cpu() for tensor in (*trained, *directions)])

    @th.no_grad()
    def take_step(self, vector: th.Tensor) -> None:
        """
        Make the step that another optimizer has made of the same parameters, bit for bit.

        :param vector: the result of ``step_made`` there
        """
        trained = self._trained()
        self._forget_updates()
        parts = th.split(vector, 2 * [p.numel() for p in trained])
        for p, new, direction in zip(trained, parts[: len(trained)], parts[len(trained) :], strict=True):
            before = p.clone()
            p.copy_(new.view_as(p))
            self.state[p]["direction"] = direction.view_as(p).to(p, copy=True)
            self.state[p]["last_update"] = p - before

    def _forget_updates(self) -> None:
        """Of the last step: what is skipped now has not moved."""
        for state in self.state.values():
            state.pop("last_update", None)

    def _trained(self) -> list[th.Tensor]:
        return [p for group in self.param_groups for p in group["params"] if p.requires_grad]

    def _check(self) -> None:
        """Before anything changes."""
        for group in self.param_groups:
            _checked_eta(group["eta"])
        first = self.param_groups[0]
        for name in ("geometry", "damping", "n_products"):
            if any(group[name] != first[name] for group in self.param_groups):
                raise ValueError(
                    f"{name}={[group[name] for group in self.param_groups]} differs between parameter groups, but one norm is "
                    f"taken over all of them: give {name} once, as an argument of NIGT."
                )
        if self.needs_metric and self.metric is None:
            raise ValueError(
                f"geometry={first['geometry']!r} needs a metric and there is none: before step(), set optimizer.metric to a "
                'function from a list of tensors v, one for each parameter, to the list F v, or choose geometry="euclidean".'
            )

    def _average(self, p: th.Tensor, eta: float) -> None:
        """d_t from d_{t-1} and the gradient."""
        assert p.grad is not None
        state = self.state[p]
        if "direction" not in state:  # d_0 = g_0 without η
            state["direction"] = p.grad.clone()
        else:
            state["direction"].mul_(1 - eta).add_(p.grad, alpha=eta)

    def _steepest(self, moving: list[th.Tensor]) -> Step:
        """The step of the geometry along the direction, and what is to be said about it."""
        settings = self.param_groups[0]
        preconditioner = None if self.preconditioner is None else self._restricted(self.preconditioner, moving)
        metric = self._restricted(self.metric, moving)
        model = Model(metric, self.scaled_damping, settings["n_products"], preconditioner, self.tolerance)
        step = check_geometry(settings["geometry"]).step([self.state[p]["direction"] for p in moving], model)
        self.cg_residual = step.cg_residual
        self.predicted_kl = 0.5 * step.kl_share * float(settings["lr"]) ** 2
        self.n_fallbacks += step.fell_back
        return step

    def _restricted(self, function: Metric | None, moving: list[th.Tensor]) -> Metric:
        """A product with the rows and columns of the parameters that move."""
        parameters = [p for group in self.param_groups for p in group["params"]]

        def product(vectors: list[th.Tensor]) -> Sequence[th.Tensor]:
            assert function is not None
            given = dict(zip(moving, vectors, strict=True))
            with th.enable_grad():  # the metric may be made of derivatives
                products = function([given[p] if p in given else th.zeros_like(p) for p in parameters])
            return [image for p, image in zip(parameters, products, strict=True) if p in given]

        return product


def _checked_eta(eta: float) -> float:
    return check_interval("eta", eta, 0.0, 1.0, open_low=True)
