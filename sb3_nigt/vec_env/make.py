"""One call from an environment id to workers of different speed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from stable_baselines3.common.monitor import Monitor

from sb3_nigt.envs.registration import registered
from sb3_nigt.timing.link import Aggregation, Link
from sb3_nigt.timing.time_models import FixedTimes, TimeModel, TimePer
from sb3_nigt.validation import check_integer
from sb3_nigt.vec_env.base import WorkerVecEnv
from sb3_nigt.vec_env.simulated import SimulatedVecEnv

EnvFactory = Callable[..., gym.Env[Any, Any]]


def make_worker_vec_env(
    env_id: str | EnvFactory,
    n_workers: int = 1,
    vec_env_cls: Callable[..., WorkerVecEnv] = SimulatedVecEnv,
    step_times: float | Iterable[float] = 1.0,
    message_times: float | Iterable[float] = 0.0,
    time_per: TimePer = "step",
    task_ids: Sequence[Hashable] | None = None,
    seed: int | None = None,
    env_kwargs: dict[str, Any] | Sequence[dict[str, Any]] | None = None,
    wrapper_class: Callable[[gym.Env[Any, Any]], gym.Env[Any, Any]] | None = None,
    time_model: TimeModel | None = None,
    vec_env_kwargs: dict[str, Any] | None = None,
    link: Link = "parallel",
    aggregation: Aggregation = "all_reduce",
) -> WorkerVecEnv:
    """
    Create workers, each with a ``Monitor``.

    :param env_id: an id that is registered in this process ("module:id" imports the module first), or a function (a class)
        that returns an environment
    :param n_workers: n
    :param vec_env_cls: the class of the workers
    :param step_times: h_i, seconds per step (or per trajectory, see ``time_per``), one number, or one per worker
    :param message_times: κ_i, seconds per message, one number, or one per worker
    :param time_per: what ``step_times`` measures, "step" or "trajectory"
    :param task_ids: the task of each worker; None: unspecified
    :param seed: seed of the synchronous API's first reset and of the action spaces; trajectories use the model's seed
    :param env_kwargs: arguments of the environment: a dict, or a list with one dict per worker (different tasks)
    :param wrapper_class: wraps every worker's environment, outside of its ``Monitor``
    :param time_model: any time model, instead of the times above, ``link`` and ``aggregation``
    :param vec_env_kwargs: further arguments of ``vec_env_cls``
    :param link: "parallel", or "serial": the learner receives one message at a time, see ``TimeModel``
    :param aggregation: "all_reduce", or "server": a round takes the time of all its messages, see ``TimeModel``
    :return: the workers
    :raises ValueError: for arguments of the wrong kind, lengths that differ from ``n_workers``, and invalid times
    """
    check_integer("n_workers", n_workers, 1)
    if not (isinstance(env_id, str) or callable(env_id)):
        raise ValueError(
            f"env_id={env_id!r} is not allowed: give a registered id or one function that makes an environment; a list of "
            "functions can be passed to SimulatedVecEnv, ProcessVecEnv or RayVecEnv."
        )
    _check_class(vec_env_cls)
    if seed is not None:
        check_integer("seed", seed, 0)
    if time_per not in ("step", "trajectory"):
        raise ValueError(f'time_per={time_per!r} is not allowed: give "step" or "trajectory".')
    kwargs_list = _kwargs_per_worker(env_kwargs, n_workers)
    if time_model is not None:
        given = {"step_times": step_times, "message_times": message_times, "time_per": time_per}
        _refuse_unused({**given, "link": link, "aggregation": aggregation})
    else:
        time_model = FixedTimes(step_times, message_times, time_per, link, aggregation)
    maker = registered(env_id) if isinstance(env_id, str) else env_id
    env_fns = [
        partial(_make_env, maker, kwargs, wrapper_class, None if seed is None else seed + worker)
        for worker, kwargs in enumerate(kwargs_list)
    ]
    vec_env = vec_env_cls(env_fns, time_model=time_model, task_ids=task_ids, **(vec_env_kwargs or {}))
    vec_env.seed(seed)
    if task_ids is None and not all(_equal(kwargs, kwargs_list[0]) for kwargs in kwargs_list):
        vec_env.tasks_differ = True
    return vec_env


def _refuse_unused(given: dict[str, Any]) -> None:
    """A time model has its own times and its own link, so nothing but the defaults may stand next to it."""
    defaults = inspect.signature(make_worker_vec_env).parameters
    for name, value in given.items():
        if not _equal(value, defaults[name].default):
            raise ValueError(f"{name}={value!r} has no effect next to time_model: leave it out, or give it to the time model.")


def _check_class(vec_env_cls: Any) -> None:
    if isinstance(vec_env_cls, type) and not issubclass(vec_env_cls, WorkerVecEnv):
        name = vec_env_cls.__name__
        raise ValueError(
            f"vec_env_cls={name} is not allowed: give SimulatedVecEnv, ProcessVecEnv or RayVecEnv; {name} can be made with "
            "make_vec_env of Stable-Baselines3."
        )
    if not callable(vec_env_cls):
        raise ValueError(f"vec_env_cls={vec_env_cls!r} is not allowed: give SimulatedVecEnv, ProcessVecEnv or RayVecEnv.")


def _kwargs_per_worker(env_kwargs: Any, n_workers: int) -> list[dict[str, Any]]:
    if env_kwargs is None or isinstance(env_kwargs, dict):
        return [dict(env_kwargs or {})] * n_workers
    if not isinstance(env_kwargs, Sequence) or not all(isinstance(kwargs, dict) for kwargs in env_kwargs):
        raise ValueError(f"env_kwargs={env_kwargs!r} is not allowed: give one dict for all, or a list of one dict per worker.")
    if len(env_kwargs) != n_workers:
        raise ValueError(
            f"env_kwargs has {len(env_kwargs)} entries for n_workers={n_workers}: give one dict for all, or one per worker."
        )
    return [dict(kwargs) for kwargs in env_kwargs]


def _equal(a: Any, b: Any) -> bool:
    """Equality of arguments, arrays and containers of arrays included."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(_equal, a, b))
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return np.array_equal(a, b)
    return bool(a == b)


def _make_env(
    maker: EnvSpec | EnvFactory,
    kwargs: dict[str, Any],
    wrapper_class: Callable[[gym.Env[Any, Any]], gym.Env[Any, Any]] | None,
    seed: int | None,
) -> gym.Env[Any, Any]:
    env = gym.make(maker, **kwargs) if isinstance(maker, EnvSpec) else maker(**kwargs)
    if seed is not None:
        env.action_space.seed(seed)
    env = Monitor(env)
    return env if wrapper_class is None else wrapper_class(env)
