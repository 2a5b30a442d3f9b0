"""
What environments say in their infos, which may be anything.

An environment may write to the same dict and to the same arrays at its next step, and its values need not be what
Stable-Baselines3 means by "episode" and "is_success".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.wrappers import RecordEpisodeStatistics
from stable_baselines3.common.monitor import Monitor

EPISODE_KEYS = ("episode", "is_success")  # what Stable-Baselines3 reads of the last info of an episode
_NEVER_CHANGE = (type(None), bool, int, float, complex, str, bytes)


class InfoCopies:
    """
    Keeps the infos of one environment as they were at their step.

    Dicts, lists, tuples, sets and arrays are copied, other objects are not. An array that the environment gives again
    unchanged, such as a map, is kept once.
    """

    def __init__(self) -> None:
        self._arrays: dict[Any, tuple[npt.NDArray[Any], npt.NDArray[Any]]] = {}  # as given last, and its copy

    def __call__(self, info: dict[str, Any]) -> dict[str, Any]:
        """
        Return a copy.

        :param info: the info of one step
        :raises ValueError: if it is no dict
        """
        check_info(info)
        return {key: value if value.__class__ in _NEVER_CHANGE else self._copy(key, value) for key, value in info.items()}

    def _copy(self, key: Any, value: Any) -> Any:
        if not isinstance(value, np.ndarray):
            return _copied(value, {})
        given, copy = self._arrays.get(key, (None, value))
        if given is not value or not np.array_equal(copy, value):
            copy = value.copy()
            self._arrays[key] = value, copy
        return copy


def _copied(value: Any, made: dict[int, Any]) -> Any:
    """``made``: copies of dicts and lists by the id of the original, since these can contain themselves."""
    if id(value) in made:
        return made[id(value)]
    if isinstance(value, np.ndarray):
        return value.copy()
    if value.__class__ is dict:
        copy = made[id(value)] = {}
        copy.update((key, _copied(part, made)) for key, part in value.items())
        return copy
    if value.__class__ is list:
        parts = made[id(value)] = []
        parts.extend(_copied(part, made) for part in value)
        return parts
    if value.__class__ in (tuple, set):
        return value.__class__(_copied(part, made) for part in value)
    return value


def check_info(info: Any) -> None:
    """
    Refuse what is no info.

    :param info: what the environment returned
    :raises ValueError: saying what came
    """
    if not isinstance(info, dict):
        raise ValueError(f"env: the info must be a dict, got {type(info).__name__}.")


def plain(value: Any, within: tuple[int, ...] = ()) -> Any:
    """
    Return a copy that consists of numbers, text, arrays, and dicts, lists, tuples and sets of them.

    Such values mean the same in any process.

    :param value: a value in an info
    :param within: ids of what contains it
    :raises TypeError: if it has other parts, or contains itself
    """
    if value.__class__ in _NEVER_CHANGE:
        return value
    if isinstance(value, (np.ndarray, np.generic)) and not value.dtype.hasobject:
        return np.array(value) if isinstance(value, np.ndarray) else value
    if id(value) in within:
        raise TypeError(f"a {type(value).__name__} that contains itself cannot be sent to the parent process")
    within = (*within, id(value))
    if isinstance(value, dict):
        return {plain(key): plain(part, within) for key, part in value.items()}
    for kind in (list, tuple, set):
        if isinstance(value, kind):
            return kind(plain(part, within) for part in value)
    raise TypeError(f"a {type(value).__name__} cannot be sent to the parent process")


def as_number(value: Any) -> Any:
    """
    Return a number, or the only number of an array; None for anything else.

    :param value: a value in an info
    """
    try:
        array = np.asarray(value)
        return array.item() if array.size == 1 and array.dtype.kind in "biuf" else None
    except (TypeError, ValueError):  # as of lists of different lengths
        return None


def with_report(info: dict[str, Any], episode_return: float, n_steps: int) -> dict[str, Any]:
    """
    Return a copy of the last info of an episode, with a report as that of a Monitor where there is none.

    :param info: the info of the last step
    :param n_steps: length of the episode
    """
    check_info(info)
    has_report = reported_return(info) is not None
    return dict(info) if has_report else {**info, "episode": {"r": episode_return, "l": n_steps, "t": 0.0}}


def reports_episodes(env: gym.Env[Any, Any]) -> bool:
    """
    Tell whether an environment reports itself on the episodes that it terminates.

    :param env: an environment; with a ``Monitor`` inside of a wrapper that ends an episode with each lost life, a report comes
        at the end of the game only
    """
    while isinstance(env, gym.Wrapper):
        if isinstance(env, (Monitor, RecordEpisodeStatistics)):
            return True
        env = env.env
    return False


def reported_return(info: Mapping[str, Any]) -> float | None:
    """
    Return the return of an episode as a Monitor or a wrapper of the same kind reports it; None where there is no such report.

    :param info: the info of the last step
    """
    report = reported_episode(info)
    return None if report is None else float(report["r"])


def reported_episode(info: Mapping[str, Any]) -> dict[str, Any] | None:
    """
    Return the report on an episode, with finite numbers for its return and its length; None where there is none.

    :param info: the info of the last step
    """
    episode = info.get("episode")
    if not isinstance(episode, dict):
        return None
    numbers = {key: as_number(episode.get(key)) for key in ("r", "l")}
    are_given = all(number is not None and math.isfinite(number) for number in numbers.values())
    return {**episode, **numbers} if are_given else None
