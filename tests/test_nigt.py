"""NIGT as an optimizer: against a NumPy twin, against closed forms, and on minimisation problems of its own."""

import copy
import io

import numpy as np
import pytest
import torch as th

from sb3_nigt import NIGT

SHAPES = [(3, 2), (4,), (), (1, 2, 2)]


class Twin:
    """The update equations in NumPy, on one flat vector."""

    def __init__(self, theta, lr):
        self.theta, self.previous, self.lr, self.d = theta, theta, lr, None

    def extrapolated(self, eta):
        return self.theta + (1 - eta) / eta * (self.theta - self.previous)

    def step(self, g, eta):
        self.d = g if self.d is None else (1 - eta) * self.d + eta * g
        self.previous, self.theta = self.theta, self.theta - self.lr * self.d / np.sqrt(np.sum(self.d**2))


def parameters(rng, dtype=th.float64, shapes=SHAPES):
    return [th.nn.Parameter(th.tensor(rng.standard_normal(shape), dtype=dtype)) for shape in shapes]


def flat(tensors):
    tensors = tensors.values() if isinstance(tensors, dict) else tensors
    return th.cat([tensor.detach().reshape(-1) for tensor in tensors]).numpy().copy()


def set_gradients(params, g):
    """Write a flat vector into the gradients."""
    sizes = [p.numel() for p in params]
    for p, part in zip(params, np.split(np.asarray(g), np.cumsum(sizes)[:-1]), strict=True):
        p.grad = th.tensor(part, dtype=p.dtype).reshape(p.shape)


def one_step(params, optimizer, g):
    """Return by how much the parameters moved."""
    before = flat(params)
    set_gradients(params, g)
    optimizer.step()
    return flat(params) - before


@pytest.mark.parametrize("etas", [[0.1], [1.0], [0.5, 0.03, 1.0, 0.2]], ids=["fixed", "one", "changing"])
def test_equals_numpy_twin(etas):
    """100 rounds; η may be another one in each, and then holds for the extrapolation and the momentum of that round."""
    rng = np.random.default_rng(0)
    params = parameters(rng)
    optimizer, twin = NIGT(params, lr=0.05, eta=0.9), Twin(flat(params), lr=0.05)
    for t in range(100):
        eta = etas[t % len(etas)]
        optimizer.param_groups[0]["eta"] = eta
        np.testing.assert_allclose(flat(optimizer.extrapolated()), twin.extrapolated(eta), rtol=0, atol=1e-12)
        g = rng.standard_normal(len(twin.theta)) * 10.0 ** rng.integers(-3, 4)
        one_step(params, optimizer, g)
        twin.step(g, eta)
        np.testing.assert_allclose(flat(params), twin.theta, rtol=0, atol=1e-12)
        assert optimizer.direction_norm() == pytest.approx(np.linalg.norm(twin.d), rel=1e-12)


def test_first_steps_by_hand():
    """
    η = 1/2, α = 1, in the plane.

    g_0 = (3, 4): d_0 = g_0 (without η), norm 5, θ_1 = -(3, 4)/5 = (-0.6, -0.8); θ̃_1 = θ_1 + 1·(θ_1 - 0) = (-1.2, -1.6).
    g_1 = (3, -4): d_1 = (3, 0), norm 3, θ_2 = θ_1 - (1, 0) = (-1.6, -0.8); θ̃_2 = θ_2 + (-1, 0) = (-2.6, -0.8).
    """
    p = th.nn.Parameter(th.zeros(2, dtype=th.float64))
    optimizer = NIGT([p], lr=1.0, eta=0.5)
    assert optimizer.direction_norm() == 0.0
    assert optimizer.extrapolated()[p].tolist() == [0.0, 0.0]
    expected = [([3.0, 4.0], [-0.6, -0.8], [-1.2, -1.6], 5.0), ([3.0, -4.0], [-1.6, -0.8], [-2.6, -0.8], 3.0)]
    for g, theta, extrapolated, norm in expected:
        one_step([p], optimizer, g)
        assert p.tolist() == pytest.approx(theta, abs=1e-15)
        assert optimizer.extrapolated()[p].tolist() == pytest.approx(extrapolated, abs=1e-15)
        assert optimizer.direction_norm() == pytest.approx(norm, abs=1e-15)


def test_one_norm_over_all_groups():
    """
    Gradients 3 and 4 in two groups: d/‖d‖ = (0.6, 0.8), times the learning rates 1 and 10 of the groups.

    The groups extrapolate with their own η: factors (1-0.5)/0.5 = 1 and (1-0.25)/0.25 = 3 times the last update.
    """
    a, b = (th.nn.Parameter(th.zeros(1, dtype=th.float64)) for _ in range(2))
    optimizer = NIGT([{"params": [a], "lr": 1.0, "eta": 0.5}, {"params": [b], "lr": 10.0, "eta": 0.25}])
    moved = one_step([a, b], optimizer, [3.0, 4.0])
    assert moved == pytest.approx([-0.6, -8.0], abs=1e-15)
    assert flat(optimizer.extrapolated()) == pytest.approx([-0.6 - 0.6, -8.0 - 3 * 8.0], abs=1e-14)


