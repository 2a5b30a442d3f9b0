"""What an algorithm refuses, before any worker has a job."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from sb3_nigt.algorithms.policy_checks import check_batch_norm, check_policy_class
from sb3_nigt.errors import warn_user
from sb3_nigt.optimizers.geometry import check_geometry
from sb3_nigt.policies import NO_SDE
from sb3_nigt.schedules import SCHEDULES
from sb3_nigt.validation import check_bool, check_integer, check_interval
from sb3_nigt.vec_env.base import WorkerVecEnv
from sb3_nigt.vec_env.wrappers import WrapperStack

if TYPE_CHECKING:
    from sb3_nigt.algorithms.model import Model

ROLLOUTS = ("steps", "trajectories")
ON_LOST_TASK = ("raise", "drop")
OBSERVATION_SPACES = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary, spaces.Dict)


def check_arguments(model: Model) -> None:
    """
    Refuse numbers and names that no run could use.

    :param model: with its arguments as attributes
    :raises ValueError: naming the argument, its value and what is allowed
    """
    for name, value in model.fixed.items():
        if getattr(model, name) != value:
            raise ValueError(
                f"{name}={getattr(model, name)!r} is not allowed: {type(model).__name__} has no {name}, leave it as it is."
            )
    if model.learning_rate is not None:
        check_learning_rate(_at_start(model.learning_rate))
    check_interval("eta", _at_start(model.eta), 0.0, 1.0, open_low=True)
    check_integer("n_trajectories", model.n_trajectories, 1)
    for name in ("n_initial_trajectories", "n_steps", "fisher_samples"):
        if getattr(model, name) is not None:
            check_integer(name, getattr(model, name), 1)
    for name in ("horizon", "fisher_rounds"):
        check_integer(name, getattr(model, name), 1)
    check_bool("stagger", model.stagger)
    check_interval("gamma", model.gamma, 0.0, 1.0)
    check_estimator(model.gae_lambda, model.rollout)
    check_geometry(model.geometry)
    for name, allowed in (("schedule", SCHEDULES), ("on_lost_task", ON_LOST_TASK)):
        value = getattr(model, name)
        if not isinstance(value, str) or value not in allowed:
            raise ValueError(f"{name}={value!r} is not allowed: give one of {', '.join(map(repr, allowed))}.")
    if model.use_sde:
        raise ValueError(NO_SDE)


def check_setup(model: Model) -> None:
    """
    Refuse what the policy could only stumble over.

    :param model: with all its arguments, before its policy is made
    :raises ValueError: naming the argument, its value and what to give instead
    """
    if not isinstance(model.policy_kwargs, Mapping):
        raise ValueError(
            f"policy_kwargs={model.policy_kwargs!r} is not allowed: give a dict, such as dict(net_arch=[64, 64])."
        )
    check_policy_class(model.policy_class, has_critic=model.gae_lambda is not None)
    space = getattr(model, "action_space", None)  # neither an environment nor a file
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim > 1:
        raise ValueError(
            f"env: the action space {space} is not supported, since its nvec has {space.nvec.ndim} dimensions: "
            "flatten it with a gymnasium.ActionWrapper."
        )


def warn_of_no_effect(model: Model, default_n_trajectories: int) -> None:
    """
    Say which of the user's arguments belong to the other kind of rounds.

    :param model: with its arguments as attributes
    :param default_n_trajectories: what ``n_trajectories`` is if the user says nothing
    """
    if model.rollout == "steps":
        given = {
            "n_trajectories": model.n_trajectories != default_n_trajectories,
            "n_initial_trajectories": model.n_initial_trajectories is not None,
            "schedule": model.schedule != "planned",
        }
        instead = 'a round ends after a number of steps, see n_steps; rollout="trajectories" has rounds of trajectories'
    else:
        given = {"n_steps": model.n_steps is not None}
        instead = "a round ends after n_trajectories trajectories, which are cut after horizon steps"
    names = [name for name, is_given in given.items() if is_given]
    if names:
        warn_user(f'{", ".join(names)} has no effect with rollout="{model.rollout}": {instead}.')


def check_estimator(gae_lambda: Any, rollout: Any) -> None:
    """
    Refuse estimators and kinds of rounds that do not exist, or do not fit together.

    :param gae_lambda: argument of the algorithm
    :param rollout: argument of the algorithm
    :raises ValueError: naming the argument, its value and what is allowed
    """
    if not isinstance(rollout, str) or rollout not in ROLLOUTS:
        raise ValueError(f"rollout={rollout!r} is not allowed: give one of {', '.join(map(repr, ROLLOUTS))}.")
    if gae_lambda is not None:
        check_interval("gae_lambda", gae_lambda, 0.0, 1.0)
    elif rollout == "steps":
        raise ValueError(
            'gae_lambda=None, the paper\'s estimator, is not allowed with rollout="steps", since it needs whole trajectories: '
            'give rollout="trajectories", or all arguments of the paper with **PAPER.'
        )


def check_learn(total_timesteps: Any, log_interval: Any) -> None:
    """
    Refuse what ``learn`` could only stumble over.

    :param total_timesteps: its argument; Stable-Baselines3 takes floats such as 1e6
    :param log_interval: its argument; None, as there: nothing is logged
    :raises ValueError: naming the argument, its value and what is allowed
    """
    check_interval("total_timesteps", total_timesteps, 0.0, math.inf)
    if log_interval is not None:
        check_integer("log_interval", log_interval, 1)


def check_kind_of_env(env: Any) -> None:
    """
    Refuse what is easily given instead of an environment.

    :param env: of the user
    :raises ValueError: saying what to give instead
    """
    if env is None:
        raise ValueError(
            "env=None is not allowed: give an environment; a loaded model gets one by load(path, env=env) or set_env(env)."
        )
    if isinstance(env, type):
        name = env.__name__
        raise ValueError(
            f"env={name} is a class: give an environment, such as {name}() or make_worker_vec_env({name}, n_workers=4)."
        )
    if isinstance(env, gym.vector.VectorEnv):
        raise ValueError(
            f"env={type(env).__name__} is a vector environment of gymnasium, which Stable-Baselines3 does not support: make "
            "the environments with make_worker_vec_env, or with make_vec_env of Stable-Baselines3."
        )


def check_env(model: Model, env: VecEnv) -> None:
    """
    Refuse what cannot work before any job starts, and say when the objective depends on the speeds.

    :param model: with its spaces and its policy
    :param env: the environment to train on
    :raises ValueError: for spaces, policies and wrappers that workers cannot have
    """
    if not isinstance(model.observation_space, OBSERVATION_SPACES):
        raise ValueError(
            f"env: the observation space {model.observation_space} is not supported: give one of "
            f"{', '.join(space.__name__ for space in OBSERVATION_SPACES)}."
        )
    if _has_scalars(model.observation_space):
        raise ValueError(
            f"env: the observation space {model.observation_space} has a Box of shape (), which no network takes: give it the "
            "shape (1,) with a gymnasium.ObservationWrapper."
        )
    for kind, space in (("action", model.action_space), ("observation", model.observation_space)):
        if not _starts_at_zero(space):
            raise ValueError(
                f"env: the {kind} space {space} does not start at 0, which Stable-Baselines3 cannot handle: "
                f"shift it with a gymnasium.{kind.capitalize()}Wrapper."
            )
    if not isinstance(env.unwrapped, WorkerVecEnv):
        return
    WrapperStack.around(env)
    check_batch_norm(model.policy, env)
    if env.unwrapped.tasks_differ and not model.weighs_tasks_equally:
        warn_user(
            f"The workers hold different tasks, and {type(model).__name__} weights each task by what its workers "
            "deliver, so the objective depends on their speed and number. MaleniaNIGT weights all tasks equally."
        )


def check_learning_rate(value: Any) -> None:
    """
    Refuse a step length that is none.

    :param value: α
    :raises ValueError: if it is negative or no finite number
    """
    check_interval("learning_rate", value, 0.0, math.inf)


def _at_start(value: Any) -> Any:
    """The first value of a schedule, which may be a tensor of one number, as in the library."""
    if not callable(value):
        return value
    first = value(1.0)
    return first.item() if isinstance(first, th.Tensor) and first.numel() == 1 else first


def _has_scalars(space: spaces.Space[Any]) -> bool:
    if isinstance(space, spaces.Dict):
        return any(map(_has_scalars, space.spaces.values()))
    return isinstance(space, spaces.Box) and space.shape == ()


def _starts_at_zero(space: spaces.Space[Any]) -> bool:
    """Discrete values are used as indices."""
    if isinstance(space, spaces.Dict):
        return all(_starts_at_zero(subspace) for subspace in space.spaces.values())
    return not np.any(getattr(space, "start", 0))
