"""The schedules as state machines, see ``scheduling.py``."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scheduling import Round, rounds, some_fail, surprises

from sb3_nigt.aggregators import Malenia, Rennala, Synchronous, TicketPool
from sb3_nigt.messages import TrajectoryKey
from sb3_nigt.schedules import FirstFinished, Immediate, Planned
from sb3_nigt.schedules.planned import predicted_end
from sb3_nigt.schedules.tickets import RoundTickets, Ticket


@settings(deadline=None)
@given(rounds(), surprises, some_fail)
def test_planned_round_is_exactly_its_tickets_whatever_really_happens(case, factors, fails):
    """No deadlock, no ticket lost or doubled, nothing in flight at the end; only predictions decide the number of tickets."""
    rule, predicted = case
    n_tickets = sum(pool.n_tickets for pool in rule.tickets(np.array(predicted)))
    if isinstance(rule, Rennala):
        assert n_tickets == rule.n_trajectories
    round_ = Round(Planned(), rule, predicted, lambda w, k: predicted[w] * factors[(w + 3 * k) % len(factors)], fails)
    assert len(round_.accepted) == n_tickets == sum(round_.counts)
    assert round_.in_flight == []
    assert sorted(round_.keys) == sorted(round_.accepted + round_.rejected)
    assert len(set(round_.keys)) == len(round_.keys)
    assert rule.is_complete(np.array(round_.counts))


@settings(deadline=None)
@given(rounds(), surprises)
def test_planned_keys_do_not_depend_on_real_durations(case, factors):
    """Which random numbers enter a round is known before it starts: those of its first tickets."""
    rule, predicted = case
    as_predicted = Round(Planned(), rule, predicted)
    otherwise = Round(Planned(), rule, predicted, lambda w, k: predicted[w] * factors[(w + 3 * k) % len(factors)])
    assert sorted(as_predicted.accepted) == sorted(otherwise.accepted)


@settings(deadline=None)
@given(
    rounds(st.floats(1.0, 5.0)),
    st.lists(st.sampled_from([0.5, 1.0, 2.0]), min_size=1),
    some_fail,
)
def test_first_finished_keeps_everybody_busy_and_stops_at_the_first_complete_counts(case, factors, fails):
    rule, predicted = case
    round_ = Round(FirstFinished(), rule, predicted, lambda w, k: predicted[w] * factors[(w + 3 * k) % len(factors)], fails)
    # all are busy but the one whose arrival completed the round
    assert len(round_.in_flight) == len(predicted) - 1
    last = round_.accepted[-1]
    assert rule.is_complete(np.array(round_.counts))
    assert not rule.is_complete(np.array(round_.counts) - (np.arange(len(predicted)) == round_.runners[last]))
    for worker in range(len(predicted)):
        mine = [key for key in round_.keys if round_.runners[key] == worker]
        assert mine == [TrajectoryKey(4, worker, job) for job in range(len(mine))]


@settings(deadline=None, max_examples=300)
@given(rounds(durations=st.integers(1, 12).map(float)))
def test_same_round_time_for_known_durations_ties_included(case):
    rule, durations = case
    assert Round(Planned(), rule, durations).now == Round(FirstFinished(), rule, durations).now


@settings(deadline=None, max_examples=300)
@given(rounds(durations=st.integers(4, 60)))
def test_same_counts_for_known_durations_without_ties(case):
    """
    Square roots of different primes: no two workers ever finish together.

    (A barrier has no first_finished variant: there the quick ones would go on until the slowest is done.)
    """
    rule, numbers = case
    assume(not isinstance(rule, Synchronous))
    primes = [2, 3, 5, 7, 11, 13]
    durations = [(k / 10) * primes[worker] ** 0.5 for worker, k in enumerate(numbers)]
    planned, first = Round(Planned(), rule, durations), Round(FirstFinished(), rule, durations)
    assert planned.counts == first.counts
    assert planned.now == first.now


# Planned, by hand


def test_planned_starts_worked_out_by_hand():
    """
    Durations 1, 2, 5 and M = 5: the five smallest of 1 2 3 4 …, 2 4 6 …, 5 … are 1, 2, 2, 3, 4 and the tie at 4.

    t = 0: workers 0 and 1 take one each (the rest is done without worker 2 by 4). t = 1: worker 0 again, until 2. t = 2: two
    tickets are left. Worker 1 started first, arrives first and takes one: without it worker 0 would need until 4, and so does
    worker 1. Worker 0 takes the last.
    """
    round_ = Round(Planned(), Rennala(5), [1.0, 2.0, 5.0])
    assert round_.counts == [3, 2, 0]
    assert round_.now == 4.0
    assert [round_.runners[key] for key in round_.keys] == [0, 1, 0, 1, 0]
    # ticket k has the random numbers of trajectory k // 3 of worker k % 3, on any worker
    assert round_.keys == [TrajectoryKey(4, k % 3, k // 3) for k in range(5)]


def test_fewer_tickets_than_workers_go_to_the_fastest_ties_to_the_lowest_index():
    starts = Planned().begin(Rennala(3), 0, 0.0, np.array([9.0, 2.0, 1.0, 2.0, 2.0]), [])
    assert [start.worker for start in starts] == [2, 1, 3]


@pytest.mark.parametrize(("m", "straggler"), [(10, 0), (1998, 0), (2001, 1)])
def test_straggler_gets_a_ticket_only_where_it_would_be_back_in_time(m, straggler):
    """Two workers of 1 s need ⌈M/2⌉ s without the third one, which takes 1000 s: 5, 999 and 1001."""
    assert Round(Planned(), Rennala(m), [1.0, 1.0, 1000.0]).counts[2] == straggler


def test_tickets_of_one_pool_are_not_given_to_another():
    """A barrier of 2 each takes 2 · 1000 s, and the quick ones stay idle."""
    round_ = Round(Planned(), Synchronous(6), [1.0, 1.0, 1000.0])
    assert round_.counts == [2, 2, 2]
    assert round_.now == 2000.0


def test_overdue_worker_does_not_keep_the_tickets():
    """
    Durations 1 and 4, M = 6, but worker 0 hangs for ever in its first trajectory.

    t = 0: worker 1 takes a ticket, since worker 0 would need until 6 for the others. t = 4: worker 0 is 3 s late, hence
    expected in 3 s; it would then need until 7 + 4 = 11 for the four left; worker 1 is back at 8 and takes one. t = 8: now
    worker 0 is 7 s late, expected at 15. Worker 1 takes one again, and so on. Without that rule worker 0 would be "expected at
    8" and finish the three left by 11, before worker 1 is back at 12, so no worker would ever take them.
    """
    schedule, durations = Planned(), np.array([1.0, 4.0])
    assert [start.worker for start in schedule.begin(Rennala(6), 0, 0.0, durations, [])] == [0, 1]
    for now in (4.0, 8.0, 12.0, 16.0):
        assert [start.worker for start in schedule.accepted(1, now, durations)] == [1]
    assert schedule.accepted(1, 20.0, durations) == []  # its fifth; the sixth ticket is with worker 0
    assert not schedule.complete
    assert schedule.accepted(0, 1000.0, durations) == []
    assert schedule.complete
    assert schedule.counts.tolist() == [1, 5]


def test_new_predictions_count_at_once():
    """
    M = 3 and durations 1 and 3: worker 1 stays idle only if worker 0 is done with all by 3 without it.

    It is: 1, 2, 3; the tie goes to worker 1, which could be back at 3 as well. Told 3.5 it gets none at first. When worker 0
    arrives at 1 and from then on counts as slow (4 s), worker 1, back at 4.5, takes the next ticket.
    """
    assert [s.worker for s in Planned().begin(Rennala(3), 0, 0.0, np.array([1.0, 3.0]), [])] == [0, 1]
    schedule = Planned()
    assert [s.worker for s in schedule.begin(Rennala(3), 0, 0.0, np.array([1.0, 3.5]), [])] == [0]
    assert [s.worker for s in schedule.accepted(0, 1.0, np.array([4.0, 3.5]))] == [1, 0]


@pytest.mark.parametrize(("back", "durations"), [(1, [1.5, 5.0, 20.0]), (2, [20.0, 1.5, 5.0])])
def test_ticket_is_free_before_the_end_of_what_is_in_flight(back, durations):
    """
    M = 4, all have a ticket; then the durations turn out to be 1.5, 5, 20. At 1 the one of 5 s is back, one ticket is left.

    The one of 1.5 s could have it done by 1.5 + 1.5 = 3, the one of 5 s by 6 only. But the one of 20 s makes the round last
    until 20 anyway, whether it is the first in the list or the last.
    """
    schedule = Planned()
    assert len(schedule.begin(Rennala(4), 0, 0.0, np.array([9.0, 9.0, 9.0]), [])) == 3
    assert [start.worker for start in schedule.accepted(back, 1.0, np.array(durations))] == [back]


def test_prediction_of_the_end_of_a_trajectory():
    """Begun at 2, predicted to take 3 s: until 5; at 6 it is 1 s late, and 1 s more is expected."""
    assert [predicted_end(Ticket(0, 0, 0, 2.0), 3.0, now) for now in (2.5, 5.0, 6.0)] == [5.0, 5.0, 7.0]


def test_a_round_that_is_opened_again_starts_anew():
    """A callback has said stop in the middle of it: no ticket is out any more, and the same ones are given out."""
    schedule = Planned()
    first, second = [schedule.begin(Rennala(2), 0, 0.0, np.ones(2), []) for _ in range(2)]
    assert first == second
    assert len(first) == 2


def test_small_durations_are_compared_as_they_are():
    """M = 3: worker 0 is done with all by 0.3, before worker 1 with its first, and nothing in flight lasts longer."""
    assert [s.worker for s in Planned().begin(Rennala(3), 0, 0.0, np.array([0.1, 0.35]), [])] == [0]


@pytest.mark.parametrize(("duration", "started"), [(0.3, [0, 1, 2]), (0.31, [0, 1])])
def test_a_tie_is_one_at_large_times_as_well(duration, started):
    """
    M = 4 and 0.1, 0.25, 0.3 s: workers 0 and 1 take a ticket each. Of the two left worker 0 would bring the second by 0.3.

    So worker 2 is in time. But 10^6 + 0.1 + 0.1 + 0.1 is smaller than 10^6 + 0.3 by 10^-10 after rounding.
    """
    starts = Planned().begin(Rennala(4), 0, 1e6, np.array([0.1, 0.25, duration]), [])
    assert [start.worker for start in starts] == started


def test_rejected_trajectory_is_made_up_for_with_fresh_random_numbers():
    """M = 2 on one worker: tickets 0, 1; the second fails, ticket 2 takes its place."""
    schedule, durations = Planned(), np.array([1.0])
    starts = schedule.begin(Rennala(2), 3, 0.0, durations, [])
    starts += schedule.accepted(0, 1.0, durations)
    starts += schedule.rejected(0, 2.0, durations)
    assert [start.key for start in starts] == [TrajectoryKey(3, 0, 0), TrajectoryKey(3, 0, 1), TrajectoryKey(3, 0, 2)]
    assert not schedule.complete
    assert schedule.accepted(0, 3.0, durations) == []
    assert schedule.complete
    assert schedule.counts.tolist() == [2]


def test_rejected_trajectory_may_be_made_up_for_by_somebody_else():
    """Durations 1 and 2, M = 1: worker 0 has the ticket, fails at 1 and counts as slow from then on; worker 1 takes over."""
    schedule = Planned()
    assert [s.worker for s in schedule.begin(Rennala(1), 0, 0.0, np.array([1.0, 2.0]), [])] == [0]
    (start,) = schedule.rejected(0, 1.0, np.array([5.0, 2.0]))
    assert start.worker == 1
    assert start.key not in [TrajectoryKey(0, 0, 0)]


@pytest.mark.parametrize("schedule_cls", [Planned, FirstFinished])
def test_a_new_round_forgets_the_old_one(schedule_cls):
    schedule = schedule_cls()
    first = Round(schedule, Rennala(5), [1.0, 2.0, 5.0])
    counts = first.schedule.counts
    second = Round(schedule, Rennala(3), [1.0, 2.0, 5.0], start=100.0)  # at 101 (worker 0), 102 (worker 1), 102 (worker 0)
    assert second.counts == [2, 1, 0]
    assert second.now == 102.0
    assert counts.tolist() == [3, 2, 0]  # the record of a past round is not written to


def test_a_trajectory_that_nobody_else_may_run_waits_for_its_worker():
    schedule = Planned()
    keys = [start.key for start in schedule.begin(Malenia(2, (0, 1)), 0, 0.0, np.ones(2), [])]
    again = schedule.returned(1, 0.5, np.array([1.0, np.inf]))
    assert [(start.worker, start.key) for start in again] == [(1, keys[1])]


# Tickets


def test_tickets_of_a_round_by_hand():
    """
    Pools {0, 2} with two tickets and {1} with one. Ticket k of the first pool has the random numbers of trajectory ⌊k/2⌋ of
    worker 0 (k even) or 2 (k odd).
    """
    tickets = RoundTickets(7, [TicketPool((0, 2), 2), TicketPool((1,), 1)])
    assert tickets.pool_of == {0: 0, 2: 0, 1: 1}
    only = tickets.take(1, 0.5)
    assert (only.round, only.pool, only.number, only.started_at) == (7, 1, 0, 0.5)
    assert [tickets.left(pool) for pool in range(2)] == [2, 0]
    assert tickets.any_left  # in the first pool
    taken = [tickets.take(0, 1.0) for _ in range(2)]
    assert not tickets.any_left
    for ticket in taken:  # both have failed, and two more are issued
        tickets.replace(ticket)
    more = [tickets.take(0, 2.0) for _ in range(2)]
    keys = [TrajectoryKey(7, 0, 0), TrajectoryKey(7, 2, 0), TrajectoryKey(7, 0, 1), TrajectoryKey(7, 2, 1)]
    assert [tickets.key(ticket) for ticket in taken + more] == keys
    tickets.give_back(more[0])
    assert tickets.take(0, 3.0).number == more[0].number


# Immediate


def test_immediate_starts_idle_workers_only():
    """AFedPG: who is busy goes on with the point that it has."""
    schedule, durations = Immediate(), np.ones(3)
    starts = schedule.begin(Rennala(1), 7, 0.0, durations, busy=[0, 2])
    assert [(start.worker, start.key) for start in starts] == [(1, TrajectoryKey(7, 1, 0))]
    assert schedule.accepted(2, 1.0, durations) == []
    assert schedule.complete
    assert schedule.counts.tolist() == [0, 0, 1]
    assert schedule.counts.dtype == np.int64


def test_immediate_makes_up_for_a_rejected_trajectory_and_gathers_the_first_round():
    schedule, durations = Immediate(), np.ones(2)
    starts = schedule.begin(Rennala(2), 0, 0.0, durations, busy=[])
    starts += schedule.rejected(1, 1.0, durations)
    starts += schedule.accepted(1, 2.0, durations)
    keys = [TrajectoryKey(0, 0, 0), TrajectoryKey(0, 1, 0), TrajectoryKey(0, 1, 1), TrajectoryKey(0, 1, 2)]
    assert [start.key for start in starts] == keys
    assert schedule.accepted(1, 3.0, durations) == []
    assert schedule.complete
