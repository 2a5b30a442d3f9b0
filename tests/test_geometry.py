"""Geometries of the outer step: against numbers by hand, dense linear algebra and the formula of the paper."""

import copy
import io
import pickle

import numpy as np
import pytest
import torch as th
from metrics import SIZE, flat, matrix_metric, one_step, optimizer_in_the_plane, parameters, random_metric, split

from sb3_nigt import NIGT
from sb3_nigt.optimizers.geometry import GEOMETRIES

# By hand


def test_natural_by_hand():
    """
    F = diag(1, 4), λ = 1, d = (2, 5): u = (F + I)⁻¹ d = (1, 1), ‖u‖² = 2 + 5 = 7.

    The step is -α (1, 1)/√7. Of uᵀ(F + I)u = 7, F has 1 + 4 = 5, so the predicted KL is ½ α² 5/7.
    """
    optimizer = optimizer_in_the_plane("natural", np.diag([1.0, 4.0]), lr=0.7, damping=1.0)
    assert one_step(optimizer, [2.0, 5.0]) == pytest.approx([-0.7 / 7**0.5] * 2, rel=1e-12)
    assert optimizer.predicted_kl == pytest.approx(0.5 * 0.49 * 5 / 7, rel=1e-12)
    assert optimizer.cg_residual < 1e-12
    assert optimizer.metric.calls == 2  # exact after as many products as there are dimensions
    assert optimizer.n_fallbacks == 0


def test_the_damping_has_a_unit():
    """λ = 0.5 in units of 2 is the λ = 1 above."""
    optimizer = optimizer_in_the_plane("natural", np.diag([1.0, 4.0]), lr=0.7, damping=0.5)
    optimizer.damping_unit = 2.0
    assert one_step(optimizer, [2.0, 5.0]) == pytest.approx([-0.7 / 7**0.5] * 2, rel=1e-12)


def test_euclidean_kl_by_hand():
    """F = diag(1, 4), d = (1, 4): ‖d‖² = 1 + 4·16 = 65, whatever the scale of d. The predicted KL is ½ α²."""
    for scale in (1.0, 1e-30, 1e30):
        optimizer = optimizer_in_the_plane("euclidean_kl", np.diag([1.0, 4.0]), lr=0.7)
        moved = one_step(optimizer, [scale, 4 * scale])
        assert moved == pytest.approx([-0.7 / 65**0.5, -2.8 / 65**0.5], rel=1e-12)
        assert optimizer.predicted_kl == pytest.approx(0.245, rel=1e-12)
        assert optimizer.metric.calls == 1


def test_euclidean_kl_is_short_where_the_metric_nearly_vanishes():
    """F = 10⁻⁶ I and λ = 0.1: α (10/λ)^½ = 10 α in place of 1,000 α; a hundredth of the KL in F is left for each."""
    bounded, free = (optimizer_in_the_plane("euclidean_kl", 1e-6 * np.eye(2), lr=0.7, damping=d) for d in (0.1, 0.0))
    assert one_step(bounded, [3.0, 4.0]) == pytest.approx([-4.2, -5.6], rel=1e-12)
    assert bounded.predicted_kl == pytest.approx(0.5 * 1e-6 * 49, rel=1e-12)
    assert one_step(free, [3.0, 4.0]) == pytest.approx([-420, -560], rel=1e-12)


def test_spectral_by_hand():
    """
    A matrix and a vector: each moves by α = 0.1.

    [[0, 2], [-3, 0]] = U diag(3, 2) Vᵀ with U Vᵀ = [[0, 1], [-1, 0]]; (3, 4)/5 = (0.6, 0.8).
    """
    optimizer = NIGT(parameters([(2, 2), (2,)]), lr=0.1, geometry="spectral")
    moved = one_step(optimizer, [0.0, 2.0, -3.0, 0.0, 3.0, 4.0])
    assert moved == pytest.approx([0, -0.1, 0.1, 0, -0.06, -0.08], abs=1e-14)


# Euclidean: the paper


