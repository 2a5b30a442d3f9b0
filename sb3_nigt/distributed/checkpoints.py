"""Files to go on from after a crash or a signal: whole or not there, and never older than a round."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from sb3_nigt.algorithms.preemption import RoundSaver
from sb3_nigt.errors import warn_user
from sb3_nigt.validation import check_integer, check_interval

NAME = re.compile(r"round_(\d+)\.zip")
SIGNALS = tuple(name for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))  # Windows has the first one only
GRACE_SECONDS = 25.0  # less than the 30 s after which SLURM, Kubernetes and torchrun kill by default


class RoundCheckpoint(RoundSaver):
    """
    Callback that saves the model between two rounds: after an update, and before anything of the next round is sampled.

    A run that starts from such a file repeats the interrupted round with the same random numbers. A file gets its name once
    it is complete, so a crash during writing leaves the previous one intact. With several ranks, rank 0 writes. A restart
    may move rank 0 to another host, so let every rank load ``newest_checkpoint(folder)``: all start with the newest model.

    If the folder has a file with more updates than the model, on any rank, ``learn`` raises a ``ValueError``: the new files
    would look older than those of the previous run.

    While the model learns, SIGTERM and SIGUSR1 end the run: the model is saved as it was after the last complete round,
    ``env.close()`` is called, and ``learn`` raises ``Preempted``, which ends the program with exit code 143. A signal to one
    rank ends all of them. Signals within one second of the first count as the same; a later one ends the process at once.
    Your own handlers and ignored signals are kept. Signals are not handled if ``learn`` runs outside the main thread. The
    previous handlers are restored when ``learn`` ends.

    :param folder: created if it does not exist; gets ``round_<updates>.zip`` for each checkpoint, and
        ``round_<updates>.pkl`` with the statistics of ``VecNormalize`` if there is one
    :param every: rounds between two checkpoints
    :param keep: number of newest checkpoints to keep
    :param verbose: verbosity level
    :param signals: names of the signals that end the run; ``()``: none, so that they have their usual effect
    :param grace: seconds after a signal at which the process ends with code 143 if ``learn`` is not over
    """

    def __init__(
        self,
        folder: str | Path,
        every: int = 1,
        keep: int = 2,
        verbose: int = 0,
        signals: Sequence[str] = SIGNALS,
        grace: float = GRACE_SECONDS,
    ) -> None:
        check_interval("grace", grace, 0.0, 86_400.0, open_low=True)
        super().__init__(_checked(signals), grace, verbose)
        self.folder = Path(folder)
        self.every, self.keep = check_integer("every", every, 1), check_integer("keep", keep, 1)

    def _on_training_start(self) -> None:
        newest, path = newest_of([self])
        if newest > self._n_updates:
            raise ValueError(not_loaded(path, self._n_updates, ""))
        for leftover in self.folder.glob("unfinished-*"):
            leftover.unlink()

    def _on_rollout_start(self) -> None:
        if self._n_updates > 0 and self._n_updates % self.every == 0:
            self._save()

    def _on_step(self) -> bool:
        return True

    def save_last_round(self) -> None:
        """See ``RoundSaver``."""
        if self._n_updates > 0 and not self._path.exists():
            self._save()
        print(f"Stopped by a signal after {self._n_updates} updates. Checkpoints: {self.folder}", file=sys.stderr)

    @property
    def _n_updates(self) -> int:
        n_updates: int = self.model.n_updates  # type: ignore[attr-defined]
        return n_updates

    @property
    def _path(self) -> Path:
        return self.folder / f"round_{self._n_updates}.zip"

    def _save(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        unfinished = self.folder / f"unfinished-{socket.gethostname()}-{os.getpid()}.zip"
        try:
            self._write(unfinished)
        finally:
            unfinished.unlink(missing_ok=True)
            if not self._path.exists():
                self._path.with_suffix(".pkl").unlink(missing_ok=True)
        for old in _by_age(self.folder)[: -self.keep]:
            old.unlink()
            old.with_suffix(".pkl").unlink(missing_ok=True)

    def _write(self, unfinished: Path) -> None:
        normalize = self.model.get_vec_normalize_env()
        if normalize is not None:
            normalize.save(str(unfinished))
            _publish(unfinished, self._path.with_suffix(".pkl"))
        self.model.save(unfinished)
        _publish(unfinished, self._path)


def newest_checkpoint(folder: str | Path) -> Path | None:
    """
    Find the newest checkpoint. A damaged file is skipped, with a warning.

    :param folder: of a ``RoundCheckpoint``
    :return: for ``load``; None if there is none
    """
    for path in reversed(_by_age(Path(folder))):
        problem = _problem(path)
        if problem is None:
            return path
        warn_user(f"{path} is damaged and was skipped: {problem}.")
    return None


def newest_of(savers: Sequence[RoundSaver]) -> tuple[int, str]:
    """
    Find the newest file in the folders of all callbacks.

    :param savers: callbacks of a run
    :return: updates of the model in it, and its path; 0 and an empty one if there is none
    """
    paths = [newest_checkpoint(saver.folder) for saver in savers if isinstance(saver, RoundCheckpoint)]
    return max(((_updates(path), str(path)) for path in paths if path is not None), default=(0, ""))


def not_loaded(path: str, n_updates: int, whose: str) -> str:
    """
    Say that a run begins with less than a file has.

    :param path: of the file
    :param n_updates: of the model that is to be trained
    :param whose: " of rank 1", where there are ranks
    """
    return (
        f"training would begin after {n_updates} updates, while there is {path}{whose}: load "
        f"newest_checkpoint({str(Path(path).parent)!r}) on every rank, or give RoundCheckpoint another folder."
    )


def _checked(signals: Sequence[str]) -> list[signal.Signals]:
    """
    Look signals up by their names.

    :raises ValueError: for one that does not exist, or that no process can handle
    """
    known = {known.name: known for known in signal.Signals if known.name not in ("SIGKILL", "SIGSTOP")}
    for name in signals:
        if name not in known:
            raise ValueError(f"signals={signals!r} is not allowed: give a list of names such as ['SIGTERM'], or () for none.")
    return [known[name] for name in signals]


def _by_age(folder: Path) -> list[Path]:
    """The complete files, the newest last."""
    files = [path for path in folder.glob("round_*.zip") if NAME.fullmatch(path.name)]
    return sorted(files, key=_updates)


def _updates(path: Path) -> int:
    return int(path.stem.removeprefix("round_"))


def _problem(path: Path) -> str | None:
    """What is wrong with a file, by the checksums that it holds."""
    try:
        with zipfile.ZipFile(path) as file:
            damaged = file.testzip()
    except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:  # RuntimeError: a flag has changed
        return str(error)
    return None if damaged is None else f"checksum mismatch in {damaged}"


def _publish(unfinished: Path, path: Path) -> None:
    with unfinished.open("rb") as file:
        os.fsync(file.fileno())
    unfinished.replace(path)
    if os.name == "posix":  # elsewhere a folder cannot be opened
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the name, too
        finally:
            os.close(folder)
