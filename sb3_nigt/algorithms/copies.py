"""
Pickles and copies of a model's environment.

Stable-Baselines3's wrappers of environments cannot be pickled as they are: each holds the members of its class, and
``VecNormalize`` leaves out what it wraps.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvWrapper

MADE_ANEW = ("venv", "class_attributes")


@dataclass(frozen=True)
class Parts:
    """
    An environment and its wrappers apart from each other.

    :param env: without wrappers
    :param wrappers: class and attributes of each, the innermost first
    """

    env: VecEnv | None
    wrappers: list[tuple[type[VecEnvWrapper], dict[str, Any]]]


def taken_apart(env: VecEnv | None) -> Parts:
    """
    Return what can be pickled and copied.

    :param env: with any wrappers, or None
    """
    wrappers: list[tuple[type[VecEnvWrapper], dict[str, Any]]] = []
    while isinstance(env, VecEnvWrapper):
        kept = {name: value for name, value in vars(env).items() if name not in MADE_ANEW}
        wrappers.insert(0, (type(env), kept))
        env = env.venv
    return Parts(env, wrappers)


def put_together(parts: Parts) -> VecEnv | None:
    """
    Return an environment with its wrappers.

    :param parts: a copy of what ``taken_apart`` returned
    """
    env = parts.env
    for cls, attributes in parts.wrappers:
        wrapper = cls.__new__(cls)
        vars(wrapper).update(attributes, venv=env, class_attributes=dict(inspect.getmembers(cls)))
        env = wrapper
    return env
