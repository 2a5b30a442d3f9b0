"""Where workers run: the kinds of workers, and ranks of a process group as processes of this machine."""

from __future__ import annotations

import importlib.util
import multiprocessing as mp
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import TypeVar

import torch as th
import torch.distributed as dist

from sb3_nigt.vec_env import ProcessVecEnv, WorkerVecEnv

T = TypeVar("T")


def processes_and_actors() -> dict[str, Callable[..., WorkerVecEnv]]:
    """Classes of workers that run side by side, by name; Ray's only where it is installed."""
    classes: dict[str, Callable[..., WorkerVecEnv]] = {"ProcessVecEnv": ProcessVecEnv}
    if importlib.util.find_spec("ray") is not None:  # an extra
        from sb3_nigt.vec_env.ray.vec_env import RayVecEnv

        classes["RayVecEnv"] = RayVecEnv
    return classes


def on_ranks(size: int, function: Callable[[], T]) -> T:
    """
    Run a function on all ranks of a process group.

    :param size: number of ranks
    :param function: a function importable by name, or a partial of one that is
    :return: what rank 0 returns
    """
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
    with ProcessPoolExecutor(size, mp_context=mp.get_context("spawn")) as pool:
        of_first, *_ = pool.map(partial(_rank, function, store.port, size), range(size))
    return of_first


def is_first() -> bool:
    """Whether this process is rank 0, or belongs to no group."""
    return not dist.is_initialized() or dist.get_rank() == 0


def _rank(function: Callable[[], T], port: int, size: int, rank: int) -> T:
    th.set_num_threads(1)
    store = dist.TCPStore("127.0.0.1", port, is_master=False, wait_for_workers=False)  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size)
    result = function()
    dist.destroy_process_group()
    return result
