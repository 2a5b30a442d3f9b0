"""Errors that stop a run."""

from __future__ import annotations

from collections.abc import Hashable

EXIT_CODE = 143  # of a run that a signal ends; what a shell says of a process that SIGTERM has ended


class WorkerError(RuntimeError):
    """
    A worker cannot go on.

    :param message: what happened
    :param worker: index of the worker
    :param task_id: the task that it holds
    """

    def __init__(self, message: str, worker: int, task_id: Hashable) -> None:
        super().__init__(f"Worker {worker} (task {task_id!r}): {message}")
        self.message, self.worker, self.task_id = message, worker, task_id


class LostWorkerError(WorkerError):
    """A worker will never deliver anything again, and no round can be completed without it."""


class RankError(RuntimeError):
    """Another rank of the process group cannot go on, or cannot be reached; the message names it."""


class Preempted(SystemExit):
    """
    A signal has ended the run, see ``RoundCheckpoint``. Left alone, it ends the program with exit code 143.

    :param reason: which signal, and on which rank if there are several
    """

    def __init__(self, reason: str) -> None:
        super().__init__(EXIT_CODE)
        self.reason = reason


class RemoteError(Exception):
    """Carries the traceback text of another process; the cause of the exception that is raised here."""


class NonFiniteError(RuntimeError, ValueError):
    """
    The gradients of a run are not finite any more.

    A ``ValueError`` as well, which is what torch's distributions raise for parameters that are no numbers: who tries many
    hyperparameters, as rl_zoo3 does, takes it for a bad choice and goes on with the next one.
    """