@pytest.mark.parametrize("dtype", [th.float64, th.float32, th.bfloat16])
def test_euclidean_is_the_paper_bit_for_bit(dtype):
    """The formula written out, as NIGT computed it before there were geometries: parameters, direction and lookahead."""
    rng = np.random.default_rng(0)
    params = parameters(dtype=dtype)
    optimizer = NIGT([{"params": params[:2]}, {"params": params[2:], "lr": 0.3}], lr=0.05, eta=0.2)
    theta, direction = [p.detach().clone() for p in params], None
    for _ in range(30):
        g = split(rng.standard_normal(SIZE) * 10.0 ** rng.integers(-5, 5), params)
        one_step(optimizer, flat(g))
        direction = g if direction is None else [d.mul(1 - 0.2).add(x, alpha=0.2) for d, x in zip(direction, g, strict=True)]
        norm = th.linalg.vector_norm(th.stack([th.linalg.vector_norm(d.double()) for d in direction]))
        before = [t.clone() for t in theta]
        for t, d, lr in zip(theta, direction, (0.05, 0.05, 0.3, 0.3), strict=True):
            t.add_((d.double() * (-lr * (1 / norm))).to(dtype))
        for p, t, d, old in zip(params, theta, direction, before, strict=True):
            assert th.equal(p, t)
            assert th.equal(optimizer.state[p]["direction"], d)
            assert th.equal(optimizer.extrapolated()[p], t + (1 - 0.2) / 0.2 * (t - old))
    assert np.isnan([optimizer.cg_residual, optimizer.predicted_kl]).all()


@pytest.mark.parametrize("geometry", ["natural", "euclidean_kl"])
def test_identity_metric_is_euclidean(geometry):
    """F = I, λ = 0: the same steps over many rounds. With λ the norm is √(1 + λ) times as long, the step shorter by that."""
    for damping in (0.0, 0.3):
        rng = np.random.default_rng(1)
        shorter = (1 + damping) ** -0.5 if geometry == "natural" else 1.0
        paper = NIGT(parameters(), lr=0.1 * shorter, eta=0.3)
        optimizer = NIGT(parameters(), lr=0.1, eta=0.3, geometry=geometry, damping=damping)
        optimizer.metric = matrix_metric(np.eye(SIZE))
        for _ in range(10):
            g = rng.standard_normal(SIZE)
            np.testing.assert_allclose(one_step(optimizer, g), one_step(paper, g), rtol=1e-10, atol=1e-14)
        assert optimizer.metric.calls == 10  # one product is enough, and no further one is made
        assert optimizer.n_fallbacks == 0


def test_minimises_in_a_straight_line():
    """
    Curvatures from 1 to 100 with the Hessian as metric, here by double backward: every step points at the minimum.

    Without noise d is the gradient at θ, so u = A⁻¹A(θ - θ*), and in the norm of A the distance shrinks by α a step.
    """
    curvature = th.tensor([1.0, 10.0, 100.0], dtype=th.float64)
    optimum = th.tensor([3.0, -2.0, 0.5], dtype=th.float64)
    theta = th.nn.Parameter(optimum + th.tensor([1.0, 1.0, 1.0], dtype=th.float64))
    optimizer = NIGT([theta], lr=0.5, eta=0.2, geometry="natural", damping=0.0)

    def hessian_times(vectors):
        gradient = th.autograd.grad((0.5 * curvature * (theta - optimum) ** 2).sum(), theta, create_graph=True)[0]
        return th.autograd.grad((gradient * vectors[0]).sum(), theta)

    optimizer.metric = hessian_times
    start = (theta - optimum).detach()
    distance = float((curvature * start**2).sum() ** 0.5)
    for t in range(1, 10):
        theta.grad = curvature * (optimizer.extrapolated()[theta] - optimum)
        optimizer.step()
        th.testing.assert_close((theta - optimum).detach(), start * (1 - 0.5 * t / distance), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-38, 1e-20, 1.0, 1e20, 1e38])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_the_scale_of_gradients_does_not_matter(geometry, scale):
    """float32, where the squares of these numbers are out of range."""
    rng = np.random.default_rng(4)
    matrix, g = random_metric(rng), rng.standard_normal(SIZE).astype(np.float32)
    moved = []
    for factor in (1.0, scale):
        optimizer = NIGT(parameters(dtype=th.float32), lr=0.1, geometry=geometry)
        optimizer.metric = matrix_metric(matrix)
        moved.append(one_step(optimizer, g * np.float32(factor)))
    np.testing.assert_allclose(moved[1], moved[0], rtol=1e-4, atol=1e-6)
    assert np.abs(moved[0]).max() > 0.01


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_half_precision(geometry):
    """bfloat16, with 8 significant bits: the direction is computed in float32, the step rounded from double precision."""
    rng = np.random.default_rng(5)
    matrix, g = random_metric(rng), flat(split(rng.standard_normal(SIZE), parameters(dtype=th.bfloat16)))
    moved = []
    for dtype in (th.bfloat16, th.float64):
        optimizer = NIGT(parameters(dtype=dtype), lr=0.1, geometry=geometry)
        optimizer.metric = matrix_metric(matrix)
        moved.append(one_step(optimizer, g))
    np.testing.assert_allclose(moved[0], moved[1], rtol=2.0**-8, atol=1e-5)


