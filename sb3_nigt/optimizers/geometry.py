r"""
Geometries: what the length of a step is measured in.

The outer update moves by :math:`-\alpha\, u / \lVert u \rVert`, where u is the direction in which the linear model
:math:`\langle d, \cdot \rangle` changes fastest per unit of the norm. The table ``GEOMETRIES`` has them all; each is a pure
function of the direction d, one tensor a parameter. This is NIGT with a linear minimisation oracle (arXiv 2605.05577).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch as th

Metric = Callable[[list[th.Tensor]], Sequence[th.Tensor]]  # v -> F v, one tensor a parameter

# About three products for MLPs: the cosine with the exact direction, in the norm of F + λI, is then 0.96 to 0.98 (Hopper,
# HalfCheetah, Humanoid). With 0.01 it is 0.99 for twice the products, and returns do not differ visibly.
LEAST_GAIN = 0.1
FLOOR = 0.1  # of λ; on tasks where policies learn, uᵀFu of the unit direction is larger than that


@dataclass(frozen=True)
class Model:
    """
    The metric F of the geometries that need one, and how the natural direction is computed in it.

    :param metric: v -> F v for a symmetric positive semidefinite F
    :param damping: λ of F + λI, at least 0
    :param n_products: how many products with F the conjugate gradients may take
    :param preconditioner: v -> P v for a symmetric positive definite P ≈ (F + λI)⁻¹, with which they need fewer
    :param tolerance: they stop at a residual ‖d - (F + λI)u‖ of this times ‖d‖
    """

    metric: Metric
    damping: float = 0.1
    n_products: int = 15
    preconditioner: Metric | None = None
    tolerance: float = 1e-5


@dataclass(frozen=True)
class Step:
    """
    The direction of a step and its length.

    :param vectors: u, one tensor a parameter
    :param inverse_norm: 1/‖u‖ in double precision; 0 leaves the parameters where they are
    :param kl_share: uᵀFu / ‖u‖², so that a step of length α has uᵀFu = ``kl_share`` α²; nan where there is no F
    :param cg_residual: ‖d - (F + λI)u‖ / ‖d‖ of the conjugate gradients, nan where there are none
    :param fell_back: the geometry had no usable direction, so another one was taken
    """

    vectors: list[th.Tensor]
    inverse_norm: th.Tensor
    kl_share: float = math.nan
    cg_residual: float = math.nan
    fell_back: bool = False


def euclidean(d: list[th.Tensor], model: Model | None = None) -> Step:
    """
    The paper's step: u = d in the l2 norm over all parameters.

    :param d: one tensor a parameter
    :param model: not used
    """
    norm = global_norm(d)
    return Step(d, th.where(norm > 0, 1 / norm, th.zeros_like(norm)))


def euclidean_kl(d: list[th.Tensor], model: Model) -> Step:
    """
    The paper's direction with a length in the metric: u = d, ‖u‖ = (uᵀFu)^½.

    With the Fisher matrix of a policy a step of length α changes it by KL ≈ α²/2. Where uᵀFu is not a positive number there
    is no such step, and the parameters stay where they are. Where it is nearly 0, as for a policy that is all but
    deterministic, a step as long would leave the region in which F says anything: ‖u‖² is at least λ/10 of the squared
    length, so no step is longer than α (10/λ)^½.

    :param d: one tensor a parameter
    :param model: F and λ
    """
    norm = global_norm(d)
    if not 0 < float(norm) < math.inf:
        return _stay(d, fell_back=float(norm) != 0)
    u = _flat(d, norm)
    curvature = float(u @ _flat(model.metric(_split(u, d))))
    if not 0 < curvature < math.inf:
        return _stay(d, fell_back=True)
    squared = max(curvature, FLOOR * model.damping)
    return Step(_split(u, d), norm.new_tensor(squared**-0.5), kl_share=curvature / squared)


def natural(d: list[th.Tensor], model: Model) -> Step:
    """
    The natural gradient: u = (F + λI)⁻¹ d, ‖u‖ = (uᵀ(F + λI)u)^½.

    u is what conjugate gradients reach in ``n_products`` products, or as soon as the residual is below ``tolerance``, or, with
    a preconditioner, as soon as another product changes little (``LEAST_GAIN``). Where they meet numbers that are not finite,
    or a curvature that is not positive, the step is that of ``euclidean_kl``.

    :param d: one tensor a parameter
    :param model: F, λ and when to stop
    """
    norm = global_norm(d)
    if not 0 < float(norm) < math.inf:
        return _stay(d, fell_back=float(norm) != 0)
    b = _flat(d, norm)  # u's scale is arbitrary, and that of d may be anything
    preconditioner = model.preconditioner
    solution = conjugate_gradients(
        lambda v: _flat(model.metric(_split(v, d))).add_(v, alpha=model.damping),
        b,
        model.n_products,
        model.tolerance,
        precondition=None if preconditioner is None else lambda v: _flat(preconditioner(_split(v, d))),
        least_gain=0.0 if preconditioner is None else LEAST_GAIN,
    )
    if solution is None:
        return replace(euclidean_kl(d, model), fell_back=True)
    u, residual = solution
    length = float(u @ (b - residual))  # uᵀ(F + λI)u without another product
    if not 0 < length < math.inf:
        return replace(euclidean_kl(d, model), fell_back=True)
    share = 1 - model.damping * float(u @ u) / length
    return Step(_split(u, d), norm.new_tensor(length**-0.5), share, float(th.linalg.vector_norm(residual)))


def conjugate_gradients(
    product: Callable[[th.Tensor], th.Tensor],
    b: th.Tensor,
    n_products: int,
    tolerance: float = 1e-5,
    precondition: Callable[[th.Tensor], th.Tensor] | None = None,
    least_gain: float = 0.0,
) -> tuple[th.Tensor, th.Tensor] | None:
    """
    Solve A x = b approximately for a symmetric positive definite A (Hestenes and Stiefel 1952), from x = 0.

    The k-th product adds g_k to xᵀAx, which ends at bᵀA⁻¹b; the sum so far over the whole is the squared cosine, in the norm
    of A, between x and the solution.

    :param product: v -> A v
    :param b: right-hand side, a vector that is not zero
    :param n_products: how many products at most
    :param tolerance: stop as soon as ‖b - A x‖ ≤ ``tolerance`` ‖b‖
    :param precondition: v -> P v for a symmetric positive definite P ≈ A⁻¹; None: P = I
    :param least_gain: stop as soon as g_k ≤ ``least_gain`` (g_1 + … + g_k)
    :return: x and the residual b - A x; None if a curvature vᵀAv is not positive, or a residual or curvature not finite
    """
    x, residual = th.zeros_like(b), b.clone()
    squared = first = float(residual @ residual)
    v, slope = _preconditioned(residual, squared, precondition)
    v, total = v.clone(), 0.0
    for _ in range(n_products):
        image = product(v)
        curvature = float(v @ image)
        if not 0 < curvature < math.inf:
            return None
        x.add_(v, alpha=slope / curvature)
        residual.sub_(image, alpha=slope / curvature)
        squared, gain = float(residual @ residual), slope * slope / curvature
        total += gain
        if not math.isfinite(squared):
            return None
        if squared <= tolerance**2 * first or gain <= least_gain * total:
            break
        before = slope
        direction, slope = _preconditioned(residual, squared, precondition)
        if not 0 < slope < math.inf:
            return None
        v.mul_(slope / before).add_(direction)
    return x, residual


def _preconditioned(
    residual: th.Tensor, squared: float, precondition: Callable[[th.Tensor], th.Tensor] | None
) -> tuple[th.Tensor, float]:
    """P r and rᵀP r."""
    if precondition is None:
        return residual, squared
    direction = precondition(residual)
    return direction, float(residual @ direction)


def spectral(d: list[th.Tensor], model: Model | None = None) -> Step:
    """
    U Vᵀ of each matrix d = U Σ Vᵀ, d/‖d‖ of each vector: every layer moves by α in its own spectral norm.

    Tensors of more dimensions, such as the weights of convolutions, are matrices with one row an output. Directions of
    singular value 0 are left out, since U and V are arbitrary there.

    :param d: one tensor a parameter
    :param model: not used
    """
    return Step([_orthogonal(x) for x in d], th.ones((), dtype=th.float64, device=d[0].device))


def _orthogonal(x: th.Tensor) -> th.Tensor:
    largest = x.abs().max() if x.numel() else x.new_zeros(())
    if largest == 0:
        return th.zeros_like(x)
    scaled = x.to(_working_dtype([x])) / largest
    if x.ndim < 2:
        return scaled.div_(th.linalg.vector_norm(scaled))
    u, s, vh = th.linalg.svd(scaled.reshape(len(x), -1), full_matrices=False)
    kept = s > s[0] * max(len(u), vh.shape[1]) * th.finfo(s.dtype).eps
    return th.mm(u * kept, vh).reshape(x.shape)


@dataclass(frozen=True)
class Geometry:
    """
    One entry of the table.

    :param step: from the direction to the step
    :param learning_rate: the default of α, which each geometry measures in its own norm
    :param needs_metric: whether ``step`` makes products with F
    """

    step: Callable[[list[th.Tensor], Model], Step]
    learning_rate: float
    needs_metric: bool


# 0.2 is a KL divergence of 0.2²/2 = 0.02, for rounds of 1,000 steps; α²/2 goes with the steps of a round
GEOMETRIES = {
    "euclidean": Geometry(euclidean, 2.0**-6, needs_metric=False),
    "euclidean_kl": Geometry(euclidean_kl, 0.2, needs_metric=True),
    "spectral": Geometry(spectral, 0.02, needs_metric=False),
    "natural": Geometry(natural, 0.2, needs_metric=True),
}


def check_geometry(name: str) -> Geometry:
    """
    Look a geometry up.

    :param name: a key of ``GEOMETRIES``
    :raises ValueError: if there is none of that name
    """
    if not isinstance(name, str) or name not in GEOMETRIES:
        raise ValueError(f"geometry={name!r} is not allowed: give one of {', '.join(map(repr, GEOMETRIES))}.")
    return GEOMETRIES[name]


def global_norm(tensors: list[th.Tensor]) -> th.Tensor:
    """
    l2 norm over all tensors, in double precision: squares of small or large float32 numbers leave the range.

    :param tensors: at least one
    """
    norms = th.stack([th.linalg.vector_norm(t.double()) for t in tensors])
    total: th.Tensor = th.linalg.vector_norm(norms)
    return total


def _stay(d: list[th.Tensor], fell_back: bool) -> Step:
    zeros = [th.zeros_like(x) for x in d]  # not d itself, whose infinities times 0 are not numbers
    return Step(zeros, th.zeros((), dtype=th.float64, device=d[0].device), kl_share=0.0, fell_back=fell_back)


def _flat(tensors: Sequence[th.Tensor], norm: th.Tensor | None = None) -> th.Tensor:
    """Join tensors to one vector, divided by a norm (in double precision, since 1/‖d‖ may leave the range of float32)."""
    dtype = _working_dtype(tensors)
    if norm is not None:
        tensors = [t.double() / norm for t in tensors]
    return th.cat([t.detach().reshape(-1).to(dtype) for t in tensors])


def _split(vector: th.Tensor, like: list[th.Tensor]) -> list[th.Tensor]:
    parts = th.split(vector, [x.numel() for x in like])
    return [part.view(x.shape) for part, x in zip(parts, like, strict=True)]


def _working_dtype(tensors: Sequence[th.Tensor]) -> th.dtype:
    """At least float32, in which sums of products keep their digits."""
    dtype = th.float32
    for t in tensors:
        dtype = th.promote_types(dtype, t.dtype)
    return dtype
