"""What the ranks of a group agree on, worked out by hand and without any process; what is refused."""

from collections import Counter
from datetime import timedelta
from functools import partial
from itertools import count, cycle
from threading import Event

import numpy as np
import pytest
import torch.distributed as dist
from envs import FixedLengthEnv, LengthFromSeedEnv, PointEnv, job, prepared, run_rounds, same, simulated
from paper import MaleniaNIGT, RennalaNIGT
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    EveryNTimesteps,
    ProgressBarCallback,
    StopTrainingOnMaxEpisodes,
)
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import KVWriter, Logger

from sb3_nigt import AFedPG, ProcessVecEnv, RunRecorder, SimulatedVecEnv
from sb3_nigt.aggregators import Malenia, Rennala
from sb3_nigt.algorithms.group import Alone
from sb3_nigt.distributed import AllReduceGroup, is_first_rank
from sb3_nigt.distributed import ledger as ledger_module
from sb3_nigt.distributed.callbacks import callbacks_of
from sb3_nigt.distributed.ledger import ARRIVED, REJECTED, STARTED, Entry, Ledger
from sb3_nigt.distributed.line import StoreLine
from sb3_nigt.distributed.pulse import Pulse
from sb3_nigt.distributed.rules import SharedFirstFinished, SharedPlanned, filled
from sb3_nigt.errors import RankError
from sb3_nigt.messages import TrajectoryKey
from sb3_nigt.timing.clock import SimulatedClock

UNKNOWN = np.full(3, np.nan)


def arrival(worker, number=0, stream=None, kind=ARRIVED):
    return Entry(kind, worker, TrajectoryKey(0, worker if stream is None else stream, number), 2)


@pytest.fixture
def lines():
    """The lines of three ranks to one store."""
    store = dist.HashStore()
    lines = [StoreLine(store, rank, 3, timeout=5.0) for rank in range(3)]
    yield lines
    for line in lines:
        line.close()


# Admission


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
    """Two tickets; the first fails on worker 0, who gets the third in its place, and nobody else does."""
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
    """Whoever looks first, arrivals 1 to M count, and all know that the round is over."""
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


class CountedLine:
    """
    A line to a store, with a clock of its own: every request takes so many seconds.

    :param seconds: of a request
    :param size: number of ranks
    """

    def __init__(self, seconds, size=1):
        self.seconds, self.now, self.size = seconds, 0.0, size
        self.lists, self.counters, self.requests, self.n_checks = {}, Counter(), [], 0

    def monotonic(self):
        return self.now

    def _request(self, name):
        self.requests.append(name)
        self.now += self.seconds

    def call(self, function):
        before = sum(map(len, self.lists.values()))
        self.is_asking = True
        result = function(self)
        self.is_asking = False
        appended = sum(map(len, self.lists.values())) > before
        self._request(
            {(True, True): "append", (True, False): "append, read", (False, False): "read"}[appended, result is None]
        )
        return result

    is_asking = False  # in ``call``, which is one request whatever it consists of

    def add(self, key, amount):
        if not self.is_asking:
            self._request("look" if amount == 0 else "end")
        self.counters[key] += amount
        return self.counters[key]

    def check(self):
        self.n_checks += 1

    def append(self, key, data):
        assert data
        self.lists[key] = self.lists.get(key, b"") + data

    def compare_set(self, key, expected, desired):
        assert expected == desired == ""
        return self.lists.setdefault(key, b"")

    def enter(self, entry):
        """What another rank does."""
        self.is_asking = True
        ledger_module._append(self, "7/", entry.pack())
        self.is_asking = False


@pytest.fixture
def ledger_on(monkeypatch):
    """Make a ledger of round 7 that counts the first two, on a line where a request takes so many seconds."""

    def make(seconds, size=1):
        line, told = CountedLine(seconds, size), []
        monkeypatch.setattr(ledger_module, "time", line)
        rule = SharedFirstFinished(Rennala(2), 7, UNKNOWN, SimulatedClock())
        return Ledger(line, "7/", 7, rule, told.append), line, told

    return make


