"""Errors that stop a run, and warnings that do not."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Hashable
from typing import Any

EXIT_CODE = 143  # of a run that a signal ends; what a shell says of a process that SIGTERM has ended


class WorkerError(RuntimeError):
    """
    A worker failed and cannot continue.

    :param message: what happened
    :param worker: index of the worker
    :param task_id: the task that it holds
    """

    def __init__(self, message: str, worker: int, task_id: Hashable) -> None:
        super().__init__(f"Worker {worker} (task {task_id!r}): {message}")
        self.message, self.worker, self.task_id = message, worker, task_id

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, self.worker, self.task_id)  # the default gives only the text, and cannot be read


class LostWorkerError(WorkerError):
    """A worker will never deliver anything again, and no round can be completed without it."""


class RankError(RuntimeError):
    """Another rank of the process group failed or cannot be reached; the message names it."""


class Preempted(SystemExit):
    """
    A signal ended the run, see ``RoundCheckpoint``. Unless it is caught, the program ends with exit code 143.

    :param reason: the signal, and the rank if there are several
    """

    def __init__(self, reason: str) -> None:
        super().__init__(EXIT_CODE)
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.reason,)


class RemoteError(Exception):
    """Carries the traceback text of another process; the cause of the exception that is raised here."""


class NonFiniteError(RuntimeError, ValueError):
    """
    The gradients of a run, or the actions of its policy, are no longer finite.

    It is also a ``ValueError``, which torch's distributions raise for parameters that are not finite. So hyperparameter
    searches such as rl_zoo3's treat it as a bad choice and continue.
    """


LIBRARIES = ("sb3_nigt", "stable_baselines3")


def warn_user(message: str) -> None:
    """
    Warn with the line of the user's program that called the library; a line of ours would tell them nothing.

    :param message: what has happened, and what to do
    """
    frame, level, level_of_user = inspect.currentframe(), 1, 1
    while frame is not None:
        level += 1
        if frame.f_globals.get("__name__", "").partition(".")[0] in LIBRARIES:
            level_of_user = level  # of its caller: what stands between two frames of a library, as torch, is not the user's
        frame = frame.f_back
    warnings.warn(message, stacklevel=level_of_user)
