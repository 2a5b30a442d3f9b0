"""Trajectories as flat buffers: fixed arrays one after the other, as the layout says, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sb3_nigt.sampling.steps import StepTable, step_arrays
from sb3_nigt.sampling.trajectory import Trajectory

Buffer = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class BufferLayout:
    """
    What both ends know of the arrays of a round.

    :param table: of the steps of a trajectory
    :param n_parameters: length of a gradient
    """

    table: StepTable
    n_parameters: int

    def pack(self, trajectory: Trajectory) -> Buffer:
        """
        Write a trajectory into a buffer.

        :param trajectory: complete or cancelled
        """
        arrays = step_arrays(trajectory)
        pieces = [
            np.ascontiguousarray(arrays[name], dtype).reshape(-1).view(np.uint8)
            for name, (_, dtype) in self.table.shapes(trajectory.n_steps).items()
        ]
        return np.concatenate(pieces)

    def unpack(self, n_steps: int, buffer: Buffer) -> dict[str, npt.NDArray[Any]]:
        """
        Return the arrays in a buffer, without copying them.

        :param n_steps: length of the trajectory
        :param buffer: made by ``pack``
        :raises ValueError: if its size is another one
        """
        arrays, position = {}, 0
        for name, (shape, dtype) in self.table.shapes(n_steps).items():
            size = int(np.prod(shape)) * dtype.itemsize
            arrays[name] = buffer[position : position + size]
            position += size
        if position != len(buffer):
            raise ValueError(f"a trajectory of {n_steps} steps has {position} bytes, got {len(buffer)}")
        # a slice may begin anywhere, and arrays of numbers may not
        return {
            name: arrays[name].copy().view(dtype).reshape(shape) for name, (shape, dtype) in self.table.shapes(n_steps).items()
        }


class ReceivedArrays:
    """
    What the workers have sent last.

    :param layout: of what a round exchanges
    :param n_workers: number of workers
    """

    def __init__(self, layout: BufferLayout, n_workers: int) -> None:
        self.layout = layout
        nothing = {name: np.zeros(shape, dtype) for name, (shape, dtype) in layout.table.shapes(0).items()}
        self._arrays: list[dict[str, npt.NDArray[Any]]] = [dict(nothing) for _ in range(n_workers)]

    def of(self, worker: int) -> dict[str, npt.NDArray[Any]]:
        """
        Return the arrays of one worker.

        :param worker: its index
        """
        return self._arrays[worker]

    def take_trajectory(self, worker: int, n_steps: int, buffer: Buffer) -> None:
        """
        Keep a trajectory until the next one.

        :param worker: who has sent it
        :param n_steps: its length
        :param buffer: made by ``BufferLayout.pack``
        """
        self._arrays[worker].update(self.layout.unpack(n_steps, buffer))

    def take_gradient(self, worker: int, buffer: Buffer) -> None:
        """
        Keep a gradient until the next one.

        :param worker: who has sent it
        :param buffer: float32 numbers
        :raises ValueError: if it has another length
        """
        gradient = buffer.copy().view(np.float32)
        if len(gradient) != self.layout.n_parameters:
            raise ValueError(f"a gradient has {self.layout.n_parameters} numbers, got {len(gradient)}")
        self._arrays[worker]["gradient"] = gradient

    def close(self) -> None:
        """Nothing to let go of."""
