"""The methods that can be compared, by name: those of this package, and others on the same workers and the same clock."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
from sb3_contrib import ARS, TRPO
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_nigt.algorithms.base import AsyncPolicyGradient
from sb3_nigt.algorithms.paper import PAPER
from sb3_nigt.experiments.setting import CountedVecEnv
from sb3_nigt.methods import METHODS

BASELINES: dict[str, type[BaseAlgorithm]] = {"ppo": PPO, "a2c": A2C, "trpo": TRPO, "ars": ARS}
UNRECORDED = ("self", "policy", "env", "stats_window_size", "tensorboard_log", "verbose", "device", "_init_setup_model")


def check_method(name: str) -> str:
    """
    Return the name of a method as it is written everywhere.

    :param name: what the user typed, such as rennala, rennala:first_finished or ppo
    :raises ValueError: if there is no such method
    """
    base, colon, schedule = name.strip().partition(":")
    if base not in METHODS and base not in BASELINES:
        raise ValueError(f"{name!r} is not a method: give some of {', '.join([*METHODS, *BASELINES])}")
    if not colon:
        return base
    if base not in METHODS or not METHODS[base].has_choice_of_schedule:
        raise ValueError(f"{name!r} is not allowed: {base} has no choice of schedule, write {base}")
    if schedule not in METHODS[base].schedules:
        allowed = ", ".join(f"{base}:{known}" for known in METHODS[base].schedules)
        raise ValueError(f"{name!r} is not allowed: write {allowed}")
    return base if schedule == METHODS[base].default_schedule else name.strip()


def make_model(
    method: str, workers: CountedVecEnv, seed: int, arguments: dict[str, Any], paper: bool = False
) -> BaseAlgorithm:
    """
    Make the algorithm.

    :param method: its name
    :param workers: to train on
    :param seed: of everything random
    :param arguments: where they are not the defaults
    :param paper: the paper's algorithm to the letter, instead of the defaults of this package
    """
    base, _, schedule = method.partition(":")
    common: dict[str, Any] = {"seed": seed, "device": "cpu"}
    if base in METHODS:
        if schedule:
            common |= {"schedule": schedule, **({"rollout": "trajectories"} if METHODS[base].takes("rollout") else {})}
        if paper and METHODS[base].takes("gae_lambda"):
            common = {**PAPER, **common}
        return METHODS[base].algorithm("MlpPolicy", workers, **{**common, **arguments})
    policy = "LinearPolicy" if base == "ars" else "MlpPolicy"
    return BASELINES[base](policy, workers, **common, **{**_adapted(base, workers.num_envs), **arguments})


def _adapted(base: str, n_workers: int) -> dict[str, Any]:
    """Stable-Baselines3's defaults are meant for one environment: keep the sizes of rollouts and batches, about."""
    if base in ("ppo", "trpo"):
        batch_size, n_batches = (64, 32) if base == "ppo" else (128, 16)
        n_steps = max(1, round(batch_size / n_workers))  # of each worker in a batch
        return {"n_steps": n_steps * n_batches, "batch_size": n_steps * n_workers}
    # ARS evaluates a candidate on all workers at once, so each of them may as well make an episode that counts
    return {"n_eval_episodes": n_workers} if base == "ars" else {}


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


def timesteps_made(model: BaseAlgorithm, workers: CountedVecEnv) -> int:
    """
    Count environment steps, those for nothing included.

    :param model: in training
    :param workers: what it trains on
    """
    return model.num_timesteps if isinstance(model, AsyncPolicyGradient) else workers.lockstep_timesteps


def deliver_messages(model: BaseAlgorithm, workers: CountedVecEnv) -> int:
    """
    Count the messages to the learner at the end of a rollout; those of baselines take their time now.

    A baseline sends one message a worker after each rollout and waits for the slowest, max κ_i. Our algorithms have spent
    the time already: one message of each worker with an accepted trajectory, or one a trajectory where each is sent on its
    own.

    :param model: in training
    :param workers: what it trains on
    """
    if not isinstance(model, AsyncPolicyGradient):
        workers.aggregate_messages(range(workers.num_envs))
        return workers.num_envs
    report = model.last_round
    assert report is not None
    if model.make_schedule().uploads:
        return len(report.arrivals) + len(report.rejected)
    return int(np.count_nonzero(report.counts))
