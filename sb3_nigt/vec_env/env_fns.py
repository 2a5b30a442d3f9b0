"""The functions that make the environments of workers: checked, and packed for the journey to other processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import cloudpickle
import gymnasium as gym

EnvFn = Callable[[], gym.Env[Any, Any]]


def checked_env_fns(env_fns: Iterable[EnvFn]) -> list[EnvFn]:
    """
    Return the functions as a list.

    :param env_fns: what the user gave, one function per worker
    :raises ValueError: if it is no list of functions, or an empty one
    """
    if not isinstance(env_fns, Iterable):
        raise ValueError(f"env_fns={env_fns!r} is not allowed: give a list, one function for each worker: [make_env] * 4.")
    functions = list(env_fns)
    if not functions:
        raise ValueError("env_fns=[] is not allowed: give one function for each worker, at least one.")
    if not all(callable(function) for function in functions):
        raise ValueError("env_fns: give functions that make the environments, not environments: [lambda: env].")
    return functions


def packed(env_fns: Iterable[EnvFn]) -> list[bytes]:
    """
    Pack each function, with what it refers to, for another process.

    :param env_fns: one per worker
    :raises ValueError: if one refers to something that cannot travel
    """
    return [_packed(worker, function) for worker, function in enumerate(env_fns)]


def _packed(worker: int, function: EnvFn) -> bytes:
    try:
        data: bytes = cloudpickle.dumps(function)
    except Exception as error:  # whatever the objects raise that the function refers to
        raise ValueError(
            f"env_fns: the function of worker {worker} cannot be sent to another process ({error}): make everything it needs, "
            "such as locks, files and connections, inside of the function."
        ) from error
    return data
