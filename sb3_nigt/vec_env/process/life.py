"""
Worker processes, and all that their environments start, end together: with the worker, and with the process that made it.

A worker leads its own process group, which is killed as a whole. It watches its parent through a descriptor that no other
process can keep open. On Linux it gets a signal as well, in case the environment hangs without letting its threads run.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import multiprocessing as mp
import os
import resource
import select
import signal
import threading
import time
from collections.abc import Iterator
from multiprocessing import forkserver
from typing import Any

LOOK_SECONDS = 1.0  # between two looks at the parent, where the system has no descriptors of processes
SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)
FILES_PER_WORKER = 3  # in the parent: its connection, and two of multiprocessing
SPARE_FILES = 32  # for files of a moment, and for what is opened later

# In the parent


@contextlib.contextmanager
def may_start_processes() -> Iterator[None]:
    """Start processes also from a daemon, such as a worker of ``multiprocessing.Pool``: those started here end with it."""
    process = mp.current_process()
    if not process.daemon:
        yield
        return
    process.daemon = False
    try:
        yield
    finally:
        process.daemon = True


def kill_group(pid: int) -> None:
    """
    Kill a worker with all that its environment has started, also after the worker itself has ended.

    :param pid: process id of the worker
    """
    with contextlib.suppress(OSError):  # all of it has gone, or the worker has not got that far
        os.killpg(pid, signal.SIGKILL)


def check_files(n_workers: int) -> None:
    """
    Refuse more workers than there may be open files for.

    :param n_workers: number of workers about to be started
    :raises ValueError: naming the limit, and what to type
    """
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        n_open = len(os.listdir("/dev/fd"))
    except OSError:
        return
    needed = n_open + FILES_PER_WORKER * n_workers + SPARE_FILES
    if limit != resource.RLIM_INFINITY and needed > limit:
        can_raise = most == resource.RLIM_INFINITY or needed <= most
        told = f"type: ulimit -n {needed}" if can_raise else f"the administrator must raise the hard limit, which is {most}"
        raise ValueError(
            f"env_fns: {n_workers} workers need {FILES_PER_WORKER * n_workers} open files, this process has {n_open} already, "
            f"and the limit (ulimit -n) is {limit}. In the shell that starts the script {told}; or give fewer workers."
        )


def which_limit(error: OSError) -> str:
    """
    Say why a process could not be started, and what to do.

    :param error: the error of the attempt
    """
    hints = {
        errno.EMFILE: "the limit of open files of this process is reached: raise it with ulimit -n",
        errno.ENFILE: "the machine has no open files left: see fs.file-max",
        errno.EAGAIN: "the limit of processes and threads is reached: raise it with ulimit -u, or pids.max of the container",
        errno.ENOMEM: "there is not enough memory for another process",
    }
    return hints.get(error.errno or 0, str(error))


# In the worker


def begin(parent: int) -> None:
    """
    Live as long as the parent; called first of all.

    :param parent: its process id
    """
    os.setsid()
    leave_fork_server()
    if (
        os.getppid() != parent
    ):  # the fork server's child. Where the parent has forked itself, its thread may end before it does
        _ask_for_signal()
    mp.current_process().daemon = False  # so that the environment may start processes
    threading.Thread(target=_end_with, args=(parent,), name="end with parent", daemon=True).start()


def end_group() -> None:
    """Kill this process and all that its environment has started."""
    os.killpg(0, signal.SIGKILL)


def _ask_for_signal() -> None:
    with contextlib.suppress(OSError, AttributeError):  # only Linux has it
        ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)


def _end_with(parent: int) -> None:
    """Wait for the end of the parent, however it comes, also while the environment hangs."""
    try:
        poll = select.poll()
        poll.register(os.pidfd_open(parent), select.POLLIN)
        poll.poll()
    except ProcessLookupError:
        pass
    except (OSError, AttributeError):  # not on this system
        with contextlib.suppress(ProcessLookupError):
            while True:
                os.kill(parent, 0)
                time.sleep(LOOK_SECONDS)
    end_group()


def leave_fork_server() -> None:
    """
    Do not keep the fork server alive that another process has started: it must end with that one.

    Workers inherit a hold on it, as do processes that the parent forks, and none of them can use it.
    """
    server: Any = forkserver._forkserver
    with contextlib.suppress(AttributeError, TypeError, OSError):
        os.close(server._forkserver_alive_fd)
    server._forkserver_alive_fd = server._forkserver_pid = None


os.register_at_fork(after_in_child=leave_fork_server)
