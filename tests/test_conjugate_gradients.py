"""Conjugate gradients, with and without a preconditioner: against dense linear algebra."""

import copy

import numpy as np
import pytest
import torch as th
from metrics import SIZE, flat, matrix_metric, one_step, optimizer_in_the_plane, parameters, random_metric, split

from sb3_nigt import NIGT
from sb3_nigt.optimizers.geometry import Model, conjugate_gradients, natural


def test_natural_is_the_dense_solution():
    rng = np.random.default_rng(2)
    matrix, g = random_metric(rng), rng.standard_normal(SIZE)
    optimizer = NIGT(parameters(), lr=0.1, geometry="natural", damping=0.2, n_products=30)
    optimizer.metric = matrix_metric(matrix)
    u = np.linalg.solve(matrix + 0.2 * np.eye(SIZE), g)
    length = u @ (matrix + 0.2 * np.eye(SIZE)) @ u
    np.testing.assert_allclose(one_step(optimizer, g), -0.1 * u / length**0.5, rtol=1e-4, atol=1e-6)
    assert optimizer.predicted_kl == pytest.approx(0.5 * 0.01 * (u @ matrix @ u) / length, rel=1e-4)
    assert optimizer.metric.calls <= SIZE + 2


@pytest.mark.parametrize("n_products", [1, 3, 7])
def test_a_few_products(n_products):
    """u is the best in the space of d, Ad, …: u = Q (QᵀAQ)⁻¹ Qᵀd, Q a basis of it; the residual is the one left over."""
    rng = np.random.default_rng(3)
    matrix, g = random_metric(rng), rng.standard_normal(SIZE)
    a = matrix + 0.1 * np.eye(SIZE)
    krylov = np.stack([np.linalg.matrix_power(a, k) @ g for k in range(n_products)], axis=1)
    q, _ = np.linalg.qr(krylov)
    u = q @ np.linalg.solve(q.T @ a @ q, q.T @ g)
    metric = matrix_metric(matrix)
    step = natural(split(g, parameters()), Model(metric, 0.1, n_products))
    scale = np.linalg.norm(g)
    np.testing.assert_allclose(flat(step.vectors) * scale, u, rtol=1e-9, atol=1e-9)
    assert float(step.inverse_norm) / scale == pytest.approx((u @ a @ u) ** -0.5, rel=1e-9)
    assert step.cg_residual == pytest.approx(np.linalg.norm(g - a @ u) / scale, rel=1e-9)
    assert metric.calls == n_products


def test_the_residual_decides_when_to_stop():
    """Three distinct eigenvalues: three products are exact. A tolerance above the first residual: one product."""
    diagonal = th.tensor([1.0, 2.0, 5.0] * 4, dtype=th.float64)
    b = th.arange(1.0, 13.0, dtype=th.float64)
    for tolerance, n_products in ((1e-5, 3), (0.9, 1)):
        calls = []
        x, residual = conjugate_gradients(lambda v, calls=calls: calls.append(1) or diagonal * v, b, 15, tolerance)
        assert len(calls) == n_products
        th.testing.assert_close(residual, b - diagonal * x, rtol=0, atol=1e-12)
        assert residual.norm() <= tolerance * b.norm()


def test_the_optimizer_stops_at_its_tolerance():
    rng = np.random.default_rng(4)
    matrix, g = random_metric(rng), rng.standard_normal(SIZE)
    calls = []
    for tolerance in (NIGT.tolerance, 0.3):
        optimizer = NIGT(parameters(), geometry="natural", damping=0.2, n_products=30)
        optimizer.metric, optimizer.tolerance = matrix_metric(matrix), tolerance
        one_step(optimizer, g)
        calls.append(optimizer.metric.calls)
        assert optimizer.cg_residual <= tolerance
    assert calls[1] < calls[0]


# With a preconditioner


def ill_conditioned(rng, size=40):
    """A metric whose eigenvalues cover four orders of magnitude."""
    root = np.linalg.qr(rng.standard_normal((size, size)))[0]
    return root @ np.diag(np.logspace(-2, 2, size)) @ root.T


def test_preconditioned_conjugate_gradients_solve_the_same_system():
    rng = np.random.default_rng(5)
    matrix, b = th.from_numpy(ill_conditioned(rng)), th.from_numpy(rng.standard_normal(40))
    rough = matrix + 0.05 * th.diag(matrix.diagonal())
    inverse = th.linalg.inv(rough)
    calls = []
    x, residual = conjugate_gradients(
        lambda v: calls.append(1) or matrix @ v, b, 200, tolerance=1e-10, precondition=lambda v: inverse @ v
    )
    th.testing.assert_close(x, th.linalg.solve(matrix, b), rtol=1e-7, atol=1e-7 * float(x.abs().max()))
    th.testing.assert_close(residual, b - matrix @ x, rtol=0, atol=1e-9)
    assert len(calls) < 100


def test_the_exact_inverse_needs_one_product():
    rng = np.random.default_rng(6)
    matrix, g = random_metric(rng), rng.standard_normal(SIZE)
    optimizer = NIGT(parameters(), lr=0.5, geometry="natural", damping=0.3)
    optimizer.metric = matrix_metric(matrix)
    optimizer.preconditioner = matrix_metric(np.linalg.inv(matrix + 0.3 * np.eye(SIZE)))
    moved = one_step(optimizer, g)
    u = np.linalg.solve(matrix + 0.3 * np.eye(SIZE), g)
    np.testing.assert_allclose(moved, -0.5 * u / np.sqrt(g @ u), rtol=1e-9)
    assert optimizer.metric.calls == 1
    assert copy.deepcopy(optimizer).preconditioner is None


def test_it_stops_when_another_product_changes_little():
    """
    Eigenvalues 1, 2 and 4, b = (1, 1, 1), so bᵀA⁻¹b = 7/4. The first product gains (bᵀb)²/bᵀAb = 9/7, and with r = b - 3/7 A b
    the second one 3/7 at most, which is a quarter of the sum.
    """
    matrix, b = th.tensor([1.0, 2.0, 4.0], dtype=th.float64), th.ones(3, dtype=th.float64)
    for least_gain, products in ((1.0, 1), (0.27, 2), (0.0, 3)):
        calls: list[int] = []
        conjugate_gradients(lambda v, calls=calls: calls.append(1) or matrix * v, b, 15, 1e-12, None, least_gain)
        assert len(calls) == products


@pytest.mark.parametrize("bad", [lambda v: -v, lambda v: v * float("nan"), lambda v: 0 * v])
def test_a_preconditioner_that_is_none_falls_back(bad):
    optimizer = optimizer_in_the_plane("natural", np.diag([1.0, 4.0]))
    optimizer.preconditioner = lambda vectors: [bad(v) for v in vectors]
    assert np.isfinite(one_step(optimizer, [1.0, 2.0])).all()
    assert optimizer.n_fallbacks == 1
