"""Arrays as plain bytes: to pickle a small array takes as long as a step of a cheap environment, its bytes a tenth of that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces


def pack(space: spaces.Space[Any], value: Any) -> Any:
    """
    Return the bytes of an array that has the shape and the type of its space, and anything else as it is.

    :param space: space of the value; for a Dict or a Tuple the parts are packed
    :param value: an observation or an action
    """
    if isinstance(space, spaces.Dict):
        return {key: pack(part, value[key]) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(pack(part, value[i]) for i, part in enumerate(space.spaces))
    if not isinstance(value, (np.ndarray, np.generic)) or value.dtype != space.dtype or value.shape != space.shape:
        return value
    return value if value.dtype.hasobject else value.tobytes()


def unpack(space: spaces.Space[Any], value: Any) -> Any:
    """
    Undo ``pack`` for one part: an array, or a NumPy number where the space has no dimension.

    :param space: a space that is neither Dict nor Tuple
    :param value: the result of ``pack``
    """
    if not isinstance(value, bytes):
        return value
    array = np.frombuffer(bytearray(value), space.dtype)  # a bytearray, since an array over bytes is read-only
    return array.reshape(space.shape or ())[()]


def unpack_rows(space: spaces.Space[Any], values: Sequence[Any]) -> Any:
    """
    Undo ``pack`` and stack: one row a value, in the type of the space; a dict or a tuple of such arrays where it has parts.

    :param space: space of the values
    :param values: results of ``pack``
    """
    if isinstance(space, spaces.Dict):
        return {key: unpack_rows(part, [value[key] for value in values]) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(unpack_rows(part, [value[i] for value in values]) for i, part in enumerate(space.spaces))
    if all(isinstance(value, bytes) for value in values):
        return np.frombuffer(bytearray().join(values), space.dtype).reshape(len(values), *(space.shape or ()))
    return np.array([unpack(space, value) for value in values], dtype=space.dtype)
