"""One rank's part of a round of steps: its workers step until those of all ranks together have made enough."""

from __future__ import annotations

import numpy as np

from sb3_nigt.algorithms.book import Accepted, Book
from sb3_nigt.algorithms.group import RoundPlan
from sb3_nigt.algorithms.round import RESET_IN_A_ROUND
from sb3_nigt.algorithms.steps import take_segments
from sb3_nigt.distributed.arrivals import Arrivals, arrival_rows, arrivals_of
from sb3_nigt.distributed.exchange import Told
from sb3_nigt.distributed.ranks import Ranks
from sb3_nigt.distributed.step_counts import StepCounts
from sb3_nigt.distributed.workers import RankWorkers
from sb3_nigt.messages import Arrival, Discarded, Segment


class RankSteps:
    """
    What this rank does in one round of steps.

    :param workers: of this rank
    :param counts: of their steps, begun for this round
    :param plan: of the round
    :ivar accepted: pieces that count
    :ivar rejected: pieces that do not
    :ivar segments: of this rank's workers that have begun with the round
    :ivar discarded: steps that were in flight when a round was complete
    :ivar goes_on: no callback of this rank has said stop
    """

    expected: None = None  # no list on the store says how many steps there are
    keys: tuple[str, ...] = ()  # of the store, apart from the one that each rank writes in all rounds

    def __init__(self, workers: RankWorkers, counts: StepCounts, plan: RoundPlan) -> None:
        self._workers, self._counts, self._plan, self._started_at = workers, counts, plan, workers.clock.now()
        self.own_counts = [0] * len(workers.own)
        self.accepted: Accepted = []
        self.rejected: list[Arrival] = []
        self.segments: tuple[Segment, ...] = ()
        self.discarded: list[Discarded] = []
        self.goes_on = True

    def run(self) -> None:
        """
        Let the workers step until the round is over on all ranks; their episodes continue in the next one.

        :raises RankError: if another rank cannot go on, or the round needs a worker that is lost
        :raises WorkerError: if one worker delivers non-finite numbers several times in a row
        """
        workers, plan = self._workers, self._plan
        book, n_resets = Book(workers, plan.point, plan.memory), workers.n_resets
        workers.interrupt = None
        workers.steps_left = self._counts.steps_left
        segments = workers.run_segments(plan.point, self._counts.is_complete, plan.meanwhile)
        assert segments is not None
        self.goes_on = take_segments(book, segments, plan.show)
        if workers.n_resets != n_resets:
            raise RuntimeError(RESET_IN_A_ROUND)
        result = book.close(segments.counts, np.zeros(len(segments.counts)), segments.segments)  # weights need all counts
        self.own_counts = segments.counts.tolist()
        self.accepted, self.segments = result.in_worker_order(), result.report.segments
        self.rejected, self.discarded = list(result.report.rejected), list(result.report.discarded)

    @property
    def n_arrivals(self) -> int:
        """Pieces that other ranks are told of."""
        return len(self.accepted) + len(self.rejected)

    def arrivals(self, ranks: Ranks, told: Told, started_at: float) -> Arrivals:
        """
        Return the pieces of all ranks.

        :param ranks: all of which call this, right after they have told each other how many pieces there are
        :param told: by all ranks
        :param started_at: when the round began here
        """
        own = arrival_rows(self.accepted, self.rejected, self._started_at)
        rows = ranks.gather_rows(own, told.of_ranks("n_arrivals").astype(int).tolist())
        assert rows is not None
        return arrivals_of(rows, self._plan.point.round, self._workers.task_ids, started_at)
