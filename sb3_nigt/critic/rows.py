"""Data of the regression: rows of observations and targets, and the pool of the last rounds."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sb3_nigt.moments import FloatArray

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Rows:
    """
    Steps to fit the critic to.

    :param observations: as the policy saw them, array or dict of arrays with leading dimension n
    :param targets: λ-returns in normalised units, shape (n,)
    :param tasks: number of each step's task, shape (n,)
    """

    observations: Any
    targets: FloatArray
    tasks: npt.NDArray[np.int64]

    @classmethod
    def of(cls, observations: Any, targets: FloatArray, tasks: npt.NDArray[np.int64] | None = None) -> Rows:
        """
        Copy arrays, which the caller may use again; floats become float32, as they do in the policy.

        :param observations: see the class
        :param targets: see the class
        :param tasks: see the class; None: all of task 0
        """
        numbers = np.zeros(len(targets), dtype=np.int64) if tasks is None else np.array(tasks, dtype=np.int64)
        return cls(_each(_copied, observations), np.array(targets, dtype=np.float64), numbers)

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, index: Any) -> Rows:
        """
        Return some of the rows.

        :param index: slice or array of row numbers
        """
        return Rows(_each(lambda x: x[index], self.observations), self.targets[index], self.tasks[index])

    @staticmethod
    def joined(parts: Sequence[Rows]) -> Rows:
        """
        Return the rows of all parts in their order.

        :param parts: at least one
        """
        return Rows(
            _each(lambda *xs: np.concatenate(xs), *(part.observations for part in parts)),
            np.concatenate([part.targets for part in parts]),
            np.concatenate([part.tasks for part in parts]),
        )


class RoundPool:
    """
    Rows of the last rounds; each round's targets stay as they were computed in it.

    :param n_rounds: how many rounds are kept
    """

    def __init__(self, n_rounds: int) -> None:
        self.rounds: deque[Rows] = deque(maxlen=n_rounds)

    def add(self, rows: Rows) -> None:
        """
        Add a round, and drop the oldest one when there are too many.

        :param rows: of one round
        """
        self.rounds.append(rows)

    def rows(self) -> Rows:
        """All rows, the oldest round first."""
        return Rows.joined(self.rounds)


def _copied(array: Array) -> Array:
    return np.array(array, dtype=np.float32 if array.dtype.kind == "f" else array.dtype)


def _each(function: Callable[..., Array], *observations: Any) -> Any:
    """Apply a function to arrays, or key by key to dicts of arrays."""
    if isinstance(observations[0], dict):
        return {key: function(*(x[key] for x in observations)) for key in observations[0]}
    return function(*observations)
