"""The ranks of a process group that train one model: who they are, and what they exchange when a round is over."""

from __future__ import annotations

import itertools
import time
import weakref
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch as th
import torch.distributed as dist
from torch.distributed import distributed_c10d

from sb3_nigt.distributed.line import PREEMPTED, StoreLine
from sb3_nigt.errors import Preempted, RankError

Result = TypeVar("Result")
FloatArray = npt.NDArray[np.float64]

LOOK_SECONDS = 2e-3  # between two looks for the reason why an exchange has failed, or whether all ranks have left
LEAVE_SECONDS = 1.0  # for which rank 0 stays when it fails, so that the others can read why
_numbers: weakref.WeakKeyDictionary[Any, itertools.count[int]] = weakref.WeakKeyDictionary()
_gloo: weakref.WeakKeyDictionary[Any, dict[float, Any]] = weakref.WeakKeyDictionary()  # what models of one group share


class Ranks:
    """
    One rank's view of all of them: collective operations whose waits are bounded and whose errors name a rank.

    Before a collective operation the ranks meet at a counter of the store. There a rank may be waited for as long as it
    lives, for example while rank 0 evaluates; so the operation itself is short, and so is its timeout.

    :param base: the process group; a gloo group of the same ranks with its own timeout is made from it
    :param timeout: seconds of silence after which a rank counts as dead
    """

    def __init__(self, base: dist.ProcessGroup, timeout: float) -> None:
        self.rank, self.size, self.timeout = dist.get_rank(base), dist.get_world_size(base), timeout
        self.base, self.sessions = base, 0
        self.n_gathers = self.n_reductions = self.n_bytes = 0
        self.wait_seconds = self.reduce_seconds = 0.0
        # All ranks make their models in the same order, so that the numbers agree; fresh keys for each
        self._name = f"sb3_nigt/{next(_numbers.setdefault(base, itertools.count()))}"
        store = distributed_c10d.PrefixStore(self._name, distributed_c10d._get_process_group_store(base))
        self.line = StoreLine(store.clone() if hasattr(store, "clone") else store, self.rank, self.size, timeout)
        # when the model is collected, and at the end of the interpreter, which a running thread would disturb
        self._finalizer = weakref.finalize(self, self.line.close)
        self.meet("start")
        self._group = self._gloo_group()

    def _gloo_group(self) -> Any:
        groups = _gloo.setdefault(self.base, {})
        if self.timeout not in groups:
            make = partial(
                dist.new_group,
                dist.get_process_group_ranks(self.base),
                timeout=timedelta(seconds=self.timeout),
                backend="gloo",
                use_local_synchronization=self.base is not dist.group.WORLD,
            )
            groups[self.timeout] = self._collective(make)
        return groups[self.timeout]

    def meet(self, key: str) -> None:
        """
        Wait until all ranks have come here, however long that takes them as long as they live.

        :param key: of a counter that nothing else uses
        :raises RankError: if one has failed, or has given no sign of life for ``timeout`` seconds
        """
        self.wait_seconds += self.line.meet(key)

    def gather(self, key: str, vector: FloatArray) -> FloatArray:
        """
        Exchange short vectors.

        :param key: see ``meet``
        :param vector: of the same length on all ranks
        :return: one row per rank
        """
        self.meet(key)
        mine = th.from_numpy(vector)
        rows = [th.empty_like(mine) for _ in range(self.size)]
        self._collective(lambda: dist.all_gather(rows, mine, group=self._group))
        self.n_gathers += 1
        self.n_bytes += (self.size - 1) * mine.nbytes  # each part goes round the ring
        return th.stack(rows).numpy()

    def gather_rows(self, own: npt.NDArray[Any], n_rows: Sequence[int], *, to_first: bool = False) -> npt.NDArray[Any] | None:
        """
        Join the rows of all ranks, right after another exchange, so that they have met.

        :param own: of this rank, of the same type and width on all ranks
        :param n_rows: of each rank
        :param to_first: only rank 0 needs them
        :return: in the order of the ranks; None where they are not needed
        """
        if not sum(n_rows):
            return own if self.rank == 0 or not to_first else None
        padded = np.zeros((max(n_rows), *own.shape[1:]), own.dtype)
        padded[: len(own)] = own
        mine = th.from_numpy(padded)
        is_needed = self.rank == 0 or not to_first
        parts = [th.empty_like(mine) for _ in range(self.size)] if is_needed else None
        if to_first:
            self._collective(lambda: dist.gather(mine, parts, group=self._group, group_dst=0))
        else:
            self._collective(lambda: dist.all_gather(parts, mine, group=self._group))
        n_sent = int(self.rank > 0) if to_first else self.size - 1
        self.n_bytes += n_sent * mine.nbytes
        if parts is None:
            return None
        return np.concatenate([part[:n].numpy() for part, n in zip(parts, n_rows, strict=True)])

    def reduce(self, key: str, vector: th.Tensor) -> th.Tensor:
        """
        Add up a vector over the ranks; bit for bit the same result everywhere.

        :param key: see ``meet``
        :param vector: this rank's part, overwritten
        """
        self.meet(key)
        started = time.monotonic()
        self._collective(lambda: dist.all_reduce(vector, group=self._group))
        self.reduce_seconds += time.monotonic() - started
        self.n_reductions += 1
        self.n_bytes += 2 * (self.size - 1) * vector.nbytes // self.size  # a ring passes every part on twice
        return vector

    def broadcast(self, key: str, vector: th.Tensor, source: int) -> th.Tensor:
        """
        Get what one rank has.

        :param key: see ``meet``
        :param vector: of the same length on all ranks, overwritten
        :param source: the rank whose vector is sent
        """
        self.meet(key)
        self._collective(lambda: dist.broadcast(vector, group=self._group, group_src=source))
        if self.rank == source:
            self.n_bytes += (self.size - 1).bit_length() * vector.nbytes  # a tree: as many times as the group can be halved
        return vector

    def _collective(self, operation: Callable[[], Result]) -> Result:
        try:
            return operation()
        except RuntimeError as error:  # whatever gloo says of the network; the store may know which rank it is
            until = time.monotonic() + self.timeout + 1.0
            while time.monotonic() < until:
                self.line.check()
                time.sleep(LOOK_SECONDS)
            raise RankError(f"rank {self.rank} could not exchange data with another rank: {error}") from error

    def share_text(self, key: str, text: str) -> list[str]:
        """
        Exchange texts through the store.

        :param key: see ``meet``
        :param text: of this rank
        :return: of all ranks
        """
        self.line.call(lambda store: store.set(f"{key}/{self.rank}", text))
        self.meet(key)
        keys = [f"{key}/{rank}" for rank in range(self.size)]
        return [value.decode() for value in self.line.call(lambda store: store.multi_get(keys))]

    def forget(self, keys: list[str]) -> None:
        """
        Delete keys that are no longer read.

        :param keys: of the store
        """
        if self.rank == 0:
            self.line.call(lambda store: [store.delete_key(key) for key in keys])

    def fail(self, error: BaseException) -> None:
        """
        Tell the others why this rank leaves.

        :param error: the error that ends it here
        """
        _gloo.pop(self.base, None)  # it may be in the middle of something
        try:
            if isinstance(error, Preempted):
                self.line.fail(f"{PREEMPTED}{error.reason} on rank {self.rank}")
            elif not isinstance(error, RankError):
                self.line.fail(f"rank {self.rank} has failed: {type(error).__name__}: {error}")
            self.leave(LEAVE_SECONDS)
        except RankError:
            pass  # they will notice by themselves

    def leave(self, seconds: float) -> None:
        """
        Say that this rank no longer needs any other. Rank 0, which may host the store, stays until the others have said so.

        :param seconds: maximum time that it stays
        """
        n_left, until = self.line.add("left", 1), time.monotonic() + seconds
        while self.rank == 0 and n_left % self.size and time.monotonic() < until:
            time.sleep(LOOK_SECONDS)
            n_left = self.line.add("left", 0)

    def take_statistics(self) -> dict[str, float]:
        """Return what was counted since the last call."""
        statistics = {
            "requests": self.line.n_requests,
            "gathers": self.n_gathers,
            "reductions": self.n_reductions,
            "bytes": self.n_bytes,
            "wait_seconds": self.wait_seconds,
            "reduce_seconds": self.reduce_seconds,
        }
        self.line.n_requests = self.n_gathers = self.n_reductions = self.n_bytes = 0
        self.wait_seconds = self.reduce_seconds = 0.0
        return statistics

    def close(self) -> None:
        """End the line to the store."""
        self._finalizer()
