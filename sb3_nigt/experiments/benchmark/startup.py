"""How long worker processes take to start, and what they weigh."""

from __future__ import annotations

import multiprocessing as mp
import time
from concurrent.futures import ProcessPoolExecutor

from sb3_nigt.experiments.benchmark.table import Row
from sb3_nigt.vec_env import ProcessVecEnv, make_worker_vec_env


def private_megabytes(pid: int) -> float:
    """
    Memory that a process does not share.

    :param pid: id of the process
    """
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as lines:
        kilobytes = [int(line.split()[1]) for line in lines if line.startswith("Private_")]
    return sum(kilobytes) / 1024


def measure(env_id: str, n_workers: int) -> list[Row]:
    """
    Start workers from a fresh process, which has no fork server yet.

    :param env_id: a registered environment
    :param n_workers: number of processes
    """
    with ProcessPoolExecutor(1, mp_context=mp.get_context("spawn")) as pool:
        seconds, megabytes = pool.submit(_start, env_id, n_workers).result()
    what = f"{env_id}, start of {n_workers} processes"
    return [Row(what, "s", [seconds]), Row(f"{what}: heaviest one, private", "MB", [megabytes])]


def _start(env_id: str, n_workers: int) -> tuple[float, float]:
    start = time.perf_counter()
    env = make_worker_vec_env(env_id, n_workers, vec_env_cls=ProcessVecEnv)
    seconds = time.perf_counter() - start
    assert isinstance(env, ProcessVecEnv)
    env.reset()
    heaviest = max(private_megabytes(pid) for pid in env.worker_pids if pid is not None)
    env.close()
    return seconds, heaviest
