"""
How long things take on simulated workers.

A model says how many seconds worker i needs for one unit of work that starts now. The unit is one environment step
(``per="step"``) or one whole trajectory whatever its length (``per="trajectory"``, the content-independent model of the
theory). A trajectory keeps the speed with which it started.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from sb3_nigt.timing.link import Aggregation, Link, check_link
from sb3_nigt.validation import check_interval, per_worker, time_values

TimePer = Literal["step", "trajectory"]
FloatArray = npt.NDArray[np.float64]


class TimeModel(ABC):
    """
    Durations of the workers' steps and messages. Subclasses implement ``unit_time`` and ``step_times``.

    The environment uses a copy and calls ``bind`` once with its number of workers. A subclass with one value per worker
    extends ``bind``.

    :param message_times: κ_i, seconds per message, one number, or one per worker
    :param per: what ``unit_time`` measures, "step" or "trajectory"
    :param link: "parallel", or "serial": single gradients queue at the learner, which receives one at a time
    :param aggregation: of a round: "all_reduce" takes as long as the longest message, "server" (with a serial link) as long
        as all of them together
    """

    message_times: FloatArray  # κ_i, shape (n_workers,), set by bind

    def __init__(
        self,
        message_times: float | Iterable[float] = 0.0,
        per: TimePer = "step",
        link: Link = "parallel",
        aggregation: Aggregation = "all_reduce",
    ) -> None:
        if per not in ("step", "trajectory"):
            raise ValueError(f'per={per!r} is not allowed: give "step" or "trajectory".')
        check_link(link, aggregation)
        self.per: TimePer = per
        self.link: Link = link
        self.aggregation: Aggregation = aggregation
        self._message_times = time_values("message_times", message_times, positive=False)

    def bind(self, n_workers: int) -> None:
        """
        Fit the model to a number of workers: scalars are repeated, lists must have that length.

        :param n_workers: number of workers of the VecEnv that uses the model
        :raises ValueError: if a list has another length
        """
        self.message_times = per_worker("message_times", self._message_times, n_workers, positive=False)

    @abstractmethod
    def step_times(self, now: float) -> FloatArray:
        """
        Expected seconds per unit at time ``now``.

        :param now: seconds on the clock
        :return: array of shape (n_workers,)
        """

    @abstractmethod
    def unit_time(self, worker: int, now: float, seed: int) -> float:
        """
        Seconds per unit of one trajectory (or one lock-step) of ``worker`` that starts at ``now``.

        :param worker: index of the worker
        :param now: seconds on the clock
        :param seed: seed of the trajectory's time, for random models
        """

    def position(self) -> Any:
        """Return what, apart from the arguments, the times from now on depend on, for ``go_on_from``; None if nothing."""
        return None

    def go_on_from(self, position: Any) -> None:  # noqa: B027
        """
        Continue from the position of another model of this class.

        :param position: of ``position``
        """


class FixedTimes(TimeModel):
    """
    Constant speeds, the paper's model.

    :param step_times: h_i, seconds per unit, one number, or one per worker
    :param message_times: κ_i, seconds per message, one number, or one per worker
    :param per: the unit, "step" or "trajectory"
    :param link: see ``TimeModel``
    :param aggregation: see ``TimeModel``
    """

    def __init__(
        self,
        step_times: float | Iterable[float] = 1.0,
        message_times: float | Iterable[float] = 0.0,
        per: TimePer = "step",
        link: Link = "parallel",
        aggregation: Aggregation = "all_reduce",
    ) -> None:
        super().__init__(message_times, per, link, aggregation)
        self._given = time_values("step_times", step_times, positive=True)

    def bind(self, n_workers: int) -> None:
        """See ``TimeModel.bind``."""
        super().bind(n_workers)
        self._step_times = per_worker("step_times", self._given, n_workers, positive=True)

    def step_times(self, now: float) -> FloatArray:
        """See ``TimeModel.step_times``."""
        return self._step_times

    def unit_time(self, worker: int, now: float, seed: int) -> float:
        """See ``TimeModel.unit_time``."""
        return float(self._step_times[worker])


class RandomTimes(FixedTimes):
    """
    Speeds that vary from trajectory to trajectory, with the given means.

    The factor in front of the mean is log-normal with mean one and the given coefficient of variation, drawn anew for
    every trajectory.

    :param step_times: mean seconds per unit, one number, or one per worker
    :param message_times: κ_i, seconds per message
    :param per: the unit, "step" or "trajectory"
    :param variation: standard deviation of the factor (its mean is one), at least 0
    :param link: see ``TimeModel``
    :param aggregation: see ``TimeModel``
    """

    def __init__(
        self,
        step_times: float | Iterable[float] = 1.0,
        message_times: float | Iterable[float] = 0.0,
        per: TimePer = "step",
        variation: float = 0.5,
        link: Link = "parallel",
        aggregation: Aggregation = "all_reduce",
    ) -> None:
        super().__init__(step_times, message_times, per, link, aggregation)
        self.variation = check_interval("variation", variation, 0.0, np.inf)

    def unit_time(self, worker: int, now: float, seed: int) -> float:
        """See ``TimeModel.unit_time``."""
        sigma = np.sqrt(np.log1p(self.variation**2))
        factor = np.random.default_rng(seed).lognormal(-0.5 * sigma**2, sigma)
        return float(self._step_times[worker] * factor)


class VaryingTimes(TimeModel):
    """
    Speeds that change over time.

    :param step_times: function of the time in seconds that returns the seconds per unit, one number per worker
    :param message_times: κ_i, seconds per message
    :param per: the unit, "step" or "trajectory"
    :param link: see ``TimeModel``
    :param aggregation: see ``TimeModel``
    """

    def __init__(
        self,
        step_times: Callable[[float], Sequence[float] | FloatArray],
        message_times: float | Iterable[float] = 0.0,
        per: TimePer = "step",
        link: Link = "parallel",
        aggregation: Aggregation = "all_reduce",
    ) -> None:
        if not callable(step_times):
            raise ValueError(f"step_times={step_times!r} is not allowed: give a function of the time, or use FixedTimes.")
        super().__init__(message_times, per, link, aggregation)
        self._function = step_times
        self._n_workers = time_values("step_times", step_times(0.0), positive=True).size

    def bind(self, n_workers: int) -> None:
        """See ``TimeModel.bind``."""
        per_worker("step_times", self._function(0.0), n_workers, positive=True)
        self._n_workers = n_workers
        super().bind(n_workers)

    def step_times(self, now: float) -> FloatArray:
        """See ``TimeModel.step_times``."""
        return per_worker("step_times", self._function(now), self._n_workers, positive=True)

    def unit_time(self, worker: int, now: float, seed: int) -> float:
        """See ``TimeModel.unit_time``."""
        return float(self.step_times(now)[worker])


class ReplayedTimes(TimeModel):
    """
    Recorded durations: the k-th trajectory of a worker takes the k-th recorded time, the last one repeats.

    :param recorded: for each worker the seconds per unit of its trajectories, in order
    :param message_times: κ_i, seconds per message
    :param per: the unit, "step" or "trajectory"
    :param link: see ``TimeModel``
    :param aggregation: see ``TimeModel``
    """

    def __init__(
        self,
        recorded: Sequence[Sequence[float]],
        message_times: float | Iterable[float] = 0.0,
        per: TimePer = "step",
        link: Link = "parallel",
        aggregation: Aggregation = "all_reduce",
    ) -> None:
        if len(recorded) == 0 or any(np.size(times) == 0 for times in recorded):
            raise ValueError("recorded has a worker without any time: give at least one number for each worker.")
        lists = [time_values(f"recorded[{i}]", times, positive=True) for i, times in enumerate(recorded)]
        for i, times in enumerate(lists):
            if times.ndim == 0:
                raise ValueError(f"recorded[{i}]={recorded[i]!r} is not allowed: give a list of times for each worker.")
        self._recorded = lists
        self._next = [0] * len(recorded)
        super().__init__(message_times, per, link, aggregation)

    def bind(self, n_workers: int) -> None:
        """See ``TimeModel.bind``."""
        if n_workers != len(self._recorded):
            raise ValueError(
                f"recorded has {len(self._recorded)} workers, the environment {n_workers}: give one list for each."
            )
        self._next = [0] * n_workers
        super().bind(n_workers)

    def step_times(self, now: float) -> FloatArray:
        """See ``TimeModel.step_times``."""
        return np.array([times[min(k, len(times) - 1)] for times, k in zip(self._recorded, self._next, strict=True)])

    def unit_time(self, worker: int, now: float, seed: int) -> float:
        """See ``TimeModel.unit_time``."""
        times, k = self._recorded[worker], self._next[worker]
        self._next[worker] += 1
        return float(times[min(k, len(times) - 1)])

    def position(self) -> tuple[int, ...]:
        """Return how many times of each worker have been taken."""
        return tuple(self._next)

    def go_on_from(self, position: tuple[int, ...]) -> None:
        """See ``TimeModel.go_on_from``."""
        self._next = list(position)
