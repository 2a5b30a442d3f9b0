"""The value network."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor
from torch import nn


class ValueNetwork(nn.Module):
    """
    V(s, k): a features extractor, then an MLP on its features and, with K > 1 tasks, the one-hot task.

    ``forward`` returns normalised units, ``real_values`` multiplies by the buffer ``reward_scale``.

    :param observation_space: of what the policy sees
    :param n_tasks: K
    :param net_arch: sizes of the hidden layers
    :param activation_fn: activation between the layers
    :param ortho_init: orthogonal initialisation with gain √2, 1 for the last layer, and zero biases, as in PPO
    :param features_extractor_class: the policy's class of features extractor; the network has its own copy
    :param features_extractor_kwargs: its keyword arguments
    :param normalize_images: divide images by 255
    """

    reward_scale: th.Tensor

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        n_tasks: int = 1,
        net_arch: Sequence[int] = (64, 64),
        activation_fn: type[nn.Module] = nn.Tanh,
        ortho_init: bool = True,
        features_extractor_class: type[BaseFeaturesExtractor] = FlattenExtractor,
        features_extractor_kwargs: dict[str, Any] | None = None,
        normalize_images: bool = True,
    ) -> None:
        super().__init__()
        self.observation_space, self.n_tasks, self.normalize_images = observation_space, n_tasks, normalize_images
        own_kwargs = copy.deepcopy(features_extractor_kwargs or {})  # a module in them would be shared with the policy
        self.features_extractor = features_extractor_class(observation_space, **own_kwargs)
        sizes = [self.features_extractor.features_dim + (n_tasks if n_tasks > 1 else 0), *net_arch]
        hidden = [(nn.Linear(below, above), activation_fn()) for below, above in pairwise(sizes)]
        self.hidden = nn.Sequential(*(module for layer in hidden for module in layer))
        self.value_net = nn.Linear(sizes[-1], 1)
        self.register_buffer("reward_scale", th.ones((), dtype=th.float64))
        if ortho_init:
            gains = {self.features_extractor: np.sqrt(2), self.hidden: np.sqrt(2), self.value_net: 1.0}
            for module, gain in gains.items():
                module.apply(partial(BasePolicy.init_weights, gain=gain))

    @property
    def device(self) -> th.device:
        """Where the parameters are."""
        return self.value_net.weight.device

    def mlp_inputs(self, observations: Any, tasks: th.Tensor | None = None) -> th.Tensor:
        """
        Return the features and the one-hot task.

        :param observations: batch of tensors, as the policy's normaliser returns them
        :param tasks: number of each row's task, int64, shape (batch,); only read with K > 1. Tasks that the network was not
            made for, as after a change of the environment, are all the same to it
        :return: in the precision of the parameters, shape (batch, inputs of the MLP)
        :raises ValueError: if K > 1 and there are no tasks
        """
        preprocessed = preprocess_obs(observations, self.observation_space, self.normalize_images)
        features: th.Tensor = self.features_extractor(preprocessed)
        if self.n_tasks > 1:
            if tasks is None:
                raise ValueError(f"tasks=None is not allowed with {self.n_tasks} tasks: give the task of each observation.")
            one_hot = tasks[:, None] == th.arange(self.n_tasks, device=tasks.device)
            features = th.cat([features, one_hot.to(features)], dim=1)
        return features.to(self.value_net.weight.dtype)

    def forward(self, observations: Any, tasks: th.Tensor | None = None) -> th.Tensor:
        """
        Return V in normalised units.

        :param observations: batch of tensors, as the policy's normaliser returns them
        :param tasks: see ``mlp_inputs``
        :return: shape (batch,)
        """
        values: th.Tensor = self.value_net(self.hidden(self.mlp_inputs(observations, tasks)))
        return values.squeeze(dim=1)

    def real_values(self, observations: Any, tasks: th.Tensor | None = None) -> th.Tensor:
        """
        Return V in the units of the environment's rewards.

        :param observations: batch of tensors, as the policy's normaliser returns them
        :param tasks: see ``mlp_inputs``; None with K > 1: the mean over the tasks
        :return: shape (batch,)
        """
        if tasks is not None or self.n_tasks == 1:
            values: th.Tensor = self(observations, tasks)
            return values * self.reward_scale.to(values)
        first = next(iter(observations.values())) if isinstance(observations, dict) else observations
        of_task = [th.full((len(first),), task, dtype=th.int64, device=self.device) for task in range(self.n_tasks)]
        return th.stack([self.real_values(observations, task) for task in of_task]).mean(dim=0)


def seeded_value_network(seed: int, *args: Any, **kwargs: Any) -> ValueNetwork:
    """
    Build a value network whose parameters depend on the seed alone, without touching torch's random numbers.

    :param seed: non-negative integer
    :param args: of ``ValueNetwork``
    :param kwargs: of ``ValueNetwork``
    """
    with th.random.fork_rng(devices=[]):
        th.default_generator.manual_seed(seed)  # of the CPU alone, which is what fork_rng restores
        return ValueNetwork(*args, **kwargs)
