"""Observations as rows of bytes, to be sent between ranks without pickle."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

Bytes = npt.NDArray[np.uint8]


def as_bytes(space: spaces.Space[Any], observations: Any) -> Bytes:
    """
    Pack observations; floats are rounded to float32, as in the policy.

    :param space: of one observation
    :param observations: array or dict of arrays with leading dimension n; None: there are none
    :return: shape (n, bytes of one)
    """
    if observations is None:
        return np.zeros((0, sum(_n_bytes(part) for _, part in _parts(space))), dtype=np.uint8)
    return np.concatenate([_bytes_of(_entry(observations, key).astype(_dtype(part))) for key, part in _parts(space)], axis=1)


def from_bytes(space: spaces.Space[Any], packed: Bytes) -> Any:
    """
    Undo ``as_bytes``.

    :param space: of one observation
    :param packed: shape (n, bytes of one)
    """
    unpacked, position = {}, 0
    for key, part in _parts(space):
        columns = np.ascontiguousarray(packed[:, position : position + _n_bytes(part)])
        unpacked[key] = columns.view(_dtype(part)).reshape(len(packed), *(part.shape or ()))
        position += _n_bytes(part)
    return unpacked if isinstance(space, spaces.Dict) else unpacked[None]


def _parts(space: spaces.Space[Any]) -> Iterator[tuple[str | None, spaces.Space[Any]]]:
    yield from space.spaces.items() if isinstance(space, spaces.Dict) else [(None, space)]


def _entry(observations: Any, key: str | None) -> npt.NDArray[Any]:
    return np.asarray(observations if key is None else observations[key])


def _dtype(space: spaces.Space[Any]) -> np.dtype[Any]:
    dtype = np.dtype(np.int64 if space.dtype is None else space.dtype)
    return np.dtype(np.float32) if dtype.kind == "f" else dtype


def _n_bytes(space: spaces.Space[Any]) -> int:
    return _dtype(space).itemsize * int(np.prod(space.shape or ()))


def _bytes_of(array: npt.NDArray[Any]) -> Bytes:
    return np.ascontiguousarray(array).reshape(len(array), -1).view(np.uint8)
