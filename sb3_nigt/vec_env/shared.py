"""Memory that the parent and its workers share, and the layout of what lies in it. No pickle, only flat arrays."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.shared_memory import SharedMemory
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from sb3_nigt.actors import Head

Fields = Mapping[str, tuple[tuple[int, ...], str]]  # name -> (shape, dtype) of one worker's array

CONTROL: Fields = {
    "steps": ((1,), "int64"),  # steps and resets begun or done: grows as long as the worker lives
    "cancelled": ((1,), "int64"),  # number of the last job that the parent does not want any more
    "requested": ((1,), "int64"),  # number of the last gradient that the parent has asked for
    "answering": ((1,), "int64"),  # number of the last gradient that the worker has begun with
}


def rollout_fields(observation_space: spaces.Space[Any], head: Head, n_steps: int, n_state: int, n_parameters: int) -> Fields:
    """
    What one worker and its parent exchange in a round.

    :param observation_space: of the worker's environment
    :param head: gives the layout of samples and actions
    :param n_steps: H
    :param n_state: length of ``SamplingPoint.parameters``
    :param n_parameters: length of the gradient
    """
    fields: dict[str, tuple[tuple[int, ...], str]] = {
        "parameters": ((n_state,), "float32"),
        "gradient": ((n_parameters,), "float32"),
        "rewards": ((n_steps,), "float64"),
        "samples": ((n_steps, *head.sample_shape), np.dtype(head.sample_dtype).str),
        "actions": ((n_steps, *head.action_shape), head.action_dtype.str),
    }
    parts = observation_space.spaces if isinstance(observation_space, spaces.Dict) else {"": observation_space}
    for key, space in parts.items():
        fields[f"observation/{key}"] = ((n_steps + 1, *(space.shape or ())), np.dtype(space.dtype).str)
    return fields


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


@dataclass(frozen=True)
class SharedLayout:
    """
    Name and layout of a block, enough to attach to it from another process.

    :param name: of the block
    :param fields: arrays of each worker
    :param n_workers: number of workers
    """

    name: str
    fields: Fields
    n_workers: int


class SharedArrays:
    """
    One array a worker and field, in one block of shared memory.

    :param fields: the arrays of each worker
    :param n_workers: number of workers
    :param name: of an existing block to attach to; None creates one
    :raises ValueError: if there is not enough shared memory
    """

    def __init__(self, fields: Fields, n_workers: int, name: str | None = None) -> None:
        offsets, size = {}, 0
        for field, (shape, dtype) in fields.items():
            offsets[field] = size
            nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
            size += -(-nbytes // 64) * 64  # a cache line at least, so that neighbours do not disturb each other
        if name is None:
            _check_room(size * n_workers)
        self._block = SharedMemory(name, create=name is None, size=max(1, size * n_workers))
        self._created = name is None
        self.layout = SharedLayout(self._block.name, dict(fields), n_workers)
        self._arrays = [
            {
                field: np.ndarray(shape, dtype, buffer=self._block.buf, offset=worker * size + offsets[field])
                for field, (shape, dtype) in fields.items()
            }
            for worker in range(n_workers)
        ]

    @classmethod
    def attach(cls, layout: SharedLayout) -> SharedArrays:
        """
        Open a block that another process has made.

        :param layout: its ``layout``
        """
        return cls(layout.fields, layout.n_workers, layout.name)

    def of(self, worker: int) -> dict[str, npt.NDArray[Any]]:
        """
        Return the arrays of one worker.

        :param worker: its index
        """
        return self._arrays[worker]

    def close(self) -> None:
        """Detach; whoever made the block also removes it."""
        self._arrays = []
        with contextlib.suppress(BufferError):  # somebody still holds an array; the mapping goes with the process
            self._block.close()
        if self._created:
            self._created = False
            self._block.unlink()


def _check_room(n_bytes: int) -> None:
    """Refuse a block that does not fit: creating it succeeds, but the first write beyond the end kills the process."""
    try:
        room = os.statvfs("/dev/shm")
    except (OSError, AttributeError):  # no such file system here
        return
    free = room.f_bavail * room.f_frsize
    if n_bytes > free:
        raise ValueError(
            f"n_steps and the number of workers ask for {n_bytes / 2**20:.0f} MB of shared memory, /dev/shm has "
            f"{free / 2**20:.0f} MB free: give a smaller n_steps, or more shared memory (docker run --shm-size=...)."
        )