def test_an_entry_is_read_as_it_was_written():
    """2 bytes, 4 integers and 3 floats of 8 bytes: 58."""
    entry = Entry(ARRIVED, 3, TrajectoryKey(7, 2, 5), 11, True, -1.5, 0.25, 0.75)
    assert len(entry.pack()) == 58
    assert Entry.unpack(7, entry.pack()) == entry
    start = Entry(STARTED, 3, TrajectoryKey(7, 2, 5))
    assert start == Entry(STARTED, 3, TrajectoryKey(7, 2, 5), 0, False, 0.0, 0.0, 0.0)
    assert Entry.unpack(7, start.pack()) == start


def test_only_what_counts_is_admitted(ledger_on):
    """Arrivals 1 and 3 count, 2 is rejected, and 4 comes too late, which is no reason to reject it."""
    ledger, line, told = ledger_on(0.0)
    entries = [arrival(0), arrival(1, kind=REJECTED), arrival(2), arrival(0, 1)]
    for entry in entries:
        line.enter(entry)
    ledger.read()
    read = [Entry.unpack(7, entry.pack()) for entry in entries]
    assert ledger.admitted == told == [read[0], read[2]]
    assert ledger.rejected == [read[1]]
    ledger.read()  # nothing is read twice, and the end is told once
    assert (len(told), len(ledger.rejected), line.counters["7/over"]) == (2, 1, 1)
    ledger.enter(arrival(2, 1))
    assert len(told) == 2


def test_an_empty_list_is_not_waited_for(ledger_on):
    ledger, line, told = ledger_on(0.0)
    ledger.read()
    assert (told, line.requests) == ([], ["read"])
    assert not ledger.is_over()


def test_readings_take_a_tenth_of_the_time(ledger_on):
    """
    A request takes 0.1 ms, so there is none of the same kind for 1 ms after it.

    t = 0: an arrival is entered and read until 0.1; the next reading is due at 1.1. At 0.1 another one is only appended, until
    0.2. The first look at the counter is at 0.2, until 0.3; the next one is due at 1.3. Then the list is due as well: it is
    read until 1.4, and completes the round, which all are told until 1.5; the counter need not be asked.
    """
    ledger, line, told = ledger_on(1e-4)
    ledger.enter(arrival(0))
    assert (line.requests, len(told)) == (["append, read"], 1)
    ledger.enter(arrival(1))
    assert (line.requests[1:], len(told)) == (["append"], 1)
    assert not ledger.is_over()
    assert line.requests[2:] == ["look"]
    line.now = 1.29e-3
    assert not ledger.is_over()
    assert (line.requests[3:], len(told)) == ([], 1)
    line.now = 1.31e-3
    assert ledger.is_over()
    assert (line.requests[3:], len(told)) == (["read", "end"], 2)
    assert line.counters["7/over"] == 1
    for _ in range(3):
        line.now += 1.0
        assert ledger.is_over()
    assert line.requests[5:] == []
    assert line.n_checks == 2  # each time that it looked for failures of other ranks as well


def test_the_list_is_read_when_it_is_due_and_something_is_new(ledger_on):
    """
    0.1 ms a request. The list is read until 0.1, so the next reading is due at 1.1. An arrival that is entered at 0.5 is only
    appended; it is read once the list is due, together with a look at the counter.

    Without anything new of its own a rank only looks at the counter, which the rank that completes the round increments.
    """
    ledger, line, told = ledger_on(1e-4)
    ledger.read()
    line.now = 5e-4
    ledger.enter(arrival(0))
    assert (line.requests, told) == (["read", "append"], [])
    line.now = ledger._next_read - 1e-6
    assert not ledger.is_over()
    assert (line.requests[2:], told) == (["look"], [])
    line.now = ledger._next_look
    assert not ledger.is_over()
    assert (line.requests[3:], len(told)) == (["read", "look"], 1)
    assert line.now - ledger._next_read == pytest.approx(1e-4 - 1e-3)  # read until 0.1 before now, not again for 1
    line.now = ledger._next_look
    assert not ledger.is_over()
    assert line.requests[5:] == ["look"]
    line.counters["7/over"] += 1
    line.now = ledger._next_look
    assert ledger.is_over()
    assert line.requests[6:] == ["look"]


