"""What ranks that share a round of trajectories agree on, worked out by hand and without any process."""

import numpy as np
from ledgers import UNKNOWN, arrival

from sb3_nigt.aggregators import Malenia, Rennala
from sb3_nigt.distributed.ledger import REJECTED, STARTED, Entry, Ledger
from sb3_nigt.distributed.rules import SharedFirstFinished, SharedPlanned, filled
from sb3_nigt.messages import TrajectoryKey
from sb3_nigt.timing.clock import SimulatedClock


def test_first_finished_takes_arrivals_1_to_m():
    rule = SharedFirstFinished(Rennala(3), 0, UNKNOWN, SimulatedClock())
    taken = [rule.take(arrival(worker, number)) for worker, number in [(2, 0), (0, 0), (2, 1), (1, 0), (2, 2)]]
    assert taken == [True, True, True, False, False]
    assert rule.counts.tolist() == [1, 0, 2]


def test_first_finished_numbers_the_trajectories_of_each_worker(lines):
    rule = SharedFirstFinished(Rennala(3), 4, UNKNOWN, SimulatedClock())
    keys = [rule.next(worker, lines[0], "4/", 10.0) for worker in (2, 0, 2, 2)]
    assert keys == [TrajectoryKey(4, *name) for name in [(2, 0), (0, 0), (2, 1), (2, 2)]]
    assert (rule.gives_tickets, rule.keys, rule.counts.dtype) == (False, [], np.int64)


def test_each_pool_has_its_own_counter(lines):
    """Malenia, M = 3, tasks {0, 2} and {1}: 1/M_0 + 1/M_1 ≤ 4/3, which at equal speeds (3, 1) is the first to meet."""
    rule = SharedPlanned(Malenia(3, (0, 1, 0)), 0, UNKNOWN, SimulatedClock())
    assert (rule.gives_tickets, rule.keys) == (True, ["issued/0", "issued/1"])
    keys = [rule.next(worker, lines[0], "0/", 10.0) for worker in (2, 1, 0)]
    assert keys == [TrajectoryKey(0, *name) for name in [(0, 0), (1, 0), (2, 0)]]
    without = SharedPlanned(Malenia(1, (0, -1, -1)), 0, UNKNOWN, SimulatedClock())
    assert without.next(1, lines[0], "1/", 10.0) is None  # it takes no part


def test_first_finished_malenia_takes_what_comes_before_it_is_complete():
    """M = 4, two tasks; workers 0 and 1 share one. It is complete when 2 / (1/M_0 + 1/M_1) ≥ 2. After five arrivals there are
    4 and 1 of the tasks, which gives 1.6; after six 4 and 2, which gives 2.67."""
    rule = SharedFirstFinished(Malenia(4, (0, 0, 1)), 0, UNKNOWN, SimulatedClock())
    order = [0, 1, 0, 2, 1, 2, 0]
    taken = [rule.take(arrival(worker, number)) for number, worker in enumerate(order)]
    assert taken == [True, True, True, True, True, True, False]
    assert rule.counts.tolist() == [2, 2, 2]


def test_every_ticket_counts_once_and_a_failed_one_is_replaced():
    """Three tickets of three workers. Ticket 0 comes in twice, ticket 1 fails (twice, on two workers): ticket 3, the second of
    the first worker's stream, is there in its place."""
    rule = SharedPlanned(Rennala(3), 0, UNKNOWN, SimulatedClock())
    assert rule.take(arrival(0))
    assert not rule.take(arrival(2, stream=0))
    assert not rule.take(arrival(1, kind=REJECTED))
    assert not rule.take(arrival(0, stream=1, kind=REJECTED))
    assert not rule.take(arrival(2, stream=1))  # too late: it has been replaced
    assert rule.take(arrival(2))
    assert not rule.complete
    assert rule.take(arrival(1, number=1, stream=0))
    assert rule.complete
    assert rule.counts.tolist() == [1, 1, 1]


def test_tickets_are_given_out_once(lines):
    """Three workers on three ranks and four tickets; a fifth there is not."""
    rules = [SharedPlanned(Rennala(4), 0, UNKNOWN, SimulatedClock()) for _ in range(3)]
    order = [0, 1, 1, 2, 0]
    keys = [rules[worker].next(worker, lines[worker], "0/", 10.0) for worker in order]
    assert [key and (key.stream, key.number) for key in keys] == [(0, 0), (1, 0), (2, 0), (0, 1), None]


