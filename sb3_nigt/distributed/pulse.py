"""Signs of life: each rank counts a key of the store up, rank 0 watches all of them, and all others watch rank 0."""

from __future__ import annotations

from torch.distributed.distributed_c10d import Store

from sb3_nigt.vec_env.pool.heartbeat import Heartbeat

BEATS_PER_TIMEOUT = 10  # signs of life within the time after which a silent rank counts as dead
MAX_BEAT_SECONDS = 1.0
START_SECONDS = 120.0  # granted to ranks that still import and make their environments
FAILURE = "failure"


class Pulse:
    """
    The signs of life of one rank, and those that it watches: two requests a beat, whatever the number of ranks.

    What has failed first is under one key, which all read with the signs of life. Rank 0 tells of the others there.

    :param size: number of ranks
    :param timeout: seconds of silence after which a rank counts as dead
    :ivar seconds: between two beats
    """

    def __init__(self, rank: int, size: int, timeout: float) -> None:
        self.seconds = min(MAX_BEAT_SECONDS, timeout / BEATS_PER_TIMEOUT)
        self._rank, self._timeout = rank, timeout
        self._heartbeats = {other: Heartbeat() for other in range(size) if (rank == 0) != (other == 0)}
        self._seen: set[int] = set()  # ranks that have given a sign of life
        self._has_begun = False

    def forgive(self, seconds: float, now: float) -> None:
        """
        Do not count some seconds in which this rank was stopped, perhaps together with all others.

        :param seconds: their number, up to now
        :param now: current time in seconds
        """
        for heartbeat in self._heartbeats.values():
            heartbeat.forgive(seconds, now)

    def _begin(self, store: Store, now: float) -> None:
        """Make the keys, since reading one that is not there would wait for it."""
        store.compare_set(FAILURE, "", "")
        for other, heartbeat in self._heartbeats.items():
            store.add(_key(other), 0)
            heartbeat.begin(-1, now)
        self._has_begun = True

    def beat(self, store: Store, now: float) -> tuple[str, str]:
        """
        Give a sign of life, and look at those of others.

        :param store: the store that all ranks share
        :param now: seconds
        :return: what some rank has failed with, and what is found here; empty if there is nothing
        """
        if not self._has_begun:
            self._begin(store, now)
        store.add(_key(self._rank), 1)
        failure, *counts = store.multi_get([FAILURE, *map(_key, self._heartbeats)])
        found = ""
        for (other, heartbeat), count in zip(self._heartbeats.items(), map(int, counts), strict=True):
            if count > 0:
                self._seen.add(other)
            silent = heartbeat.look(count, now)
            allowed = self._timeout if other in self._seen else max(self._timeout, START_SECONDS)
            if silent > allowed:
                found = f"rank {other} has given no sign of life for {silent:.1f} s (timeout={self._timeout:g})"
        return failure.decode(), found


def _key(rank: int) -> str:
    return f"alive/{rank}"