@pytest.mark.parametrize("etas", [[0.1], [0.1, 0.7, 0.02]], ids=["fixed", "changing"])
def test_direction_is_the_exact_gradient_of_a_quadratic(etas):
    """
    Noise-free gradients of f = ½ θᵀAθ - bᵀθ at the extrapolated points: d_t = ∇f(θ_t) for every t, whatever η does.

    By induction: d_t = (1-η)∇f(θ_{t-1}) + η∇f(θ_t + ((1-η)/η)(θ_t - θ_{t-1}))
                      = (1-η)∇f(θ_{t-1}) + η∇f(θ_t) + (1-η) A (θ_t - θ_{t-1}) = ∇f(θ_t).
    """
    rng = np.random.default_rng(1)
    root = rng.standard_normal((6, 6))
    a, b = root + root.T, rng.standard_normal(6)  # indefinite: only the constancy of the Hessian matters
    params = parameters(rng, shapes=[(2, 2), (2,)])
    optimizer = NIGT(params, lr=0.1)
    for t in range(60):
        optimizer.param_groups[0]["eta"] = etas[t % len(etas)]
        gradient = a @ flat(params) - b
        moved = one_step(params, optimizer, a @ flat(optimizer.extrapolated()) - b)
        assert optimizer.direction_norm() == pytest.approx(np.linalg.norm(gradient), rel=1e-10)
        np.testing.assert_allclose(moved, -0.1 * gradient / np.linalg.norm(gradient), rtol=0, atol=1e-11)


def test_eta_one_is_normalised_sgd():
    rng = np.random.default_rng(2)
    params = parameters(rng)
    copies = [th.nn.Parameter(p.detach().clone()) for p in params]
    nigt, sgd = NIGT(params, lr=0.1, eta=1.0), th.optim.SGD(copies, lr=0.1)
    for _ in range(20):
        g = rng.standard_normal(sum(p.numel() for p in params))
        one_step(params, nigt, g)
        one_step(copies, sgd, g / np.linalg.norm(g))
        np.testing.assert_allclose(flat(params), flat(copies), rtol=0, atol=1e-13)
        assert (flat(nigt.extrapolated()) == flat(params)).all()


@pytest.mark.parametrize("through_file", [False, True])
def test_state_dict_continues_bit_for_bit(through_file):
    """As for torch's optimizers, the tensors of a state dict are the optimizer's own: a second one needs a copy."""
    rng = np.random.default_rng(3)
    params = parameters(rng, th.float32)
    optimizer = NIGT(params, lr=0.1, eta=0.2)
    size = sum(p.numel() for p in params)
    for _ in range(5):
        one_step(params, optimizer, rng.standard_normal(size))
    optimizer.param_groups[0].update(lr=0.05, eta=0.4)  # what a schedule has set belongs to the state
    state = copy.deepcopy(optimizer.state_dict())
    if through_file:
        buffer = io.BytesIO()
        th.save(state, buffer)
        buffer.seek(0)
        state = th.load(buffer, weights_only=True)
    copies = [th.nn.Parameter(p.detach().clone()) for p in params]
    restored = NIGT(copies, lr=0.7, eta=0.9)
    restored.load_state_dict(state)
    for _ in range(5):
        assert (flat(restored.extrapolated()) == flat(optimizer.extrapolated())).all()
        assert restored.direction_norm() == optimizer.direction_norm()
        g = rng.standard_normal(size)
        one_step(params, optimizer, g)
        one_step(copies, restored, g)
        assert (flat(copies) == flat(params)).all()


def test_half_of_a_step_by_hand():
    """α = 0.4, η = 1/4, two equal gradients: from x = 1 to 0.6 and 0.2, half back to 0.4. Then θ̃ = 0.4 - 3 · 0.2."""
    x = th.nn.Parameter(th.ones((), dtype=th.float64))
    frozen = th.nn.Parameter(th.ones((), dtype=th.float64))
    optimizer = NIGT([x, frozen], lr=0.4, eta=0.25)
    for _ in range(2):
        x.grad = th.ones_like(x)
        optimizer.step()
    optimizer.halve_step()
    assert x.item() == pytest.approx(0.4, rel=1e-14)
    assert optimizer.extrapolated()[x].item() == pytest.approx(-0.2, rel=1e-14)
    assert frozen.item() == 1.0
    assert optimizer.direction_norm() == 1.0
    assert optimizer.n_halvings == 1


