"""Rounds that begin before the last one is over, see ``scheduling.py``."""

import heapq
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from scheduling import Round, rounds, some_fail, surprises

from sb3_nigt.aggregators import Malenia, Rennala
from sb3_nigt.messages import TrajectoryKey
from sb3_nigt.schedules import Pipelined, Planned


class Rounds(Round):
    """
    Several rounds in a row with one schedule; what runs on at the end of a round is still there in the next.

    :param fails: arrivals, counted from 0 over all rounds, that are rejected
    """

    def __init__(self, schedule, rule, predicted, n_rounds, real=None, fails=()):
        self.schedule, self.predicted = schedule, np.array(predicted, dtype=float)
        self.real = real or (lambda worker, k: float(self.predicted[worker]))
        self.order, self.in_flight = itertools.count(), []
        self.n_run, self.now = [0] * len(predicted), 0.0
        self.keys, self.accepted, self.rejected, self.runners = [], [], [], {}
        self.began_in, self.counts_of_rounds, self.ends = {}, [], []
        for self.round in range(n_rounds):
            busy = [worker for _, _, worker, _ in self.in_flight]
            self._start(schedule.begin(rule, self.round, self.now, self.predicted, busy))
            while not schedule.complete:
                assert self.in_flight, "deadlock: the round is not complete and no worker is busy"
                self.now, _, worker, key = heapq.heappop(self.in_flight)
                failed = len(self.accepted) + len(self.rejected) in fails
                (self.rejected if failed else self.accepted).append(key)
                self._start((schedule.rejected if failed else schedule.accepted)(worker, self.now, self.predicted))
            self.counts_of_rounds.append(self.counts)
            self.ends.append(self.now)

    def _start(self, starts):
        super()._start(starts)
        self.began_in.update({start.key: self.round for start in starts})


@settings(deadline=None)
@given(rounds(), surprises, some_fail)
def test_pipelined_rounds_are_exactly_their_tickets_whatever_really_happens(case, factors, fails):
    """No deadlock, no ticket lost or doubled, nothing discarded, and nothing begins more than one round early."""
    rule, predicted = case
    n_tickets = sum(pool.n_tickets for pool in rule.tickets(np.array(predicted)))
    run = Rounds(Pipelined(), rule, predicted, 4, lambda w, k: predicted[w] * factors[(w + 3 * k) % len(factors)], fails)
    for number, counts in enumerate(run.counts_of_rounds):
        of_this_round = [key for key in run.accepted if key.round == number]
        assert len(of_this_round) == n_tickets == sum(counts)
        assert rule.is_complete(np.array(counts))
        assert counts == [sum(run.runners[key] == worker for key in of_this_round) for worker in range(len(predicted))]
    assert len(set(run.keys)) == len(run.keys)
    assert all(key.round - run.began_in[key] in (0, 1) for key in run.keys)


@settings(deadline=None)
@given(rounds(), surprises)
def test_pipelined_has_the_keys_of_planned(case, factors):
    """The random numbers of a round are the same; only the parameters that some trajectories are sampled with differ."""
    rule, predicted = case

    def real(worker, k):
        return predicted[worker] * factors[(worker + 3 * k) % len(factors)]

    runs = [Rounds(schedule(), rule, predicted, 3, real) for schedule in (Planned, Pipelined)]
    planned, pipelined = [sorted(key for key in run.accepted if key.round < 3) for run in runs]
    assert planned == pipelined


def test_pipelined_goes_on_after_a_reset():
    """Whatever was in flight is void: its tickets are given out again, with the same random numbers."""
    schedule, durations = Pipelined(), np.array([1.0, 1.0])
    first = schedule.begin(Rennala(1), 0, 0.0, durations, [])
    assert [start.key for start in first] == [TrajectoryKey(0, 0, 0), TrajectoryKey(1, 0, 0)]
    assert schedule.accepted(0, 1.0, durations) == []  # complete, worker 1 is at work for round 1
    assert schedule.complete
    again = schedule.begin(Rennala(1), 1, 1.0, durations, busy=[])
    assert again[0].key == TrajectoryKey(1, 0, 0)
    assert not schedule.complete


