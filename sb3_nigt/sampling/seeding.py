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


def action_stream(seed: int, worker: int) -> np.random.Generator:
    """
    Return the generator of a worker's actions where its episodes continue across rounds.

    :param seed: root seed of the run, a non-negative integer
    :param worker: index of the worker
    """
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(worker,))))


def seed_of_streams(seed: int, first_round: int) -> int:
    """
    Return the root seed of streams that begin with a round, so that workers which begin anew do not repeat random numbers.

    :param seed: root seed of the run, a non-negative integer
    :param first_round: number of the first round; streams that begin with round 0 have the seed of the run
    """
    if first_round == 0:
        return seed
    sequence = np.random.SeedSequence(seed, spawn_key=(first_round, 0, 0, 0, 0))  # a key of five numbers names nothing else
    return int(sequence.generate_state(1, np.uint64)[0])


def episode_seed(seed: int, worker: int, episode: int) -> int:
    """
    Return the seed of ``env.reset`` for one episode of such a worker.

    :param seed: root seed of the run, a non-negative integer
    :param worker: index of the worker
    :param episode: number of the episode, from 0
    """
    return _number_below(2**31 - 1, seed, worker, episode)


def stagger_age(seed: int, worker: int, max_age: int) -> int:
    """
    Draw the age at which a worker's first episode is cut, uniformly from 1 to ``max_age``.

    :param seed: root seed of the run, a non-negative integer
    :param worker: index of the worker
    :param max_age: steps of the longest episode
    """
    return 1 + _number_below(max_age, seed, worker, 0, 0, 0)  # a key of four numbers names nothing else


def _number_below(bound: int, seed: int, *key: int) -> int:
    sequence = np.random.SeedSequence(seed, spawn_key=key)
    return int(np.random.Generator(np.random.PCG64(sequence)).integers(bound))


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