def test_defaults():
    """η as in the pictures of the paper."""
    defaults = NIGT([th.nn.Parameter(th.zeros(1))]).defaults
    assert (defaults["lr"], defaults["eta"], defaults["geometry"]) == (0.01, 0.1, "euclidean")


def test_extrapolated_leaves_everything_as_it_is():
    rng = np.random.default_rng(4)
    params = parameters(rng)
    optimizer = NIGT(params)
    for _ in range(2):  # before the first step, where θ̃ = θ, and after it
        before = flat(params)
        state = len(optimizer.state)
        points = optimizer.extrapolated()
        assert len(optimizer.state) == state
        assert list(points) == params
        assert all(point.shape == p.shape for p, point in points.items())
        assert not any(point.requires_grad for point in points.values())
        for point in points.values():
            point.fill_(7.0)
        assert (flat(params) == before).all()
        one_step(params, optimizer, rng.standard_normal(len(before)))


def test_gradients_belong_to_the_caller():
    """They are not changed, and zeroing them in place afterwards does not change the direction."""
    params = parameters(np.random.default_rng(5), shapes=[(2,)])
    optimizer = NIGT(params, eta=0.5)
    for g in ([3.0, 4.0], [3.0, 4.0]):
        one_step(params, optimizer, g)
        assert params[0].grad.tolist() == g
        optimizer.zero_grad(set_to_none=False)
        assert optimizer.direction_norm() == pytest.approx(5.0, rel=1e-15)


def test_learning_rate_zero_stays():
    params = parameters(np.random.default_rng(6), th.float32)
    optimizer = NIGT(params, lr=0.0)
    before = flat(params)
    for _ in range(3):
        assert (one_step(params, optimizer, np.ones(len(before))) == 0).all()
    assert (flat(optimizer.extrapolated()) == before).all()
    assert optimizer.direction_norm() == pytest.approx(len(before) ** 0.5)


def test_parameter_without_gradient_is_skipped():
    """The others move as if it were not there: a full step length between them."""
    a, b = parameters(np.random.default_rng(7), shapes=[(2,), (3,)])
    optimizer = NIGT([a, b], lr=0.1)
    before = flat([b])
    moved = one_step([a], optimizer, [3.0, 4.0])
    assert moved == pytest.approx([-0.06, -0.08], abs=1e-15)
    assert (flat([b]) == before).all()
    assert (flat([optimizer.extrapolated()[b]]) == before).all()
    a.grad = None
    assert optimizer.step() is None  # nothing moves
    # its own first gradient, whenever it comes, enters without η: with a's direction d = (3, 4, 12, 0, 0), norm 13
    moved = one_step([a, b], optimizer, [3.0, 4.0, 12.0, 0.0, 0.0])
    assert moved == pytest.approx([-0.3 / 13, -0.4 / 13, -1.2 / 13, 0, 0], abs=1e-15)


@pytest.mark.parametrize("is_frozen", [True, False])
def test_a_parameter_that_no_longer_moves_is_not_extrapolated(is_frozen):
    """With η = 0.1, nine times its last update otherwise. A frozen one at once, one without gradient after the next step."""
    a, b = parameters(np.random.default_rng(7), shapes=[(2,), (3,)])
    optimizer = NIGT([a, b], lr=0.1)
    one_step([a, b], optimizer, [3.0, 4.0, 12.0, 0.0, 0.0])
    assert (flat([optimizer.extrapolated()[b]]) != flat([b])).any()
    b.requires_grad_(not is_frozen)
    b.grad = None
    if not is_frozen:
        one_step([a], optimizer, [3.0, 4.0])
    before = flat([b])
    assert (flat([optimizer.extrapolated()[b]]) == before).all()
    optimizer.halve_step()
    assert (flat([b]) == before).all()


@pytest.mark.parametrize("n_halvings", [0, 1, 3])
def test_others_that_take_a_step_are_at_the_same_extrapolated_point(n_halvings):
    """Bit for bit; half a step is not measured from θ_t but from θ_{t+1}, which rounds in another way."""
    rng = np.random.default_rng(0)
    (a,) = parameters(rng, th.float32, [(5000,)])
    (b,) = th.nn.ParameterList([a.detach().clone()])
    first, other = NIGT([a], lr=0.2, eta=0.5), NIGT([b], lr=0.2, eta=0.5)

    def step():
        first.step()
        for _ in range(n_halvings):
            first.halve_step()

    for _ in range(3):
        set_gradients([a], rng.standard_normal(5000))
        other.take_step(first.made_by(step))
        assert (flat([a]) == flat([b])).all()
        assert (flat(first.extrapolated()) == flat(other.extrapolated())).all()


