"""Counts of steps on the store: when a round of several ranks is over, whatever happens to steps that were told."""

import numpy as np
import pytest

from sb3_nigt.aggregators import Malenia, Rennala, Synchronous
from sb3_nigt.distributed.step_counts import StepCounts, check_parts
from sb3_nigt.errors import RankError


class Store(dict):
    """As much of a store as is used."""

    def set(self, key, value):
        self[key] = value

    def multi_get(self, keys):
        return [self[key] for key in keys]


class Line:
    timeout = 20.0

    def __init__(self, store, rank):
        self.store, self.rank = store, rank

    def call(self, function):
        return function(self.store)

    def check(self):
        pass


class NoLosses:
    def check(self, aggregator):
        pass


RULES = [Rennala(1000), Synchronous(1000), Malenia.of(1000, ["a", "b"])]


def two_ranks(rule):
    """One worker each, ten milliseconds a step, in round 0."""
    store = Store()
    ranks = [StepCounts(Line(store, rank), range(rank, rank + 1), [1, 1], NoLosses()) for rank in range(2)]
    for rank in ranks:
        rank.begin(0, rule, np.array([0.01, 0.01]))
    return ranks


def is_over(rank, n_steps):
    rank._next_look = 0.0
    return rank.steps_left(np.array([n_steps])) == 0


@pytest.mark.parametrize("rule", RULES)
def test_a_round_is_over_where_all_have_enough(rule):
    first, second = two_ranks(rule)
    assert not is_over(first, 500)
    assert is_over(second, 500)
    assert is_over(first, 500)
    for rank in (first, second):
        rank.begin(1, rule, np.array([0.01, 0.01]))
    assert not is_over(first, 500)  # what was told in the last round has gone


@pytest.mark.parametrize("rule", RULES)
def test_steps_that_are_lost_before_the_end_are_made_again(rule):
    first, second = two_ranks(rule)
    assert not is_over(first, 400)
    assert not is_over(first, 0)  # a number was not finite, or the worker has died
    assert not is_over(second, 600)
    assert not is_over(first, 100)
    assert is_over(first, 1000)
    assert is_over(second, 600)


@pytest.mark.parametrize("rule", RULES)
def test_what_a_rank_has_seen_complete_is_over_for_all(rule):
    """Also for the one whose steps are lost in that moment, which would wait for ever otherwise."""
    first, second = two_ranks(rule)
    assert not is_over(first, 500)
    assert is_over(second, 500)
    assert is_over(first, 0)


def test_a_round_without_the_steps_of_a_worker_that_it_needs():
    counts = np.array([0, 500])
    check_parts(counts, Rennala(1000), 3)
    check_parts(counts, Malenia.of(1000, ["a", "a"]), 3)
    for rule in (Malenia.of(1000, ["a", "b"]), Synchronous(1000)):
        with pytest.raises(RankError, match=r"round 3 has nothing of workers \[0\]"):
            check_parts(counts, rule, 3)
