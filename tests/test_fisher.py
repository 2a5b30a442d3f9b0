"""Products with the Fisher matrix: against the KL divergence written out in NumPy, by hand, and against each other."""

import copy

import numpy as np
import pytest
import torch as th
from fisher_policies import HEADS, DoubleFeatures, dense, double_point, make_policy, sample
from gymnasium import spaces
from sb3_contrib.common.utils import conjugate_gradient_solver
from stable_baselines3.common.distributions import kl_divergence
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor
from torch import nn

from sb3_nigt import NIGT
from sb3_nigt.algorithms.fisher_sample import FisherSample
from sb3_nigt.algorithms.update import descend, stay_near
from sb3_nigt.messages import SamplingPoint
from sb3_nigt.parameters import Layout, flatten
from sb3_nigt.policies import MIN_STD, ActorPolicy, MultiInputActorPolicy
from sb3_nigt.replica.fisher import AutogradFisher, fisher_product, kl, metric, outputs_at
from sb3_nigt.replica.mlp_fisher import MlpFisher

# The divergence of each distribution in NumPy, from a flat vector of parameters to one number for each observation


def numpy_outputs(policy, vector, observations):
    """A tanh MLP from the names of its parameters."""
    values, position = {}, 0
    for name, p in policy.named_parameters():
        values[name] = vector[position : position + p.numel()].reshape(p.shape)
        position += p.numel()
    h = observations.astype(np.float64)
    for i in range(0, 2 * len(policy.net_arch), 2):
        h = np.tanh(h @ values[f"mlp_extractor.policy_net.{i}.weight"].T + values[f"mlp_extractor.policy_net.{i}.bias"])
    return h @ values["action_net.weight"].T + values["action_net.bias"], values.get("log_std")


def gaussian_kl(mean, std, new_mean, new_std):
    return (np.log(new_std / std) + (std**2 + (mean - new_mean) ** 2) / (2 * new_std**2) - 0.5).sum(1)


def softplus_gaussian_kl(old, new):
    (mean, raw), (new_mean, new_raw) = np.split(old[0], 2, axis=1), np.split(new[0], 2, axis=1)
    return gaussian_kl(mean, np.log1p(np.exp(raw)) + MIN_STD, new_mean, np.log1p(np.exp(new_raw)) + MIN_STD)


def softmax(x):
    return np.exp(x) / np.exp(x).sum(1, keepdims=True)


def categorical_kl(old, new):
    p, q = softmax(old), softmax(new)
    return (p * np.log(p / q)).sum(1)


def multi_categorical_kl(old, new):
    parts = zip(np.split(old[0], [2, 7], axis=1), np.split(new[0], [2, 7], axis=1), strict=True)
    return sum(categorical_kl(p, q) for p, q in parts)


def bernoulli_kl(old, new):
    p, q = 1 / (1 + np.exp(-old[0])), 1 / (1 + np.exp(-new[0]))
    return (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).sum(1)


NUMPY_KL = {
    "softplus gaussian": softplus_gaussian_kl,
    "half-range gaussian": lambda old, new: gaussian_kl(old[0], np.exp(old[1]), new[0], np.exp(new[1])),
    "gaussian": lambda old, new: gaussian_kl(old[0], np.exp(old[1]), new[0], np.exp(new[1])),
    "categorical": lambda old, new: categorical_kl(old[0], new[0]),
    "multi categorical": multi_categorical_kl,
    "bernoulli": bernoulli_kl,
}


def numpy_divergence(name, policy, here, there, observations, weights=None):
    old, new = (numpy_outputs(policy, vector, observations) for vector in (here, there))
    return np.average(NUMPY_KL[name](old, new), weights=weights)


def numpy_hessian(function, size, step=1e-3):
    """Central second differences, of fourth order along each direction e_i ± e_j."""

    def curvature(v):
        return (16 * (function(step * v) + function(-step * v)) - function(2 * step * v) - function(-2 * step * v)) / (
            12 * step**2
        )

    e = np.eye(size)
    h = np.diag([curvature(e[i]) for i in range(size)])
    for i in range(size):
        for j in range(i):
            h[i, j] = h[j, i] = (curvature(e[i] + e[j]) - curvature(e[i] - e[j])) / 4
    return h


# Products