def test_an_arrival_is_read_with_the_append_when_reading_is_due(ledger_on):
    ledger, line, told = ledger_on(1e-4)
    ledger.read()
    line.now = ledger._next_read
    ledger.enter(arrival(0))
    assert (line.requests[1:], len(told)) == (["append, read"], 1)
    line.now = ledger._next_look = ledger._next_read = 1.0  # both at the same moment
    line.enter(arrival(1))
    assert not ledger.is_over()  # nothing of its own is unread: the rank that has entered it reads it
    assert line.requests[2:] == ["look"]
    ledger._next_read = 2.0
    ledger.enter(arrival(1))
    line.now = ledger._next_look = 2.0
    assert ledger.is_over()
    assert line.requests[3:] == ["append", "read", "end"]


def test_a_slow_store_is_asked_after_every_step_of_two_milliseconds(ledger_on):
    """A request takes 30 ms: not 300, but 2 ms pass before the next one."""
    ledger, line, _ = ledger_on(0.03)
    ledger.read()
    assert not ledger.is_over()
    line.now += 0.0019
    assert not ledger.is_over()
    assert line.requests == ["read", "look"]
    line.now += 0.0002
    assert not ledger.is_over()
    assert line.requests == ["read", "look", "look"]


def test_the_list_is_read_from_where_it_was_left(ledger_on):
    """In parts of 64: what a rank has read is not asked for again, except what is in the part that grows."""
    ledger, line, _ = ledger_on(0.0)
    asked, compare_set = [], line.compare_set
    line.compare_set = lambda key, *args: asked.append(key) or compare_set(key, *args)
    for n_more, parts in [(63, [0]), (0, [0]), (1, [0, 1]), (1, [1]), (130, [1, 2, 3])]:
        for number in range(n_more):
            line.enter(arrival(number, kind=STARTED))
        asked.clear()
        ledger.read()
        assert asked == [f"7/arrivals/{part}" for part in parts]
    assert ledger._n_read == 195
    assert ledger.keys == ["length", *(f"arrivals/{part}" for part in range(5))]
    assert line.lists.keys() <= {f"7/{key}" for key in ledger.keys}
    assert max(map(len, line.lists.values())) == 64 * len(arrival(0).pack())


def test_many_ranks_and_long_rounds_look_less_often(ledger_on):
    """500 ranks look every 50 ms, so that the store answers 10,000 requests a second. After a second, 10 ms have no weight."""
    ledger, line, _ = ledger_on(0.0, size=500)
    assert not ledger.is_over()
    assert ledger._next_look == pytest.approx(0.05)
    ledger, line, _ = ledger_on(0.0)
    for now, pause in [(0.001, 1e-4), (1.0, 0.01), (2.0, 0.02), (100.0, 0.02)]:
        line.now = now
        assert not ledger.is_over()
        assert ledger._next_look == pytest.approx(now + pause)


def test_a_failure_of_another_rank_is_noticed_while_looking(ledger_on):
    ledger, line, _ = ledger_on(0.0)

    def check():
        raise RankError("rank 2 is out of paper")

    line.check = check
    with pytest.raises(RankError, match="rank 2 is out of paper"):
        ledger.is_over()


def test_the_first_reason_is_the_one_that_counts(lines):
    lines[0].fail("rank 0 is out of paper")
    lines[1].fail("rank 1 is out of ink")
    for line in lines:
        with pytest.raises(RankError, match="rank 0 is out of paper"):
            line.raise_failure()


class SilentStore:
    """A store whose host has vanished: nothing is ever answered."""

    def __init__(self, event):
        self.event, self.n_asked = event, 0

    def add(self, key, amount):
        self.n_asked += 1
        self.event.wait()
        return 0

    def compare_set(self, key, expected, desired):
        self.add(key, 0)
        return b""

    def multi_get(self, keys):
        return [b"0" for _ in keys]


def test_a_store_that_does_not_answer_is_an_error():
    """It is asked once: whatever comes after that fails at once, also what is said on leaving."""
    store = SilentStore(Event())
    line = StoreLine(store, 1, 2, timeout=0.2)
    for ask in (lambda: line.add("key", 0), line.check, lambda: line.fail("reason"), line.raise_failure):
        with pytest.raises(RankError, match=r"has not answered rank 1 for 0\.2 s"):
            ask()
    assert store.n_asked == 1
    store.event.set()
    line.close()


def test_a_wait_for_the_store_counts_from_where_it_began():
    """A sign of life has been under way for longer than the timeout when something is asked."""
    store = SilentStore(Event())
    line = StoreLine(store, 1, 2, timeout=1000.0)
    while not store.n_asked:
        pass
    line._busy_since -= 1000.0
    with pytest.raises(RankError, match="has not answered rank 1"):
        line.add("key", 0)
    store.event.set()
    line.close()


