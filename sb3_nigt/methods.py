"""The methods of this package, in one list that the commands, the plans and rl_zoo3 read: a new method is one more entry."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

from sb3_nigt.aggregators import Aggregator, Malenia, Rennala, Synchronous
from sb3_nigt.algorithms import AFedPG, MaleniaNIGT, RennalaNIGT, RennalaPG, SyncNIGT, SyncPG
from sb3_nigt.algorithms.base import AsyncPolicyGradient
from sb3_nigt.schedules import SCHEDULES, Immediate, Planned, Schedule


@dataclass(frozen=True)
class Method:
    """
    One method.

    :param name: in the commands, such as ``--algos rennala``
    :param zoo_name: in rl_zoo3, such as ``--algo rennala_nigt``; its hyperparameters are in ``hyperparams/<zoo_name>.yml``
    :param algorithm: its class
    :param rounds: what plans call its rounds; methods that differ in their outer update only have the same
    :param aggregator: the rule of a round, from M and the tasks of the workers
    :param schedules: those that it runs with, by name, the default first; of several the user chooses one
    :param line_style: its number in all pictures, see ``plots.LINE_STYLES``; None: one that is left
    """

    name: str
    zoo_name: str
    algorithm: type[AsyncPolicyGradient]
    rounds: str
    aggregator: Callable[[int, Sequence[Hashable]], Aggregator]
    schedules: Mapping[str, type[Schedule]]
    line_style: int | None = None

    @property
    def default_schedule(self) -> str:
        """Name of the schedule that it runs with unless the user chooses another one."""
        return next(iter(self.schedules))

    @property
    def has_choice_of_schedule(self) -> bool:
        """Whether the user may choose a schedule."""
        return len(self.schedules) > 1

    @property
    def size_argument(self) -> str:
        """Name of the argument that says how many trajectories are aggregated."""
        return "n_trajectories" if self.takes("n_trajectories") else "n_initial_trajectories"

    def takes(self, argument: str) -> bool:
        """
        Tell whether the algorithm has an argument.

        :param argument: of its constructor
        """
        return argument in inspect.signature(self.algorithm).parameters


def _rennala(n_trajectories: int, task_ids: Sequence[Hashable]) -> Aggregator:
    return Rennala(n_trajectories)


def _synchronous(n_trajectories: int, task_ids: Sequence[Hashable]) -> Aggregator:
    return Synchronous(n_trajectories)


def _single(n_trajectories: int, task_ids: Sequence[Hashable]) -> Aggregator:
    return Rennala(1)


BARRIER: dict[str, type[Schedule]] = {"barrier": Planned}  # every worker has its own tickets, so the slowest sets the pace
IMMEDIATE: dict[str, type[Schedule]] = {"immediate": Immediate}

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("rennala", "rennala_nigt", RennalaNIGT, "Rennala", _rennala, SCHEDULES, line_style=0),
        Method("malenia", "malenia_nigt", MaleniaNIGT, "Malenia", Malenia.of, SCHEDULES, line_style=0),
        Method("sync", "sync_nigt", SyncNIGT, "Synchronous", _synchronous, BARRIER, line_style=2),
        Method("syncpg", "sync_pg", SyncPG, "Synchronous", _synchronous, BARRIER, line_style=6),
        Method("rennalapg", "rennala_pg", RennalaPG, "Rennala", _rennala, SCHEDULES, line_style=5),
        Method("afedpg", "afedpg", AFedPG, "AFedPG", _single, IMMEDIATE, line_style=3),
    )
}


def kinds_of_rounds() -> dict[str, Method]:
    """Return the first method with each kind of rounds, by what plans call them."""
    kinds: dict[str, Method] = {}
    for method in METHODS.values():
        kinds.setdefault(method.rounds, method)
    return kinds
