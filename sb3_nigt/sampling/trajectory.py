"""One sampled trajectory, and the few operations on observations that are arrays or dicts of arrays."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from sb3_nigt.messages import SamplingPoint, TrajectoryKey
from sb3_nigt.sampling.infos import reported_episode


def map_observation(function: Callable[..., Any], *observations: Any) -> Any:
    """
    Apply a function to arrays, or to the entries of dicts and tuples of arrays one by one.

    :param function: a function of one array for each observation given
    :param observations: all arrays, all dicts with the same keys, or all tuples of the same length
    """
    if isinstance(observations[0], dict):
        return {key: function(*(obs[key] for obs in observations)) for key in observations[0]}
    if isinstance(observations[0], tuple):  # in the synchronous API, which other algorithms use
        return tuple(function(*entries) for entries in zip(*observations, strict=True))
    return function(*observations)


def copied(observation: Any) -> Any:
    """
    Copy an observation that its environment may write to again.

    :param observation: array, or dict or tuple of arrays
    """
    return map_observation(np.array, observation)


@dataclass(frozen=True)
class Trajectory:
    """
    The first L steps of an episode, L ≤ H.

    :param key: the random numbers used
    :param point: the parameters and statistics it was sampled with
    :param observations: s_0 … s_{L-1} as the environment gave them, each array with leading dimension L
    :param final_observation: s_L
    :param samples: what the policy drew (u before the tanh for Box actions), leading dimension L
    :param actions: what the environment received, leading dimension L
    :param rewards: r_0 … r_{L-1} as the environment gave them, shape (L,)
    :param terminated: whether the episode ended in a terminal state
    :param truncated: whether the environment cut the episode; neither is set where the horizon H cut it
    :param infos: the info dict of every step
    :param rejected: None, or why it must not enter any sum
    :param age: steps of the episode before the first one
    """

    key: TrajectoryKey
    point: SamplingPoint
    observations: Any
    final_observation: Any
    samples: npt.NDArray[Any]
    actions: npt.NDArray[Any]
    rewards: npt.NDArray[np.float64]
    terminated: bool
    truncated: bool
    infos: list[dict[str, Any]]
    rejected: str | None = None
    age: int = 0

    @property
    def n_steps(self) -> int:
        """L."""
        return len(self.rewards)

    @cached_property
    def episode_return(self) -> float:
        """Undiscounted sum of the raw rewards."""
        return float(self.rewards.sum())

    @property
    def report(self) -> dict[str, Any] | None:
        """What the last info says of the episode that ends here, see ``reported_episode``; None where it says nothing."""
        return reported_episode(self.infos[-1]) if self.terminated or self.truncated else None

    @property
    def reported_return(self) -> float:
        """Return of the episode that ends here, as the last info has it; NaN where none ends or nothing is reported."""
        return math.nan if self.report is None else float(self.report["r"])

    @cached_property
    def observation_size(self) -> int:
        """Numbers in one observation."""
        arrays = self.observations.values() if isinstance(self.observations, dict) else [self.observations]
        return max(1, sum(int(np.prod(array.shape[1:])) for array in arrays))

    def part(self, start: int, stop: int) -> Trajectory:
        """
        Return some of the steps, as a trajectory that was cut where they end.

        :param start: first step
        :param stop: the step after the last one
        """
        steps, is_end = slice(start, stop), stop >= self.n_steps
        final = self.final_observation if is_end else map_observation(lambda rows: rows[stop], self.observations)
        return replace(
            self,
            age=self.age + start,
            observations=map_observation(lambda rows: rows[steps], self.observations),
            final_observation=final,
            samples=self.samples[steps],
            actions=self.actions[steps],
            rewards=self.rewards[steps],
            terminated=self.terminated and is_end,
            truncated=self.truncated and is_end,
            infos=self.infos[steps],
            rejected=self.rejected if is_end else None,  # it was good up to its last step
        )

    @property
    def policy_observations(self) -> Any:
        """What the policy saw."""
        transform = self.point.transform_obs
        return self.observations if transform is None else transform(self.observations)

    @property
    def learning_rewards(self) -> npt.NDArray[np.float64]:
        """What is learned from."""
        transform = self.point.transform_rewards
        return self.rewards if transform is None else transform(self.rewards)