def test_zero_direction_stays():
    params = parameters(np.random.default_rng(8), th.float32)
    size = len(flat(params))
    optimizer = NIGT(params, lr=0.1, eta=0.5)
    assert (one_step(params, optimizer, np.zeros(size)) == 0).all()
    assert (flat(optimizer.extrapolated()) == flat(params)).all()
    assert np.linalg.norm(one_step(params, optimizer, np.ones(size))) == pytest.approx(0.1, rel=1e-5)


def unscaled_step(g, dtype):
    """A step of length 0.1 from the origin, where no digit of the movement is lost."""
    p = th.nn.Parameter(th.zeros(len(g), dtype=dtype))
    return one_step([p], NIGT([p], lr=0.1), g)


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1.0, 1e20, 1e30, 1e38])
def test_step_length_does_not_depend_on_the_scale(scale):
    """(3, 0, -4)/5 · 0.1; the squares of these numbers are not float32 numbers."""
    moved = unscaled_step(np.array([3.0, 0.0, -4.0]) * scale / 4, th.float32)
    np.testing.assert_allclose(moved, [-0.06, 0.0, 0.08], rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("g", "dtype"),
    [
        ([0.0, 1e-40], th.float32),  # 1/‖d‖ = 1e40 is beyond float32, and 0·inf is not a number
        ([0.0, 2e-6], th.float16),  # 1/‖d‖ = 5e5 is beyond float16
    ],
)
def test_step_length_at_the_smallest_numbers(g, dtype):
    moved = unscaled_step(np.array(g), dtype)
    np.testing.assert_allclose(moved, [0.0, -0.1], rtol=1e-3, atol=0)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("seed", range(5))
def test_minimises_a_noisy_quadratic(seed):
    """
    Criterion: the gradient norm at the end is below the noise of the direction.

    On a quadratic d_t = ∇f(θ_t) + z_t with z_t = (1-η) z_{t-1} + η ε_t, so E‖z‖² → dim·σ²·η/(2-η) = ρ². A step along -d_t
    goes downhill whenever ‖∇f‖ > ‖z‖, so a learning rate that decays to 0 leads to ‖∇f‖ < ρ. The start has ‖∇f‖ > 50 ρ.
    """
    dim, sigma, eta, n_rounds = 10, 1.0, 0.05, 1000
    generator = th.Generator().manual_seed(seed)
    curvature = th.linspace(0.5, 5.0, dim, dtype=th.float64)
    optimum = th.linspace(-2.0, 3.0, dim, dtype=th.float64)
    theta = th.nn.Parameter(optimum + 5 * th.ones(dim, dtype=th.float64))
    optimizer = NIGT([theta], lr=0.2, eta=eta)
    schedule = th.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1 - t / n_rounds)
    rho = sigma * (dim * eta / (2 - eta)) ** 0.5
    assert (curvature * (theta - optimum)).norm() > 50 * rho
    for _ in range(n_rounds):
        point = optimizer.extrapolated()[theta]
        point.requires_grad_(True)
        loss = 0.5 * (curvature * (point - optimum) ** 2).sum()
        (gradient,) = th.autograd.grad(loss, point)
        theta.grad = gradient + sigma * th.randn(dim, generator=generator, dtype=th.float64)
        optimizer.step()
        schedule.step()
    assert (curvature * (theta - optimum)).norm() < rho


def test_closure_runs_with_gradients_and_gives_the_loss():
    p = th.nn.Parameter(th.tensor([3.0, 4.0], dtype=th.float64))
    optimizer = NIGT([p], lr=1.0)

    def closure():
        optimizer.zero_grad()
        loss = 0.5 * (p**2).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 12.5
    assert p.tolist() == pytest.approx([2.4, 3.2], abs=1e-15)  # one unit towards the origin, 5 away


@pytest.mark.parametrize("value", [-0.1, float("inf"), float("nan"), "0.1", None, True])
def test_invalid_learning_rate(value):
    with pytest.raises(ValueError, match=rf"^lr={value!r} is not allowed: give a finite number in \[0, inf\)\.$"):
        NIGT([th.nn.Parameter(th.zeros(1))], lr=value)


@pytest.mark.parametrize("value", [0.0, -0.5, 1.5, float("nan"), "0.1", None, True])
def test_invalid_eta(value):
    message = rf"^eta={value!r} is not allowed: give a finite number in \(0, 1\]\.$"
    p = th.nn.Parameter(th.ones(1))
    with pytest.raises(ValueError, match=message):
        NIGT([p], eta=value)
    optimizer = NIGT([p])
    optimizer.param_groups[0]["eta"] = value  # what a schedule might do
    with pytest.raises(ValueError, match=message):
        optimizer.extrapolated()
    p.grad = th.ones(1)
    with pytest.raises(ValueError, match=message):
        optimizer.step()
    assert p.item() == 1.0
