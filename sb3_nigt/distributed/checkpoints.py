"""Files to go on from after a crash: whole or not there, and never older than a round."""

from __future__ import annotations

import os
import re
from pathlib import Path

from stable_baselines3.common.callbacks import BaseCallback

from sb3_nigt.validation import check_integer

NAME = re.compile(r"round_(\d+)\.zip")


class RoundCheckpoint(BaseCallback):
    """
    Callback that saves the model between two rounds: after an update, before anything of the next round has been sampled.

    A run that starts from such a file repeats the round that was cut short, with the same random numbers. A file has its name
    only once it is complete, so a crash while it is written leaves the one before. With several ranks rank 0 writes.

    :param folder: made if it does not exist; ``round_<updates>.zip`` for each file, and ``round_<updates>.pkl`` with the
        statistics of ``VecNormalize`` if there is one
    :param every: rounds between two files
    :param keep: how many of the newest files stay
    :param verbose: verbosity level
    """

    def __init__(self, folder: str | Path, every: int = 1, keep: int = 2, verbose: int = 0) -> None:
        super().__init__(verbose)
        self.folder = Path(folder)
        self.every, self.keep = check_integer("every", every, 1), check_integer("keep", keep, 1)

    def _on_rollout_start(self) -> None:
        n_updates: int = self.model.n_updates  # type: ignore[attr-defined]
        if n_updates == 0 or n_updates % self.every:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        normalize = self.model.get_vec_normalize_env()
        unfinished = self.folder / f"unfinished-{os.getpid()}.zip"
        if normalize is not None:
            normalize.save(str(unfinished))
            _publish(unfinished, self.folder / f"round_{n_updates}.pkl")
        self.model.save(unfinished)
        _publish(unfinished, self.folder / f"round_{n_updates}.zip")
        for old in _by_age(self.folder)[: -self.keep]:
            old.unlink()
            old.with_suffix(".pkl").unlink(missing_ok=True)

    def _on_step(self) -> bool:
        return True


def newest_checkpoint(folder: str | Path) -> Path | None:
    """
    Find the file to go on from.

    :param folder: of a ``RoundCheckpoint``
    :return: for ``load``; None if there is none
    """
    files = _by_age(Path(folder))
    return files[-1] if files else None


def _by_age(folder: Path) -> list[Path]:
    """The complete files, the newest last."""
    files = [path for path in folder.glob("round_*.zip") if NAME.fullmatch(path.name)]
    return sorted(files, key=lambda path: int(path.stem.removeprefix("round_")))


def _publish(unfinished: Path, path: Path) -> None:
    with unfinished.open("rb") as file:
        os.fsync(file.fileno())
    unfinished.replace(path)
