"""What tests of worker processes share."""

import os
import select
import signal
import time
from contextlib import ExitStack, contextmanager, suppress

from envs import LengthFromSeedEnv

from sb3_nigt import ProcessVecEnv

FAILED = "ignore:Worker .* failed:UserWarning"
SECONDS = 300  # bound of every wait here; it only turns a wait for ever into a failure


class Bell:
    """
    A named pipe that another process rings and a test waits for, so that no polling is needed.

    :param path: where it is made
    """

    def __init__(self, path):
        self.path = path
        os.mkfifo(path)
        self._file = os.open(path, os.O_RDWR)  # open at both ends, so that ringing does not wait for a listener

    def wait(self, times=1):
        """Wait until it has been rung so many times since the last call."""
        for _ in range(times):
            assert select.select([self._file], [], [], SECONDS)[0], f"no process has rung {self.path.name}"
            os.read(self._file, 1)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        os.close(self._file)


def ring(path):
    """Ring a ``Bell``, from any process."""
    with open(path, "wb", buffering=0) as bell:
        bell.write(b".")


# What a faulty environment or callback does


def explode():
    raise LookupError("the physics exploded")


def kill_myself():
    os.kill(os.getpid(), signal.SIGKILL)


def stop_myself():
    os.kill(os.getpid(), signal.SIGSTOP)


def hang():
    while True:
        time.sleep(10)


class FaultyEnv(LengthFromSeedEnv):
    """
    Fails at one step of its life.

    :param does: what happens then
    :param at: number of the step
    :param flag: a file that it leaves behind, after which it never fails again, also in another process
    """

    def __init__(self, does, at=7, flag=None):
        super().__init__()
        self.does, self.at, self.flag, self.n = does, at, flag, 0

    def step(self, action):
        self.n += 1
        if self.n == self.at and not (self.flag and self.flag.exists()):
            if self.flag:
                self.flag.touch()
            self.does()
        return super().step(action)


def is_running(pid):
    """Whether there is such a process, and not only its exit code."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # the second: it went while it was read
        return False


def descendants(pid):
    """Processes below a process."""
    below, found = {}, [pid]
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError), open(f"/proc/{entry}/stat") as stat:
            below.setdefault(int(stat.read().rsplit(")", 1)[1].split()[1]), []).append(int(entry))
    for parent in found:
        found += below.get(parent, [])
    return found[1:]


@contextmanager
def ends_of(pids):
    """Watch processes, also those of others; within the context they may be told to end, after it they have ended."""
    with ExitStack() as stack:
        files = [os.pidfd_open(pid) for pid in pids]
        for file in files:
            stack.callback(os.close, file)
        yield
        for pid, file in zip(pids, files, strict=True):
            assert select.select([file], [], [], SECONDS)[0], f"process {pid} has not ended"


@contextmanager
def worker_processes():
    """Give a function that makes worker processes, which are gone afterwards with everything that they share."""
    made = []

    def make(*env_fns, **kwargs):
        made.append(ProcessVecEnv(list(env_fns), **kwargs))
        return made[-1]

    yield make
    pids = [pid for env in made for pid in env.worker_pids]
    blocks = {block.layout.name for env in made for block in env._transport.blocks}
    for env in made:
        env.close()
        env.close()  # twice is fine
    assert not any(is_running(pid) for pid in pids)
    assert not blocks.intersection(os.listdir("/dev/shm"))
