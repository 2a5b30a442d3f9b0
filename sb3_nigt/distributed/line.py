"""This rank's line to the store that all ranks share: every wait is bounded, and signs of life go out while others wait."""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from torch.distributed.distributed_c10d import Store

from sb3_nigt.distributed.pace import least_pause
from sb3_nigt.distributed.pulse import FAILURE, Pulse
from sb3_nigt.errors import Preempted, RankError

Result = TypeVar("Result")

FIRST_PAUSE, LONGEST_PAUSE = 5e-5, 2e-3  # seconds between two looks whether all ranks have come, while there are few
OVER = "over"
PREEMPTED = "preempted: "  # how the reason begins where a signal ends the run on all ranks


class _Request:
    """One request to the store, on its way from the main thread to the line's and back."""

    def __init__(self, action: Callable[[Store], Any]) -> None:
        self.action, self.done = action, threading.Event()
        self.result: Any = None
        self.error: Exception | None = None

    def run(self, store: Store) -> None:
        """Run in the thread of the line."""
        try:
            self.result = self.action(store)
        except Exception as error:
            self.error = error
        self.done.set()


class StoreLine:
    """
    A thread that talks to the store instead of the main one.

    A request to a ``TCPStore`` whose host has vanished from the network never returns, whatever timeout the store has; so
    the main thread hands it over and waits until the line's thread has been busy with one request for ``timeout``. After
    that the store counts as lost, and is no longer used. Between requests the thread says that this rank is alive, also
    while the main one is in a callback that evaluates, and looks whether others are. It stops doing so while an environment
    hangs, see ``stepping``.

    :param store: of the process group, used under a separate prefix
    :param size: number of ranks
    :param timeout: seconds of silence after which the store, or another rank, counts as dead
    """

    def __init__(self, store: Store, rank: int, size: int, timeout: float) -> None:
        self.rank, self.size, self.timeout = rank, size, timeout
        self.n_requests = 0
        self.over_key = OVER  # of the counter that ends the current round
        self._store, self._pulse = store, Pulse(rank, size, timeout)
        self._requests: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._stepping_since: float | None = None
        self._busy_since: float | None = None  # when the thread has begun with what it is doing
        self._last_beat, self._awake_since = time.monotonic(), -math.inf
        self._failure = ""  # of some rank, as far as the thread has heard
        self._lost = ""  # how the store was lost
        self._thread = threading.Thread(target=self._serve, name="sb3_nigt-store", daemon=True)
        self._thread.start()

    # Requests

    def call(self, action: Callable[[Store], Result]) -> Result:
        """
        Do something with the store.

        :param action: a function of the store that must not wait for other ranks
        :raises RankError: if the store does not answer in time, or is gone
        """
        self._raise_lost()
        request = _Request(action)
        self.n_requests += 1
        self._requests.put(request)
        while not request.done.wait(self._patience()):
            self._raise_lost()
        if request.error is not None:
            self._note_lost(request.error)
            raise RankError(self._lost) from request.error
        result: Result = request.result
        return result

    def _patience(self) -> float:
        """Seconds until the thread has been busy with one thing for too long, as far as that is known now."""
        since = self._busy_since
        return self.timeout if since is None else max(0.0, since + self.timeout - time.monotonic())

    def _note_lost(self, error: Exception) -> None:
        self._lost = (
            f"rank {self.rank} has lost the store that the ranks share ({error}): the process that hosts it (rank 0 or "
            "torchrun) has ended"
        )

    def _raise_lost(self) -> None:
        since = self._busy_since
        if not self._lost and since is not None and time.monotonic() - since >= self.timeout:
            self._lost = (
                f"the store that the ranks share has not answered rank {self.rank} for {self.timeout:g} s: the process that "
                "hosts it is stopped, or the network is broken"
            )
        if self._lost:
            raise RankError(self._lost)

    def add(self, key: str, amount: int) -> int:
        """
        Add to an atomic counter.

        :param key: its name
        :param amount: 0 reads it
        :return: its value after that
        """
        return int(self.call(lambda store: store.add(key, amount)))

    def append(self, key: str, data: bytes) -> bytes:
        """
        Append to a list, atomically.

        :param key: its name
        :param data: at least one byte
        :return: the list after that
        """
        return self.call(lambda store: _append_and_get(store, key, data))

    def meet(self, key: str) -> float:
        """
        Wait until all ranks have come here, however long that takes them as long as they live.

        :param key: of a counter that no other meeting uses
        :return: seconds waited
        :raises RankError: if one has failed, or has given no sign of life for ``timeout`` seconds
        """
        started, waited, pause = time.monotonic(), 0.0, FIRST_PAUSE
        n_here = self.add(key, 1)
        while n_here < self.size:
            time.sleep(pause)
            waited = time.monotonic() - started
            pause = min(2 * pause, max(LONGEST_PAUSE, least_pause(waited, self.size)))
            n_here = self.add(key, 0)
            if n_here < self.size:  # a rank that fails after it has come here is none of this meeting's business
                self.check()
        return waited

    # Signs of life

    def stepping(self, is_stepping: bool) -> None:
        """
        Say that environments are being stepped here, or that one step has just ended.

        If the next such call does not come within the timeout an environment hangs, and this rank counts as dead; nothing
        else that the main thread does, such as an evaluation, may be mistaken for that.

        :param is_stepping: whether the next thing is a step or a reset
        """
        self._stepping_since = time.monotonic() if is_stepping else None

    def check(self) -> None:
        """
        Look whether all ranks live, as far as the thread has heard a moment ago; without a request, so it costs nothing.

        :raises RankError: if one has failed, or has given no sign of life for ``timeout`` seconds, or the store is lost
        :raises Preempted: if a signal ends the run
        """
        self._raise_lost()
        _raise_reason(self._failure)

    def fail(self, reason: str) -> None:
        """
        Tell all ranks why they cannot go on; the first reason is the one that counts.

        :param reason: what has happened, and where
        """
        self.call(lambda store: self._fail(store, reason))

    def _fail(self, store: Store, reason: str) -> str:
        first = store.compare_set(FAILURE, "", reason).decode()
        store.add(self.over_key, 1)  # what ranks that step environments look at
        return first

    def raise_failure(self) -> None:
        """
        Raise what some rank has failed with, up to now.

        :raises RankError: if there is anything
        :raises Preempted: if it is a signal
        """
        _raise_reason(self.call(lambda store: store.compare_set(FAILURE, "", "").decode()))

    # The thread

    def _serve(self) -> None:
        next_beat = 0.0
        while True:
            try:
                request = self._requests.get(timeout=max(0.0, next_beat - time.monotonic()))
            except queue.Empty:
                next_beat = time.monotonic() + self._pulse.seconds
                self._do(self._beat)
            else:
                if request is None:
                    return
                self._do(request.run)

    def _do(self, action: Callable[[Store], None]) -> None:
        self._busy_since = time.monotonic()
        try:
            action(self._store)
        except RuntimeError as error:  # of a beat; the main thread will notice
            self._note_lost(error)
        finally:
            self._busy_since = None

    def _beat(self, store: Store) -> None:
        now, since = time.monotonic(), self._stepping_since
        if now - self._last_beat > self.timeout / 2:  # this rank was stopped, perhaps together with all others
            self._pulse.forgive(now - self._last_beat, now)
            self._awake_since = now
        self._last_beat = now
        silent = 0.0 if since is None else now - max(since, self._awake_since)
        if silent > self.timeout:
            what = f"no step or reset of its environments has ended for {silent:.1f} s (timeout={self.timeout:g})"
            self._failure = self._fail(store, f"rank {self.rank}: {what}")
            return
        self._failure, found = self._pulse.beat(store, now)
        if found:
            self._failure = self._fail(store, found)

    def close(self) -> None:
        """End the thread, unless the store holds it forever."""
        self._requests.put(None)
        if not self._lost:
            self._thread.join(1.0)


def _raise_reason(reason: str) -> None:
    if reason.startswith(PREEMPTED):
        raise Preempted(reason.removeprefix(PREEMPTED))
    if reason:
        raise RankError(reason)


def _append_and_get(store: Store, key: str, data: bytes) -> bytes:
    store.append(key, data)  # type: ignore[attr-defined]
    return store.get(key)