@pytest.mark.one_in(4)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", HEADS)
def test_products_are_the_hessian_of_the_kl(name, weighted):
    """Every entry of F in double precision, for both ways to compute it. Entries of a critic are zero."""
    policy = make_policy(name, observation_size=2)
    observations, vector = sample(policy, 4), double_point(policy)
    weights = np.array([0.5, 0.0, 2.0, 1.0]) if weighted else None
    actor = np.concatenate([np.full(p.numel(), "value" not in n) for n, p in policy.named_parameters()])
    where = np.flatnonzero(actor)

    def divergence(move):
        there = vector.copy()
        there[where] += move
        return numpy_divergence(name, policy, vector, there, observations, weights)

    expected = np.zeros((len(vector), len(vector)))
    expected[np.ix_(where, where)] = numpy_hessian(divergence, len(where))
    by_hand = MlpFisher(policy, Layout(policy), vector, observations, weights)
    np.testing.assert_allclose(dense(by_hand, len(vector)), expected, rtol=0, atol=1e-8)
    reference = make_policy(name, observation_size=2, features_extractor_class=DoubleFeatures).double()
    by_autograd = AutogradFisher(reference, Layout(reference), vector, observations, weights)
    np.testing.assert_allclose(dense(by_autograd, len(vector)), expected, rtol=0, atol=1e-8)
    assert np.linalg.matrix_rank(expected, tol=1e-6) > 4


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("activation_fn", [nn.Tanh, nn.ReLU])
@pytest.mark.parametrize("net_arch", [[], [7], [8, 5, 4]])
@pytest.mark.parametrize("name", HEADS)
def test_by_hand_equals_autograd(name, net_arch, activation_fn, weighted):
    policy = make_policy(name, net_arch=net_arch, activation_fn=activation_fn)
    rng = np.random.default_rng(2)
    vector = flatten(policy) + 0.3 * rng.standard_normal(len(flatten(policy))).astype(np.float32)
    observations, weights = sample(policy, 20), rng.uniform(0, 3, 20) if weighted else None
    by_hand, by_autograd = (c(policy, Layout(policy), vector, observations, weights) for c in (MlpFisher, AutogradFisher))
    for _ in range(3):
        v = th.from_numpy(rng.standard_normal(len(vector)).astype(np.float32))
        expected = by_autograd(v)
        assert by_hand(v).dtype == th.float32
        th.testing.assert_close(by_hand(v), expected, rtol=2e-5, atol=2e-5 * float(expected.abs().max()))
        assert float(expected.norm()) > 0.1


def test_a_linear_gaussian_by_hand():
    """
    μ = w s + b, σ = exp(l) = 2, one observation s = 3: F = [[s², s], [s, 1]]/σ² in (w, b), and 2 in l.

    v = (l: 1, w: 2, b: 4): F v = (2, (9·2 + 3·4)/4, (3·2 + 4)/4) = (2, 7.5, 2.5).
    """
    space = spaces.Box(-5.0, 5.0, (1,), np.float32)
    policy = ActorCriticPolicy(space, spaces.Box(-1.0, 1.0, (1,), np.float32), lambda _: 0.0, net_arch=[])
    names = [name for name, _ in policy.named_parameters()]
    assert names == ["log_std", "action_net.weight", "action_net.bias", "value_net.weight", "value_net.bias"]
    vector = np.array([np.log(2), -0.5, 0.3, 1.0, 1.0], dtype=np.float32)
    for kind in (MlpFisher, AutogradFisher):
        product = kind(policy, Layout(policy), vector, np.array([[3.0]], dtype=np.float32))
        np.testing.assert_allclose(product(th.tensor([1.0, 2.0, 4.0, 7.0, 7.0])), [2, 7.5, 2.5, 0, 0], rtol=1e-5)


@pytest.mark.parametrize("kind", [MlpFisher, AutogradFisher])
def test_a_weight_counts_how_often_an_observation_is_there(kind):
    policy = make_policy("softplus gaussian")
    observations, vector = sample(policy, 3), flatten(policy)
    v = th.randn(len(vector), generator=th.Generator().manual_seed(0))
    repeated = kind(policy, Layout(policy), vector, observations[[0, 0, 0, 2]])(v)
    for scale in (1.0, 0.01):
        th.testing.assert_close(kind(policy, Layout(policy), vector, observations, scale * np.array([3, 0, 1]))(v), repeated)


