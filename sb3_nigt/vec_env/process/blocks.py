"""
Blocks of shared memory, and those that a run has left behind.

Where a run is killed as a whole, for example with its container, no process is left that could remove its blocks. So the
process that makes a block holds a lock on it, which ends with it in any case. The next run removes blocks without a lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

FOLDER = Path("/dev/shm")  # of the blocks, on Linux; elsewhere they cannot be listed
PREFIX = "sb3_nigt_"


def create(n_bytes: int) -> tuple[SharedMemory, int | None]:
    """
    Make a block; return it with a descriptor to be closed when the block is removed, where the system has locks on blocks.

    Blocks that no living process has made are removed first.

    :param n_bytes: its size
    :raises ValueError: if there is not enough shared memory
    """
    with _alone() as folder:
        if folder is not None:
            _remove_abandoned()
        _check_room(n_bytes)
        block = SharedMemory(PREFIX + secrets.token_hex(8), create=True, size=max(1, n_bytes))
        return block, None if folder is None else _claim(block)


@contextlib.contextmanager
def _alone() -> Iterator[int | None]:
    """Keep other processes from looking at a block that is not claimed yet; None where there is no folder to look at."""
    try:
        folder = os.open(FOLDER, os.O_RDONLY)
    except OSError:
        yield None
        return
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield folder
    finally:
        os.close(folder)


def _claim(block: SharedMemory) -> int | None:
    path = FOLDER / block.name
    if not path.exists():
        return None
    claim = os.open(path, os.O_RDWR)
    fcntl.flock(claim, fcntl.LOCK_SH)
    return claim


def _remove_abandoned() -> None:
    for path in FOLDER.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # another user's, or one that another process has just removed
            claim = os.open(path, os.O_RDWR)
            try:
                fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            finally:
                os.close(claim)


def _check_room(n_bytes: int) -> None:
    """Refuse a block that does not fit: creating it succeeds, but the first write beyond the end kills the process."""
    try:
        room = os.statvfs("/dev/shm")
    except (OSError, AttributeError):  # no such file system here
        return
    free = room.f_bavail * room.f_frsize
    if n_bytes > free:
        raise ValueError(
            f"The workers need {n_bytes / 2**20:.0f} MB of shared memory, but /dev/shm has only "
            f"{free / 2**20:.0f} MB free: give a smaller horizon or n_steps, "
            "fewer workers, or more shared memory (docker run --shm-size=...)."
        )
