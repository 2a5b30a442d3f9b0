"""
Pickles and copies of a model's environment.

Most of Stable-Baselines3's wrappers of environments cannot be pickled as they are, since each holds the members of its class;
``VecNormalize`` can, but leaves out what it wraps.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvWrapper


@dataclass(frozen=True)
class Attributes:
    """
    A wrapper that does not say itself how it is pickled.

    :param cls: its class
    :param values: its attributes, without what is made anew
    """

    cls: type[VecEnvWrapper]
    values: dict[str, Any]

    def around(self, env: VecEnv) -> VecEnvWrapper:
        """
        Make the wrapper anew.

        :param env: what it wraps
        """
        wrapper = self.cls.__new__(self.cls)
        vars(wrapper).update(self.values, venv=env, class_attributes=dict(inspect.getmembers(self.cls)))
        return wrapper


@dataclass(frozen=True)
class Whole:
    """
    A wrapper that says itself how it is pickled: others may hold it as well, and have the same copy then.

    :param wrapper: may come back without what it wraps
    :param returns: of a ``VecNormalize``, the discounted returns of the running episodes, shape (n,)
    """

    wrapper: VecEnvWrapper
    returns: Any = None

    def around(self, env: VecEnv) -> VecEnvWrapper:
        """
        Return the wrapper, complete.

        :param env: what it wraps
        """
        wrapper = self.wrapper
        if isinstance(wrapper, VecNormalize) and wrapper.venv is None:
            wrapper.set_venv(env)
            wrapper.returns = self.returns
        return wrapper


@dataclass(frozen=True)
class Parts:
    """
    An environment and its wrappers apart from each other.

    :param env: without wrappers
    :param wrappers: the innermost first
    """

    env: VecEnv | None
    wrappers: Sequence[Attributes | Whole]


def taken_apart(env: VecEnv | None) -> Parts:
    """
    Return what can be pickled and copied.

    :param env: with any wrappers, or None
    """
    wrappers: list[Attributes | Whole] = []
    while isinstance(env, VecEnvWrapper):
        wrappers.insert(0, _part(env))
        env = env.venv
    return Parts(env, wrappers)


def put_together(parts: Parts) -> VecEnv | None:
    """
    Return an environment with its wrappers.

    :param parts: a copy of what ``taken_apart`` returned
    """
    env = parts.env
    for wrapper in parts.wrappers:
        assert env is not None
        env = wrapper.around(env)
    return env


def _part(wrapper: VecEnvWrapper) -> Attributes | Whole:
    cls = type(wrapper)
    if isinstance(wrapper, VecNormalize):
        return Whole(wrapper, wrapper.returns)
    methods = ("__getstate__", "__reduce__", "__reduce_ex__")  # Python 3.10 has no object.__getstate__
    has_own = any(getattr(cls, name, None) is not getattr(object, name, None) for name in methods)
    if has_own or any(vars(base).get("__slots__") for base in cls.__mro__):
        return Whole(wrapper)
    return Attributes(cls, {name: value for name, value in vars(wrapper).items() if name not in ("venv", "class_attributes")})
