"""What a pool does with workers of a cluster that have no place, see ``rosters.py``."""

import math

import pytest
from rosters import POINT, experienced, failed, job, play, run, started, states

from sb3_nigt.messages import RETURNED
from sb3_nigt.vec_env.pool.instructions import Kill, Reject, SendPoint, SendPrepare, StartWorker, Warn
from sb3_nigt.vec_env.pool.slot import State

# Places of a cluster


def test_an_absent_worker_returns_its_ticket():
    """
    Its node leaves, which counts as no failure, and there is no place for 10 seconds: others run what it was to run.

    When there is a place it starts, and joins.
    """
    ticket = job(0, committed=True)
    roster = experienced(place_seconds=10.0)
    left = Warn("Worker 0 (task 'a') lost its node and will restart on another one.")
    play(
        roster,
        (1, "submitted", (ticket,), [SendPoint(0, POINT), run(ticket, 1)]),
        (2, "node leaves", (0,), [Kill(0), StartWorker(0), left]),
        (2, "is launched", (0,), []),
        (11, "has no place", (0,), []),
        (13, "has no place", (0,), [Reject(ticket, RETURNED)]),
        (14, "has no place", (0,), []),
    )
    assert states(roster) == [State.ABSENT, State.IDLE]
    assert roster.slots[0].history.failures == 0
    assert roster.listened_to() == [0]
    assert roster.predicted_durations(2.0, 14.0).tolist() == [math.inf, 2.0]
    play(
        roster,
        (20, "has a place", (0,), []),
        (21, "replies", (0,), [SendPrepare(0)]),
        (22, "replies", (0,), []),
    )
    assert states(roster) == [State.IDLE, State.IDLE]


def test_a_job_that_may_be_cancelled_waits_for_a_place():
    mine = job(0)
    roster = experienced(place_seconds=10.0)
    play(
        roster,
        (1, "submitted", (mine,), [SendPoint(0, POINT), run(mine, 1)]),
        (2, "fails", (0,), [Kill(0), failed(0, "exit code -9", "restarted, for the 1st time")]),
        (3, "time passes", (), [StartWorker(0)]),
        (3, "is launched", (0,), []),
        (14, "has no place", (0,), []),
        (15, "has a place", (0,), []),
        (16, "replies", (0,), [SendPrepare(0)]),
        (17, "replies", (0,), [SendPoint(0, POINT), run(mine, 1, 2)]),
    )


def test_who_needs_absent_workers_waits_for_some_time_only():
    """Worker 0 has been absent since 0, worker 1 since 20; 100 seconds are allowed."""
    roster = started(3, place_seconds=10.0, placement_timeout=100.0)
    for worker, now in ((0, 0.0), (1, 20.0)):
        play(roster, (now, "is launched", (worker,), []), (now + 11, "has no place", (worker,), []))
    roster.slots[0].absent_since, roster.slots[1].absent_since = 0.0, 20.0
    for workers, enough, now, late in [
        ([0, 1, 2], any, 100.0, None),
        ([0, 1, 2], any, 100.5, 0),
        ([1, 2], any, 100.5, None),
        ([0, 1], all, 100.5, None),
        ([0, 1], all, 120.5, 0),
        ([0, 1, 2], all, 10**6, None),
        ([], all, 10**6, None),
    ]:
        assert roster.without_place(workers, enough, now) == late


@pytest.mark.parametrize("state", [State.PREPARING, State.BUSY, State.CANCELLING, State.IDLE, State.STARTING])
def test_what_an_interrupt_has_cut_off_is_asked_for_again(state):
    roster, mine = started(1), job(0)
    roster.jobs.submit(mine, 0, 1.0)
    roster.slots[0].state = state
    expected = {
        State.PREPARING: [SendPrepare(0)],
        State.BUSY: [run(mine, 2)],
        State.CANCELLING: [run(mine, 2)],
    }
    play(roster, (2, "is not heard", (0,), expected.get(state, [])))
