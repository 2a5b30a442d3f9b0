"""The curve of a run as lines of a CSV file."""

from __future__ import annotations

import csv
from collections.abc import Collection, Mapping
from typing import TextIO

import numpy as np

from sb3_nigt.experiments.setting import ONE_TASK, Run

COLUMNS = ("method", "seed", "seconds", "timesteps", "messages", "updates", "return")


class CurveFile:
    """
    Writes a line for each evaluation.

    :param run: the run
    :param tasks: names of the tasks, each with a column if there is more than one
    :param file: file for the lines
    """

    def __init__(self, run: Run, tasks: Collection[str], file: TextIO) -> None:
        self._run, self._file = run, file
        self._tasks = [name for name in tasks if name != ONE_TASK]
        self._lines = csv.DictWriter(file, [*COLUMNS, *self._tasks], lineterminator="\n")
        self._lines.writeheader()

    def write(self, returns: Mapping[str, float], seconds: float, timesteps: int, messages: int, updates: int) -> None:
        """
        Add a line.

        :param returns: return of each task
        :param seconds: since the start of the run
        :param timesteps: timesteps so far
        :param messages: messages to the learner so far
        :param updates: updates so far
        """
        values = {
            "method": self._run.label or self._run.method,
            "seed": self._run.seed,
            "seconds": seconds,
            "timesteps": timesteps,
            "messages": messages,
            "updates": updates,
            "return": float(np.mean(list(returns.values()))),
        }
        self._lines.writerow({**{name: returns[name] for name in self._tasks}, **values})
        self._file.flush()
