"""Trajectories as flat buffers: fixed arrays one after the other, as the layout says, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sb3_nigt.trajectory import Trajectory
from sb3_nigt.vec_env.shared import Fields

Buffer = npt.NDArray[np.uint8]

WITHOUT_ROWS = ("parameters", "gradient")  # the fields that are no part of a trajectory


@dataclass(frozen=True)
class BufferLayout:
    """
    What both ends know of a trajectory's arrays.

    :param fields: made by ``rollout_fields``; the first dimension, the horizon, is the number of rows at most
    """

    fields: Fields

    def rows(self, n_steps: int) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """
        Shape and dtype of the arrays of one trajectory, in the order of the buffer.

        :param n_steps: its length
        """
        return {
            name: ((n_steps + name.startswith("observation/"), *shape[1:]), np.dtype(dtype))
            for name, (shape, dtype) in self.fields.items()
            if name not in WITHOUT_ROWS
        }

    def pack(self, trajectory: Trajectory) -> Buffer:
        """
        Write a trajectory into a buffer.

        :param trajectory: complete or cancelled
        """
        observations, final = trajectory.observations, trajectory.final_observation
        if not isinstance(observations, dict):
            observations, final = {"": observations}, {"": final}
        arrays: dict[str, Any] = {
            "rewards": trajectory.rewards,
            "samples": trajectory.samples,
            "actions": trajectory.actions,
            **{f"observation/{key}": np.concatenate([rows, [final[key]]]) for key, rows in observations.items()},
        }
        pieces = [
            np.ascontiguousarray(arrays[name], dtype).reshape(-1).view(np.uint8)
            for name, (_, dtype) in self.rows(trajectory.n_steps).items()
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
        for name, (shape, dtype) in self.rows(n_steps).items():
            size = int(np.prod(shape)) * dtype.itemsize
            arrays[name] = buffer[position : position + size]
            position += size
        if position != len(buffer):
            raise ValueError(f"a trajectory of {n_steps} steps has {position} bytes, got {len(buffer)}")
        # a slice may begin anywhere, and arrays of numbers may not
        return {name: arrays[name].copy().view(dtype).reshape(shape) for name, (shape, dtype) in self.rows(n_steps).items()}


class ReceivedArrays:
    """
    What the workers have sent last.

    :param fields: made by ``rollout_fields``
    :param n_workers: number of workers
    """

    def __init__(self, fields: Fields, n_workers: int) -> None:
        self.layout = BufferLayout(fields)
        nothing = {name: np.zeros(shape, dtype) for name, (shape, dtype) in self.layout.rows(0).items()}
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
        shape, dtype = self.layout.fields["gradient"]
        gradient = buffer.copy().view(dtype)
        if gradient.shape != shape:
            raise ValueError(f"a gradient has {shape[0]} numbers, got {gradient.size}")
        self._arrays[worker]["gradient"] = gradient

    def close(self) -> None:
        """Nothing to let go of."""