def test_a_ticket_is_taken_over_from_who_is_slower(lines):
    """
    Worker 2 is a hundred times slower than predicted. Worker 0 needs 10 s a trajectory and is idle from 10 s on; it leaves the
    ticket of worker 2 alone until that is overdue by as much as it would need itself: it was due at 10, so after 20 s.
    """
    clock = SimulatedClock()
    rule = SharedPlanned(Rennala(3), 0, UNKNOWN, clock)
    keys = [rule.next(worker, lines[0], "0/", 10.0) for worker in range(3)]
    clock.advance_to(3.0)  # what a rank hears of its own starts is no news
    for worker, key in enumerate(keys):
        rule.take(Entry(STARTED, worker, key))
    clock.advance_to(10.0)
    rule.take(arrival(0))
    rule.take(arrival(1))
    assert rule.next(0, lines[0], "0/", 10.0) is None
    clock.advance_to(20.0)
    assert rule.next(0, lines[0], "0/", 10.0) is None
    clock.advance_to(20.1)
    assert rule.next(0, lines[0], "0/", 10.0) == TrajectoryKey(0, 2, 0)
    assert rule.next(1, lines[0], "0/", 10.0) is None  # worker 0 has just begun with it


def test_a_ticket_of_another_rank_counts_from_when_its_start_was_heard(lines):
    """
    Two ranks with a worker each; 10 and 15 s a trajectory. Worker 1 begins first, which rank 0 hears of at 2.

    So rank 0 expects the end at 2 + 15 = 17. At 10 worker 0 is idle and would need until 20, so it leaves the ticket alone. At
    27 worker 1 is 10 s late and expected at 37, as soon as worker 0 could have it; after that worker 0 takes over.
    """
    clock, speeds = SimulatedClock(), np.array([2.0, 3.0])
    rules = [SharedPlanned(Rennala(2), 0, speeds, clock) for _ in range(2)]
    assert rules[1].next(1, lines[1], "0/", 15.0) == TrajectoryKey(0, 0, 0)
    assert rules[0].next(0, lines[0], "0/", 10.0) == TrajectoryKey(0, 1, 0)
    clock.advance_to(2.0)
    assert not rules[0].take(Entry(STARTED, 1, TrajectoryKey(0, 0, 0)))
    clock.advance_to(10.0)
    assert rules[0].take(arrival(0, stream=1))
    for now in (10.0, 20.0, 27.0):
        clock.advance_to(now)
        assert rules[0].next(0, lines[0], "0/", 10.0) is None
    clock.advance_to(27.1)
    assert rules[0].next(0, lines[0], "0/", 10.0) == TrajectoryKey(0, 0, 0)


def test_a_ticket_that_has_failed_is_replaced_at_once(lines):
    """Two tickets; the first fails on worker 0, which gets the third in its place; no other worker does."""
    rule = SharedPlanned(Rennala(2), 0, UNKNOWN, SimulatedClock())
    assert rule.next(0, lines[0], "0/", 10.0) == TrajectoryKey(0, 0, 0)
    rule.take(arrival(0, kind=REJECTED))
    assert rule.next(0, lines[0], "0/", 10.0) == TrajectoryKey(0, 2, 0)
    assert rule.next(1, lines[0], "0/", 10.0) == TrajectoryKey(0, 1, 0)
    assert rule.next(2, lines[0], "0/", 10.0) is None


def test_a_worker_known_to_be_slow_gets_no_ticket_at_first(lines):
    """The others are done with all ten before it is with one; once it has waited as long as that, it may have one."""
    rule = SharedPlanned(Rennala(10), 0, np.array([1.0, 1.0, 100.0]), SimulatedClock())
    for key in (TrajectoryKey(0, 0, 0), TrajectoryKey(0, 1, 0)):
        for waited in (0.0, 199.0):
            assert rule.next(2, lines[2], "0/", 200.0, waited) is None
        assert rule.next(2, lines[2], "0/", 200.0, 200.0) == key


