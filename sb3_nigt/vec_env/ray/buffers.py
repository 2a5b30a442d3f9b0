"""Trajectories as flat buffers: fixed arrays one after the other, as the layout says, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sb3_nigt.sampling.steps import StepTable, step_arrays
from sb3_nigt.sampling.trajectory import Trajectory
from sb3_nigt.vec_env.pool.arrays import note_shape
from sb3_nigt.vec_env.pool.infos import ROOM, used

Buffer = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class BufferLayout:
    """
    What both ends know of the arrays of a round.

    :param table: table of the steps of a trajectory
    :param n_parameters: length of a gradient
    :param rows: number of rows of a worker's arrays for parts of segments
    :param info_bytes: length of a worker's array for infos
    """

    table: StepTable
    n_parameters: int
    rows: int
    info_bytes: int = ROOM

    def pack(self, trajectory: Trajectory, infos: Buffer) -> Buffer:
        """
        Write a trajectory into a buffer.

        :param trajectory: a complete or cancelled trajectory
        :param infos: the infos to send
        """
        return np.concatenate([self._pack(step_arrays(trajectory), trajectory.n_steps), infos])

    def _pack(self, arrays: Mapping[str, npt.NDArray[Any]], n_steps: int) -> Buffer:
        shapes = self.table.shapes(n_steps)
        return np.concatenate([_flat(arrays[name][: shape[0]], dtype) for name, (shape, dtype) in shapes.items()])

    def new_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return the arrays of a worker for infos and for parts of segments, see ``pool.pieces``."""
        notes, dtype = note_shape(self.rows)
        steps = {name: np.empty(shape, dtype) for name, (shape, dtype) in self.table.shapes(self.rows).items()}
        return {**steps, "notes": np.empty(notes, dtype), "infos": np.empty(self.info_bytes, np.uint8)}

    def pack_segment(self, arrays: Mapping[str, npt.NDArray[Any]], n_steps: int, n_pieces: int) -> Buffer:
        """
        Write a part of a segment into a buffer.

        :param arrays: the worker's arrays
        :param n_steps: number of steps in all pieces
        :param n_pieces: number of pieces in the arrays
        """
        steps = self._pack(arrays, _last_row(n_steps, n_pieces))
        return np.concatenate([_flat(arrays["notes"][:n_pieces], np.dtype(np.float64)), steps, used(arrays["infos"])])

    def unpack_segment(self, n_steps: int, n_pieces: int, buffer: Buffer) -> dict[str, npt.NDArray[Any]]:
        """
        Return the arrays in a buffer.

        :param n_steps: number of steps in all pieces
        :param n_pieces: number of pieces in the buffer
        :param buffer: the result of ``pack_segment``
        :raises ValueError: if it is too short
        """
        (_, width), dtype = note_shape(0)
        size = n_pieces * width * np.dtype(dtype).itemsize
        notes = buffer[:size].copy().view(dtype).reshape(n_pieces, width)
        return {**self.unpack(_last_row(n_steps, n_pieces), buffer[size:]), "notes": notes}

    def unpack(self, n_steps: int, buffer: Buffer) -> dict[str, npt.NDArray[Any]]:
        """
        Return the arrays in a buffer, without copying them.

        :param n_steps: length of the trajectory
        :param buffer: the result of ``pack``
        :raises ValueError: if it is too short
        """
        arrays, position = {}, 0
        for name, (shape, dtype) in self.table.shapes(n_steps).items():
            size = int(np.prod(shape)) * dtype.itemsize
            arrays[name] = buffer[position : position + size]
            position += size
        if position > len(buffer):
            raise ValueError(f"a trajectory of {n_steps} steps has {position} bytes at least, got {len(buffer)}")
        # a slice may begin anywhere, and arrays of numbers may not
        steps = {
            name: arrays[name].copy().view(dtype).reshape(shape) for name, (shape, dtype) in self.table.shapes(n_steps).items()
        }
        return {**steps, "infos": buffer[position:]}


def _flat(array: npt.NDArray[Any], dtype: np.dtype[Any]) -> Buffer:
    return np.ascontiguousarray(array, dtype).reshape(-1).view(np.uint8)


def _last_row(n_steps: int, n_pieces: int) -> int:
    """Each piece has an observation more than it has steps, the last one as the row after all steps."""
    return max(0, n_steps + n_pieces - 1)


class ReceivedArrays:
    """
    What the workers have sent last.

    :param layout: layout of what a round exchanges
    :param n_workers: number of workers
    """

    def __init__(self, layout: BufferLayout, n_workers: int) -> None:
        self.layout = layout
        nothing = {name: np.zeros(shape, dtype) for name, (shape, dtype) in layout.table.shapes(0).items()}
        nothing["infos"] = np.zeros(0, np.uint8)  # a worker that has sent nothing yet may have a trajectory rejected
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

        :param worker: index of the worker that sent it
        :param n_steps: its length
        :param buffer: the result of ``BufferLayout.pack``
        """
        self._arrays[worker].update(self.layout.unpack(n_steps, buffer))

    def take_segment(self, worker: int, n_steps: int, n_pieces: int, buffer: Buffer) -> None:
        """
        Keep a part of a segment until the next one.

        :param worker: index of the worker that sent it
        :param n_steps: number of steps in all pieces
        :param n_pieces: number of pieces in the buffer
        :param buffer: the result of ``BufferLayout.pack_segment``
        """
        self._arrays[worker].update(self.layout.unpack_segment(n_steps, n_pieces, buffer))

    def take_gradient(self, worker: int, buffer: Buffer) -> None:
        """
        Keep a gradient until the next one.

        :param worker: index of the worker that sent it
        :param buffer: float32 numbers
        :raises ValueError: if it has another length
        """
        gradient = buffer.copy().view(np.float32)
        if len(gradient) != self.layout.n_parameters:
            raise ValueError(f"a gradient has {self.layout.n_parameters} numbers, got {len(gradient)}")
        self._arrays[worker]["gradient"] = gradient

    def close(self) -> None:
        """Nothing to let go of."""
