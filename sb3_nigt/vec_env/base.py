"""The contract between the algorithms and whatever runs the workers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv

from sb3_nigt.errors import warn_user
from sb3_nigt.messages import Arrival, Contribution, Job, Message, SamplingPoint, Segment
from sb3_nigt.sampling.ticks import Tick
from sb3_nigt.sampling.trajectory import Trajectory
from sb3_nigt.timing.clock import Clock
from sb3_nigt.timing.link import Aggregation, Link
from sb3_nigt.timing.time_models import TimePer


@dataclass(frozen=True)
class RolloutSpec:
    """
    What the workers need to know once, before the first job.

    :param policy: a copy of the policy, see ``sb3_nigt.replica.copying.copy_of``; from now on it belongs to the workers
    :param n_steps: H, where a trajectory is cut
    :param seed: root seed of all trajectories
    :param stagger: whether to cut the first episode of each worker at a random length, in rounds of steps
    :param round_steps: approximate number of steps of a round; None: rounds are made of trajectories
    :param may_lose: whether a worker whose environment keeps raising the same exception is lost; otherwise that ends the run
    :param first_worker: number of worker 0 in a run with more workers than these, for random numbers
    """

    policy: ActorCriticPolicy
    n_steps: int
    seed: int
    stagger: bool = True
    round_steps: int | None = None
    may_lose: bool = False
    first_worker: int = 0


class Cancelled(NamedTuple):
    """
    A job that counts for nothing, or steps of it.

    :param job: worker, key and sampling point
    :param started_at: seconds on the workers' clock
    :param stopped_at: when the worker stopped, which may be before that is known
    :param trajectory: the steps that it made, for callbacks and to be counted
    """

    job: Job
    started_at: float
    stopped_at: float
    trajectory: Trajectory


@dataclass(frozen=True)
class Segments:
    """
    What the workers did in a round of steps.

    :param counts: steps of each worker that count, shape (n,)
    :param pieces: the steps that count and those that were rejected, each within one episode, in worker order
    :param discarded: steps that do not count, as far as they are known: those that were in flight when this round or an
        earlier one was complete
    :param segments: segments of all workers that have begun the round, in worker order
    """

    counts: npt.NDArray[np.int64]
    pieces: list[tuple[Arrival, Trajectory]]
    discarded: list[Cancelled]
    segments: tuple[Segment, ...] = ()


class RoundWorkers(ABC):
    """What a round asks of the workers, whether or not there is anything to learn from: jobs in, arrivals out."""

    clock: Clock
    task_ids: tuple[Hashable, ...]  # one per worker
    steps_executed: int = 0  # environment steps of all trajectories that were handed out, cancelled ones included
    n_resets: int = 0  # by the synchronous API, each of which voids what is in flight
    link: Link = "parallel"  # how messages reach the learner where their times are simulated, see ``TimeModel``
    aggregation: Aggregation = "all_reduce"
    # Set before prepare(), it is asked after every environment step and while waiting; True makes next_arrival() return None,
    # and the next call continues where that one stopped.
    interrupt: Callable[[], bool] | None = None

    @abstractmethod
    def busy(self, worker: int) -> bool:
        """
        Tell whether a job of the worker has not arrived yet.

        :param worker: index of the worker
        """

    @abstractmethod
    def submit(self, job: Job) -> None:
        """
        Start a trajectory now.

        :param job: the job; its worker must be idle
        """

    @abstractmethod
    def next_arrival(self) -> tuple[Arrival, Trajectory] | None:
        """Wait for the next trajectory to end; None if that was given up: a callback said stop, or ``interrupt`` did."""

    @abstractmethod
    def cancel(self) -> list[Cancelled]:
        """
        Stop all workers now; return the jobs that were in flight.

        What a worker has not said at once is returned by a later call.
        """

    def lost(self) -> frozenset[int]:
        """Workers that will never deliver anything again."""
        return frozenset()

    def last_failure(self, worker: int) -> str:
        """Say why a worker has failed last; empty if it has not."""
        return ""

    @abstractmethod
    def predicted_durations(self, n_steps: float) -> npt.NDArray[np.float64]:
        """
        Seconds that a trajectory starting now is expected to take on each worker.

        :param n_steps: its expected length
        """

    @abstractmethod
    def aggregate_messages(self, workers: Sequence[int]) -> None:
        """
        Let the time of one aggregation pass.

        :param workers: the workers that take part
        """

    def aggregation_messages(self, workers: Sequence[int]) -> tuple[Message, ...]:
        """Return the messages of an aggregation that begins now; none where they are not known beforehand."""
        return ()


class TrajectoryWorkers(RoundWorkers):
    """
    The asynchronous interface of workers: jobs in, arrivals out, gradients on demand.

    Order of calls: ``prepare`` once; then in each round ``submit`` to idle workers, ``next_arrival`` while a worker is busy,
    optionally ``cancel``, ``gradient`` of what was accepted, ``forget``.
    """

    rollout_spec: RolloutSpec | None = None  # of the last prepare
    tasks_differ: bool = False  # the user said that the workers hold more than one task
    sums_by_worker: bool = True  # the S_i are formed apart and then added; else in one sweep, the same up to rounding
    shows_steps: bool = False  # callbacks see each step while it is made; else trajectories are shown when they end
    # Set where a round of steps has more workers than these: asked about the steps of each that have been made, it returns how
    # many more to make before it is asked again, 0 when the round is complete; ``is_complete`` is only a prediction then.
    steps_left: Callable[[npt.NDArray[np.int64]], int] | None = None
    _standing: tuple[Any, Any] = (None, None)

    @property
    @abstractmethod
    def time_per(self) -> TimePer:
        """What ``step_times`` measures."""

    def resume(self, observation: Any, at_start: Any, on_tick: Callable[[Tick], bool]) -> None:
        """
        Go on from where the algorithm's loop is; of interest to environments that are stepped together.

        :param observation: the last observation of all environments, leading dimension n
        :param at_start: which environments are at the start of an episode, shape (n,)
        :param on_tick: a function that is given the steps, where ``shows_steps``; False means stop
        """
        self._standing = observation, at_start

    def standing(self) -> tuple[Any, Any]:
        """Return observation and ``at_start`` as they are now."""
        return self._standing

    @property
    def restarts(self) -> int | None:
        """Restarts of workers so far; None where a worker cannot fail on its own."""
        return None

    @abstractmethod
    def prepare(self, spec: RolloutSpec) -> None:
        """
        Void whatever is in flight and take new settings.

        :param spec: policy, horizon and seed
        """

    @abstractmethod
    def gradient(self, contributions: Sequence[Contribution], weights: npt.NDArray[np.float64]) -> th.Tensor:
        """
        Aggregate: Σ_i w_i S_i over what was accepted, reduced in worker order.

        :param contributions: accepted trajectories, not forgotten yet, with the coefficients of their scores
        :param weights: w_i, one per worker
        :return: flat float32 vector, direction of ascent
        """

    def run_segments(
        self, point: SamplingPoint, is_complete: Callable[[npt.NDArray[np.int64]], bool], meanwhile: Callable[[], None]
    ) -> Segments | None:
        """
        Run a round of steps: all workers step on from where their environments are, until the round is complete.

        :param point: θ̃ with its number
        :param is_complete: of the steps of each worker that began and ended in the round, shape (n,); it is asked about counts
            that are only predicted as well
        :param meanwhile: called once, while the workers are at work
        :return: None if a callback said stop
        :raises NotImplementedError: if these workers make trajectories only
        """
        raise NotImplementedError(f"{type(self).__name__} has no rounds of steps.")

    @abstractmethod
    def forget(self, before_round: int) -> None:
        """
        Drop the steps of trajectories that have arrived, as far as earlier rounds count them.

        :param before_round: number of a round; those whose key names this round or a later one stay
        """


class WorkerVecEnv(VecEnv, TrajectoryWorkers):
    """
    A ``VecEnv`` whose environments are workers: each has a speed and a task, and steps independently of the others.

    It also has Stable-Baselines3's synchronous API, so PPO and ``evaluate_policy`` work with it. The asynchronous interface
    is ``TrajectoryWorkers``.

    :ivar clock: the workers' clock
    :ivar task_ids: one id per worker; range(n) if the user gave none
    :ivar task_ids_given: whether the user gave task ids
    :ivar can_be_interrupted: whether ``interrupt`` has an effect, which ranks that train together need
    """

    clock: Clock
    task_ids_given: bool = False
    can_be_interrupted: bool = False

    @property
    @abstractmethod
    def step_times(self) -> npt.NDArray[np.float64]:
        """h_i, seconds per environment step (or per trajectory, see ``time_per``), shape (n,)."""

    @property
    @abstractmethod
    def message_times(self) -> npt.NDArray[np.float64]:
        """κ_i, seconds per message, shape (n,)."""

    def set_options(self, options: list[dict[str, Any]] | dict[str, Any] | None = None) -> None:
        """
        Give options to the next ``reset``, as in Stable-Baselines3; training resets the environments without them.

        :param options: one dict, or one per worker; None: no options
        """
        super().set_options(options)
        if any(self._options):
            warn_user(
                f"set_options({options!r}) has an effect on reset() only: in training, workers reset their environments "
                "themselves, without options. Give them to the constructors with env_kwargs, or call a method with env_method."
            )


def piece_arrival(worker: int, task_id: Hashable, piece: Trajectory, began: float, ended: float) -> Arrival:
    """
    Return the arrival of a piece; its return is the one that is reported at its end, NaN where none is.

    :param worker: index of the worker
    :param task_id: the task that it holds
    :param piece: the steps
    :param began: seconds on the workers' clock
    :param ended: seconds on the workers' clock
    """
    return Arrival(
        worker=worker,
        task_id=task_id,
        key=piece.key,
        n_steps=piece.n_steps,
        episode_return=piece.reported_return,
        started_at=began,
        finished_at=ended,
        arrived_at=ended,
        rejected=piece.rejected,
    )


def checked_task_ids(task_ids: Sequence[Hashable] | None, n_workers: int) -> tuple[Hashable, ...]:
    """
    One task id per worker; range(n) where the user gave none.

    :param task_ids: what the user gave
    :param n_workers: n
    :raises ValueError: if the number differs
    """
    if task_ids is None:
        return tuple(range(n_workers))
    if not isinstance(task_ids, Iterable) or not all(isinstance(task_id, Hashable) for task_id in task_ids):
        raise ValueError(f"task_ids={task_ids!r} is not allowed: give a list of hashable ids, one per worker.")
    task_ids = list(task_ids)
    if len(task_ids) != n_workers:
        raise ValueError(f"task_ids has {len(task_ids)} entries for {n_workers} workers: give one id per worker.")
    return tuple(task_ids)


def check_same_spaces(worker_spaces: Sequence[tuple[Any, Any]]) -> None:
    """
    Compare the spaces of all workers with those of worker 0.

    :param worker_spaces: (observation space, action space) of each worker
    :raises ValueError: naming the first worker that differs, and both spaces
    """
    for kind, which in (("observation", 0), ("action", 1)):
        first = worker_spaces[0][which]
        for worker, pair in enumerate(worker_spaces):
            if pair[which] != first:
                raise ValueError(
                    f"env_fns: the {kind} space of worker {worker} is {pair[which]}, that of worker 0 is {first}. "
                    "One policy needs the same spaces everywhere: wrap the environments so that they agree."
                )
