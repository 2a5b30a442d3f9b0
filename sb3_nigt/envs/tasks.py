"""Families of tasks: one environment, changed by one number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec

from sb3_nigt.envs.observations import FlippedObservation
from sb3_nigt.envs.physics import ScaledFriction, ScaledGravity
from sb3_nigt.envs.registration import registered
from sb3_nigt.envs.rewards import TargetDirection, TargetVelocity
from sb3_nigt.validation import check_integer

EnvMaker = Callable[..., gym.Env[Any, Any]]


@dataclass(frozen=True)
class TaskFamily:
    """
    Tasks that differ in one argument of a wrapper.

    :param wrapper: turns an environment into the task
    :param arguments: the wrapper's arguments and their defaults; the first one is what the tasks differ in
    :param default_values: its values for n workers
    """

    wrapper: EnvMaker
    arguments: dict[str, Any]
    default_values: Callable[[int], Sequence[Any]]


def _spaced(low: float, high: float) -> Callable[[int], Sequence[Any]]:
    """Evenly spaced values, one per worker; short, since they become part of logged keys."""
    return lambda n_workers: np.linspace(low, high, n_workers).round(3).tolist()


FAMILIES = {
    "flipped": TaskFamily(FlippedObservation, {"flip": True, "append_bit": True}, lambda n_workers: [False, True][:n_workers]),
    "velocity": TaskFamily(TargetVelocity, {"target": 1.0}, _spaced(0.5, 2.0)),
    "direction": TaskFamily(TargetDirection, {"angle": 180}, lambda n_workers: [0, 180][:n_workers]),
    "gravity": TaskFamily(ScaledGravity, {"scale": 0.5}, _spaced(0.5, 1.5)),
    "friction": TaskFamily(ScaledFriction, {"scale": 0.5}, _spaced(0.5, 1.5)),
}


def make_task_env(family: str, env_id: str | EnvMaker, **kwargs: Any) -> gym.Env[Any, Any]:
    """
    Make one task.

    :param family: "flipped", "velocity", "direction", "gravity" or "friction"
    :param env_id: a registered id, or a function (a class) that returns an environment
    :param kwargs: arguments of the family's wrapper (flip and append_bit, target, angle, scale) and of the environment
    :raises ValueError: for a family or an argument that does not fit
    """
    chosen = _family(family)
    task_kwargs = {name: kwargs.pop(name, default) for name, default in chosen.arguments.items()}
    return chosen.wrapper(_make(env_id, kwargs), **task_kwargs)


def make_tasks(
    family: str, env_id: str | EnvMaker, n_workers: int, values: Sequence[Any] | None = None, **env_kwargs: Any
) -> dict[str, Any]:
    """
    Give every worker a task: returns ``env_id``, ``n_workers``, ``env_kwargs`` and ``task_ids`` for ``make_worker_vec_env``.

    ``make_worker_vec_env(**make_tasks("gravity", "Hopper-v5", n_workers=10), step_times=...)``

    :param family: "flipped", "velocity", "direction", "gravity" or "friction"
    :param env_id: a registered id, or a function (a class) that returns an environment
    :param n_workers: n
    :param values: what the tasks differ in: flip, target, angle or scale. Worker i gets ``values[i % len(values)]``, and
        workers with equal values share a task. None: both of "flipped", forward and backward, or n evenly spaced values
        from 0.5 to 2 metres per second or from 0.5 to 1.5 times the gravity or friction
    :param env_kwargs: arguments of all environments, and ``append_bit`` for "flipped"
    :return: the arguments
    :raises ValueError: for a family, values or an environment that do not fit together
    """
    check_integer("n_workers", n_workers, 1)
    chosen = _family(family)
    argument = next(iter(chosen.arguments))
    if argument in env_kwargs:
        raise ValueError(
            f"{argument}={env_kwargs[argument]!r} is not allowed: the tasks differ in it, so give a list, values=[...]."
        )
    values = _checked_values(chosen.default_values(n_workers) if values is None else values, n_workers)
    tasks = {value: {"family": family, "env_id": env_id, argument: value, **env_kwargs} for value in values}
    for kwargs in tasks.values():
        make_task_env(**kwargs).close()  # what cannot be made is better said here than by a worker
        kwargs["env_id"] = registered(env_id) if isinstance(env_id, str) else env_id  # whose process may not know the id
    value_of = [values[worker % len(values)] for worker in range(n_workers)]
    return {
        "env_id": make_task_env,
        "n_workers": n_workers,
        "env_kwargs": [dict(tasks[value]) for value in value_of],
        "task_ids": [f"{family}={value}" for value in value_of],
    }


def _family(name: str) -> TaskFamily:
    if not isinstance(name, str) or name not in FAMILIES:
        raise ValueError(f"family={name!r} is not allowed: give one of {', '.join(map(repr, FAMILIES))}.")
    return FAMILIES[name]


def _make(env_id: Any, kwargs: dict[str, Any]) -> gym.Env[Any, Any]:
    if callable(env_id):
        return env_id(**kwargs)  # type: ignore[no-any-return]
    if not isinstance(env_id, (str, EnvSpec)):
        raise ValueError(f"env_id={env_id!r} is not allowed: give a registered id, or a function that makes an environment.")
    try:
        return gym.make(env_id, **kwargs)
    except gym.error.UnregisteredEnv as error:
        raise ValueError(f"env_id={env_id!r} is not allowed: {error}") from error


def _checked_values(values: Any, n_workers: int) -> list[Any]:
    try:
        array = np.array(values)
    except ValueError:  # lists of different lengths
        array = np.array(None)
    if array.ndim != 1 or not 1 <= len(array) <= n_workers or array.dtype.kind not in "biuf":
        raise ValueError(f"values={values!r} is not allowed: give a list of 1 to n_workers={n_workers} numbers.")
    return list(array.tolist())
