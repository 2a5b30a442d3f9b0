"""What many workers take of the memory, with rounds of steps and with rounds of trajectories."""

from __future__ import annotations

import multiprocessing as mp
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from sb3_nigt.algorithms import RennalaNIGT
from sb3_nigt.algorithms.paper import PAPER
from sb3_nigt.experiments.benchmark.table import Row
from sb3_nigt.vec_env import ProcessVecEnv, make_worker_vec_env

N_ROUNDS = 3


def resident_megabytes(pids: Iterable[int], entry: str = "Pss") -> float:
    """
    Memory of processes, in which each shared page is divided by the number of processes that share it.

    :param pids: ids of processes that are alive
    :param entry: "Pss": all of it, "Pss_Shmem": shared memory
    """
    kilobytes = 0
    for pid in pids:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as lines:
            kilobytes += sum(int(line.split()[1]) for line in lines if line.split(":")[0] == entry)
    return kilobytes / 1024


def reserved_megabytes() -> float:
    """Shared memory of this process, whether it has been written to or not."""
    with open("/proc/self/maps", encoding="ascii") as lines:
        ranges = [line.split()[0].split("-") for line in lines if "/dev/shm/" in line]
    return sum(int(end, 16) - int(start, 16) for start, end in ranges) / 2**20


def measure(env_id: str, n_workers: int) -> Iterator[Row]:
    """
    Train for a few rounds in a fresh process, with the defaults and as in the paper.

    :param env_id: a registered environment
    :param n_workers: number of processes
    """
    settings: dict[str, dict[str, Any]] = {"defaults": {}, "paper": PAPER}
    measured = {}
    for name, kwargs in settings.items():
        with ProcessPoolExecutor(1, mp_context=mp.get_context("spawn")) as pool:
            measured[name] = pool.submit(_train, env_id, n_workers, kwargs).result()
    for i, what in enumerate(("shared memory that is reserved", "shared memory in use", "all memory in use")):
        name, values = f"{env_id}, {n_workers} processes: {what}", [measured["defaults"][i]]
        yield Row(name, "MB", values, [measured["paper"][i]], "the same with PAPER")


def _train(env_id: str, n_workers: int, kwargs: dict[str, Any]) -> tuple[float, float, float]:
    env = make_worker_vec_env(env_id, n_workers, vec_env_cls=ProcessVecEnv)
    assert isinstance(env, ProcessVecEnv)
    model = RennalaNIGT("MlpPolicy", env, seed=0, device="cpu", **kwargs)
    while model.n_updates < N_ROUNDS:
        model.learn(1, reset_num_timesteps=False)
    pids = [os.getpid(), *(pid for pid in env.worker_pids if pid is not None)]
    measured = reserved_megabytes(), resident_megabytes(pids, "Pss_Shmem"), resident_megabytes(pids)
    env.close()
    return measured
