"""
The infos that travel from a worker to its parent: records in an array of bytes, one after the other.

Of the last step of an episode "episode" and "is_success" travel, of every step what was asked for by name. What is not made of
numbers, text, arrays and containers of them is left out.
"""

from __future__ import annotations

import pickle
import struct
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sb3_nigt.sampling.infos import EPISODE_KEYS, as_number, check_info, plain, reported_return

Bytes = npt.NDArray[np.uint8]
InfoKeys = tuple[str, ...] | None  # names of entries; None: all

LARGEST_RECORD = 2**16  # bytes; an info that needs more is left out
ROOM, ROOM_FOR_STEPS = 2 * LARGEST_RECORD, 2**20  # bytes in the array of a worker, without and with infos of every step
_HEADER = struct.Struct("<2q")  # step, or the mark of the end; bytes that follow
_END = -1


def checked_info_keys(info_keys: Any) -> InfoKeys:
    """
    Return the names of entries that a user asks for.

    :param info_keys: what the user gave
    :raises ValueError: if it is no list of names
    """
    if info_keys is None:
        return None
    if isinstance(info_keys, str) or not all(isinstance(key, str) for key in info_keys):
        raise ValueError(
            f'info_keys={info_keys!r} is not allowed: give a list of names such as ["x_position"], or None for all.'
        )
    return tuple(info_keys)


def info_room(info_keys: InfoKeys) -> int:
    """
    Return the length of the array of a worker.

    :param info_keys: names of the entries that are sent for every step; None: all
    """
    return ROOM if info_keys == () else ROOM_FOR_STEPS


class InfoWriter:
    """
    The worker's end.

    What it writes is complete before the counter that tells the parent of the step; records of later steps may be incomplete
    when the parent reads.

    :param area: memory for the records
    :param info_keys: names of the entries that are sent for every step; None: all
    """

    def __init__(self, area: Bytes, info_keys: InfoKeys) -> None:
        self._area, self._keys, self._end = area.data, info_keys, 0
        self._said: set[str] = set()  # what a warning has been given of
        self.begin()

    @property
    def wants_all_steps(self) -> bool:
        """Whether entries were asked for that travel of every step."""
        return self._keys != ()

    def begin(self) -> None:
        """Start again; the parent has read what was there."""
        self._end = 0
        _HEADER.pack_into(self._area, 0, _END, 0)

    def room(self) -> int:
        """Return how many infos fit at least."""
        return max(0, (len(self._area) - self._end - _HEADER.size) // LARGEST_RECORD)

    def selected(self, info: dict[str, Any]) -> dict[str, Any]:
        """
        Return a copy of the entries that travel.

        :param info: the info of one step
        :raises ValueError: if it is no dict
        """
        check_info(info)
        keys = info if self._keys is None else dict.fromkeys((*self._keys, *EPISODE_KEYS))
        kept = {}
        for key in keys:
            if key in info:
                try:
                    kept[key] = plain(info[key])
                except TypeError as error:
                    self._warn(key, str(error))
        return kept

    def write_trajectory(self, infos: Sequence[dict[str, Any]]) -> None:
        """
        Write what travels of a whole trajectory, the report on its episode first.

        :param infos: one info per step, made by ``selected`` where entries are sent for every step
        """
        self.begin()
        if infos:
            self.write_last(len(infos) - 1, infos[-1])
        if self.wants_all_steps:
            for row, kept in enumerate(infos):
                self.write_step(row, kept)

    def write_step(self, row: int, kept: Mapping[str, Any]) -> None:
        """
        Write what travels of every step.

        :param row: number of the step
        :param kept: the result of ``selected``
        """
        self._write(row, {key: value for key, value in kept.items() if key not in EPISODE_KEYS})

    def write_last(self, row: int, info: dict[str, Any]) -> None:
        """
        Write what travels of the last step only.

        :param row: number of the step
        :param info: the info of that step, or what ``selected`` made of it
        """
        check_info(info)
        said = self.selected({key: info[key] for key in EPISODE_KEYS if info.get(key) is not None})
        is_whole = self._write(row, said) and "episode" in said
        if not is_whole and reported_return(info) is not None:  # else the log would have nothing of the episode
            numbers = {key: as_number(value) for key, value in info["episode"].items() if as_number(value) is not None}
            self._write(row, {"episode": numbers})

    def _write(self, row: int, entries: dict[str, Any]) -> bool:
        """Write a record; False if there is no room for it."""
        if not entries:
            return True
        record = pickle.dumps(entries)
        start = self._end + _HEADER.size
        stop = start + len(record)
        if len(record) + _HEADER.size > LARGEST_RECORD or stop + _HEADER.size > len(self._area):
            self._warn(", ".join(entries), f"its {len(record)} bytes exceed the available space")
            return False
        self._area[start:stop] = record
        _HEADER.pack_into(self._area, stop, _END, 0)
        _HEADER.pack_into(self._area, self._end, row, len(record))
        self._end = stop
        return True

    def _warn(self, name: str, why: str) -> None:
        if name not in self._said:
            self._said.add(name)
            warnings.warn(f"info[{name!r}] is not returned by the worker: {why}.", stacklevel=2)


def read_infos(area: Bytes, start: int, stop: int) -> list[dict[str, Any]]:
    """
    Return the infos of some steps; those of which nothing travels are empty.

    :param area: memory written by ``InfoWriter``
    :param start: the first step
    :param stop: the step after the last one; it and those before it have been made
    """
    infos: list[dict[str, Any]] = [{} for _ in range(stop - start)]
    position = 0
    while position + _HEADER.size <= len(area):
        row, size = _HEADER.unpack_from(area.data, position)
        position += _HEADER.size
        if row == _END or row >= stop:
            break
        if row >= start:
            infos[row - start].update(pickle.loads(area[position : position + size].tobytes()))
        position += size
    return infos


def used(area: Bytes) -> Bytes:
    """
    Return the part of an array that has been written.

    :param area: memory written by ``InfoWriter``
    """
    position = 0
    while True:
        row, size = _HEADER.unpack_from(area.data, position)
        if row == _END:
            return area[:position]
        position += _HEADER.size + size
