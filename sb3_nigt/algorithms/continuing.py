"""What a run keeps between two rounds besides what the model has learned, so that a loaded model continues bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from stable_baselines3.common.vec_env import VecNormalize

from sb3_nigt.aggregators import Aggregator
from sb3_nigt.algorithms.book import Accepted, BetweenRounds
from sb3_nigt.sampling.ticks import Tick
from sb3_nigt.schedules import Schedule
from sb3_nigt.vec_env.base import TrajectoryWorkers
from sb3_nigt.vec_env.positions import Position, Resumable
from sb3_nigt.vec_env.wrappers import WrapperStack

SEEN_BY_THE_LIBRARY = ("episode", "is_success", "terminal_observation", "TimeLimit.truncated")


@dataclass(frozen=True)
class LeftOff:
    """
    Where a run is between two rounds.

    :param arguments: of the model, as far as the rest depends on them
    :param seed: of the workers' random numbers
    :param rest: steps that callbacks have not seen yet
    :param schedule: with what it has planned beyond the last round
    :param early: trajectories of the next round that have arrived
    :param announced: the rule of the next round, as the schedule knows it
    :param position: of the workers; None where others cannot go on from it
    :param returns: of the running episodes, as ``WrapperStack`` has them
    """

    arguments: tuple[Any, ...]
    seed: int
    rest: Tick | None
    schedule: Schedule
    early: Accepted
    announced: Aggregator | None
    position: Position | None
    returns: dict[int, dict[int, float]]

    def fits(self, workers: TrajectoryWorkers, arguments: tuple[Any, ...]) -> bool:
        """
        Tell whether a run on these workers can go on from here.

        :param workers: not prepared yet
        :param arguments: of the model
        """
        return self.position is not None and arguments == self.arguments and isinstance(workers, Resumable)

    def go_on(self, workers: TrajectoryWorkers, memory: BetweenRounds, stack: WrapperStack) -> Schedule:
        """
        Let workers go on from here.

        :param workers: prepared, and without jobs
        :param memory: what the last round has left, updated here
        :param stack: the wrappers, updated here
        :return: the schedule that has planned their jobs
        """
        assert isinstance(workers, Resumable)
        assert self.position is not None
        workers.go_on_from(self.position, self.early)
        memory.early, memory.announced = list(self.early), self.announced
        stack.returns = self.returns
        return self.schedule


def left_off(
    arguments: tuple[Any, ...],
    workers: TrajectoryWorkers,
    rest: Tick | None,
    schedule: Schedule,
    memory: BetweenRounds,
    stack: WrapperStack,
) -> LeftOff:
    """
    Describe where a run is.

    :param arguments: of the model, as far as the rest depends on them
    :param workers: between two rounds
    :param rest: steps that callbacks have not seen yet
    :param schedule: of the run
    :param memory: what the last round has left
    :param stack: the wrappers
    """
    assert workers.rollout_spec is not None
    position = workers.position() if isinstance(workers, Resumable) else None
    early = [(arrival, replace(t, infos=[{}] * t.n_steps)) for arrival, t in memory.early]  # callbacks have seen theirs
    kept = None if rest is None else replace(rest, infos=[_plain(info) for info in rest.infos])
    returns = {number: dict(of_workers) for number, of_workers in stack.returns.items()}  # this run may go on
    return LeftOff(arguments, workers.rollout_spec.seed, kept, schedule, early, memory.announced, position, returns)


def _plain(info: dict[str, Any]) -> dict[str, Any]:
    """Others may hold anything, also what cannot be saved."""
    return {name: info[name] for name in SEEN_BY_THE_LIBRARY if name in info}


@contextmanager
def statistics_at_rest(normalize: VecNormalize | None) -> Iterator[None]:
    """
    While this lasts, a reset enters no running statistics.

    :param normalize: if there is one
    """
    was_training = normalize is not None and normalize.training
    if normalize is not None:
        normalize.training = False
    try:
        yield
    finally:
        if normalize is not None:
            normalize.training = was_training