# Spectral


@pytest.mark.parametrize("shape", [(4, 7), (7, 4), (5, 5), (6, 2, 3, 3), (1, 4)])
def test_all_singular_values_of_a_spectral_step_are_alpha(shape):
    """The weight of a convolution is the matrix with one row an output. The step is the steepest of that length."""
    rng = np.random.default_rng(6)
    optimizer = NIGT(parameters([shape, (3,)]), lr=0.1, geometry="spectral")
    g = rng.standard_normal(int(np.prod(shape)) + 3)
    moved = one_step(optimizer, g)
    matrix, vector = moved[:-3].reshape(shape[0], -1), moved[-3:]
    np.testing.assert_allclose(np.linalg.svd(matrix, compute_uv=False), 0.1, rtol=1e-10)
    np.testing.assert_allclose(vector, -0.1 * g[-3:] / np.linalg.norm(g[-3:]), rtol=1e-10)
    nuclear = np.linalg.svd(g[:-3].reshape(shape[0], -1), compute_uv=False).sum()  # the dual of the spectral norm
    assert -moved[:-3] @ g[:-3] == pytest.approx(0.1 * nuclear, rel=1e-10)


@pytest.mark.parametrize("dtype", [th.float32, th.float64])
def test_a_spectral_step_has_no_arbitrary_directions(dtype):
    """A matrix of rank one moves along this one direction, a matrix and a vector of zeros not at all."""
    left, right = np.array([3.0, 4.0, 0.0, 1.0]), np.array([1.0, 2.0, 2.0])
    optimizer = NIGT(parameters([(4, 3), (2, 2), (3,), ()], dtype), lr=0.1, geometry="spectral")
    moved = one_step(optimizer, [*np.outer(left, right).reshape(-1), *np.zeros(7), -7.0])
    expected = -0.1 * np.outer(left, right) / (26**0.5 * 3)
    np.testing.assert_allclose(moved[:12].reshape(4, 3), expected, atol=1e-7)
    assert (moved[12:-1] == 0).all()
    assert moved[-1] == pytest.approx(0.1)


# What cannot be done


def test_negative_curvature_falls_back_to_the_plain_direction():
    """
    F = diag(1, -1/2), λ = 0.1, d = (3, 1): the second conjugate direction has a negative curvature.

    uᵀFu of d itself is 9 - 1/2 = 8.5 > 0, so the step is -α d/√8.5. The next step, with a metric, is a natural one again.
    """
    optimizer = optimizer_in_the_plane("natural", np.diag([1.0, -0.5]), eta=1.0)
    assert one_step(optimizer, [3.0, 1.0]) == pytest.approx([-3 / 8.5**0.5, -1 / 8.5**0.5], rel=1e-12)
    assert optimizer.n_fallbacks == 1
    assert optimizer.predicted_kl == pytest.approx(0.5)
    assert np.isnan(optimizer.cg_residual)
    optimizer.metric = matrix_metric(np.eye(2))
    assert one_step(optimizer, [3.0, 1.0]) == pytest.approx([-3 / 11**0.5, -1 / 11**0.5], rel=1e-12)
    assert optimizer.n_fallbacks == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("first", [1, 2])
