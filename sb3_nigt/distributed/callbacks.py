"""Which callbacks run on which rank."""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    EvalCallback,
    EventCallback,
    LogEveryNTimesteps,
    ProgressBarCallback,
)

from sb3_nigt.distributed.checkpoints import RoundCheckpoint
from sb3_nigt.recording import RunRecorder

FIRST_RANK_ONLY = (EvalCallback, CheckpointCallback, ProgressBarCallback, LogEveryNTimesteps, RunRecorder, RoundCheckpoint)


def callbacks_of(rank: int, callback: Any) -> Any:
    """
    Leave out what evaluates, saves or prints, except on rank 0. All others run on every rank, with the steps of that rank.

    :param rank: of this process
    :param callback: what ``learn`` was given
    :return: what this rank shall run
    """
    if rank == 0:
        return callback
    if isinstance(callback, list):
        return [own for member in callback if (own := callbacks_of(rank, member)) is not None]
    if isinstance(callback, CallbackList):
        return CallbackList(callbacks_of(rank, callback.callbacks))
    if isinstance(callback, FIRST_RANK_ONLY):
        return None
    child: BaseCallback | None = callback.callback if isinstance(callback, EventCallback) else None
    return None if child is not None and callbacks_of(rank, child) is None else callback
