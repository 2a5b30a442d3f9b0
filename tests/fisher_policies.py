"""Policies with each distribution, and what the tests of their Fisher matrices have in common."""

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import FlattenExtractor

from sb3_nigt.parameters import flatten
from sb3_nigt.policies import ActorPolicy

BOX = spaces.Box(-2.0, 2.0, (3,), np.float32)
OURS = {"normalize_observations": False}
HEADS = {  # policy class, action space, arguments
    "softplus gaussian": (ActorPolicy, BOX, {"head": "tanh_gaussian", **OURS}),
    "half-range gaussian": (ActorPolicy, BOX, OURS),
    "gaussian": (ActorCriticPolicy, BOX, {}),
    "categorical": (ActorPolicy, spaces.Discrete(4), OURS),
    "multi categorical": (ActorPolicy, spaces.MultiDiscrete([2, 5, 3]), OURS),
    "bernoulli": (ActorPolicy, spaces.MultiBinary(4), OURS),
}


class DoubleFeatures(FlattenExtractor):
    """Stable-Baselines3 makes observations float32; here they are double again."""

    def forward(self, observations):
        return super().forward(observations).double()


def make_policy(name, observation_size=3, **kwargs):
    policy_class, action_space, arguments = HEADS[name]
    th.manual_seed(0)
    space = spaces.Box(-5.0, 5.0, (observation_size,), np.float32)
    policy = policy_class(space, action_space, lambda _: 0.0, **{"net_arch": [4], "ortho_init": False, **arguments, **kwargs})
    policy.set_training_mode(False)
    return policy


def sample(policy, n=6, seed=0):
    return np.random.default_rng(seed).uniform(-2, 2, (n, *policy.observation_space.shape)).astype(np.float32)


def double_point(policy):
    """Parameters in double precision, away from the initial ones, where biases and log-stds are 0."""
    vector = flatten(policy).astype(np.float64)
    return vector + 0.3 * np.random.default_rng(1).standard_normal(len(vector))


def dense(product, size):
    return np.stack([product(th.from_numpy(e)).numpy() for e in np.eye(size)], axis=1)