def test_pipelined_round_may_be_over_before_it_begins():
    """Worker 1 has delivered all of round 1 while round 0 waits for worker 0."""
    schedule, durations = Pipelined(), np.array([1.0, 1.0])
    schedule.begin(Rennala(1), 0, 0.0, durations, [])
    assert schedule.accepted(1, 1.5, durations) == []  # round 0 is not over, and round 2 is too far ahead
    assert not schedule.complete
    schedule.accepted(0, 3.0, durations)
    assert schedule.complete
    starts = schedule.begin(Rennala(1), 1, 3.0, durations, busy=[])
    assert schedule.complete
    assert schedule.counts.tolist() == [0, 1]
    assert all(start.key.round == 2 for start in starts)


def rounds_of(starts):
    return [(start.worker, start.key.round) for start in starts]


def test_pipelined_begins_nothing_early_when_the_round_ends_at_this_moment():
    """
    M = n. With 1 s each all are back at 1: the first waits for the others, to begin the next round with fresh parameters.

    If one of the others takes 2 s, the round does not end at 1, though the third one is back; so the first begins early.
    """
    for durations, expected in [([1.0, 1.0, 1.0], []), ([1.0, 1.0, 2.0], [(0, 1)]), ([1.0, 2.0, 1.0], [(0, 1)])]:
        schedule = Pipelined()
        assert len(schedule.begin(Rennala(3), 0, 0.0, np.array(durations), [])) == 3
        assert rounds_of(schedule.accepted(0, 1.0, np.array(durations))) == expected


def test_a_round_ends_whatever_has_begun_early():
    """M = 1 and then 2: worker 1 is at work for round 1 when round 0 ends, and the other ticket of round 1 waits for it."""
    schedule, durations = Pipelined(), np.array([1.0, 1.5])
    assert rounds_of(schedule.begin(Rennala(1), 0, 0.0, durations, [], Rennala(2))) == [(0, 0), (1, 1)]
    assert schedule.accepted(0, 1.0, durations) == []


def test_pipelined_round_goes_on_while_a_ticket_has_no_worker():
    """
    M = 1: worker 0 has the ticket of round 0, worker 1 that of round 1. Worker 0 fails at 1 and counts as slow then, 10 s.

    Worker 1, due at 1, would be done with the ticket by 2. So it is left for worker 1, and the round is not over.
    """
    schedule, durations = Pipelined(), np.array([10.0, 1.0])
    assert rounds_of(schedule.begin(Rennala(1), 0, 0.0, np.ones(2), [])) == [(0, 0), (1, 1)]
    assert rounds_of(schedule.rejected(0, 1.0, durations)) == []
    assert not schedule.complete
    assert rounds_of(schedule.accepted(1, 1.0, durations)) == [(1, 0)]
    schedule.accepted(1, 2.0, durations)
    assert schedule.complete
    assert schedule.counts.tolist() == [0, 1]


def test_what_has_begun_early_does_not_make_this_round_last():
    """
    M = 2, three workers: 0 and 1 have the tickets of round 0, worker 2 one of round 1. At 1 the durations turn out to be 1.5,
    5, 20, and worker 1 has failed. Worker 0 would have the ticket done by 1.5 + 1.5 = 3, worker 1 only by 6.

    Worker 2 is busy until 20, but round 0 does not wait for it. So worker 1 gets nothing of round 0.
    """
    schedule = Pipelined()
    assert rounds_of(schedule.begin(Rennala(2), 0, 0.0, np.full(3, 9.0), [])) == [(0, 0), (1, 0), (2, 1)]
    assert (1, 0) not in rounds_of(schedule.rejected(1, 1.0, np.array([1.5, 5.0, 20.0])))


def test_the_end_of_a_round_is_recognised_at_large_times():
    """Both take 0.3 s; 10^6 + 0.1 + 0.1 + 0.1, when worker 0 is back, is smaller than 10^6 + 0.3 after rounding."""
    schedule, durations, back = Pipelined(), np.full(2, 0.3), 1e6 + 0.1 + 0.1 + 0.1
    schedule.begin(Rennala(2), 0, 1e6, durations, [])
    assert back < 1e6 + 0.3
    assert schedule.accepted(0, back, durations) == []


