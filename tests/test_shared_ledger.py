"""The list of arrivals that ranks share on a store: what it holds, and how often it is asked."""

from collections import Counter

import pytest
from ledgers import UNKNOWN, arrival

from sb3_nigt.aggregators import Rennala
from sb3_nigt.distributed import ledger as ledger_module
from sb3_nigt.distributed.ledger import ARRIVED, REJECTED, STARTED, Entry, Ledger
from sb3_nigt.distributed.rules import SharedFirstFinished
from sb3_nigt.errors import RankError
from sb3_nigt.messages import TrajectoryKey
from sb3_nigt.timing.clock import SimulatedClock


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
    """A byte, 5 integers and 4 floats of 8 bytes: 73."""
    entry = Entry(ARRIVED, 3, TrajectoryKey(7, 2, 5), 11, 12, -1.5, 2.5, 0.25, 0.75)
    assert len(entry.pack()) == 73
    assert Entry.unpack(7, entry.pack()) == entry
    start = Entry(STARTED, 3, TrajectoryKey(7, 2, 5))
    assert start == Entry(STARTED, 3, TrajectoryKey(7, 2, 5), 0, 0, 0.0, 0.0, 0.0, 0.0)
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
