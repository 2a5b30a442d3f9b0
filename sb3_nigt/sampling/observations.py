"""What an environment returns, held against what its spaces promise; numpy alone would broadcast and cast in silence."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces


def conform(observation: Any, space: spaces.Space[Any]) -> Any:
    """
    Return an observation as arrays of exactly the shape and dtype of its space.

    Lists and numbers are taken for arrays. Floats are rounded to the space's precision; no other number may change.

    :param observation: what the environment returned
    :param space: its observation space
    :raises ValueError: saying what was expected and what came
    """
    if not isinstance(space, spaces.Dict):
        return _conform_array(observation, space, "the observation")
    if not isinstance(observation, dict) or not observation.keys() >= space.spaces.keys():
        got = f"the keys {sorted(observation)}" if isinstance(observation, dict) else f"a {type(observation).__name__}"
        raise ValueError(f"env: the observation must be a dict with the keys {sorted(space.spaces)}, got {got}.")
    return {key: _conform_array(observation[key], part, f"observation[{key!r}]") for key, part in space.spaces.items()}


def _conform_array(value: Any, space: spaces.Space[Any], name: str) -> npt.NDArray[Any]:
    shape, dtype = space.shape or (), np.dtype(space.dtype)
    try:
        array = np.asarray(value)
    except ValueError:  # lists of different lengths
        array = np.asarray(None)
    kind = array.dtype.kind
    if array.shape != shape or kind not in "biuf":
        raise ValueError(
            f"env: {name} must have shape {shape} and dtype {dtype}, got shape {array.shape} and dtype {array.dtype}: "
            f"{_short(value)}."
        )
    if array.dtype == dtype or dtype.kind == "f":
        return array.astype(dtype, copy=False)
    with np.errstate(invalid="ignore"):
        converted = array.astype(dtype)
    if not np.array_equal(converted, array):
        raise ValueError(
            f"env: {name} must have dtype {dtype}, got dtype {array.dtype} with numbers that {dtype} does not have: "
            f"{_short(value)}."
        )
    return converted


def is_finite(observation: Any) -> bool:
    """
    Tell whether all numbers of an observation are finite.

    :param observation: array or dict of arrays
    """
    if isinstance(observation, dict):
        return all(is_finite(value) for value in observation.values())
    if isinstance(observation, np.ndarray) and observation.dtype == np.float64 and observation.ndim == 1:
        # one BLAS call is quicker than isfinite().all(); a square overflows only where a number is beyond 1e154
        return math.isfinite(observation.dot(observation)) or bool(np.isfinite(observation).all())
    return bool(np.isfinite(observation).all())


def reward_error(reward: Any) -> ValueError:
    """
    Return the error for a reward that is no number.

    :param reward: what the environment returned
    """
    return ValueError(f"env: the reward must be one number, got {type(reward).__name__}: {_short(reward)}.")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}…"
