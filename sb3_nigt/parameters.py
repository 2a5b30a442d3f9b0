"""A policy as one flat float32 vector: what is broadcast, and what the gradient is laid out like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn


@dataclass(frozen=True)
class PolicySpec:
    """
    How to build the policy in another place: class and arguments, never a live policy.

    :param policy_class: the class
    :param observation_space: what the policy sees
    :param action_space: what it acts in
    :param policy_kwargs: its other arguments
    :param device: where it lives
    """

    policy_class: type[ActorCriticPolicy]
    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    policy_kwargs: dict[str, Any]
    device: th.device

    def build(self) -> ActorCriticPolicy:
        """Build the policy in evaluation mode, without touching torch's random numbers."""
        with th.random.fork_rng(devices=[]):
            policy = self.policy_class(self.observation_space, self.action_space, _no_schedule, **self.policy_kwargs)
        policy = policy.to(self.device)
        policy.set_training_mode(False)
        return policy


def _no_schedule(progress_remaining: float) -> float:
    return 0.0


def flatten(policy: nn.Module, parameters: Sequence[th.Tensor] | None = None) -> npt.NDArray[np.float32]:
    """
    All parameters, then the floating-point buffers (running statistics), as one vector.

    :param policy: the module
    :param parameters: values to take in place of the module's own parameters, in the same order
    """
    values = [*(parameters if parameters is not None else policy.parameters()), *_float_buffers(policy)]
    with th.no_grad():
        vector = th.cat([value.detach().reshape(-1).float() for value in values])
    return vector.cpu().numpy()


def load_flat(policy: nn.Module, vector: npt.NDArray[np.float32]) -> None:
    """
    Write a vector made by ``flatten`` into a module.

    :param policy: a module of the same architecture
    :param vector: all parameters, then the floating-point buffers
    """
    source, position = th.from_numpy(vector), 0
    with th.no_grad():
        for target in (*policy.parameters(), *_float_buffers(policy)):
            target.copy_(source[position : position + target.numel()].view_as(target))
            position += target.numel()


def _float_buffers(policy: nn.Module) -> list[th.Tensor]:
    return [buffer for buffer in policy.buffers() if buffer.is_floating_point()]


def has_batch_norm(policy: nn.Module) -> bool:
    """
    Tell whether a module keeps running statistics of what passes through it.

    :param policy: the module
    """
    return any(
        isinstance(module, nn.modules.batchnorm._NormBase) and module.track_running_stats for module in policy.modules()
    )
