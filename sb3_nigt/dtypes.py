"""Arithmetic with the numbers of spaces, whose dtypes may be too narrow for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

Array = npt.NDArray[Any]


def widened(space: spaces.Space[Any]) -> spaces.Space[Any]:
    """
    Return the same space, with sizes of categories that can be added up: eight bits hold no sum beyond 255.

    :param space: of observations
    """
    if isinstance(space, spaces.Dict):
        return spaces.Dict({key: widened(part) for key, part in space.spaces.items()})
    if isinstance(space, spaces.MultiDiscrete):
        return spaces.MultiDiscrete(space.nvec.astype(np.int64))
    return space


def as_actions(space: spaces.Space[Any], actions: Array) -> Array:
    """
    Return actions in the dtype of their space; numbers between two integers become the nearer one.

    :param space: of the actions
    :param actions: one or several, within the bounds
    """
    if actions.dtype == space.dtype:
        return actions
    if np.dtype(space.dtype).kind in "iu" and actions.dtype.kind == "f":
        actions = np.rint(actions)
    return actions.astype(space.dtype)


def between_bounds(space: spaces.Box, scaled: Array) -> Array:
    """
    Map actions from [-1, 1] onto the bounds.

    :param space: of the actions
    :param scaled: one or several
    """
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    return np.clip(0.5 * low * (1.0 - scaled) + 0.5 * high * (1.0 + scaled), low, high)