def test_a_bad_product_falls_back_to_the_plain_direction(first, bad):
    """One product of the conjugate gradients is not finite, that of the fallback is: F = diag(1, 4), d = (1, 1), ‖d‖² = 5."""
    optimizer = optimizer_in_the_plane("natural", np.diag([1.0, 4.0]))
    good = optimizer.metric
    optimizer.metric = lambda vectors: [product * (bad if good.calls == first else 1.0) for product in good(vectors)]
    assert one_step(optimizer, [1.0, 1.0]) == pytest.approx([-(5**-0.5)] * 2, rel=1e-12)
    assert optimizer.n_fallbacks == 1


@pytest.mark.parametrize("geometry", ["natural", "euclidean_kl"])
@pytest.mark.parametrize("matrix", [np.full((2, 2), np.nan), -np.eye(2)], ids=["nan", "negative"])
def test_no_usable_length_leaves_the_parameters(geometry, matrix):
    optimizer = optimizer_in_the_plane(geometry, matrix)
    assert (one_step(optimizer, [3.0, 1.0]) == 0).all()
    assert (one_step(optimizer, [3.0, 1.0]) == 0).all()
    assert optimizer.n_fallbacks == 2
    assert optimizer.predicted_kl == 0


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_zero_direction_leaves_the_parameters(geometry):
    """No product is made, and it is no failure of the geometry."""
    optimizer = optimizer_in_the_plane(geometry, np.eye(2))
    assert (one_step(optimizer, [0.0, 0.0]) == 0).all()
    assert optimizer.metric.calls == 0
    assert optimizer.n_fallbacks == 0
    assert (one_step(optimizer, [1.0, 0.0]) != 0).any()


@pytest.mark.parametrize("geometry", ["natural", "euclidean_kl"])
def test_an_infinite_direction_leaves_the_parameters(geometry):
    optimizer = optimizer_in_the_plane(geometry, np.eye(2))
    assert (one_step(optimizer, [np.inf, 1.0]) == 0).all()
    assert optimizer.n_fallbacks == 1


# As a torch optimizer


def test_the_metric_sees_every_parameter():
    """
    b has no gradient and is skipped: the metric gets zeros for it, and the step solves with the block of a alone.

    F = [[2, 5], [5, 20]], λ = 0, d = 3 in a: u = 3/2, ‖u‖² = 9/2, the step -α (3/2)/√4.5 = -α/√2.
    """
    a, b = parameters([(1,), (1,)])
    optimizer = NIGT([{"params": [a]}, {"params": [b]}], lr=0.1, geometry="natural", damping=0.0)
    seen = []
    good = matrix_metric([[2.0, 5.0], [5.0, 20.0]])
    optimizer.metric = lambda vectors: seen.append(flat(vectors)) or good(vectors)
    a.grad = th.tensor([3.0], dtype=th.float64)
    optimizer.step()
    assert a.item() == pytest.approx(-0.1 / 2**0.5, rel=1e-12)
    assert b.item() == 0.0
    assert [list(v) for v in seen] == [[1.0, 0.0]]


@pytest.mark.parametrize("geometry", ["natural", "euclidean_kl"])
def test_a_missing_metric_is_an_error_before_anything_changes(geometry):
    p = th.nn.Parameter(th.zeros(1))
    optimizer = NIGT([p], geometry=geometry)
    p.grad = th.ones(1)
    with pytest.raises(ValueError, match=rf"^geometry='{geometry}' needs a metric and there is none: .*optimizer\.metric"):
        optimizer.step()
    assert p.item() == 0.0
    assert optimizer.direction_norm() == 0.0


@pytest.mark.parametrize("geometry", ["euclidean", "spectral"])
def test_no_metric_is_needed(geometry):
    assert (one_step(NIGT(parameters(), geometry=geometry), np.ones(SIZE)) != 0).all()


