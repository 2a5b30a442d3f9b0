"""Random numbers of a worker whose episodes continue across rounds."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from sb3_nigt.sampling.heads import Head

NOISE_ROWS = 64  # drawn at a time
MOST_SKIPPED_ROWS = 2**14  # at a time


class NoiseStream:
    """
    Random numbers of a worker's actions, one row per step in order, however many are asked for at a time.

    :param head: the head that draws them
    :param rng: the worker's generator
    """

    def __init__(self, head: Head, rng: np.random.Generator) -> None:
        self._head, self._rng = head, rng
        self._left = head.noise(rng, 0)

    def take(self, rows: int) -> npt.NDArray[Any]:
        """
        Return the next rows.

        :param rows: number of rows
        """
        if len(self._left) < rows:
            more = self._head.noise(self._rng, max(NOISE_ROWS, rows - len(self._left)))
            self._left = np.concatenate([self._left, more])
        taken, self._left = self._left[:rows], self._left[rows:]
        return taken

    def give_back(self, rows: npt.NDArray[Any]) -> None:
        """
        Let the next ``take`` begin with rows that were not used.

        :param rows: the last rows that were taken
        """
        self._left = np.concatenate([rows, self._left])

    def skip(self, rows: int) -> None:
        """
        Leave out the next rows.

        :param rows: number of rows
        """
        while rows > 0:
            rows -= len(self.take(min(rows, MOST_SKIPPED_ROWS)))