def test_a_store_that_is_gone_is_an_error_wherever_it_is_noticed_first():
    class GoneStore:
        def compare_set(self, *args):
            raise RuntimeError("Connection reset by peer")

        add = compare_set

    line = StoreLine(GoneStore(), 1, 2, timeout=5.0)
    for ask in (lambda: line.add("key", 0), line.check):
        with pytest.raises(RankError, match=r"rank 1 has lost the store .*\(Connection reset by peer\)"):
            ask()
    line.close()


# Signs of life


class CountingStore:
    """Counts requests to a store."""

    def __init__(self, store):
        self.store, self.n = store, 0

    def __getattr__(self, name):
        self.n += 1
        return getattr(self.store, name)


def pulses(size):
    store = dist.HashStore()
    return store, [Pulse(rank, size, 10.0) for rank in range(size)]


@pytest.mark.parametrize("size", [2, 100])
def test_a_sign_of_life_is_two_requests_whatever_the_number_of_ranks(size):
    store, ranks = pulses(size)
    for now in (0.0, 1.0):
        for pulse in ranks:
            counted = CountingStore(store)
            assert pulse.beat(counted, now) == ("", "")
            assert now == 0.0 or counted.n == 2


def test_rank_0_finds_who_is_silent_and_the_others_find_rank_0():
    for silent, finders in [(2, {0}), (0, {1, 2})]:
        store, ranks = pulses(3)
        found = {}
        for now in range(13):
            for rank, pulse in enumerate(ranks):
                if rank != silent or now == 0:
                    _, text = pulse.beat(store, float(now))
                    if text:
                        found.setdefault(rank, (now, text))
        assert found.keys() == finders
        for now, text in found.values():
            assert text == f"rank {silent} has given no sign of life for 11.0 s (timeout=10)"
            assert now == (11 if silent == 0 else 12)  # rank 0 had looked before the others gave their first sign


def test_a_rank_that_has_not_come_yet_has_two_minutes():
    store, (first, _) = pulses(2)
    assert [first.beat(store, now)[1] for now in (0.0, 119.0, 120.0)] == [""] * 3
    assert "rank 1 has given no sign of life for 121.0 s" in first.beat(store, 121.0)[1]


def test_all_hear_of_a_failure_with_the_next_sign_of_life():
    store, ranks = pulses(3)
    for pulse in ranks:
        pulse.beat(store, 0.0)
    store.compare_set("failure", "", "rank 2 is out of paper")
    assert [pulse.beat(store, 1.0) for pulse in ranks] == [("rank 2 is out of paper", "")] * 3


# Workers that can be interrupted


@pytest.mark.parametrize("vec_env_cls", [SimulatedVecEnv, ProcessVecEnv])
def test_a_wait_that_was_given_up_goes_on_where_it_stopped(vec_env_cls):
    trajectories = []
    for answers in ([False], [True, False, True]):
        env = vec_env_cls([PointEnv] * 2)
        env.interrupt = partial(next, cycle(answers))
        _, point = prepared(env)
        for worker in range(2):
            env.submit(job(point, worker))
        arrived, given_up = {}, 0
        while len(arrived) < 2:
            result = env.next_arrival()
            if result is None:
                given_up += 1
            else:
                arrived[result[0].worker] = result[1]
        trajectories.append(arrived)
        assert given_up == 0 if answers == [False] else given_up > 0
        env.close()
    assert all(same(trajectories[0][worker], trajectories[1][worker]) for worker in range(2))


def test_an_interrupted_simulation_executes_nothing_more():
    """Worker 1 takes five steps in the time of one of worker 0; after six steps together nobody shall make another one."""
    env = simulated([PointEnv] * 2, step_times=[5.0, 1.0])
    n_steps = count(1)
    env.interrupt = lambda: next(n_steps) >= 6
    _, point = prepared(env)
    for worker in range(2):
        env.submit(job(point, worker))
    assert env.next_arrival() is None
    assert sum(trajectory.n_steps for _, _, trajectory in env.cancel()) == 6
    assert sum(e.n_steps_executed for e in env.envs) == 6


# Callbacks, arguments