@pytest.mark.parametrize("kind", [MlpFisher, AutogradFisher])
def test_symmetric_and_positive(kind):
    policy = make_policy("multi categorical", net_arch=[5, 5])
    vector = flatten(policy)
    product = kind(policy, Layout(policy), vector, sample(policy))
    u, v = th.randn(2, len(vector), generator=th.Generator().manual_seed(0))
    assert float(u @ product(v)) == pytest.approx(float(v @ product(u)), rel=1e-4)
    assert float(v @ product(v)) > 0
    th.testing.assert_close(product(2 * u - 3 * v), 2 * product(u) - 3 * product(v), rtol=1e-4, atol=1e-5)


# Which way


def test_an_mlp_goes_by_hand_and_others_do_not():
    policy = make_policy("softplus gaussian")
    assert isinstance(fisher_product(policy, Layout(policy), flatten(policy), sample(policy)), MlpFisher)
    policy.mlp_extractor.policy_net[0].bias.requires_grad_(False)
    assert isinstance(fisher_product(policy, Layout(policy), flatten(policy), sample(policy)), AutogradFisher)
    other = make_policy("softplus gaussian", activation_fn=nn.ELU)
    assert isinstance(fisher_product(other, Layout(other), flatten(other), sample(other)), AutogradFisher)


def test_dict_observations():
    """Two vectors in a dict are one MLP policy on both together."""
    policy = make_policy("categorical", observation_size=3)
    parts = spaces.Dict({"a": spaces.Box(-5.0, 5.0, (1,), np.float32), "b": spaces.Box(-5.0, 5.0, (2,), np.float32)})
    multi = MultiInputActorPolicy(parts, policy.action_space, lambda _: 0.0, net_arch=[4])
    observations, vector = sample(policy), flatten(policy)
    v = th.randn(len(vector), generator=th.Generator().manual_seed(0))
    product = fisher_product(multi, Layout(multi), vector, {"a": observations[:, :1], "b": observations[:, 1:]})
    th.testing.assert_close(product(v), MlpFisher(policy, Layout(policy), vector, observations)(v))


def test_images():
    """Convolutions, bytes scaled to [0, 1]: uᵀFu against the measured divergence of a small step."""
    space = spaces.Box(0, 255, (1, 36, 36), np.uint8)
    th.manual_seed(0)
    policy = ActorPolicy(space, spaces.Discrete(3), lambda _: 0.0, net_arch=[], features_extractor_class=SmallCnn)
    vector = flatten(policy)
    observations = np.random.default_rng(0).integers(0, 255, (5, 1, 36, 36), dtype=np.uint8)
    product = fisher_product(policy, Layout(policy), vector, observations)
    u = product(th.randn(len(vector), generator=th.Generator().manual_seed(1)))  # a direction that the sample can tell
    u *= 0.02 / float(u @ product(u)) ** 0.5
    moved = outputs_at(policy, Layout(policy), vector + u.numpy(), observations)
    assert float(kl(outputs_at(policy, Layout(policy), vector, observations), moved)) == pytest.approx(0.0002, rel=0.05)


@pytest.mark.parametrize("is_image", [True, False])
def test_without_a_preconditioner_the_conjugate_gradients_stop_early(is_image):
    """With one they stop where another product changes little, and a residual says nothing."""
    space = spaces.Box(0, 255, (1, 36, 36), np.uint8) if is_image else spaces.Box(-1.0, 1.0, (6,), np.float32)
    extractor = SmallCnn if is_image else FlattenExtractor
    th.manual_seed(0)
    policy = ActorPolicy(space, spaces.Discrete(3), lambda _: 0.0, net_arch=[], features_extractor_class=extractor)
    policy.optimizer = NIGT(list(policy.parameters()), lr=0.1, geometry="natural")
    sampled, layout = FisherSample(50, 1), Layout(policy)
    space.seed(0)
    sampled.rounds.append(np.stack([space.sample() for _ in range(50)]))
    gradient = th.randn(layout.n_parameters, generator=th.Generator().manual_seed(1))
    descend(policy, layout, gradient, sampled, SamplingPoint(0, flatten(policy)))
    assert (policy.optimizer.tolerance, policy.optimizer.preconditioner is None) == (0.05 if is_image else 1e-5, is_image)
    assert not is_image or 1e-5 < policy.optimizer.cg_residual <= 0.05


class SmallCnn(FlattenExtractor):
    def __init__(self, observation_space):
        super().__init__(observation_space)
        self._features_dim = 2 * 4 * 4
        self.layers = nn.Sequential(nn.Conv2d(1, 2, 9, stride=9), nn.Tanh(), nn.Flatten())

    def forward(self, observations):
        return self.layers(observations)


