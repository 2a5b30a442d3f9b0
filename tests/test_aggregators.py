"""When a round is complete, how it is weighed, and which round the speeds predict."""

import heapq
import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from sb3_nigt.aggregators import Aggregator, Malenia, Rennala, Synchronous, TicketPool, predicted_counts
from sb3_nigt.testing import AggregatorTests


class TestRennala(AggregatorTests):
    aggregators = tuple((Rennala(m), n) for m, n in [(1, 1), (3, 1), (1, 3), (4, 3), (7, 3), (5, 4)])


MALENIA_CASES = [
    (1, (0,)),
    (3, (0, 0, 0)),
    (2, (0, 1)),
    (7, (0, 1, 2)),
    (6, (0, 0, 1)),
    (6, (1, 0, 1)),
    (5, (2, 0, 1, 0)),
]


class TestMalenia(AggregatorTests):
    aggregators = tuple((Malenia(m, tasks), len(tasks)) for m, tasks in MALENIA_CASES)


class TestSynchronous(AggregatorTests):
    aggregators = tuple((Synchronous(m), n) for m, n in [(1, 1), (1, 3), (3, 3), (4, 3), (7, 2), (5, 4)])


class EveryWorkerOnce(Aggregator):
    """A user's rule, with the tickets that come by default."""

    def is_complete(self, counts):
        return bool(counts.all())

    def weights(self, counts):
        return np.where(counts > 0, 1.0 / (len(counts) * np.maximum(counts, 1)), 0.0)


class TestDefaultTickets(AggregatorTests):
    aggregators = ((EveryWorkerOnce(), 1), (EveryWorkerOnce(), 3))


class Broken(Rennala):
    """One fault at a time, by name."""

    fault = ""

    def is_complete(self, counts):
        if self.fault == "forgets":
            return int(counts.sum()) == self.n_trajectories
        return self.fault == "empty" or super().is_complete(counts)

    def weights(self, counts):
        if self.fault == "spoils":
            counts[0] += 1
        scale = {"sum": 2.0}.get(self.fault, 1.0)
        return np.full(len(counts), 1.0 / counts.sum()) if self.fault == "idle" else scale * super().weights(counts)

    def tickets(self, durations):
        missing = 1 if self.fault == "tickets" else 0
        return [TicketPool(tuple(range(len(durations))), self.n_trajectories - missing)]


@pytest.mark.parametrize(
    ("fault", "test"),
    [
        ("empty", "test_nothing_is_not_complete"),
        ("empty", "test_both_answers_occur"),
        ("forgets", "test_more_work_keeps_a_round_complete"),
        ("sum", "test_weights_sum_to_one"),
        ("idle", "test_who_contributed_has_weight_and_nobody_else"),
        ("spoils", "test_both_functions_are_pure"),
        ("tickets", "test_tickets_make_a_complete_round_whoever_takes_them"),
    ],
)
def test_inherited_tests_find_faults(fault, test):
    class Tests(AggregatorTests):
        aggregators = ((type(fault, (Broken,), {"fault": fault})(3), 2),)

    arguments = [lambda i: 1.0] if "tickets" in test else []
    with pytest.raises(AssertionError):
        getattr(Tests(), test)(*arguments)


# Hand-computed rules


def test_rennala_counts_everybody_alike():
    rule = Rennala(5)
    assert not rule.is_complete(np.array([4, 0, 0]))
    assert rule.is_complete(np.array([4, 0, 1]))
    assert_allclose(rule.weights(np.array([4, 0, 1])), [1 / 5, 0, 1 / 5])
    assert_allclose(rule.weights(np.array([4, 0, 2])), [1 / 6, 0, 1 / 6])  # by what was reduced, not by M
    assert rule.tickets(np.array([1.0, 2.0, 9.0])) == [TicketPool((0, 1, 2), 5)]
    assert rule.can_do_without([0, 1], 3)
    assert not rule.can_do_without([0, 1, 2], 3)