@pytest.mark.parametrize(("duration", "expected"), [(3.0, [(0, 1)]), (3.01, [])])
def test_what_is_left_of_this_round_is_begun_before_the_next_one(duration, expected):
    """
    M = 4, three workers with 1 s each: three tickets of round 0 are out, all are back at 1, and worker 0 counts as slow then.

    The ticket that is left goes to one of the others, who are done with it by 2. They have five tickets to begin, one of round
    0 and four of round 1, and finish two at 2, two at 3, the fifth at 4. So worker 0 may take one of round 1 if it needs 3 s.
    """
    schedule = Pipelined()
    schedule.begin(Rennala(4), 0, 0.0, np.ones(3), [])
    assert rounds_of(schedule.accepted(0, 1.0, np.array([duration, 1.0, 1.0]))) == expected


def test_pipelined_gives_the_tickets_of_this_round_as_planned_does():
    """M = 3, 1 and 3.5 s: worker 0 is done with all by 3, so worker 1 gets none, but one of the three next ones, done by 6."""
    assert rounds_of(Pipelined().begin(Rennala(3), 0, 0.0, np.array([1.0, 3.5]), [])) == [(0, 0), (1, 1)]


def test_a_worker_may_have_a_part_in_the_next_round_only():
    """Round 0 is for worker 1, round 1 for worker 0, as where tasks are dropped."""
    schedule, ones = Pipelined(), np.ones(2)
    assert rounds_of(schedule.begin(Malenia(1, (-1, 0)), 0, 0.0, ones, [], Malenia(1, (0, -1)))) == [(1, 0), (0, 1)]
    assert schedule.accepted(0, 0.5, ones) == []
    schedule.accepted(1, 1.0, ones)
    assert schedule.complete
    assert schedule.begin(Malenia(1, (0, -1)), 1, 1.0, ones, [], Malenia(1, (0, -1))) != []
    assert schedule.complete
    assert schedule.counts.tolist() == [1, 0]


def test_the_next_round_is_planned_when_a_worker_is_idle_and_not_before():
    """Malenia, M = 4, all busy at 0 with 1 s each. When worker 0 has nothing left at 2, worker 1 is known to need 3 s."""
    rule, schedule, slow = Malenia(4, (0, 1)), Pipelined(), np.array([1.0, 3.0])
    assert rounds_of(schedule.begin(rule, 0, 0.0, np.ones(2), [])) == [(0, 0), (1, 0)]
    for worker in (0, 1):
        assert rounds_of(schedule.accepted(worker, 1.0, slow)) == [(worker, 0)]
    assert rounds_of(schedule.accepted(0, 2.0, slow)) == [(0, 1)]
    assert schedule._early.pools == rule.tickets(slow)
    assert schedule._early.pools != rule.tickets(np.ones(2))


def test_the_next_round_is_planned_by_its_own_rule():
    """M = 1 now and 3 next: of three workers with 1 s each the two without a ticket take two of the next round."""
    schedule, ones = Pipelined(), np.ones(3)
    assert rounds_of(schedule.begin(Rennala(1), 0, 0.0, ones, [], Rennala(3))) == [(0, 0), (1, 1), (2, 1)]
    schedule.accepted(0, 1.0, ones)
    schedule.accepted(1, 1.0, ones)
    assert rounds_of(schedule.begin(Rennala(3), 1, 1.0, ones, [2], Rennala(3))) == [(0, 1), (1, 2)]
    assert schedule.counts.tolist() == [0, 1, 0]


@pytest.mark.parametrize("schedule_cls", [Planned, Pipelined])
def test_a_worker_that_has_gone_leaves_its_random_numbers_to_another_one(schedule_cls):
    """
    M = 4, three workers with 1 s each: at 0 tickets 0, 1, 2 are out. Worker 2 goes at 0.5 and may come back at any time;
    its ticket is the lowest one that is free, so who is idle first takes it. Ticket k has the key of worker k mod 3.
    """
    schedule, gone = schedule_cls(), np.array([1.0, 1.0, np.inf])
    starts = schedule.begin(Rennala(4), 0, 0.0, np.ones(3), [])
    assert [start.key for start in starts] == [TrajectoryKey(0, worker, 0) for worker in range(3)]
    assert schedule.returned(2, 0.5, gone) == []
    assert [(s.worker, s.key) for s in schedule.accepted(0, 1.0, gone)] == [(0, TrajectoryKey(0, 2, 0))]
    assert schedule.accepted(1, 1.0, gone)[0].key == TrajectoryKey(0, 0, 1)
    schedule.accepted(0, 2.0, gone)
    schedule.accepted(1, 2.0, gone)
    assert schedule.complete
    assert schedule.counts.tolist() == [2, 2, 0]
