"""Which workers of all ranks are lost for good, and the end of the run where no round can be completed without them."""

from __future__ import annotations

from sb3_nigt.aggregators import Aggregator
from sb3_nigt.algorithms.round import check_lost
from sb3_nigt.distributed.workers import RankWorkers
from sb3_nigt.errors import LostWorkerError, RankError

LOST = "lost"


class Losses:
    """
    The lost workers, as a list on the store that only grows.

    A rank that loses a worker appends it and reads the list. An append is atomic, so of several ranks that lose workers at
    the same time the last one sees all of them. It is the one that tells all ranks; the others need not look.

    :param workers: of this rank, numbered over all ranks
    :param key: of the list
    """

    def __init__(self, workers: RankWorkers, key: str) -> None:
        self._workers, self._key = workers, key
        self._told: frozenset[int] = frozenset()

    @property
    def has_news(self) -> bool:
        """Whether this rank has lost a worker since the last ``check``."""
        return self._workers.lost() != self._told

    def check(self, aggregator: Aggregator) -> None:
        """
        Tell the other ranks of new losses on this one.

        :param aggregator: the rule of the round
        :raises RankError: on all ranks, if the round needs a worker that is lost
        """
        own = self._workers.lost()
        if own == self._told:
            return
        said = "".join(f"{worker} " for worker in sorted(own - self._told))
        self._told = own
        line = self._workers.ranks.line
        everywhere = frozenset(map(int, line.append(self._key, said.encode()).split()))
        try:
            check_lost(everywhere, aggregator, self._workers.task_ids, self._workers.last_failure)
        except LostWorkerError as error:
            reason = f"rank {self._workers.rank_of(error.worker)}: {error}"
            line.fail(reason)
            raise RankError(reason) from error
