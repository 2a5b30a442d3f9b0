"""What a group needs of the model that it trains."""

from __future__ import annotations

from collections import deque
from typing import Any, ClassVar, Protocol

from gymnasium import spaces
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv

from sb3_nigt.algorithms.fisher_sample import FisherSample
from sb3_nigt.estimators import Estimator
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
    weighs_tasks_equally: ClassVar[bool]
    on_lost_task: str

    @property
    def logger(self) -> Logger:
        """Takes what is logged."""
        ...

    @property
    def n_updates(self) -> int:
        """Outer updates so far."""
        ...

    @property
    def estimator(self) -> Estimator:
        """Says how much each step counts for."""
        ...

    @property
    def fisher_sample(self) -> FisherSample:
        """Observations that the metric of the next step is taken from."""
        ...

    @property
    def n_critic_tasks(self) -> int | None:
        """How many tasks the critic tells apart; None without one."""
        ...

    def make_critic(self, n_tasks: int) -> None:
        """Begin with a new critic."""
        ...

    def make_schedule(self) -> Schedule:
        """Return what decides which trajectories of a round count."""
        ...

    def counters(self) -> dict[str, Any]:
        """Return the numbers that decide how a run continues, apart from parameters and optimizer."""
        ...

    def set_counters(self, values: dict[str, Any]) -> None:
        """Restore the counters of another model."""
        ...