def test_a_slow_worker_takes_nothing_over_while_there_are_tickets(lines):
    """Worker 0 needs 2 s and is overdue by 998 s, but eight tickets are left for the first that ask."""
    clock = SimulatedClock()
    rule = SharedPlanned(Rennala(10), 0, np.array([1.0, 1.0, 100.0]), clock)
    assert rule.next(0, lines[0], "0/", 2.0) == TrajectoryKey(0, 0, 0)
    clock.advance_to(1000.0)
    assert rule.next(2, lines[0], "0/", 200.0) is None
    assert rule.next(1, lines[0], "0/", 2.0) == TrajectoryKey(0, 1, 0)


def test_the_counter_is_asked_until_it_has_run_out(lines):
    """M = 2; worker 0 is predicted to run one of the two, so it asks for a third, and then no more."""
    rule = SharedPlanned(Rennala(2), 0, UNKNOWN, SimulatedClock())
    n_requests = []
    for worker, key in [(0, TrajectoryKey(0, 0, 0)), (1, TrajectoryKey(0, 1, 0)), (0, None), (0, None)]:
        assert rule.next(worker, lines[0], "0/", 10.0) == key
        n_requests.append(lines[0].n_requests)
    assert np.diff(n_requests).tolist() == [1, 1, 0]


def test_a_failed_ticket_is_not_taken_over_but_replaced(lines):
    """
    M = 2, 10 s each. Worker 0 fails with ticket 0 at 5 and has ticket 2 then; worker 1 is done with ticket 1, and waits.

    At 100 both trajectories of worker 0 are long overdue, the failed one longer, but only ticket 2 is open.
    """
    clock = SimulatedClock()
    rule = SharedPlanned(Rennala(2), 0, UNKNOWN, clock)
    for worker in (0, 1):
        rule.next(worker, lines[0], "0/", 10.0)
    clock.advance_to(5.0)
    rule.take(arrival(0, kind=REJECTED))
    assert rule.next(0, lines[0], "0/", 10.0) == TrajectoryKey(0, 2, 0)
    rule.take(arrival(1))
    clock.advance_to(100.0)
    assert rule.next(1, lines[0], "0/", 10.0) == TrajectoryKey(0, 2, 0)


def test_a_new_ticket_comes_before_one_to_take_over(lines):
    """
    M = 3, one ticket each. Worker 1 is done at 10 and hears that all are out.

    At 100 ticket 0 is overdue, and ticket 2 has failed: worker 1 gets ticket 3, the second of the first worker's stream.
    """
    clock = SimulatedClock()
    rule = SharedPlanned(Rennala(3), 0, UNKNOWN, clock)
    for worker in range(3):
        assert rule.next(worker, lines[0], "0/", 10.0) == TrajectoryKey(0, worker, 0)
    clock.advance_to(10.0)
    rule.take(arrival(1))
    assert rule.next(1, lines[0], "0/", 10.0) is None
    clock.advance_to(100.0)
    rule.take(arrival(2, kind=REJECTED))
    assert rule.next(1, lines[0], "0/", 10.0) == TrajectoryKey(0, 0, 1)


def test_unknown_speeds_are_guessed_from_the_others():
    """The median of what is known; a lost worker stays lost."""
    nan, inf = np.nan, np.inf
    assert filled(np.array([2.0, nan, 4.0, inf])).tolist() == [2.0, 3.0, 4.0, inf]
    assert filled(np.array([nan, nan])).tolist() == [1.0, 1.0]


def test_a_lost_worker_has_no_part_in_the_plan():
    rule = SharedPlanned(Rennala(4), 0, np.array([1.0, np.inf, np.nan]), SimulatedClock())
    assert rule._quota == {0: 2, 1: 0, 2: 2}
    task_lost = SharedPlanned(Malenia(2, (0, 1, 0)), 0, np.array([1.0, np.inf, np.nan]), SimulatedClock())
    assert task_lost._quota == {0: 1, 1: 0, 2: 0}


def test_all_ranks_read_the_same_from_the_list(lines):
    """Arrivals 1 to M count, no matter which rank looks first, and all know that the round is over."""
    told = [[], [], []]
    ledgers = [
        Ledger(line, "0/", 0, SharedFirstFinished(Rennala(2), 0, UNKNOWN, SimulatedClock()), told[line.rank].append)
        for line in lines
    ]
    for worker in (2, 0, 1):
        ledgers[worker].enter(arrival(worker))
    for ledger in ledgers:
        ledger.read()
        assert ledger.is_over()
        assert [entry.worker for entry in ledger.admitted] == [2, 0]
    assert told[0] == told[1] == told[2]
