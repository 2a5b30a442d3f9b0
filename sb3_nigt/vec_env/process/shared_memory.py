"""Memory that the parent and its workers share, and the layout of what lies in it. Flat arrays; only infos are pickled."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np
import numpy.typing as npt

from sb3_nigt.vec_env.pool.arrays import Fields
from sb3_nigt.vec_env.process import blocks


@dataclass(frozen=True)
class SharedLayout:
    """
    Name and layout of a block, enough to attach to it from another process.

    :param name: name of the block
    :param fields: arrays of each worker
    :param n_workers: number of workers
    """

    name: str
    fields: Fields
    n_workers: int


class SharedArrays:
    """
    One array per worker and field, in one block of shared memory.

    :param fields: the arrays of each worker
    :param n_workers: number of workers
    :param name: name of an existing block to attach to; None creates one
    :raises ValueError: if there is not enough shared memory
    """

    def __init__(self, fields: Fields, n_workers: int, name: str | None = None) -> None:
        offsets, size = {}, 0
        for field, (shape, dtype) in fields.items():
            offsets[field] = size
            nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
            size += -(-nbytes // 64) * 64  # a cache line at least, so that neighbours do not disturb each other
        self._claim: int | None = None
        if name is None:
            self._block, self._claim = blocks.create(size * n_workers)
        else:
            self._block = SharedMemory(name)
        self._created, self._worker_bytes, self._offsets = name is None, size, offsets
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

    def column(self, field: str) -> npt.NDArray[Any]:
        """
        Copy the arrays of all workers into one.

        :param field: name of arrays that hold one number each
        :return: shape (n,)
        """
        dtype, shape = np.dtype(self.layout.fields[field][1]), (self.layout.n_workers,)
        return np.ndarray(shape, dtype, self._block.buf, self._offsets[field], (self._worker_bytes,)).copy()

    def close(self) -> None:
        """Detach; the process that made the block also removes it."""
        self._arrays = []
        with contextlib.suppress(BufferError):  # an array is still in use; the mapping goes with the process
            self._block.close()
        if self._created:
            self._created = False
            self._block.unlink()
        if self._claim is not None:
            os.close(self._claim)
            self._claim = None
