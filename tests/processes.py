"""What tests of worker processes share."""

import os
import time
from contextlib import contextmanager

from sb3_nigt import ProcessVecEnv

FAILED = "ignore:Worker .* failed:UserWarning"


def is_running(pid):
    """Whether there is such a process, and not only its exit code."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # the second: it went while it was read
        return False


def wait_until(condition, what, seconds=60):
    """Return as soon as a condition holds; the bound only turns a wait for ever into a failure."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"waited for {what}"
        time.sleep(0.01)


@contextmanager
def worker_processes():
    """Give a function that makes worker processes, which are gone afterwards with everything that they share."""
    made = []

    def make(*env_fns, **kwargs):
        made.append(ProcessVecEnv(list(env_fns), **kwargs))
        return made[-1]

    yield make
    pids = [slot.remote.pid for env in made for slot in env._slots]
    blocks = {block.layout.name for env in made for block in (env._control, env._block) if block is not None}
    for env in made:
        start = time.monotonic()
        env.close()
        env.close()  # twice is fine
        assert time.monotonic() - start < 10
    assert not any(is_running(pid) for pid in pids)
    assert not blocks.intersection(os.listdir("/dev/shm"))
