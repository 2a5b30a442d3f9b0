"""The arrays that each worker exchanges with its parent: their names, shapes, dtypes. Flat arrays; only infos are pickled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy.typing as npt

from sb3_nigt.parameters import Layout
from sb3_nigt.sampling.steps import StepTable

Fields = Mapping[str, tuple[tuple[int, ...], str]]  # name -> (shape, dtype) of one worker's array

CONTROL: Fields = {
    "steps": ((1,), "int64"),  # steps and resets begun or done: grows as long as the worker lives
    "cancelled": ((1,), "int64"),  # number of the last job that the parent no longer wants
    "requested": ((1,), "int64"),  # number of the last gradient that the parent has asked for
    "answering": ((1,), "int64"),  # number of the last gradient that the worker has begun with
    # of the segment job in progress, in the order in which they are written: what a number counts lies in the arrays before
    "rejected": ((1,), "int64"),  # steps in pieces that are rejected
    "pieces": ((1,), "int64"),  # pieces that have ended
    "made": ((1,), "int64"),  # steps
}
N_NOTED = 6  # numbers about a piece
LARGEST_CHUNK = 512  # rows of the arrays in rounds of steps; a worker that makes more steps in a round reports in between


def rows_of(horizon: int, round_steps: int | None) -> int:
    """
    Return the length of the arrays of a worker.

    :param horizon: H, steps of the longest trajectory
    :param round_steps: number of steps of a round; None: rounds of trajectories
    """
    # each episode that ends leaves the row after its last step unused, so twice as many rows as steps are enough
    return horizon if round_steps is None else min(2 * round_steps, LARGEST_CHUNK)


def round_fields(table: StepTable, rows: int, layout: Layout, info_bytes: int) -> Fields:
    """
    What one worker and its parent exchange in a round.

    :param table: table of the steps of a trajectory
    :param rows: steps of the longest trajectory, or of a part of a segment
    :param layout: layout of the policy's parameters and buffers
    :param info_bytes: length of the array for infos, see ``infos``
    """
    return {
        "parameters": ((layout.size,), "float32"),
        "gradient": ((layout.n_parameters,), "float32"),
        "notes": note_shape(rows),
        "infos": ((info_bytes,), "uint8"),
        **{name: (shape, dtype.str) for name, (shape, dtype) in table.shapes(rows).items()},
    }


def note_shape(rows: int) -> tuple[tuple[int, ...], str]:
    """
    Return shape and dtype of what is noted of the pieces of a segment, see ``pieces.Note``.

    :param rows: number of rows of the arrays
    """
    return (rows + 1, N_NOTED), "float64"


class WorkerArrays(Protocol):
    """The arrays that each worker exchanges with its parent, wherever they lie."""

    @property
    def layout(self) -> Any:
        """What a worker needs to know of them."""
        ...

    def of(self, worker: int) -> dict[str, npt.NDArray[Any]]:
        """
        Return the arrays of one worker.

        :param worker: its index
        """
        ...

    def close(self) -> None:
        """Let go of them."""
        ...
