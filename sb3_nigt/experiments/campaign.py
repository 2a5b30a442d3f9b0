"""Many runs, several at a time. What is finished stays finished, whatever ends the program."""

from __future__ import annotations

import json
import multiprocessing as mp
import os
import signal
import threading
import warnings
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import gymnasium as gym
import torch as th
from tqdm import tqdm

from sb3_nigt.experiments.arguments import FailedRunsError, UsageError
from sb3_nigt.experiments.results import Curve
from sb3_nigt.experiments.setting import Run, completed
from sb3_nigt.experiments.training import checksum_of, execute, files_of

ATTEMPTS = 3  # at runs whose process was killed; an error in Python would come again
POLL_SECONDS = 1.0
LONGEST_TEXT = 30  # lines of an error
OUT_OF_DATE = ".*The environment .* is out of date"  # gymnasium's warning; an experiment of v4 is repeated on v4


def execute_all(runs: Sequence[Run], directory: Path, processes: int) -> None:
    """
    Execute all runs that are not finished yet.

    :param runs: runs with different names
    :param directory: directory for the files; created if it does not exist
    :param processes: number of runs at a time
    :raises UsageError: if the directory cannot be made, or has a run of the same name that is another one
    :raises FailedRunsError: if some have failed, after all others are finished
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{directory}: {error.strerror}. Give another directory") from None
    errors: dict[str, str] = {}
    waiting = [run for run in runs if not is_finished(run, directory)]
    with tqdm(total=len(runs), unit="run", bar_format="{l_bar}{bar}| {n:.1f}/{total} runs [{elapsed}<{remaining}]") as bar:
        for _ in range(ATTEMPTS):
            if waiting:
                _attempt(waiting, directory, processes, errors, bar, len(runs) - len(waiting))
            waiting = [run for run in waiting if run.name not in errors and not is_finished(run, directory)]
    errors.update({run.name: "its process was killed, possibly because memory ran out" for run in waiting})
    if errors:
        lines = "\n".join(f"  {name}: {error}" for name, error in sorted(errors.items()))
        raise FailedRunsError(f"{len(errors)} of {len(runs)} runs failed; run the same command again to retry them:\n{lines}")


def is_finished(run: Run, directory: Path) -> bool:
    """
    Tell whether a run has its files.

    :param directory: where to look
    :raises UsageError: if the files are those of another run, or damaged
    """
    curve, configuration = files_of(run, directory)
    if not (curve.exists() and configuration.exists()):
        return False
    try:
        record = json.loads(configuration.read_text(encoding="utf-8"))
        found, wanted = completed(record["run"]), run.as_json()
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"{configuration} is damaged: remove it to repeat the run") from None
    differing = [name for name in wanted if found.get(name) != wanted[name]]
    if differing:
        raise UsageError(f"{configuration} is of a run with another {differing[0]}: give another directory, or remove it")
    if not _is_whole(curve, record.get("checksum")):
        raise UsageError(f"{curve} is damaged: remove it to repeat the run")
    return True


def _is_whole(curve: Path, checksum: int | None) -> bool:
    """Whether a file is as its run has left it; None: its checksum is not known."""
    try:
        Curve.load(curve)
    except ValueError:
        return False
    return checksum in (None, checksum_of(curve))


def _attempt(
    waiting: Sequence[Run], directory: Path, processes: int, errors: dict[str, str], bar: tqdm[None], n_finished: int
) -> None:
    """Execute until all are done, or a process is killed, which ends those that run at the same time."""
    started_before = set(mp.active_children())
    pool = ProcessPoolExecutor(min(processes, len(waiting)), mp_context=mp.get_context("spawn"), initializer=_prepare_process)
    try:
        futures = {pool.submit(_error_of, run, directory): run for run in waiting}
        unfinished: set[Future[str | None]] = set(futures)
        while unfinished:
            done, unfinished = wait(unfinished, timeout=POLL_SECONDS)
            for future in done:
                error = future.exception()
                if isinstance(error, BrokenProcessPool):
                    continue
                text = future.result() if error is None else _text(error)
                if text is not None:
                    errors[futures[future].name] = text
            bar.n = n_finished + sum(_share_done(futures[future], directory, future.running()) for future in futures)
            bar.refresh()
    finally:  # Ctrl-C included: what is unfinished begins again with the next command
        pool.shutdown(wait=False, cancel_futures=True)
        for process in set(mp.active_children()) - started_before:
            process.terminate()
            process.join()


def _error_of(run: Run, directory: Path) -> str | None:
    """Execute a run in its process, and say what went wrong: an exception that cannot be unpickled would break the pool."""
    try:
        execute(run, directory)
    except Exception as error:  # any: an environment may raise anything
        return _text(error)
    return None


def _text(error: BaseException) -> str:
    """Its first lines: some messages have an array of a hundred."""
    lines = f"{type(error).__name__}: {error}".splitlines()
    return "\n".join(lines if len(lines) <= LONGEST_TEXT else [*lines[:LONGEST_TEXT], "…"])


def _share_done(run: Run, directory: Path, running: bool) -> float:
    """Read how far a run is from the last line of its curve."""
    curve, configuration = files_of(run, directory)
    if configuration.exists():
        return 1.0
    lines = curve.read_text(encoding="utf-8").splitlines() if running and curve.exists() else []
    if len(lines) < 2:
        return 0.0
    values = dict(zip(lines[0].split(","), lines[-1].split(","), strict=False))
    return min(1.0, run.budget.spent(int(values["timesteps"]), float(values["seconds"])))


def _prepare_process() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    threading.Thread(target=_end_with_parent, daemon=True).start()
    th.set_num_threads(1)
    gym.logger.min_level = gym.logger.ERROR
    warnings.filterwarnings("ignore", message=OUT_OF_DATE)
    warnings.filterwarnings("ignore", message="The workers hold different tasks")  # that is the experiment


def _end_with_parent() -> None:
    """A run that outlives its killed parent would write into the files of the command that continues."""
    parent = mp.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
