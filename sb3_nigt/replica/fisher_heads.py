"""The Fisher matrix of an action distribution in the outputs of the policy's last layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import torch as th
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    DiagGaussianDistribution,
    Distribution,
    MultiCategoricalDistribution,
)
from torch.nn import functional

from sb3_nigt.policies import MIN_STD, TanhGaussianDistribution

Product = Callable[[th.Tensor], th.Tensor]  # v -> F v


@dataclass(frozen=True)
class HeadFisher:
    """
    M, the Fisher matrix of the action distribution in the outputs of the last layer, times the weight of each observation.

    :param product: y -> M y, one row an observation
    :param root: y -> B y for some square B with B Bᵀ = M, so that it makes vectors of covariance M out of white noise
    """

    product: Product
    root: Product


def normalised(weights: npt.NDArray[Any] | None, like: th.Tensor) -> th.Tensor:
    """
    Return one weight for each row, of sum 1.

    :param weights: of any positive sum; None: equal ones
    :param like: a tensor with the number of rows, precision and device
    """
    if weights is None:
        return like.new_full((len(like),), 1 / len(like))
    given = th.as_tensor(weights, dtype=like.dtype, device=like.device)
    return given / given.sum()


def head_fisher(distribution: Distribution, outputs: th.Tensor, weights: th.Tensor, log_std: th.Tensor | None) -> HeadFisher:
    """
    Return the Fisher matrices of the observations.

    - Gaussian N(μ, σ) with σ apart from the outputs: 1/σ²
    - Gaussian with outputs (μ, s), σ = softplus(s) + MIN_STD: 1/σ² by μ, and 2/σ² (dσ/ds)² by s, dσ/ds the logistic function
    - Bernoulli with logits: p (1 - p)
    - categorical with logits: diag(p) - p pᵀ, for each variable

    :param distribution: a distribution of the same kind
    :param outputs: of the last layer, shape (batch, n_outputs)
    :param weights: of the observations, shape (batch,)
    :param log_std: log σ where it is a separate parameter
    """
    column = weights[:, None]
    if isinstance(distribution, TanhGaussianDistribution):
        raw_std = outputs.chunk(2, dim=-1)[1]
        precision = 1 / (functional.softplus(raw_std) + MIN_STD)
        diagonal = th.cat([precision, 2**0.5 * precision * th.sigmoid(raw_std)], dim=-1).square_() * column
    elif isinstance(distribution, DiagGaussianDistribution) and log_std is not None:
        diagonal = th.exp(-2 * log_std) * column
    elif isinstance(distribution, BernoulliDistribution):
        p = th.sigmoid(outputs)
        diagonal = p * (1 - p) * column
    else:
        return _categorical_fisher(distribution, outputs, column)
    return HeadFisher(lambda y: y * diagonal, lambda y: y * diagonal.sqrt())


def _categorical_fisher(distribution: Distribution, outputs: th.Tensor, weights: th.Tensor) -> HeadFisher:
    """diag(p) - p pᵀ of each variable; with r = p^½ one of its roots is diag(r) - p rᵀ."""
    sizes = [outputs.shape[1]]
    if isinstance(distribution, MultiCategoricalDistribution):
        sizes = list(distribution.action_dims)
    probabilities = [functional.softmax(logits, dim=-1) for logits in th.split(outputs, sizes, dim=-1)]
    weighted = [p * weights for p in probabilities]

    def product(y: th.Tensor) -> th.Tensor:
        parts = zip(probabilities, weighted, th.split(y, sizes, dim=-1), strict=True)
        return th.cat([wp * (part - (p * part).sum(1, keepdim=True)) for p, wp, part in parts], dim=-1)

    def root(y: th.Tensor) -> th.Tensor:
        pairs = zip(probabilities, th.split(y, sizes, dim=-1), strict=True)
        parts = [p.sqrt() * part - p * (p.sqrt() * part).sum(1, keepdim=True) for p, part in pairs]
        return th.cat(parts, dim=-1) * weights.sqrt()

    return HeadFisher(product, root)
