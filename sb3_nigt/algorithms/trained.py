"""What a group needs of the model that it trains."""

from __future__ import annotations

from collections import deque
from typing import Any, Protocol

from gymnasium import spaces
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv

from sb3_nigt.schedules import Schedule


class TrainedModel(Protocol):
    """The public part of an algorithm of this package, as far as groups use it."""

    policy: ActorCriticPolicy
    env: VecEnv | None
    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    ep_info_buffer: deque[Any] | None
    num_timesteps: int
    seed: int | None
    schedule: str
    rollout: str
    gae_lambda: Any
    geometry: str
    on_lost_task: str

    @property
    def logger(self) -> Logger:
        """Takes what is logged."""
        ...

    @property
    def n_updates(self) -> int:
        """Outer updates so far."""
        ...

    def make_schedule(self) -> Schedule:
        """Return what decides which trajectories of a round count."""
        ...

    def counters(self) -> dict[str, Any]:
        """Return the numbers that decide how a run goes on, apart from parameters and optimizer."""
        ...

    def set_counters(self, values: dict[str, Any]) -> None:
        """Go on as another model would."""
        ...
