"""The approximate inverse of the Fisher matrix: exact where it can be, and good enough for conjugate gradients."""

import numpy as np
import pytest
import torch as th
from fisher_policies import HEADS, dense, double_point, make_policy, sample
from torch import nn

from sb3_nigt.optimizers.geometry import conjugate_gradients
from sb3_nigt.parameters import Layout, flatten
from sb3_nigt.replica.mlp_fisher import MlpFisher


def outer_products(policy, product, vector):
    """Dense F, and for each layer the indices of its weight and bias in the flat vector."""
    places, position = {}, 0
    for name, p in policy.named_parameters():
        places[name] = np.arange(position, position + p.numel()).reshape(p.shape)
        position += p.numel()
    return dense(product, len(vector)), places


def test_the_approximate_inverse_is_exact_where_a_layer_is_alone_and_its_factors_are_independent():
    """
    A linear Gaussian policy: the Fisher matrix by the outputs is 1/σ² whatever the observation, so F of the layer is exactly
    A ⊗ G. Then (A + π√λ I) ⊗ (G + √λ/π I) is inverted, π² the ratio of the mean diagonals; and log σ exactly.
    """
    policy = make_policy("half-range gaussian", net_arch=[])
    vector, observations, damping = double_point(policy), sample(policy, 400), 0.3
    fisher = MlpFisher(policy, Layout(policy), vector, observations)
    inverse = dense(fisher.approximate_inverse(damping), len(vector))
    f, places = outer_products(policy, fisher, vector)
    weight, bias, log_std = (places[name] for name in ("action_net.weight", "action_net.bias", "log_std"))
    a = np.column_stack([observations, np.ones(400)])
    a = a.T @ a / 400
    n_actions = len(bias)
    blocks = np.column_stack([weight, bias])  # [W b], one row an output
    precision = f[np.ix_(bias, bias)]
    np.testing.assert_allclose(inverse[log_std, log_std], 1 / (2 + damping), rtol=1e-12)
    for output in range(n_actions):
        # the second moment of the noise is an estimate of the identity: compare up to one factor an output
        own = inverse[np.ix_(blocks[output], blocks[output])]
        ratio = np.sqrt(a.diagonal().mean() / precision.diagonal().mean())
        expected = np.linalg.inv(a + ratio * np.sqrt(damping) * np.eye(len(a)))
        np.testing.assert_allclose(own / own[-1, -1], expected / expected[-1, -1], rtol=0.1, atol=0.02)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", HEADS)
def test_the_approximate_inverse_is_symmetric_positive_and_close(name, weighted):
    """Conjugate gradients need the first two; the last one makes them quick: after a few products the error is smaller."""
    policy = make_policy(name, net_arch=[6, 5])
    vector, observations, damping = double_point(policy), sample(policy, 300), 0.01
    weights = np.random.default_rng(3).uniform(0, 2, 300) if weighted else None
    layout = Layout(policy)
    fisher = MlpFisher(policy, layout, vector, observations, weights)
    actor = np.flatnonzero(np.concatenate([np.full(p.numel(), "value" not in n) for n, p in policy.named_parameters()]))
    f = dense(fisher, len(vector))[np.ix_(actor, actor)] + damping * np.eye(len(actor))
    inverse = dense(fisher.approximate_inverse(damping), len(vector))[np.ix_(actor, actor)]
    np.testing.assert_allclose(inverse, inverse.T, rtol=0, atol=1e-9 * np.abs(inverse).max())
    assert np.linalg.eigvalsh(inverse).min() > 0
    b = th.from_numpy(f @ np.random.default_rng(4).standard_normal(len(actor)))
    exact, errors = th.linalg.solve(th.from_numpy(f), b), []
    for precondition in (lambda v: th.from_numpy(inverse) @ v, None):
        solution = conjugate_gradients(lambda v: th.from_numpy(f) @ v, b, 8, precondition=precondition)
        error = solution[0] - exact
        errors.append(float(error @ th.from_numpy(f) @ error))
    assert errors[0] < 0.6 * errors[1], errors


@pytest.mark.parametrize("name", HEADS)
def test_the_root_of_a_head_has_its_covariance(name):
    """B Bᵀ = M for each observation, B column by column."""
    policy = make_policy(name)
    vector, observations = double_point(policy), sample(policy, 3)
    head = MlpFisher(policy, Layout(policy), vector, observations, np.array([0.2, 1.0, 3.0]))._head
    n_outputs = policy.action_net.out_features
    columns = [th.zeros(3, n_outputs, dtype=th.float64).index_fill_(1, th.tensor([i]), 1.0) for i in range(n_outputs)]
    root, matrix = (th.stack([function(c) for c in columns], dim=2) for function in (head.root, head.product))
    th.testing.assert_close(root @ root.transpose(1, 2), matrix)


def test_units_that_are_all_off_have_an_inverse():
    policy = make_policy("half-range gaussian", activation_fn=nn.ReLU)
    vector, layout = flatten(policy), Layout(policy)
    layout.view(vector, policy.mlp_extractor.policy_net[0].bias)[:] = -100.0
    inverse = MlpFisher(policy, layout, vector, sample(policy)).approximate_inverse(0.1)
    assert bool(th.isfinite(inverse(th.ones(len(vector)))).all())
    vector[:] = np.nan
    assert MlpFisher(policy, layout, vector, sample(policy)).approximate_inverse(0.1) is None
