"""The arrays that each worker exchanges with its parent: their names, shapes and dtypes. No pickle, only flat arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy.typing as npt

from sb3_nigt.parameters import Layout
from sb3_nigt.sampling.steps import StepTable

Fields = Mapping[str, tuple[tuple[int, ...], str]]  # name -> (shape, dtype) of one worker's array

CONTROL: Fields = {
    "steps": ((1,), "int64"),  # steps and resets begun or done: grows as long as the worker lives
    "cancelled": ((1,), "int64"),  # number of the last job that the parent does not want any more
    "requested": ((1,), "int64"),  # number of the last gradient that the parent has asked for
    "answering": ((1,), "int64"),  # number of the last gradient that the worker has begun with
}


def round_fields(table: StepTable, horizon: int, layout: Layout) -> Fields:
    """
    What one worker and its parent exchange in a round.

    :param table: of the steps of a trajectory
    :param horizon: H, steps of the longest trajectory
    :param layout: of the policy's parameters and buffers
    """
    return {
        "parameters": ((layout.size,), "float32"),
        "gradient": ((layout.n_parameters,), "float32"),
        **{name: (shape, dtype.str) for name, (shape, dtype) in table.shapes(horizon).items()},
    }


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
