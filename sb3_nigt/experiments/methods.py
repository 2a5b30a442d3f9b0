"""The methods that can be compared, by name: those of this package, and others on the same workers and the same clock."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from sb3_nigt.algorithms.base import AsyncPolicyGradient
from sb3_nigt.algorithms.paper import PAPER, with_published_policy
from sb3_nigt.experiments.baselines import BASELINES, TUNED, check_tuned, make_baseline, policy_for
from sb3_nigt.experiments.linear import as_schedule
from sb3_nigt.experiments.setting import CountedVecEnv
from sb3_nigt.methods import METHODS

UNRECORDED = ("self", "policy", "env", "stats_window_size", "tensorboard_log", "verbose", "device", "_init_setup_model")


def check_method(name: str) -> str:
    """
    Return the name of a method as it is written everywhere.

    :param name: what the user typed, such as rennala, rennala:first_finished, ppo, ppo:tuned or rennala@variant
    :raises ValueError: if there is no such method
    """
    method, at, variant = name.strip().partition("@")
    base, colon, kind = method.partition(":")
    if base not in METHODS and base not in BASELINES:
        raise ValueError(f"{name!r} is not a method: give some of {', '.join([*METHODS, *BASELINES])}")
    if at and not variant.isidentifier():
        raise ValueError(f"{name!r} is not allowed: write a word after @, for example {method}@variant")
    if not colon:
        return name.strip()
    if base in BASELINES:
        if kind != TUNED:
            raise ValueError(f"{name!r} is not allowed: {base} has no choice of schedule, write {base} or {base}:{TUNED}")
        check_tuned(base)
        return name.strip()
    _check_schedule(name, base, kind)
    return base + at + variant if kind == METHODS[base].default_schedule else name.strip()


def _check_schedule(name: str, base: str, schedule: str) -> None:
    if not METHODS[base].has_choice_of_schedule:
        raise ValueError(f"{name!r} is not allowed: {base} has no choice of schedule, write {base}")
    if schedule not in METHODS[base].schedules:
        allowed = ", ".join(f"{base}:{known}" for known in METHODS[base].schedules)
        raise ValueError(f"{name!r} is not allowed: write {allowed}")


def check_argument(method: str, argument: str) -> None:
    """
    Check the name of an argument.

    :param method: the method whose constructor takes it
    :param argument: its name
    :raises ValueError: if it is none, or one that the runs have from the command
    """
    if argument == "seed":
        raise ValueError(f"{argument!r} would be the seed of all runs of the method: give --first-seed, or --seeds")
    base, _ = _parts(method)
    algorithm = BASELINES[base] if base in BASELINES else METHODS[base].algorithm
    known = [name for name in inspect.signature(algorithm).parameters if name not in (*UNRECORDED, "seed")]
    if argument not in known:
        raise ValueError(f"{argument!r} is not an argument of {algorithm.__name__}: give one of {', '.join(known)}")


def is_baseline(method: str) -> bool:
    """
    Tell whether a method is none of this package.

    :param method: its name
    """
    return _parts(method)[0] in BASELINES


def by_first_method(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """
    Separate the first method, under each of its schedules, from the others.

    What follows an @ makes another method of it, and so do tuned values.

    :param names: names of methods, at least one; may be other labels
    :return: names of the first one, and of the others
    """
    method = _without_schedule(names[0])
    of_first = [name for name in names if _without_schedule(name) == method]
    return of_first, [name for name in names if name not in of_first]


def _without_schedule(name: str) -> str:
    base, kind = _parts(name)
    return name if not kind or base in BASELINES else name.replace(f":{kind}", "", 1)


def _parts(method: str) -> tuple[str, str]:
    """Method and what follows its colon; what follows an @ only tells variants apart."""
    base, _, kind = method.partition("@")[0].partition(":")
    return base, kind


def make_model(
    method: str, env_id: str, workers: VecEnv, seed: int, arguments: dict[str, Any], paper: bool = False
) -> BaseAlgorithm:
    """
    Make the algorithm.

    :param method: its name
    :param env_id: the environment of the workers, for tuned values
    :param workers: the workers to train on
    :param seed: seed of everything random
    :param arguments: the arguments that are not the defaults
    :param paper: whether to use the paper's algorithm to the letter, not this package's defaults; baselines are not normalised
    """
    arguments = {name: as_schedule(value) for name, value in arguments.items()}
    base, kind = _parts(method)
    if base in BASELINES:
        return make_baseline(base, kind == TUNED, env_id, workers, seed, arguments, normalize=not paper)
    common: dict[str, Any] = {"seed": seed, "device": "cpu"}
    if kind:
        common |= {"schedule": kind, **({"rollout": "trajectories"} if METHODS[base].takes("rollout") else {})}
    if paper and METHODS[base].takes("gae_lambda"):
        common, arguments = {**PAPER, **common}, with_published_policy(arguments)
    return METHODS[base].algorithm(policy_for(workers.observation_space), workers, **{**common, **arguments})


def effective_arguments(model: BaseAlgorithm) -> dict[str, Any]:
    """
    Return the arguments that a model works with, defaults included.

    :param model: any algorithm
    """
    names: dict[str, None] = {}
    for cls in type(model).__mro__:
        parameters = inspect.signature(cls.__init__).parameters  # type: ignore[misc]
        names.update(dict.fromkeys(parameters))
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            break
    values = {name: getattr(model, name) for name in names if name not in UNRECORDED and hasattr(model, name)}
    return {name: value(1.0) if callable(value) and not isinstance(value, type) else value for name, value in values.items()}


def updates_made(model: BaseAlgorithm) -> int:
    """
    Count updates as the algorithm does. Stable-Baselines3 has no public count, but all algorithms log theirs.

    :param model: a model in a ``learn`` that dumps no log, which would clear the numbers
    """
    logged = model.logger.name_to_value
    if "train/iterations" in logged:  # ARS, which numbers its updates from 0
        return int(logged["train/iterations"]) + 1
    return int(logged.get("train/n_updates", 0))


def timesteps_made(model: BaseAlgorithm, workers: CountedVecEnv) -> int:
    """
    Count environment steps, those for nothing included.

    :param model: the model in training
    :param workers: the workers to train on
    """
    return model.num_timesteps if isinstance(model, AsyncPolicyGradient) else workers.lockstep_timesteps


def deliver_messages(model: BaseAlgorithm, workers: CountedVecEnv) -> int:
    """
    Count the messages to the learner at the end of a rollout; those of baselines take their time now.

    A baseline sends one message per worker after each rollout and waits for the slowest, max κ_i. Our algorithms have spent
    the time already: one message of each worker that has contributed, or one per trajectory where each is sent on its own.

    :param model: the model in training
    :param workers: the workers to train on
    """
    if not isinstance(model, AsyncPolicyGradient):
        workers.aggregate_messages(range(workers.num_envs))
        return workers.num_envs
    return messages_of_round(model)


def messages_of_round(model: AsyncPolicyGradient) -> int:
    """
    Count the messages of the last round, whose time has passed already.

    :param model: the model in training
    """
    report = model.last_round
    assert report is not None
    if model.make_schedule().uploads:
        return len(report.arrivals) + len(report.rejected)
    return int(np.count_nonzero(report.counts))
