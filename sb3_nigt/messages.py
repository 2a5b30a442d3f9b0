"""What travels between an algorithm and its workers: frozen records, no behaviour."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

RETURNED = "returned"  # an arrival that is none: its worker has gone, and another one may run the trajectory


class TrajectoryKey(NamedTuple):
    """
    Identifies the random numbers of one trajectory.

    Together with the seed and the parameters it determines the trajectory completely, on all kinds of workers.

    :param round: the round that counts the trajectory, from 0
    :param stream: the worker it was first meant for
    :param number: number of the trajectory in that stream and round, from 0
    """

    round: int
    stream: int
    number: int


@dataclass(frozen=True, eq=False)
class SamplingPoint:
    """
    The point θ̃ at which a round samples, with the statistics that are frozen for the round.

    :param round: the round that begins at this point
    :param parameters: flat float32 vector of all parameters and float buffers, laid out as ``Layout`` says
    :param transform_obs: maps raw observations to what the policy sees; None when they are the same
    :param transform_rewards: maps the raw rewards of a trajectory to the ones that are learned from; None when equal. Only the
        learner uses it
    :param buffers: the policy's buffers that float32 cannot hold (integers, double precision) and acting needs, by name
    """

    round: int
    parameters: npt.NDArray[np.float32]
    transform_obs: Callable[[Any], Any] | None = None
    transform_rewards: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]] | None = None
    buffers: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Job:
    """
    One trajectory to be sampled, or a part of a segment.

    :param worker: index of the worker that runs it
    :param key: its random numbers; of a segment round and worker
    :param point: the parameters it is sampled with
    :param upload: the gradient is sent on its own as soon as it is ready, at the price of one message
    :param committed: the result is wanted whatever happens, nothing will cancel it
    :param segment_steps: step on from where the environment is, until stopped or until so many steps are made; 0: a trajectory
    """

    worker: int
    key: TrajectoryKey
    point: SamplingPoint
    upload: bool = False
    committed: bool = False
    segment_steps: int = 0


@dataclass(frozen=True, slots=True)
class SegmentStart:
    """
    Where a worker begins with its segment of a round.

    :param n_steps: steps it has made before, so many of its random numbers are used up
    :param n_episodes: episodes it has begun before
    :param new_episode: the episode that it was in has been left, because its process has died or its environment was reset
    """

    n_steps: int = 0
    n_episodes: int = 0
    new_episode: bool = True


@dataclass(frozen=True, slots=True)
class Segment:
    """
    One worker's part of a round of steps: with seed, parameters and what came before it determines the steps completely.

    :param worker: index of the worker
    :param start: where it began
    :param n_steps: steps that count, and those that were rejected between them
    """

    worker: int
    start: SegmentStart
    n_steps: int


@dataclass(frozen=True, slots=True)
class Arrival:
    """
    A trajectory that has ended, or a piece of a round of steps; its steps stay with the worker.

    :param worker: index of the worker
    :param task_id: the task that the worker holds
    :param key: the random numbers used
    :param n_steps: length in environment steps
    :param episode_return: undiscounted sum of the raw rewards
    :param started_at: seconds on the workers' clock
    :param finished_at: seconds on the workers' clock, when the last step ended
    :param arrived_at: when its gradient reached the learner; ``finished_at`` plus a message if it was sent on its own
    :param staleness: updates made between the sampling point and this arrival
    :param sent_at: when its own message began, later than ``finished_at`` if the link was busy; None: it had none, or the
        time is unknown
    :param rejected: None, or the reason why the trajectory must not be used
    """

    worker: int
    task_id: Hashable
    key: TrajectoryKey
    n_steps: int
    episode_return: float
    started_at: float
    finished_at: float
    arrived_at: float
    staleness: int = 0
    sent_at: float | None = None
    rejected: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Contribution:
    """
    An accepted trajectory, and what each of its steps counts for: the worker adds Σ_t C_t ∇ log π(a_t | s_t) to its S_i.

    :param worker: index of the worker that holds the steps
    :param key: names the trajectory
    :param coefficients: C_t, made by an estimator, shape (L,)
    """

    worker: int
    key: TrajectoryKey
    coefficients: npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Discarded:
    """
    A trajectory that was in flight when its round ended.

    :param worker: index of the worker
    :param n_steps: environment steps that were executed but not used
    :param started_at: seconds on the workers' clock
    :param stopped_at: seconds on the workers' clock
    """

    worker: int
    n_steps: int
    started_at: float
    stopped_at: float


@dataclass(frozen=True, slots=True)
class Message:
    """
    A message to the learner.

    :param worker: index of the worker that sends it
    :param began: seconds on the workers' clock
    :param ended: seconds on the workers' clock
    """

    worker: int
    began: float
    ended: float


@dataclass(frozen=True)
class RoundReport:
    """
    What happened in one round.

    :param round: number of the round, from 0
    :param counts: accepted trajectories a worker, or steps in a round of steps, shape (n,)
    :param weights: weight of each worker's local sum in the aggregated gradient, shape (n,)
    :param arrivals: accepted trajectories in order of arrival, also those that arrived before the round began
    :param discarded: trajectories in flight when the round was complete
    :param rejected: trajectories that ended with a non-finite reward or observation, also after a non-finite action
    :param used_steps: environment steps inside ``arrivals``
    :param discarded_steps: environment steps executed in the round that no round uses
    :param started_at: seconds on the workers' clock
    :param finished_at: seconds on the workers' clock, the aggregation's message included
    :param segments: of a round of steps, of all workers that have begun with it
    :param messages: of the aggregation, on simulated workers; those of AFedPG are in ``arrivals``
    """

    round: int
    counts: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float64]
    arrivals: tuple[Arrival, ...]
    discarded: tuple[Discarded, ...]
    rejected: tuple[Arrival, ...]
    used_steps: int
    discarded_steps: int
    started_at: float
    finished_at: float
    segments: tuple[Segment, ...] = ()
    messages: tuple[Message, ...] = ()