def test_frozen_parameters_take_no_part():
    """Zero in the product, and v has no effect there: the block of the others."""
    policy = make_policy("gaussian")
    observations, vector = sample(policy), flatten(policy)
    v = th.randn(len(vector), generator=th.Generator().manual_seed(0))
    layout, weight = Layout(policy), policy.action_net.weight
    without = v.clone()
    layout.view(without, weight).zero_()
    expected = MlpFisher(policy, layout, vector, observations)(without)
    assert (layout.view(expected, weight) != 0).any()
    layout.view(expected, weight).zero_()
    weight.requires_grad_(False)
    th.testing.assert_close(AutogradFisher(policy, layout, vector, observations)(v), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [MlpFisher, AutogradFisher])
def test_the_policy_stays_as_it_is(kind):
    """It is evaluated at the vector, not at its own parameters, and keeps neither values nor graphs of it."""
    policy = make_policy("softplus gaussian")
    before, observations = flatten(policy), sample(policy)
    elsewhere = before + np.float32(0.5)
    product = kind(policy, Layout(policy), elsewhere, observations)
    v = th.ones(len(before))
    image = product(v)
    copied = copy.deepcopy(policy)  # which a graph would not allow
    outputs_at(policy, Layout(policy), elsewhere, observations)
    assert (flatten(policy) == before).all()
    assert all(p.grad is None and p.requires_grad for p in policy.parameters())
    Layout(copied).load(elsewhere)
    th.testing.assert_close(kind(copied, Layout(copied), flatten(copied), observations)(v), image)
    assert not th.allclose(kind(policy, Layout(policy), before, observations)(v), image, rtol=0.01)


@pytest.mark.parametrize("kind", [MlpFisher, AutogradFisher])
def test_the_vector_belongs_to_the_caller(kind):
    """It may be read-only, and what happens to it afterwards has no effect."""
    policy = make_policy("softplus gaussian")
    vector, v = flatten(policy), th.ones(len(flatten(policy)))
    product = kind(policy, Layout(policy), vector, sample(policy))
    image = product(v)
    vector[:] = 7.0
    th.testing.assert_close(product(v), image, rtol=0, atol=0)
    vector.setflags(write=False)
    assert not th.equal(kind(policy, Layout(policy), vector, sample(policy))(v), image)


class Normalising(FlattenExtractor):
    """Running statistics as buffers, as a normaliser of observations has them."""

    def __init__(self, observation_space):
        super().__init__(observation_space)
        self.register_buffer("mean", th.zeros(self.features_dim))

    def forward(self, observations):
        return super().forward(observations) - self.mean


@pytest.mark.parametrize("kind", [MlpFisher, AutogradFisher])
def test_buffers_are_those_of_the_vector(kind):
    """A shifted mean in the vector is the same as shifted observations; a vector without buffers takes the policy's own."""
    policy = make_policy("softplus gaussian", features_extractor_class=Normalising)
    observations, vector = sample(policy), flatten(policy)
    v = th.randn(len(vector) - 3, generator=th.Generator().manual_seed(0))
    shifted = vector.copy()
    shifted[-3:] = 0.5
    expected = kind(policy, Layout(policy), vector, observations - np.float32(0.5))(v)
    th.testing.assert_close(kind(policy, Layout(policy), shifted, observations)(v), expected, rtol=1e-4, atol=1e-5)
    policy.features_extractor.mean.fill_(0.5)
    th.testing.assert_close(kind(policy, Layout(policy), vector[:-3], observations)(v), expected, rtol=1e-4, atol=1e-5)


class BatchNorm(FlattenExtractor):
    """A features extractor with parameters and buffers; the policy has two names for it."""

    def __init__(self, observation_space):
        super().__init__(observation_space)
        self.norm = nn.BatchNorm1d(self.features_dim)

    def forward(self, observations):
        return self.norm(super().forward(observations))


def test_the_policy_keeps_its_own_tensors():
    policy = make_policy("gaussian", features_extractor_class=BatchNorm)
    tensors = [*policy.parameters(), *policy.buffers()]
    values = [tensor.clone() for tensor in tensors]
    vector = flatten(policy) + np.float32(0.1)
    AutogradFisher(policy, Layout(policy), vector, sample(policy))(th.ones(len(vector)))
    assert [id(tensor) for tensor in tensors] == [id(tensor) for tensor in (*policy.parameters(), *policy.buffers())]
    assert all(th.equal(tensor, value) for tensor, value in zip(tensors, values, strict=True))


