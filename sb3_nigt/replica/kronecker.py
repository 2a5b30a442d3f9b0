"""
An approximate inverse of the Fisher matrix of an MLP, which preconditions the conjugate gradients (K-FAC, arXiv 1503.05671).

The Fisher matrix of one linear layer is the mean of (a aᵀ) ⊗ (δ δᵀ), a the inputs of the layer with a 1 for its bias, and δ
the derivatives by its outputs. With the mean of each factor instead of the mean of the product, and no correlation between
layers, the inverse is a matrix product from the left and one from the right.
"""

from __future__ import annotations

from collections.abc import Callable

import torch as th

KroneckerInverse = Callable[[th.Tensor, th.Tensor], tuple[th.Tensor, th.Tensor]]  # (weight, bias) -> (weight, bias)


def kronecker_inverse(inputs: th.Tensor, deltas: th.Tensor, weights: th.Tensor, damping: float) -> KroneckerInverse | None:
    """
    Return (A ⊗ G + λI)⁻¹ of one layer, approximately, with λ divided between both factors.

    :param inputs: of the layer, shape (rows, n_inputs)
    :param deltas: for each row a vector whose second moment is the Fisher matrix by the layer's outputs, times the row's
        weight; shape (rows, n_outputs)
    :param weights: of the rows, of positive sum
    :param damping: λ > 0
    :return: None if a factor is not finite
    """
    ones = inputs.new_ones(len(inputs), 1)
    scaled = th.cat([inputs, ones], dim=1) * (weights / weights.sum()).sqrt()[:, None]
    left, right = deltas.T.mm(deltas).div_(weights.sum()), scaled.T.mm(scaled)
    ratio = float((right.diagonal().mean() / left.diagonal().mean()).sqrt())
    if not 0 < ratio < float("inf"):  # no derivatives, as of units that are all off
        ratio = 1.0
    inverses = [_inverse(left, damping**0.5 / ratio), _inverse(right, damping**0.5 * ratio)]

    def product(weight: th.Tensor, bias: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        by_left, by_right = inverses
        image = th.linalg.multi_dot([by_left, th.cat([weight, bias[:, None]], dim=1), by_right])
        return image[:, :-1], image[:, -1]

    return product if all(bool(th.isfinite(matrix).all()) for matrix in inverses) else None


def _inverse(matrix: th.Tensor, damping: float) -> th.Tensor:
    """(M + λI)⁻¹ of a positive semidefinite matrix; not finite where that is not positive definite in this precision."""
    matrix.diagonal().add_(damping)
    root, failed = th.linalg.cholesky_ex(matrix)
    return th.cholesky_inverse(root) if not failed else th.full_like(matrix, float("nan"))
