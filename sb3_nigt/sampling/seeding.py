"""Random numbers of a trajectory: a pure function of the seed and the trajectory's key."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sb3_nigt.messages import TrajectoryKey


@dataclass(frozen=True, slots=True)
class TrajectorySeeds:
    """
    Independent random sources of one trajectory.

    :param env: seed for ``env.reset(seed=...)``
    :param time: seed for a random time model
    :param actions: generator of the action noise
    """

    env: int
    time: int
    actions: np.random.Generator


def trajectory_seeds(seed: int, key: TrajectoryKey) -> TrajectorySeeds:
    """
    Derive all random numbers of one trajectory.

    Nothing here depends on the time, the process or the order of arrivals, so a trajectory can be repeated anywhere.

    :param seed: root seed of the run, a non-negative integer
    :param key: name of the trajectory
    """
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)))
    env_seed, time_seed = generator.integers(2**31 - 1, size=2).tolist()
    return TrajectorySeeds(env_seed, time_seed, generator)