# The divergence


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", HEADS)
def test_kl_equals_numpy(name, weighted):
    policy = make_policy(name)
    observations, here = sample(policy), flatten(policy)
    there = here + 0.3 * np.random.default_rng(3).standard_normal(len(here)).astype(np.float32)
    weights = np.array([1.0, 0.0, 2.0, 5.0, 1.0, 1.0]) if weighted else None
    outputs = [outputs_at(policy, Layout(policy), vector, observations) for vector in (here, there)]
    forth, back = (float(kl(*pair, weights)) for pair in (outputs, outputs[::-1]))
    assert forth == pytest.approx(numpy_divergence(name, policy, here, there, observations, weights), rel=1e-4)
    assert back == pytest.approx(numpy_divergence(name, policy, there, here, observations, weights), rel=1e-4)
    assert abs(forth - back) > 1e-3 * forth  # the order matters
    assert float(kl(outputs[0], outputs[0])) == 0.0


@pytest.mark.parametrize("geometry", ["euclidean_kl", "natural"])
@pytest.mark.parametrize("name", HEADS)
def test_the_step_has_the_predicted_divergence(name, geometry):
    """A step of length α changes the policy by KL = α²/2 up to order α³; the natural norm contains λI as well."""
    policy = make_policy(name, net_arch=[8, 8])
    observations, here = sample(policy, 50), flatten(policy)
    params, layout = list(policy.parameters()), Layout(policy)
    product = fisher_product(policy, layout, here, observations)
    for alpha, error in ((0.1, 0.15), (0.02, 0.03)):
        layout.load(here)
        optimizer = NIGT(params, lr=alpha, eta=1.0, geometry=geometry, damping=1e-3)
        optimizer.metric = metric(product, layout, params)
        g = product(th.randn(len(here), generator=th.Generator().manual_seed(0)))  # a direction that the sample can tell
        for p, part in layout.by_parameter(g):
            p.grad = part.clone()
        optimizer.step()
        outputs = [outputs_at(policy, layout, vector, observations) for vector in (here, flatten(policy))]
        measured = float(kl(*outputs))
        assert measured == pytest.approx(optimizer.predicted_kl, rel=error)
        assert optimizer.predicted_kl == pytest.approx(alpha**2 / 2, rel=1e-12 if geometry == "euclidean_kl" else 0.05)
        assert optimizer.n_fallbacks == 0


@pytest.mark.parametrize("damping", [1e-6, 0.1])
def test_an_update_stays_near(damping):
    """Hardly damped, a step of α = 0.5 goes far beyond its KL of 0.125: it is halved. A damped one is left alone."""
    policy = make_policy("gaussian", net_arch=[8, 8])
    policy.optimizer = NIGT(list(policy.parameters()), lr=0.5, eta=1.0, geometry="natural", damping=damping)
    layout, here, observations = Layout(policy), flatten(policy), sample(policy, 50)
    policy.optimizer.metric = metric(fisher_product(policy, layout, here, observations[:2]), layout, list(policy.parameters()))
    for p in policy.parameters():
        p.grad = th.ones_like(p)
    policy.optimizer.step()
    far, predicted = flatten(policy) - here, policy.optimizer.predicted_kl
    stay_near(policy, layout, observations, here)
    measured = float(kl(*(outputs_at(policy, layout, vector, observations) for vector in (here, flatten(policy)))))
    n = policy.optimizer.n_halvings
    assert (n > 0) == (damping < 0.1)
    np.testing.assert_allclose(flatten(policy) - here, far / 2**n, atol=1e-6 * np.abs(far).max())
    assert policy.optimizer.predicted_kl == pytest.approx(predicted / 4**n)
    assert 0 < measured <= 5 * 0.125


def test_a_short_step_is_not_halved_for_its_rounding_errors():
    """α = 10⁻⁵ stands for a KL of 5 · 10⁻¹¹, which float32 cannot tell from 0: here 10⁻⁶ is measured in its place."""
    policy = make_policy("gaussian", net_arch=[8, 8])
    policy.optimizer = NIGT(list(policy.parameters()), lr=1e-5, eta=1.0)
    for p in policy.parameters():
        p.grad = th.ones_like(p)
    policy.optimizer.step()
    layout, observations = Layout(policy), sample(policy, 50)
    before = flatten(policy) + np.float32(1e-4)
    points = (outputs_at(policy, layout, vector, observations) for vector in (before, flatten(policy)))
    assert 5 * 5e-11 < float(kl(*points)) < 1e-3
    stay_near(policy, layout, observations, before)
    assert policy.optimizer.n_halvings == 0