def test_synchronous_rounds_up():
    """⌈7/3⌉ = 3 from everybody."""
    rule = Synchronous(7)
    assert not rule.is_complete(np.array([9, 9, 2]))
    assert rule.is_complete(np.array([3, 3, 3]))
    assert_allclose(rule.weights(np.array([3, 3, 3])), [1 / 9] * 3)
    assert rule.tickets(np.array([1.0, 2.0, 9.0])) == [TicketPool((0,), 3), TicketPool((1,), 3), TicketPool((2,), 3)]


def test_malenia_needs_the_harmonic_mean():
    """
    K = 2, M = 8: the harmonic mean of (M_1, M_2) must be at least 4.

    (3, 6) has 2 / (1/3 + 1/6) = 4, just enough; (3, 5) has 3.75. (2, 1000) has 3.99, and no number makes up for a 2.
    """
    rule = Malenia(8, (0, 1))
    assert rule.is_complete(np.array([3, 6]))
    assert not rule.is_complete(np.array([3, 5]))
    assert not rule.is_complete(np.array([2, 1000]))
    assert not rule.is_complete(np.array([0, 10**6]))
    assert_allclose(rule.weights(np.array([3, 6])), [1 / 6, 1 / 12])  # (1/2)(S_1/3 + S_2/6)


def test_malenia_is_complete_where_rounding_would_say_no():
    """K = 3, M = 15: Σ 1/M_k = 3/5 meets K²/M = 9/15, but in floating point 1/5 + 1/5 + 1/5 = 0.6000000000000001."""
    assert Malenia(15, (0, 1, 2)).is_complete(np.array([5, 5, 5]))
    assert not Malenia(15, (0, 1, 2)).is_complete(np.array([5, 5, 4]))


def test_malenia_pools_the_workers_of_a_task():
    """
    Tasks a = {0, 2}, b = {1}; K = 2, M = 6: 1/M_a + 1/M_b ≤ 2²/6 = 2/3.

    M_a = 3, M_b = 3 meets it with equality, whichever of the two makes the three of a; (2, 3) has 5/6.
    """
    rule = Malenia(6, (0, 1, 0))
    for counts in ([3, 3, 0], [0, 3, 3], [1, 3, 2]):
        assert rule.is_complete(np.array(counts))
        assert_allclose(rule.weights(np.array(counts)), np.where(counts, 1 / 6, 0))
    assert not rule.is_complete(np.array([1, 3, 1]))
    assert rule.per_task(np.array([1, 3, 1])).tolist() == [2, 3]
    # Equal speeds: after k turns M_a = 2k, M_b = k. k = 2: 1/4 + 1/2 = 3/4 > 2/3. The arrivals of turn 3 in the order of the
    # workers: (5, 2): 7/10; (5, 3): 8/15 ≤ 2/3.
    assert rule.tickets(np.ones(3)) == [TicketPool((0, 2), 5), TicketPool((1,), 3)]


def test_malenia_numbers_the_tasks_that_take_part():
    """In the order in which they appear; -1 for a task without, whose workers do not count."""
    assert Malenia.of(8, ["b", "a", "b", "c"]) == Malenia(8, (0, 1, 0, 2))
    assert Malenia.of(8, ["b", "a", "b", "c"], without=["b"]) == Malenia(8, (-1, 0, -1, 1))


def test_a_worker_that_is_predicted_to_deliver_nothing_gets_no_ticket_by_default():
    """M = 2, τ = 1 and 5: worker 0 has delivered both by 2."""
    assert Aggregator.tickets(Rennala(2), np.array([1.0, 5.0])) == [TicketPool((0,), 2)]


# Rounds that the speeds predict


