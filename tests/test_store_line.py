"""The line of a rank to the store: failures, a store that does not answer, and signs of life."""

from threading import Event
from types import SimpleNamespace

import pytest
import torch.distributed as dist

from sb3_nigt.distributed import line as line_module
from sb3_nigt.distributed.line import StoreLine
from sb3_nigt.distributed.pulse import Pulse
from sb3_nigt.errors import RankError


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


def test_time_in_which_this_rank_was_stopped_does_not_count(monkeypatch):
    """All ranks were stopped together, and this one is the first to go on."""
    now = [0.0]
    monkeypatch.setattr(line_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    store, (other, _) = pulses(2)
    line = StoreLine(store, 1, 2, timeout=10.0)
    line.close()
    line._beat(store)
    line.stepping(True)
    for seconds in [1.0, *range(1000, 1011)]:
        now[0] = seconds
        line._beat(store)
        line.check()
        other.beat(store, now[0])
    now[0] = 1011.0
    line._beat(store)
    with pytest.raises(RankError, match=r"no step or reset of its environments has ended for 11\.0 s"):
        line.check()


def test_time_in_which_all_ranks_were_stopped_does_not_count():
    store, (first, second) = pulses(2)
    for now in (0.0, 1.0):
        first.beat(store, now)
        second.beat(store, now)
    first.forgive(999.0, 1000.0)
    assert [first.beat(store, now)[1] for now in (1000.0, 1010.0)] == ["", ""]
    assert "rank 1 has given no sign of life for 11.0 s" in first.beat(store, 1011.0)[1]


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
