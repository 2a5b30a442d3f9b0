"""Groups of ranks: the contract, and the group of one process."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.type_aliases import MaybeCallback

from sb3_nigt.aggregators import Aggregator
from sb3_nigt.algorithms.book import Accepted, BetweenRounds, RoundResult
from sb3_nigt.algorithms.round import Show, abandon, run_round
from sb3_nigt.algorithms.statistics import RoundStatistics
from sb3_nigt.algorithms.steps import run_steps
from sb3_nigt.algorithms.trained import TrainedModel
from sb3_nigt.chooser import choose
from sb3_nigt.errors import LostWorkerError
from sb3_nigt.estimators import Mean, Rows
from sb3_nigt.messages import SamplingPoint
from sb3_nigt.sampling.trajectory import Trajectory
from sb3_nigt.schedules import Schedule
from sb3_nigt.vec_env.base import TrajectoryWorkers
from sb3_nigt.vec_env.wrappers import WrapperStack


@dataclass(frozen=True)
class RoundPlan:
    """
    A round to be sampled.

    :param rollout: "steps" or "trajectories"
    :param schedule: the schedule, which decides which trajectories run where
    :param rule: the aggregator of a round, by its number; asked again after a loss
    :param point: θ̃ with the number of the round
    :param show: shows the steps of a trajectory to callbacks; False means stop
    :param memory: what the rounds before have left, updated by the round
    :param meanwhile: called once, when the workers have begun
    :param assess: statistics of what was accepted, in worker order; a group that shares a round calls it for its part
    """

    rollout: str
    schedule: Schedule
    rule: Callable[[int], Aggregator]
    point: SamplingPoint
    show: Show
    memory: BetweenRounds
    meanwhile: Callable[[], None]
    assess: Callable[[Accepted], RoundStatistics]


class Group(Protocol):
    """
    One ``learn()`` of a model, together with other ranks or alone.

    Order of calls: ``callbacks`` and ``share_start`` once; then per round ``run_round``, ``take_statistics``, ``collect``
    where a step needs a metric, ``make_step``, ``after_update``; at the end ``leave``.
    """

    @property
    def workers(self) -> TrajectoryWorkers:
        """The workers that the model's rounds run on."""
        ...

    @property
    def task_numbers(self) -> Mapping[Hashable, int]:
        """By which number the critic has learned each task so far; of a new model none."""
        ...

    @property
    def is_first(self) -> bool:
        """Whether this process logs, evaluates and saves."""
        ...

    @property
    def rows(self) -> Rows | None:
        """Exchanges a vector of numbers with the other processes, all of which call it; None without others."""
        ...

    @property
    def mean(self) -> Mean | None:
        """Takes the weighted mean of a vector over all processes, all of which call it; None without others."""
        ...

    def callbacks(self, callback: MaybeCallback) -> MaybeCallback:
        """
        Return the callbacks that run in this process.

        :param callback: the argument of ``learn``
        """
        ...

    def share_start(self, total_timesteps: int) -> int:
        """
        Let all begin with the same parameters, counters and statistics.

        :param total_timesteps: where this process would stop
        :return: where all of them stop
        """
        ...

    def run_round(self, plan: RoundPlan) -> RoundResult | None:
        """
        Sample one round.

        :param plan: what to sample
        :return: None if a callback said stop
        """
        ...

    def take_statistics(self, accepted: Sequence[Trajectory]) -> None:
        """
        Take what was accepted into the running statistics of ``VecNormalize``.

        :param accepted: of this process, in an order that does not depend on which came first
        """
        ...

    def collect(self, observations: Any, of_workers: npt.NDArray[np.int64]) -> Any:
        """
        Bring observations of all processes together where the step is made.

        :param observations: of this process, in worker order; None if it has none
        :param of_workers: how many each worker gives, shape (n,)
        :return: all of them, in worker order; None where the step is not made
        """
        ...

    def make_step(self, step: Callable[[], None]) -> None:
        """
        Let the optimizer make its step, with the same result in all processes.

        :param step: makes it here
        """
        ...

    def after_update(self, logger: Logger) -> None:
        """
        Check and log what there is to say after an update.

        :param logger: of the model
        """
        ...

    def leave(self, error: BaseException | None = None) -> None:
        """
        End it.

        :param error: why, if it is not the regular end
        """
        ...