@pytest.mark.parametrize(
    ("rule", "durations", "time", "counts"),
    [
        # τ_i = √i, n = 10, M = 20. Rennala: ⌊5/√i⌋ = 5 3 2 2 2 2 1 1 1 1, together 20, and the 20th is worker 0 at exactly 5.
        (Rennala(20), np.sqrt(np.arange(1, 11)), 5.0, [5, 3, 2, 2, 2, 2, 1, 1, 1, 1]),
        # Malenia: Σ 1/c ≤ 100/20 = 5. Until 6: 5 4 3 2 2 2 2 2 1 1 has 0.2 + 0.25 + 0.333 + 2.5 + 2 = 5.28. At 6 workers 3
        # (its third, started at 4), 8 (its second, started at 3) and 0 (its sixth, started at 5) arrive, the earliest
        # started first: 8 brings 4.78 ≤ 5, so the other two come too late.
        (Malenia(20, tuple(range(10))), np.sqrt(np.arange(1, 11)), 6.0, [5, 4, 3, 2, 2, 2, 2, 2, 2, 1]),
        # τ_i = i, n = 100. Rennala: ⌊8/i⌋ = 8 4 2 2 1 1 1 1 is 20. Until 8: 7 3 2 1 1 1 1 is 16, so all four arrivals of
        # time 8 are needed.
        (Rennala(20), np.arange(1.0, 101.0), 8.0, [8, 4, 2, 2, 1, 1, 1, 1] + [0] * 92),
        # n = 2, τ = (1, 10), Malenia: 1/c_0 + 1/c_1 ≤ 4/20. (59, 5): 0.217. At 60 the sixth of worker 1 (started at 50) comes
        # before the sixtieth of worker 0 (started at 59): (59, 6) has 0.184 ≤ 0.2. The closed form ⌊60/τ⌋ says (60, 6).
        (Malenia(20, (0, 1)), np.array([1.0, 10.0]), 60.0, [59, 6]),
        # Two quick workers of task 0 and a slow one of task 1, M = 6: 1/M_0 + 1/M_1 ≤ 2/3. After t = 5: M_0 = 5 + 2 = 7 and
        # M_1 = 1 have 1.14. At 6: worker 2 (started at 3) first: 1/7 + 1/2 = 0.643.
        (Malenia(6, (0, 0, 1)), np.array([1.0, 2.0, 3.0]), 6.0, [5, 2, 2]),
    ],
)
def test_predicted_round(rule, durations, time, counts):
    predicted = predicted_counts(rule, durations)
    assert predicted.tolist() == counts
    assert (predicted * durations).max() == pytest.approx(time, rel=1e-12)


