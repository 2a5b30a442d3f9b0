"""
What has happened in a round on all ranks, in one order.

Every rank appends to one list on the store. An append is atomic, so the place in the list is the number of an arrival, and
every rank that reads the list comes to the same conclusion about what is admitted. The list is made of parts of fixed length,
so that a rank need not read again what it has read. A counter next to it says that the round is over; it is all that has to
be read after an environment step.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch.distributed.distributed_c10d import Store

from sb3_nigt.distributed.line import OVER, StoreLine
from sb3_nigt.distributed.pace import least_pause
from sb3_nigt.messages import TrajectoryKey

LIST, LENGTH = "arrivals", "length"
PART = 64  # entries in a part of the list
STARTED, ARRIVED, REJECTED = range(3)
FORMAT = struct.Struct("<B5q4d")
SHARE = 0.1  # of the time that may go into reading the counter, and as much into reading the list
LONGEST_PAUSE = 0.002  # seconds between two readings, unless there are many ranks, or the round has lasted long


@dataclass(frozen=True)
class Entry:
    """
    One line of the list.

    :param kind: STARTED, ARRIVED or REJECTED
    :param worker: number of the worker over all ranks
    :param key: key of the trajectory
    :param n_steps: its length
    :param episode_steps: of the episode that is reported at its end, which may be longer; 0 where none is
    :param episode_return: undiscounted sum of its raw rewards
    :param reported_return: of that episode
    :param began: seconds since the round began on the worker's rank
    :param ended: the same
    """

    kind: int
    worker: int
    key: TrajectoryKey
    n_steps: int = 0
    episode_steps: int = 0
    episode_return: float = 0.0
    reported_return: float = 0.0  # not NaN, which would equal no other entry
    began: float = 0.0
    ended: float = 0.0

    def pack(self) -> bytes:
        """As bytes of fixed length."""
        numbers = (self.worker, self.key.stream, self.key.number, self.n_steps, self.episode_steps)
        return FORMAT.pack(self.kind, *numbers, self.episode_return, self.reported_return, self.began, self.ended)

    @classmethod
    def unpack(cls, round_: int, data: bytes) -> Entry:
        """
        Read one.

        :param round_: the round of the list
        :param data: the result of ``pack``
        """
        kind, worker, stream, number, *others = FORMAT.unpack(data)
        return cls(kind, worker, TrajectoryKey(round_, stream, number), *others)


class Rule(Protocol):
    """Which entries count: a state machine that every rank feeds with the same entries in the same order."""

    def take(self, entry: Entry) -> bool:
        """
        Take in the next entry.

        :param entry: of any rank
        :return: whether it is an arrival that counts
        """
        ...

    @property
    def complete(self) -> bool:
        """Whether the round has all it needs."""
        ...


class Ledger:
    """
    The list of one round, as one rank sees it.

    :param line: line to the store
    :param prefix: prefix of the keys of this round
    :param round_: its number
    :param rule: the rule that decides which entries count
    :param on_admitted: told of every arrival that counts, in the order of the list
    """

    def __init__(self, line: StoreLine, prefix: str, round_: int, rule: Rule, on_admitted: Callable[[Entry], None]) -> None:
        self._line, self.prefix, self._round, self._rule, self._on_admitted = line, prefix, round_, rule, on_admitted
        self.admitted: list[Entry] = []
        self.rejected: list[Entry] = []
        self._n_read = self._n_own_unread = 0
        self._began = time.monotonic()
        self._next_read = self._next_look = 0.0
        self._is_over = False

    @property
    def keys(self) -> list[str]:
        """Names of the store's keys that the list uses."""
        return [LENGTH, *(_part(number) for number in range(self._n_read // PART + 2))]

    def enter(self, entry: Entry) -> None:
        """
        Append an entry; whether it counts is known once it has been read.

        :param entry: of this rank
        """
        data = entry.pack()
        self._n_own_unread += 1
        if time.monotonic() < self._next_read:
            self._line.call(lambda store: _append(store, self.prefix, data))
        else:
            self._read(data)

    def look(self) -> None:
        """Take in what is new, from all ranks, unless that has just been done."""
        if time.monotonic() >= self._next_read:
            self._read(b"")

    def read(self) -> None:
        """Take in what is new, from all ranks."""
        self._read(b"")

    def _read(self, new: bytes) -> None:
        began = time.monotonic()
        for data in self._line.call(lambda store: _append_and_get(store, self.prefix, new, self._n_read)):
            entry = Entry.unpack(self._round, data)
            self._n_read += 1
            if self._rule.take(entry):
                self.admitted.append(entry)
                self._on_admitted(entry)
            elif entry.kind == REJECTED:
                self.rejected.append(entry)
        self._n_own_unread = 0
        if self._rule.complete and not self._is_over:
            self.end()
        self._next_read = self._after(began)

    def end(self) -> None:
        """Tell all ranks that the round is over."""
        self._line.add(self.prefix + OVER, 1)
        self._is_over = True

    def is_over(self) -> bool:
        """
        Tell whether the round is over, or some rank has failed; asked after every environment step.

        It reads the counter, unless it has just done so (two milliseconds ago, or ten times what one reading takes if that is
        less): steps of microseconds must not wait for the network after each of them. With many ranks, or after some seconds,
        it waits longer, see ``pace``.
        """
        began = time.monotonic()
        if self._is_over or began < self._next_look:
            return self._is_over
        if self._n_own_unread and began >= self._next_read:
            self.read()  # some rank has to notice that the round is complete
        self._is_over = self._is_over or self._line.add(self.prefix + OVER, 0) > 0
        self._line.check()
        self._next_look = self._after(began)
        return self._is_over

    def _after(self, began: float) -> float:
        """When the next reading is due, after one that has begun at a time and has just ended."""
        ended = time.monotonic()
        pause = min((ended - began) / SHARE, LONGEST_PAUSE)
        return ended + max(pause, least_pause(ended - self._began, self._line.size))


def _part(number: int) -> str:
    return f"{LIST}/{number}"


def _append(store: Store, prefix: str, data: bytes) -> None:
    place = store.add(prefix + LENGTH, 1) - 1
    store.append(prefix + _part(place // PART), data)  # type: ignore[attr-defined]


def _append_and_get(store: Store, prefix: str, new: bytes, n_read: int) -> list[bytes]:
    """Append an entry, if there is one; return all from a number on. A part is read once the ones before it are full."""
    if new:
        _append(store, prefix, new)
    found: list[bytes] = []
    while True:
        number, begin = divmod(n_read + len(found), PART)
        part = store.compare_set(prefix + _part(number), "", "")  # reading a key that is not there would wait for it
        found += (part[i : i + FORMAT.size] for i in range(begin * FORMAT.size, len(part), FORMAT.size))
        if len(part) < PART * FORMAT.size:
            return found