# TRPO


def test_natural_has_the_direction_of_trpo():
    """
    η = 1, the same policy, observations and gradient as sb3_contrib's TRPO: its conjugate gradients on its own products.

    One action component: TRPO averages the divergence over the components, where the divergence of the policy is their sum.
    """
    th.manual_seed(0)
    space = spaces.Box(-5.0, 5.0, (4,), np.float32)
    policy = ActorCriticPolicy(space, spaces.Box(-1.0, 1.0, (1,), np.float32), lambda _: 0.0)
    names, params = zip(*[(n, p) for n, p in policy.named_parameters() if "value" not in n], strict=True)
    observations = sample(policy, 100)
    obs_tensor = th.from_numpy(observations)
    distribution = policy.get_distribution(obs_tensor)
    objective = (distribution.log_prob(th.randn(100, 1)) * th.randn(100)).mean()
    g = th.autograd.grad(objective, params, retain_graph=True)
    old = copy.copy(distribution)
    old.distribution = th.distributions.Normal(*(x.detach() for x in (old.distribution.mean, old.distribution.stddev)))
    gradient_of_kl = th.autograd.grad(kl_divergence(distribution, old).mean(), params, create_graph=True)

    def product(vector):
        slope = (th.cat([x.reshape(-1) for x in gradient_of_kl]) * vector).sum()
        return th.cat([x.reshape(-1) for x in th.autograd.grad(slope, params, retain_graph=True)]) + 0.1 * vector

    gradient = th.cat([x.reshape(-1) for x in g])
    direction = conjugate_gradient_solver(product, gradient, max_iter=15)
    trpo = 0.1 * direction / (direction @ product(direction)) ** 0.5
    assert "log_std" in names
    layout = Layout(policy)
    optimizer = NIGT(params, lr=0.1, eta=1.0, geometry="natural")
    optimizer.metric = metric(fisher_product(policy, layout, flatten(policy), observations), layout, params)
    before = flatten(policy)
    for p, part in zip(params, g, strict=True):
        p.grad = -part  # ascent
    optimizer.step()
    change = th.from_numpy(flatten(policy) - before)
    moved = th.cat([layout.view(change, p).reshape(-1) for p in params])
    assert float(th.cosine_similarity(moved, trpo, dim=0)) > 0.9999
    assert float(moved.norm()) == pytest.approx(float(trpo.norm()), rel=1e-3)
    assert float(th.cosine_similarity(moved, gradient, dim=0)) < 0.95  # which is another direction


@pytest.mark.parametrize("kind", [MlpFisher, AutogradFisher])
def test_the_policy_is_left_as_it_was(kind):
    policy = make_policy("half-range gaussian", features_extractor_class=DoubleFeatures).double()
    with th.no_grad():
        for p in policy.parameters():
            p.add_(1e-12)  # which a vector in float32 cannot hold
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    layout = Layout(policy)
    point = layout.flatten() + 1
    kind(policy, layout, point, sample(policy))
    outputs_at(policy, layout, point, sample(policy))
    for name, value in policy.state_dict().items():
        assert th.equal(value, before[name]), name


class Attention(BaseFeaturesExtractor):
    """Each observation is a sequence of numbers."""

    def __init__(self, observation_space):
        super().__init__(observation_space, 8)
        self.embed = nn.Linear(1, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 8, dropout=0.0, batch_first=True)

    def forward(self, observations):
        return self.layer(self.embed(observations[..., None])).mean(dim=1)


def test_attention_has_a_metric():
    """torch's quick kernels have no second derivatives; vᵀFv is twice the KL of a small step along v."""
    policy = make_policy("gaussian", features_extractor_class=Attention)
    policy.set_training_mode(False)
    layout, vector, observations = Layout(policy), flatten(policy), sample(policy)
    v = th.randn(layout.n_parameters, generator=th.Generator().manual_seed(0)) / layout.n_parameters**0.5
    predicted = float(v @ fisher_product(policy, layout, vector, observations)(v))
    size = 0.02
    points = (outputs_at(policy, layout, vector[: layout.n_parameters] + s * size * v.numpy(), observations) for s in (0, 1))
    assert 2 * float(kl(*points)) / size**2 == pytest.approx(predicted, rel=0.05)
