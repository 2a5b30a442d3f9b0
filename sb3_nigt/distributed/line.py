"""This rank's line to the store that all ranks share: every wait is bounded, and signs of life go out while others wait."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from torch.distributed.distributed_c10d import Store

from sb3_nigt.errors import Preempted, RankError
from sb3_nigt.vec_env.pool.heartbeat import Heartbeat

Result = TypeVar("Result")

BEATS_PER_TIMEOUT = 10  # signs of life within the time after which a silent rank counts as dead
MAX_BEAT_SECONDS = 1.0
START_SECONDS = 120.0  # granted to ranks that still import and make their environments
FAILURE, OVER = "failure", "over"
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
    A thread that talks to the store in place of the main one.

    A request to a ``TCPStore`` whose host has vanished from the network never returns, whatever timeout the store has; so
    the main thread hands it over and waits no longer than ``timeout``. Between requests the thread says that this rank is
    alive, also while the main one is in a callback that evaluates. It stops doing so while an environment hangs, see
    ``stepping``.

    :param store: of the process group, used under a prefix of its own
    :param rank: this rank
    :param size: number of ranks
    :param timeout: seconds of silence after which the store, or another rank, counts as dead
    """

    def __init__(self, store: Store, rank: int, size: int, timeout: float) -> None:
        self.rank, self.size, self.timeout = rank, size, timeout
        self.n_requests = 0
        self.over_key = OVER  # of the counter that ends the current round
        self._store = store
        self._requests: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._beat_seconds = min(MAX_BEAT_SECONDS, timeout / BEATS_PER_TIMEOUT)
        self._stepping_since: float | None = None
        self._heartbeats = [Heartbeat() for _ in range(size)]
        self._seen = [False] * size  # ranks that have given a sign of life
        self._next_check = 0.0
        self.reset_silence()
        self._thread = threading.Thread(target=self._serve, name="sb3_nigt-store", daemon=True)
        self._thread.start()

    # Requests

    def call(self, action: Callable[[Store], Result]) -> Result:
        """
        Do something with the store.

        :param action: takes the store; must not wait for other ranks
        :raises RankError: if the store does not answer in time, or is gone
        """
        request = _Request(action)
        self.n_requests += 1
        self._requests.put(request)
        if not request.done.wait(self.timeout):
            raise RankError(
                f"the store that the ranks share has not answered rank {self.rank} for {self.timeout:g} s: the process that "
                "keeps it is stopped, or the network is broken"
            )
        if request.error is not None:
            raise RankError(
                f"rank {self.rank} has lost the store that the ranks share ({request.error}): the process that keeps it has "
                "ended, which is rank 0 or its torchrun"
            ) from request.error
        result: Result = request.result
        return result

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

    # Signs of life

    def stepping(self, is_stepping: bool) -> None:
        """
        Say that environments are being stepped here, or that one step has just ended.

        If the next such call does not come within the timeout an environment hangs, and this rank counts as dead; nothing
        else that the main thread does, such as an evaluation, may be mistaken for that.

        :param is_stepping: whether the next thing is a step or a reset
        """
        self._stepping_since = time.monotonic() if is_stepping else None

    def reset_silence(self) -> None:
        """Count the silence of all ranks from here."""
        now = time.monotonic()
        for heartbeat in self._heartbeats:
            heartbeat.begin(-1, now)

    def check(self) -> None:
        """
        Look whether all ranks live, now and then; costs nothing in between.

        :raises RankError: if one has failed, or has given no sign of life for ``timeout`` seconds
        """
        now = time.monotonic()
        if now < self._next_check:
            return
        self._next_check = now + self._beat_seconds
        self.raise_failure()
        counts = self.call(lambda store: [store.add(f"alive/{rank}", 0) for rank in range(self.size)])
        now = time.monotonic()
        for rank, count in enumerate(counts):
            self._seen[rank] = self._seen[rank] or count > 0
            silent = self._heartbeats[rank].look(count, now)
            allowed = self.timeout if self._seen[rank] else max(self.timeout, START_SECONDS)
            if rank != self.rank and silent > allowed:
                reason = f"rank {rank} has given no sign of life for {silent:.1f} s (timeout={self.timeout:g})"
                self.fail(reason)
                raise RankError(reason)

    def fail(self, reason: str) -> None:
        """
        Tell all ranks why they cannot go on; the first reason is the one that counts.

        :param reason: what has happened, and where
        """
        self.call(lambda store: self._fail(store, reason))

    def _fail(self, store: Store, reason: str) -> None:
        store.compare_set(FAILURE, "", reason)
        store.add(self.over_key, 1)  # whoever steps environments looks at this

    def raise_failure(self) -> None:
        """
        Raise what some rank has failed with.

        :raises RankError: if there is anything
        :raises Preempted: if it is a signal
        """
        reason = self.call(_failure)
        if reason is not None and reason.startswith(PREEMPTED):
            raise Preempted(reason.removeprefix(PREEMPTED))
        if reason is not None:
            raise RankError(reason)

    # The thread

    def _serve(self) -> None:
        next_beat = 0.0
        while True:
            try:
                request = self._requests.get(timeout=max(0.0, next_beat - time.monotonic()))
                if request is None:
                    return
                request.run(self._store)
            except queue.Empty:
                next_beat = time.monotonic() + self._beat_seconds
                with contextlib.suppress(RuntimeError):  # the store is gone; whoever asks it for something will notice
                    self._beat()

    def _beat(self) -> None:
        since = self._stepping_since
        silent = 0.0 if since is None else time.monotonic() - since
        if silent <= self.timeout:
            self._store.add(f"alive/{self.rank}", 1)
            return
        what = f"no step or reset of its environments has ended for {silent:.1f} s (timeout={self.timeout:g})"
        self._fail(self._store, f"rank {self.rank}: {what}")

    def close(self) -> None:
        """End the thread."""
        self._requests.put(None)
        self._thread.join(1.0)


def _failure(store: Store) -> str | None:
    return store.get(FAILURE).decode() if store.check([FAILURE]) else None


def _append_and_get(store: Store, key: str, data: bytes) -> bytes:
    store.append(key, data)  # type: ignore[attr-defined]
    return store.get(key)
