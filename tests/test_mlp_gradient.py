"""The gradient by hand against autograd: the same numbers for every action space, depth and activation."""

import numpy as np
import pytest
import torch as th
from envs import LengthFromSeedEnv, coefficients, collect, contributions, job, make_policy, prepared
from gymnasium import spaces
from torch import nn

from sb3_nigt import SimulatedVecEnv
from sb3_nigt.messages import SamplingPoint, TrajectoryKey
from sb3_nigt.parameters import flatten, load_flat
from sb3_nigt.policies import MIN_STD, ActorPolicy
from sb3_nigt.replica.gradients import policy_gradient
from sb3_nigt.replica.mlp import bernoulli_score, categorical_score, gaussian_score
from sb3_nigt.replica.network import has_numpy_network
from sb3_nigt.replica.replica import PolicyReplica
from sb3_nigt.sampling.trajectory import Trajectory

ACTION_SPACES = {
    "box": spaces.Box(-2.0, 2.0, (3,), np.float32),
    "discrete": spaces.Discrete(4),
    "multi discrete": spaces.MultiDiscrete([2, 5, 3]),
    "multi binary": spaces.MultiBinary(4),
}


def replica_of(action_space, **policy_kwargs):
    observation_space = spaces.Box(-1.0, 1.0, (2, 3), np.float32)
    return PolicyReplica(make_policy(observation_space, action_space, ActorPolicy, **policy_kwargs))


def trajectory(replica, point, rng, length, number):
    """Random observations and rewards; the samples are what the policy draws."""
    head = replica.head
    observations = rng.uniform(-1, 1, (length, 2, 3)).astype(np.float32)
    samples, actions = head.draw(replica.batch_network(point)(observations), head.noise(rng, length))
    key = TrajectoryKey(0, 0, number)
    rewards = rng.normal(size=length)
    return Trajectory(key, point, observations, observations[-1], samples, actions, rewards, True, False, [{}] * length)


@pytest.mark.parametrize("activation_fn", [nn.Tanh, nn.ReLU])
@pytest.mark.parametrize("net_arch", [[], [7], [8, 5, 4]])
@pytest.mark.parametrize("name", ACTION_SPACES)
def test_equals_autograd(name, net_arch, activation_fn):
    replica = replica_of(ACTION_SPACES[name], net_arch=net_arch, activation_fn=activation_fn)
    assert has_numpy_network(replica.policy)
    rng = np.random.default_rng(1)
    scale = rng.normal(size=len(flatten(replica.policy))).astype(np.float32)
    points = [SamplingPoint(number, flatten(replica.policy) + np.float32(0.3) * scale * number) for number in (1, 2)]
    trajectories = [trajectory(replica, points[k % 2], rng, length, k) for k, length in enumerate((5, 1, 9))]
    weights = [0.5, -2.0, 1.0]
    expected = th.zeros(len(scale))
    for one, weight in zip(trajectories, weights, strict=True):
        load_flat(replica.policy, one.point.parameters)
        expected += policy_gradient(replica.policy, [one], coefficients([one], [weight], 0.9))
    gradient = replica.gradient(trajectories, coefficients(trajectories, weights, 0.9))
    th.testing.assert_close(gradient, expected, rtol=2e-5, atol=2e-5 * float(expected.abs().max()))
    assert float(expected.norm()) > 0.1


def test_frozen_parameters_take_no_part():
    class HalfFrozen(ActorPolicy):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.action_net.requires_grad_(False)

    space = spaces.Box(-1.0, 1.0, (2, 3), np.float32)
    replica = PolicyReplica(make_policy(space, ACTION_SPACES["box"], HalfFrozen))
    point = SamplingPoint(0, flatten(replica.policy))
    trajectories = [trajectory(replica, point, np.random.default_rng(0), 5, 0)]
    gradient = replica.gradient(trajectories, coefficients(trajectories, [1.0], 0.9))
    sizes = [p.numel() for p in replica.policy.parameters()]
    for p, part in zip(replica.policy.parameters(), th.split(gradient, sizes), strict=True):
        assert bool(part.any()) == p.requires_grad


def test_gaussian_score_by_hand():
    """
    μ = 1, s such that σ = softplus(s) + MIN_STD = 2, u = 5: z = 2, so by μ it is z/σ = 1 and by σ (z² - 1)/σ = 3/2.

    dσ/ds = logistic(s) = 1 - exp(-softplus(s)).
    """
    s = np.log(np.expm1(2 - MIN_STD))
    score = gaussian_score(th.tensor([[1.0, s]]), th.tensor([[5.0]]))
    np.testing.assert_allclose(score.numpy(), [[1.0, 1.5 * (1 - np.exp(-(2 - MIN_STD)))]], rtol=1e-5)


def test_categorical_and_bernoulli_scores_by_hand():
    """Logits ln 1, ln 3: probabilities 1/4 and 3/4. A bit of logit ln 3 is one with probability 3/4."""
    logits = th.log(th.tensor([[1.0, 3.0], [1.0, 3.0]]))
    np.testing.assert_allclose(categorical_score(logits, th.tensor([0, 1])).numpy(), [[0.75, -0.75], [-0.25, 0.25]], rtol=1e-5)
    bits = bernoulli_score(th.log(th.tensor([[3.0], [3.0]])), th.tensor([[1.0], [0.0]]))
    np.testing.assert_allclose(bits.numpy(), [[0.25], [-0.75]], rtol=1e-5)


def test_sums_by_worker_are_the_same_up_to_rounding():
    env, point = prepared(SimulatedVecEnv([LengthFromSeedEnv] * 3))
    accepted = contributions(collect(env, [job(point, w, number=k) for k in range(3) for w in range(3)]))
    weights = np.array([0.3, 0.1, 0.7])
    whole = env.gradient(accepted, weights)
    env.sums_by_worker = True
    th.testing.assert_close(env.gradient(accepted, weights), whole, rtol=1e-5, atol=1e-6)
