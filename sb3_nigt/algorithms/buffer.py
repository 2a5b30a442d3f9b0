"""The rollout buffer of an algorithm whose rollouts are ragged and stay with the workers."""

from __future__ import annotations

from typing import Any

import torch as th
from gymnasium import spaces

from sb3_nigt.messages import Arrival


class TrajectoryBuffer:
    """
    The accepted trajectories of one round, in order of arrival; their steps are where they were sampled.

    It takes the place of Stable-Baselines3's ``RolloutBuffer`` and has its constructor, but not its arrays.

    :param buffer_size: ``n_steps`` of the model, unused
    :param device: device of the model
    :param gae_lambda: unused, the estimator has it
    :param gamma: unused, the estimator has it
    :param n_envs: number of workers
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        device: th.device | str = "auto",
        gae_lambda: float = 1,
        gamma: float = 0.99,
        n_envs: int = 1,
    ) -> None:
        self.buffer_size, self.n_envs = buffer_size, n_envs
        self.arrivals: list[Arrival] = []

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"rollout_buffer has no {name}: the steps of a round stay where they were sampled. A callback sees them in "
            "self.locals (new_obs, actions, rewards, dones, infos); model.last_round says what each worker contributed."
        )

    def reset(self) -> None:
        """Forget the round."""
        self.arrivals = []

    def add(self, arrival: Arrival) -> None:
        """
        Keep an accepted trajectory.

        :param arrival: its worker and key
        """
        self.arrivals.append(arrival)

    def size(self) -> int:
        """Accepted trajectories of the round."""
        return len(self.arrivals)