@pytest.mark.parametrize("durations", [np.sqrt(np.arange(1, 11)), np.arange(1.0, 101.0)])
def test_predicted_synchronous_round(durations):
    """⌈M/n⌉ max τ with M = 20: 2 √10 = 6.32 and 1 · 100."""
    predicted = predicted_counts(Synchronous(20), durations)
    assert predicted.min() == -(-20 // len(durations))
    expected = {10: 2 * 10**0.5, 100: 100.0}[len(durations)]
    assert (predicted * durations).max() == pytest.approx(expected, rel=1e-12)


def exactly_complete(rule, counts):
    """The rules of the three aggregators in rational arithmetic."""
    if isinstance(rule, Rennala):
        return sum(counts) >= rule.n_trajectories
    if isinstance(rule, Synchronous):
        return len(counts) * min(counts) >= rule.n_trajectories
    per_task = [0] * (max(rule.tasks) + 1)
    for task, count in zip(rule.tasks, counts, strict=True):
        per_task[task] += count
    return all(per_task) and sum(Fraction(1, m) for m in per_task) <= Fraction(len(per_task) ** 2, rule.n_trajectories)


def walked_counts(rule, durations):
    """Let the trajectories arrive one by one, earlier ones first; of equal ones the earlier started, then the lower index."""
    counts = [0] * len(durations)
    arrivals = [(Fraction(d), Fraction(0), worker) for worker, d in enumerate(durations)]
    heapq.heapify(arrivals)
    while not exactly_complete(rule, counts):
        finish, _, worker = heapq.heappop(arrivals)
        counts[worker] += 1
        heapq.heappush(arrivals, (finish + Fraction(durations[worker]), finish, worker))
    return counts


@st.composite
def rules_and_durations(draw):
    n_workers = draw(st.integers(1, 6))
    m = draw(st.integers(1, 40))
    n_tasks = draw(st.integers(1, n_workers))
    tasks = draw(st.permutations([worker % n_tasks for worker in range(n_workers)]))
    rule = draw(st.sampled_from([Rennala(m), Synchronous(m), Malenia(m, tuple(tasks))]))
    # small integers make many ties; multiples of 1/64 are exact, so that their multiples are equal or well apart
    duration = st.integers(1, 12).map(float) | st.integers(32, 3200).map(lambda k: k / 64)
    return rule, draw(st.lists(duration, min_size=n_workers, max_size=n_workers))


@settings(deadline=None)
@given(rules_and_durations())
def test_predicted_counts_are_the_first_complete_ones(case):
    rule, durations = case
    assert_array_equal(predicted_counts(rule, np.array(durations)), walked_counts(rule, durations))


@settings(deadline=None)
@given(rules_and_durations())
def test_float_rules_agree_with_exact_ones(case):
    rule, durations = case
    counts = np.array(walked_counts(rule, durations))
    assert rule.is_complete(counts)
    for worker in np.flatnonzero(counts):
        fewer = counts - (np.arange(len(counts)) == worker)
        assert rule.is_complete(fewer) == exactly_complete(rule, fewer.tolist())


@settings(deadline=None)
@given(rules_and_durations(), st.integers(-20, 20))
def test_only_ratios_of_durations_matter(case, exponent):
    rule, durations = case
    scaled = np.array(durations) * 2.0**exponent
    assert_array_equal(predicted_counts(rule, scaled), predicted_counts(rule, np.array(durations)))


@settings(deadline=None)
@given(rules_and_durations())
def test_malenia_of_one_task_and_rennala_predict_the_same(case):
    rule, durations = case
    one_task = Malenia(rule.n_trajectories, (0,) * len(durations))
    both = [predicted_counts(r, np.array(durations)) for r in (one_task, Rennala(rule.n_trajectories))]
    assert_array_equal(*both)
    assert one_task.tickets(np.array(durations)) == Rennala(rule.n_trajectories).tickets(np.array(durations))


def test_malenia_without_the_task_of_a_lost_worker():
    """
    Tasks a = {0, 2}, b = {1}, and worker 3 takes no part; K = 2, M = 6: 1/M_a + 1/M_b ≤ 2²/6 as if it did not exist.
    """
    rule, without = Malenia(6, (0, 1, 0, -1)), Malenia(6, (0, 1, 0))
    assert rule.per_task(np.array([1, 3, 1, 9])).tolist() == [2, 3]
    for counts in itertools.product(range(5), repeat=3):
        for anything in (0, 5):
            assert rule.is_complete(np.array([*counts, anything])) == without.is_complete(np.array(counts))
        if without.is_complete(np.array(counts)):
            assert_allclose(rule.weights(np.array([*counts, 0])), [*without.weights(np.array(counts)), 0.0])
            assert rule.weights(np.array([*counts, 5]))[3] == 0.0
    for duration in (0.01, 1.0, np.inf):
        assert rule.tickets(np.array([1.0, 1.0, 1.0, duration])) == [TicketPool((0, 2), 5), TicketPool((1,), 3)]
    assert rule.can_do_without([3], 4)
    assert rule.can_do_without([0, 3], 4)
    assert not rule.can_do_without([0, 2, 3], 4)


def test_nobody_knows_when_a_worker_that_is_needed_begins():
    """It is planned as if it were as slow as the slowest that is known; one that is not needed gets nothing."""
    unknown = np.array([1.0, np.inf, 3.0])
    for rule in (Malenia(6, (0, 1, 2)), Synchronous(6)):
        assert_array_equal(predicted_counts(rule, unknown), predicted_counts(rule, np.array([1.0, 3.0, 3.0])))
        assert_array_equal(predicted_counts(rule, np.full(3, np.inf)), predicted_counts(rule, np.ones(3)))
    # Σ 1/c ≤ 3²/6 = 3/2; τ = 1/4, 1/2, 1/2. Until 1: 3 1 1 has 7/3. At 1 the second of worker 1 and that of worker 2, both
    # started at 1/2, come first: 3 2 2 has 4/3.
    assert predicted_counts(Malenia(6, (0, 1, 2)), np.array([0.25, np.inf, 0.5])).tolist() == [3, 2, 2]
    for rule in (Malenia(6, (0, 0, 1)), Rennala(6)):
        counts = predicted_counts(rule, unknown)
        assert counts[1] == 0
        assert rule.is_complete(counts)