class Own(BaseCallback):
    def _on_step(self):
        return True


def test_other_ranks_neither_evaluate_nor_save(tmp_path):
    own, other = Own(), StopTrainingOnMaxEpisodes(3)
    checkpoint = CheckpointCallback(10, str(tmp_path))
    both, now_and_then = CallbackList([other, ProgressBarCallback()]), EveryNTimesteps(5, checkpoint)
    callbacks = [own, checkpoint, both, now_and_then, RunRecorder("x")]
    assert callbacks_of(0, callbacks) is callbacks
    first, second = callbacks_of(1, callbacks)
    assert first is own
    assert second.callbacks == [other]
    assert callbacks_of(1, checkpoint) is None
    assert callbacks_of(1, None) is None


@pytest.fixture
def alone():
    """A group of one rank, in this process."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1, timeout=timedelta(seconds=20))
    yield
    dist.destroy_process_group()


def test_what_cannot_be_shared_is_refused(alone):
    env, group = simulated([2]), AllReduceGroup()
    with pytest.raises(ValueError, match="schedule='pipelined' is not allowed in a process group: give \"planned\""):
        RennalaNIGT("MlpPolicy", env, schedule="pipelined", group=group)
    with pytest.raises(ValueError, match="AFedPG has no rounds that ranks could share"):
        AFedPG("MlpPolicy", env, group=group)
    with pytest.raises(ValueError, match="on_lost_task='drop' is not allowed in a process group"):
        MaleniaNIGT("MlpPolicy", env, on_lost_task="drop", group=group)
    with pytest.raises(ValueError, match="env=DummyVecEnv is not allowed in a process group"):
        RennalaNIGT("MlpPolicy", make_vec_env("CartPole-v1"), group=group)
    with pytest.raises(ValueError, match="group='all' is not allowed"):
        RennalaNIGT("MlpPolicy", env, group="all")
    with pytest.raises(ValueError, match="timeout=0 is not allowed"):
        AllReduceGroup(timeout=0)
    with pytest.raises(ValueError, match="process_group=3 is not allowed"):
        AllReduceGroup(3)


def test_without_a_default_group_there_is_nothing_to_join():
    assert is_first_rank()
    with pytest.raises(ValueError, match="process_group=None is not allowed before there is a default group"):
        AllReduceGroup()


class Values(KVWriter):
    def __init__(self):
        self.entries = []

    def write(self, key_values, key_excluded, step=0):
        self.entries.append(dict(key_values))

    def close(self):
        pass


def test_a_round_is_one_reduction_and_one_exchange_of_counts(alone):
    """The default group has a single rank, so it is not picked up by itself; whoever asks for it gets the same rounds."""
    model = RennalaNIGT("MlpPolicy", simulated([FixedLengthEnv] * 2), n_trajectories=4, group=AllReduceGroup(), seed=0)
    values = Values()
    model.set_logger(Logger(None, [values]))
    model.learn(40)
    for entry in values.entries[1:]:
        assert (entry["group/ranks"], entry["group/gathers"], entry["group/reductions"]) == (1, 1, 1)
        assert entry["group/bytes"] == 0  # there is no other rank to send any to
        assert entry["group/store_requests"] > 4
    assert {key for entry in values.entries for key in entry if key.startswith("group/")} == {
        f"group/{name}"
        for name in ("ranks", "gathers", "reductions", "bytes", "store_requests", "wait_seconds", "reduce_seconds")
    }
    ungrouped = RennalaNIGT("MlpPolicy", simulated([LengthFromSeedEnv] * 2), n_trajectories=4, seed=0)
    assert ungrouped.group is None
    run_rounds(ungrouped, 1)
    assert isinstance(ungrouped._group, Alone)


def test_a_group_of_one_computes_what_no_group_does(alone):
    reports = []
    for group in (False, AllReduceGroup(debug=True)):
        env = simulated([LengthFromSeedEnv] * 3)
        model = RennalaNIGT("MlpPolicy", env, n_trajectories=5, policy_kwargs={"net_arch": [4]}, group=group, seed=0)
        rounds = run_rounds(model, 3)
        reports.append([sorted((a.key, a.n_steps, a.episode_return) for a in report.arrivals) for report in rounds])
        assert model.env.unwrapped.interrupt is None
    assert reports[0] == reports[1]