@pytest.mark.parametrize("value", ["l2", "Natural", None, 1])
def test_unknown_geometry(value):
    names = "'euclidean', 'euclidean_kl', 'spectral', 'natural'"
    with pytest.raises(ValueError, match=rf"^geometry={value!r} is not allowed: give one of {names}\.$"):
        NIGT(parameters(), geometry=value)


@pytest.mark.parametrize(("name", "value"), [("damping", -0.1), ("damping", float("nan")), ("n_products", 0)])
def test_invalid_settings(name, value):
    with pytest.raises(ValueError, match=rf"^{name}={value!r} is not allowed"):
        NIGT(parameters(), geometry="natural", **{name: value})


@pytest.mark.parametrize("name", ["geometry", "damping", "n_products"])
def test_groups_share_their_geometry(name):
    a, b = parameters([(1,), (1,)])
    other = {"geometry": "spectral", "damping": 0.7, "n_products": 3}[name]
    optimizer = NIGT([{"params": [a]}, {"params": [b], name: other}])
    with pytest.raises(ValueError, match=rf"^{name}=.* differs between parameter groups"):
        optimizer.step()


def test_default_learning_rates():
    """SPEC: a natural step of 0.2 is a KL divergence of about 0.02."""
    rates = {name: geometry.learning_rate for name, geometry in GEOMETRIES.items()}
    assert rates == {"euclidean": 0.015625, "euclidean_kl": 0.2, "spectral": 0.02, "natural": 0.2}
    assert 0.5 * rates["natural"] ** 2 == pytest.approx(0.02, rel=0.03)


def stepped(geometry, n_steps=3):
    """An optimizer after some steps, with the metric that it has used."""
    rng = np.random.default_rng(7)
    optimizer = NIGT(parameters(dtype=th.float32), lr=0.1, eta=0.3, geometry=geometry, damping=0.2, n_products=4)
    optimizer.metric = matrix_metric(random_metric(rng))
    for _ in range(n_steps):
        one_step(optimizer, rng.standard_normal(SIZE))
    return optimizer


def through_file(state):
    buffer = io.BytesIO()
    th.save(state, buffer)
    buffer.seek(0)
    return th.load(buffer, weights_only=True)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_state_dict_continues_bit_for_bit(geometry):
    """What the optimizer was built with is part of the state, as everywhere in torch; the metric is not."""
    optimizer = stepped(geometry)
    params = optimizer.param_groups[0]["params"]
    copies = [th.nn.Parameter(p.detach().clone()) for p in params]
    restored = NIGT(copies, lr=0.7)
    restored.load_state_dict(through_file(copy.deepcopy(optimizer.state_dict())))
    assert restored.param_groups[0]["geometry"] == geometry
    assert restored.metric is None
    restored.metric = optimizer.metric
    for g in np.random.default_rng(8).standard_normal((3, SIZE)):
        one_step(optimizer, g)
        one_step(restored, g)
        assert (flat(copies) == flat(params)).all()


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
def test_a_copy_continues_bit_for_bit(duplicate):
    """The metric holds a sample and a policy, which is not for files: a copy needs another one."""
    optimizer = stepped("natural")
    copied = duplicate(optimizer)
    g = np.random.default_rng(9).standard_normal(SIZE)
    with pytest.raises(ValueError, match="needs a metric"):
        one_step(copied, g)
    copied.metric = optimizer.metric
    np.testing.assert_array_equal(one_step(copied, g), one_step(optimizer, g))


def test_a_state_from_before_there_were_geometries_is_euclidean():
    optimizer = stepped("euclidean")
    state = copy.deepcopy(optimizer.state_dict())
    for name in ("geometry", "damping", "n_products"):
        del state["param_groups"][0][name]
    restored = NIGT([th.nn.Parameter(p.detach().clone()) for p in optimizer.param_groups[0]["params"]], geometry="natural")
    restored.load_state_dict(state)
    g = np.random.default_rng(10).standard_normal(SIZE)
    np.testing.assert_array_equal(one_step(restored, g), one_step(optimizer, g))