@runtime_checkable
class GroupSettings(Protocol):
    """What a user gives as ``group``: how to find the others."""

    def check(self, model: TrainedModel) -> None:
        """
        Refuse what the group cannot do.

        :param model: with its arguments as attributes
        :raises ValueError: naming what it is
        """
        ...

    def join(self, model: TrainedModel, workers: TrajectoryWorkers, stack: WrapperStack) -> Group:
        """
        Begin to train together.

        :param model: the model to train
        :param workers: the workers of this process
        :param stack: the wrappers around them
        """
        ...


class Alone:
    """
    A group of one: this process samples the rounds with its own workers.

    :param workers: the workers of this process
    :param stack: the wrappers around them
    """

    is_first = True
    task_numbers: Mapping[Hashable, int] = {}
    rows: Rows | None = None
    mean: Mean | None = None

    def __init__(self, workers: TrajectoryWorkers, stack: WrapperStack) -> None:
        self.workers, self._stack = workers, stack

    def callbacks(self, callback: MaybeCallback) -> MaybeCallback:
        """All of them."""
        return callback

    def share_start(self, total_timesteps: int) -> int:
        """Nothing is shared."""
        return total_timesteps

    def run_round(self, plan: RoundPlan) -> RoundResult | None:
        """Run the round; if a loss ends it and the rule for the remaining workers allows it, run it again."""
        workers, round_, memory = self.workers, plan.point.round, plan.memory
        steps_before, steps_lost = workers.steps_executed, 0
        if memory.announced not in (None, plan.rule(round_)):
            abandon(workers, plan.schedule, memory)  # what has begun early was meant for a round of another rule
        while True:
            aggregator, memory.announced = plan.rule(round_), plan.rule(round_ + 1)
            try:
                if plan.rollout == "steps":
                    return run_steps(workers, aggregator, plan.point, plan.show, memory, plan.meanwhile)
                plan.meanwhile()
                result = run_round(workers, plan.schedule, aggregator, memory.announced, plan.point, plan.show, memory)
            except LostWorkerError:
                if not plan.rule(round_).can_do_without(workers.lost(), len(workers.task_ids)):
                    raise
                abandon(workers, plan.schedule, memory)
                steps_lost = workers.steps_executed - steps_before
                continue
            if result is None or not steps_lost:
                return result
            return replace(result, report=replace(result.report, discarded_steps=result.report.discarded_steps + steps_lost))

    def take_statistics(self, accepted: Sequence[Trajectory]) -> None:
        """See ``Group``."""
        self._stack.update(accepted)

    def collect(self, observations: Any, of_workers: npt.NDArray[np.int64]) -> Any:
        """All are here."""
        return observations

    def make_step(self, step: Callable[[], None]) -> None:
        """Make it."""
        step()

    def after_update(self, logger: Logger) -> None:
        """Nothing to compare."""

    def leave(self, error: BaseException | None = None) -> None:
        """Nothing to leave."""


class JustMe:
    """Settings of ``Alone``, the group that a model trains in unless there are other ranks."""

    def check(self, model: TrainedModel) -> None:
        """All is allowed."""

    def join(self, model: TrainedModel, workers: TrajectoryWorkers, stack: WrapperStack) -> Alone:
        """See ``GroupSettings``."""
        return Alone(workers, stack)


def chosen_group(group: Any) -> GroupSettings:
    """
    Return the settings that the argument ``group`` of an algorithm means.

    :param group: what the user gave
    :raises ValueError: if it is something else
    """
    settings: GroupSettings = choose(group)
    return settings
