"""When a worker is restarted and for how long it may be silent: tables by hand, no process and no clock."""

import re

import pytest

from sb3_nigt import ProcessVecEnv
from sb3_nigt.vec_env.pool.heartbeat import WINDOW, Heartbeat
from sb3_nigt.vec_env.pool.restarts import RestartHistory, RestartLimits

UNLIMITED = RestartLimits(10**6, None)


def waits(history, times):
    """Seconds between each failure and its restart, None where there is none."""
    return [None if (at := history.failed(time)) is None else round(at - time, 6) for time in times]


def test_wait_doubles_up_to_ten_seconds():
    assert waits(RestartHistory(UNLIMITED), range(9)) == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]


def test_wait_after_very_many_failures():
    assert set(waits(RestartHistory(UNLIMITED), range(2000))[10:]) == {10.0}


def test_a_success_makes_the_wait_short_again():
    history = RestartHistory(UNLIMITED)
    assert waits(history, [0, 1, 2]) == [0.1, 0.2, 0.4]
    history.succeeded()
    assert waits(history, [3, 4]) == [0.1, 0.2]
    assert history.failures == 5


@pytest.mark.parametrize(
    ("limits", "times", "lost_at", "broken"),
    [
        (RestartLimits(0), [0.0], 0, "max_restarts=0"),
        (RestartLimits(2), [0.0, 1000.0, 2000.0], 2, "max_restarts=2"),
        (RestartLimits(9, 0), [5.0], 0, "max_restarts_per_minute=0"),
        (RestartLimits(9, 2), [0.0, 30.0, 59.9], 2, "max_restarts_per_minute=2"),
        (RestartLimits(9, 2), [0.0, 30.0, 60.0, 89.9], 3, "max_restarts_per_minute=2"),  # at 60 the one of 0 is forgotten
        (RestartLimits(9, 2), [0.0, 30.0, 60.0, 90.0, 120.0, 150.0], None, None),
        (RestartLimits(3, 2), [0.0, 30.0, 60.0, 90.0], 3, "max_restarts=3"),
        (RestartLimits(2, 2), [0.0, 1.0, 2.0], 2, "max_restarts=2"),  # both at once
        (RestartLimits(10**6, None), [float(i) for i in range(600)], None, None),
    ],
)
def test_limits(limits, times, lost_at, broken):
    history = RestartHistory(limits)
    results = waits(history, times)
    assert [i for i, wait in enumerate(results) if wait is None] == ([] if lost_at is None else [lost_at])
    assert history.broken == broken
    assert history.failures == len(times)


def test_a_success_does_not_reset_the_limits():
    history = RestartHistory(RestartLimits(2))
    for time in (0, 1):
        assert history.failed(time) is not None
        history.succeeded()
    assert history.failed(2) is None


def test_defaults_lose_a_crash_loop_within_a_minute_whatever_max_restarts():
    """The waits 0.1, 0.2, … add up to 42.7 seconds before the eleventh failure."""
    for limits in (RestartLimits(10, 10), RestartLimits(10**6, 10)):
        history, now, n = RestartHistory(limits), 0.0, 0
        while (at := history.failed(now)) is not None:
            now, n = at, n + 1
        assert n == 10
        assert now == pytest.approx(42.7)


@pytest.mark.parametrize(
    ("name", "values"),
    [("max_restarts", [-1, 2.0, "3", None, True]), ("max_restarts_per_minute", [-1, 1.5, "3", True])],
)
def test_bad_limits(name, values):
    for value in values:
        with pytest.raises(ValueError, match=re.escape(f"{name}={value!r} is not allowed: give an integer of at least 0")):
            ProcessVecEnv([lambda: None], **{name: value})


def look(heartbeat, *looks):
    return [heartbeat.look(count, now) for count, now in looks]


def test_silence_is_the_time_since_the_counter_was_seen_to_change():
    heartbeat = Heartbeat()
    heartbeat.begin(7, 100.0)
    assert look(heartbeat, (7, 101.0), (7, 103.0), (8, 104.0), (8, 104.5), (8, 109.0)) == [1.0, 3.0, 0.0, 0.5, 5.0]


def test_a_slow_worker_may_be_silent_for_longer():
    heartbeat = Heartbeat()
    heartbeat.begin(0, 0.0)
    assert heartbeat.allowed(60.0) == 60.0
    for second in range(1, 9):  # one step of 8 to 9 seconds, seen silent until 8
        heartbeat.look(0, float(second))
    heartbeat.look(1, 9.0)
    assert heartbeat.allowed(60.0) == 80.0
    look(heartbeat, (2, 9.5), (3, 10.0))  # quick ones do not make it impatient again
    assert heartbeat.allowed(60.0) == 80.0
    assert heartbeat.allowed(100.0) == 100.0


def test_a_slow_step_is_forgotten():
    heartbeat = Heartbeat()
    heartbeat.begin(0, 0.0)
    look(heartbeat, (0, 8.0), (1, 9.0))
    assert heartbeat.slowest == 8.0
    look(heartbeat, (2, 9.0 + WINDOW), (3, 10.0 + WINDOW))  # in the window that follows it still counts
    assert heartbeat.slowest == 8.0
    look(heartbeat, (4, 10.0 + 2 * WINDOW))
    assert heartbeat.slowest < 8.0


def test_the_parents_absence_is_no_slow_step():
    """The learner did not look for an hour, because a callback evaluated; the worker made its steps meanwhile."""
    heartbeat = Heartbeat()
    heartbeat.begin(0, 0.0)
    assert look(heartbeat, (0, 0.25), (500, 3600.0), (501, 3600.25)) == [0.25, 0.0, 0.0]
    assert heartbeat.allowed(60.0) == 60.0


def test_who_hangs_during_the_parents_absence_is_found():
    heartbeat = Heartbeat()
    heartbeat.begin(0, 0.0)
    assert look(heartbeat, (3, 0.5), (3, 3600.0)) == [0.0, 3599.5]


def test_an_absence_of_the_parent_is_nobodys_silence():
    heartbeat = Heartbeat()
    heartbeat.begin(7, 100.0)
    assert look(heartbeat, (7, 110.0)) == [10.0]
    heartbeat.forgive(500.0, 610.0)
    assert look(heartbeat, (7, 611.0), (8, 612.0)) == [11.0, 0.0]
    assert heartbeat.slowest == 11.0
    heartbeat.forgive(500.0, 613.0)  # it began within the absence
    assert look(heartbeat, (8, 615.0)) == [2.0]
