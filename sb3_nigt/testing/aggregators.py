"""What every aggregator must do: tests that an aggregator of your own inherits."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from sb3_nigt.aggregators import Aggregator, predicted_counts
from sb3_nigt.aggregators.base import IntArray


class AggregatorTests:
    """
    The contract of an aggregator, checked on all count vectors up to ``max_count``.

    :cvar aggregators: pairs (aggregator, number of workers)
    :cvar max_count: large enough that some vectors are complete and some are not
    """

    aggregators: Sequence[tuple[Aggregator, int]] = ()
    max_count = 4

    def _count_vectors(self) -> Iterator[tuple[Aggregator, IntArray]]:
        for aggregator, n_workers in self.aggregators:
            for counts in itertools.product(range(self.max_count + 1), repeat=n_workers):
                yield aggregator, np.array(counts, dtype=np.int64)

    def _complete_vectors(self) -> Iterator[tuple[Aggregator, IntArray]]:
        return ((aggregator, counts) for aggregator, counts in self._count_vectors() if aggregator.is_complete(counts))

    def test_there_is_something_to_test(self) -> None:
        """An empty list would pass all other tests."""
        assert self.aggregators, "give pairs (aggregator, number of workers)"

    def test_both_answers_occur(self) -> None:
        """Some vectors are complete and some are not; if not so, ``max_count`` is too small."""
        for wanted, _ in self.aggregators:
            answers = {aggregator.is_complete(counts) for aggregator, counts in self._count_vectors() if aggregator is wanted}
            assert answers == {True, False}, wanted

    def test_nothing_is_not_complete(self) -> None:
        """A round without a trajectory has no gradient."""
        for aggregator, n_workers in self.aggregators:
            assert not aggregator.is_complete(np.zeros(n_workers, dtype=np.int64)), aggregator

    def test_more_work_keeps_a_round_complete(self) -> None:
        """Otherwise a round could be over and go on."""
        for aggregator, counts in self._complete_vectors():
            for worker in range(len(counts)):
                more = counts + (np.arange(len(counts)) == worker)
                assert aggregator.is_complete(more), (aggregator, counts, worker)

    def test_weights_sum_to_one(self) -> None:
        """Σ_i w_i c_i = 1: the gradient is a mean."""
        for aggregator, counts in self._complete_vectors():
            weights = aggregator.weights(counts)
            assert weights.shape == counts.shape
            assert abs(weights @ counts - 1) < 1e-12, (aggregator, counts, weights)

    def test_who_contributed_has_weight_and_nobody_else(self) -> None:
        """Accepted work is used, and w_i S_i of a worker without any is not missed."""
        for aggregator, counts in self._complete_vectors():
            assert_array_equal(aggregator.weights(counts) > 0, counts > 0, err_msg=f"{aggregator}")

    def test_both_functions_are_pure(self) -> None:
        """They neither remember a call nor change what they are given."""
        for aggregator, counts in self._complete_vectors():
            given = counts.copy()
            first = aggregator.weights(counts)
            kept = first.copy()
            first[:] = -1.0  # a result that shares memory with the aggregator would come back spoiled
            assert_array_equal(aggregator.weights(counts), kept)
            assert aggregator.is_complete(counts)
            assert_array_equal(counts, given)

    @pytest.mark.parametrize("speeds", [lambda i: 1.0, lambda i: 1.0 + i, lambda i: 3.0 / (1 + i), lambda i: 1000.0**i])
    def test_tickets_make_a_complete_round_whoever_takes_them(self, speeds: Callable[[int], float]) -> None:
        """A planned round ends, also if one worker of a pool takes all of its tickets."""
        for aggregator, n_workers in self.aggregators:
            pools = aggregator.tickets(np.array([speeds(i) for i in range(n_workers)]))
            members = [worker for pool in pools for worker in pool.workers]
            assert len(set(members)) == len(members), "a worker in two pools"
            assert all(pool.workers == tuple(sorted(pool.workers)) and pool.n_tickets > 0 for pool in pools)
            for chosen in (0, -1):
                counts = np.zeros(n_workers, dtype=np.int64)
                for pool in pools:
                    counts[pool.workers[chosen]] += pool.n_tickets
                assert aggregator.is_complete(counts), (aggregator, pools, counts)

    def test_predicted_round_is_complete_and_has_nothing_to_spare(self) -> None:
        """Workers whose trajectories take 1, √2, √3, √5, √7 seconds never finish together, so the last one is needed."""
        for aggregator, n_workers in self.aggregators:
            durations = np.sqrt(np.array([1.0, 2.0, 3.0, 5.0, 7.0])[:n_workers])
            counts = predicted_counts(aggregator, durations)
            assert aggregator.is_complete(counts)
            last = int(np.argmax(counts * durations))
            assert not aggregator.is_complete(counts - (np.arange(n_workers) == last)), (aggregator, counts)
