"""
What a pool of workers decides, as tables: the time, what happens, what is to be done. No process and no clock.

A row is (seconds, event, arguments, instructions); the events are in ``EVENTS``.
"""

import math
import random

import numpy as np
import pytest

from sb3_nigt.messages import RETURNED, Contribution, Job, SamplingPoint, SegmentStart, TrajectoryKey
from sb3_nigt.vec_env.pool.instructions import (
    CancelJob,
    CheckAlive,
    Deliver,
    Discard,
    DropGradient,
    Examine,
    Kill,
    Raise,
    Reject,
    RequestGradient,
    Run,
    RunSegment,
    SendContext,
    SendPoint,
    SendPrepare,
    StartWorker,
    Warn,
)
from sb3_nigt.vec_env.pool.protocol import NO_EPISODE, RemoteArrival, RemoteFailure
from sb3_nigt.vec_env.pool.restarts import FIRST_BACKOFF, RestartLimits
from sb3_nigt.vec_env.pool.roster import Roster
from sb3_nigt.vec_env.pool.slot import State
from sb3_nigt.vec_env.pool.speeds import Speeds

POINT = SamplingPoint(0, np.zeros(1, np.float32))
NEXT_POINT = SamplingPoint(1, np.zeros(1, np.float32))
TIMEOUT = 60.0


def said(n_steps=4, cancelled=0, seconds=2.0):
    return RemoteArrival(1, n_steps, 1, 0, 0, cancelled, 10.0, 10.0 + seconds)


COMPLETE, CANCELLED = said(), said(cancelled=1)


def job(worker, number=0, point=POINT, committed=False):
    return Job(worker, TrajectoryKey(point.round, worker, number), point, committed=committed)


def run(one_job, job_number, point_number=1):
    return Run(one_job, job_number, point_number)


def failed(worker, reason, what_next):
    return Warn(f"Worker {worker} (task {'abc'[worker]!r}) failed: {reason}. It is {what_next}.")


def contributions(*jobs):
    return [Contribution(one_job.worker, one_job.key, np.ones(4)) for one_job in jobs]


EVENTS = {
    "submitted": lambda roster, now, one_job: roster.jobs.submit(one_job, 0, now),
    "arrives": lambda roster, now, worker, what=COMPLETE: roster.jobs.arrived(worker, what, 0, now),
    "is taken": lambda roster, now, worker: roster.jobs.delivered(worker),
    "all cancelled": lambda roster, now: roster.jobs.cancel(),
    "fails": lambda roster, now, worker, reason="exit code -9": roster.failed(worker, reason, now),
    "hangs": lambda roster, now, worker, silent: roster.hung(worker, silent, "in step", now),
    "node leaves": lambda roster, now, worker: roster.node_left(worker),
    "time passes": lambda roster, now: roster.tick(now),
    "is launched": lambda roster, now, worker: roster.launched(worker, 0, now),
    "replies": lambda roster, now, worker: roster.replied(worker, 0, now),
    "is looked at": lambda roster, now, worker, steps: roster.look(worker, steps, now),
    "has no place": lambda roster, now, worker: roster.unplaced(worker, now),
    "has a place": lambda roster, now, worker: roster.placed(worker, 0, now),
    "is not heard": lambda roster, now, worker: roster.unheard(worker, 0, now),
    "settings": lambda roster, now: roster.new_settings(),
    "is prepared": lambda roster, now, worker: roster.prepare(worker, 0, now),
    "gradients": lambda roster, now: roster.jobs.begin_gradients(now),
    "is asked": lambda roster, now, worker, wanted: roster.jobs.ask_for_gradient(worker, wanted, 0, now),
    "gradient comes": lambda roster, now, worker: roster.jobs.gradient_came(worker, 0, now),
    "gradient is dropped": lambda roster, now, worker: roster.jobs.drop_gradient(worker),
}


def play(roster, *table):
    for now, event, arguments, expected in table:
        done = EVENTS[event](roster, now, *arguments)
        assert (done or []) == expected, (now, event)


def started(n_workers=2, limits=None, opened=True, **kwargs):
    """Workers that have made their environments and taken their settings; all wait for messages at time 0."""
    speeds = Speeds(np.ones(n_workers))
    roster = Roster("abc"[:n_workers], limits or RestartLimits(10, 10), speeds, TIMEOUT, **kwargs)
    for worker in range(n_workers):
        play(roster, (0, "is launched", (worker,), []))
        if opened:
            play(roster, (0, "replies", (worker,), []))
    if opened:
        roster.open()
        roster.new_settings()
        for worker in range(n_workers):
            play(roster, (0, "is prepared", (worker,), [SendPrepare(worker)]), (0, "replies", (worker,), []))
    assert set(states(roster)) == {State.IDLE if opened else State.STARTING}
    return roster


def experienced(*args, **kwargs):
    """As ``started``, and a trajectory has arrived, so that failures are no configuration error."""
    roster = started(*args, **kwargs)
    roster.jobs.ever_arrived = True
    return roster


def states(roster):
    return [slot.state for slot in roster.slots]


# Trajectories


def test_a_point_is_sent_once_and_a_context_when_it_changes():
    """The second job has the point already; the third has another one with statistics of its own, which go with it."""
    first, second = job(0), job(0, 1)
    with_statistics = SamplingPoint(1, np.zeros(1, np.float32), transform_obs=abs)
    third = job(0, point=with_statistics)
    roster = started(1)
    play(
        roster,
        (1, "submitted", (first,), [SendPoint(0, POINT), run(first, 1)]),
        (2, "arrives", (0,), [Deliver(first, COMPLETE)]),
        (2, "is taken", (0,), []),
        (2, "submitted", (second,), [run(second, 2)]),
        (3, "arrives", (0,), [Deliver(second, COMPLETE)]),
        (3, "is taken", (0,), []),
        (3, "submitted", (third,), [SendPoint(0, with_statistics), SendContext(0, (abs, None)), run(third, 3, 2)]),
    )


def test_a_worker_is_busy_until_its_arrival_is_taken():
    roster = started()
    assert not roster.jobs.is_busy(0)
    play(roster, (1, "submitted", (job(0),), [SendPoint(0, POINT), run(job(0), 1)]))
    assert roster.jobs.is_busy(0)
    assert roster.jobs.under_way() == [0]
    play(roster, (2, "arrives", (0,), [Deliver(job(0), COMPLETE)]))
    assert roster.jobs.is_busy(0)
    assert roster.jobs.under_way() == []
    play(roster, (2, "is taken", (0,), []))
    assert not roster.jobs.is_busy(0)


def test_durations_are_measured_or_guessed():
    """0.5 seconds a step, then 0.6: 0.5 + 0.1 · (0.6 - 0.5) = 0.51. Worker 1 is guessed to be twice as slow as worker 0."""
    roster = Roster("ab", RestartLimits(1), Speeds(np.array([1.0, 2.0])), TIMEOUT)
    assert roster.predicted_durations(10.0, 0.0).tolist() == [10.0, 20.0]
    roster.speeds.note(0, 5.0, 10, now=5.0)
    roster.speeds.note(0, 6.0, 10, now=11.0)
    assert roster.predicted_durations(10.0, 11.0) == pytest.approx([5.1, 10.2])


def test_only_workers_that_could_begin_look_quicker_with_time():
    """Worker 1 took 10 s once, and has been idle for a hundred trajectories of worker 0, one second each."""
    roster = started(2)
    roster.speeds.note(1, 10.0, 1, now=10.0)
    for k in range(1, 101):
        roster.speeds.note(0, 1.0, 1, now=10.0 + k)
    assert roster.predicted_durations(1.0, 110.0).tolist() == [1.0, 1.0]
    roster.jobs.submit(job(1), 0, 110.0)
    assert roster.predicted_durations(1.0, 110.0).tolist() == [1.0, 10.0]
    roster.jobs.cancel()
    roster.failed(1, "exit code 17", 110.0)
    assert roster.predicted_durations(1.0, 110.0) == pytest.approx([1.0, 10.0 + FIRST_BACKOFF])


# Cancelled trajectories


def test_an_arrival_that_crosses_its_cancellation_is_discarded():
    """It has ended before it has seen the request; whether it says so or not, it is discarded."""
    for what in (COMPLETE, CANCELLED):
        play(
            started(1),
            (1, "submitted", (job(0),), [SendPoint(0, POINT), run(job(0), 1)]),
            (2, "all cancelled", (), [CancelJob(0, 1)]),
            (2, "arrives", (0, what), [Discard(0, job(0).key, POINT, what)]),
            (3, "submitted", (job(0, 1),), [run(job(0, 1), 2)]),
            (4, "arrives", (0,), [Deliver(job(0, 1), COMPLETE)]),
        )


def test_a_job_for_a_worker_that_is_still_stopping_begins_when_it_has_stopped():
    following = job(0, point=NEXT_POINT)
    roster = started(1)
    play(
        roster,
        (1, "submitted", (job(0),), [SendPoint(0, POINT), run(job(0), 1)]),
        (2, "all cancelled", (), [CancelJob(0, 1)]),
        (2, "submitted", (following,), []),
    )
    assert roster.jobs.is_busy(0)
    discarded = Discard(0, job(0).key, POINT, CANCELLED)
    play(roster, (3, "arrives", (0, CANCELLED), [discarded, SendPoint(0, NEXT_POINT), run(following, 2, 2)]))


def test_cancel_frees_everybody_and_is_said_once():
    """Worker 0 runs, worker 1 has an arrival that was not taken, worker 2 waits for its restart with a job."""
    roster = experienced(3)
    first, second, third = (job(worker) for worker in range(3))
    play(
        roster,
        *[(1, "submitted", (one,), [SendPoint(one.worker, POINT), run(one, 1)]) for one in (first, second, third)],
        (2, "arrives", (1,), [Deliver(second, COMPLETE)]),
        (2, "fails", (2,), [Kill(2), failed(2, "exit code -9", "restarted, for the 1st time")]),
        (3, "all cancelled", (), [CancelJob(0, 1)]),
        (3, "all cancelled", (), []),
        (4, "time passes", (), [StartWorker(2)]),
        (4, "is launched", (2,), []),
        (5, "replies", (2,), [SendPrepare(2)]),
        (6, "replies", (2,), []),  # and no job
    )
    assert not any(roster.jobs.is_busy(worker) for worker in range(3))
    assert states(roster) == [State.CANCELLING, State.IDLE, State.IDLE]


# Failures: when a worker dies


def test_it_dies_while_it_is_busy():
    """It is restarted after 0.1 seconds and runs the same key; the other one notices nothing."""
    roster, mine, other = started(), job(0), job(1)
    play(
        roster,
        (1.0, "submitted", (mine,), [SendPoint(0, POINT), run(mine, 1)]),
        (1.0, "submitted", (other,), [SendPoint(1, POINT), run(other, 1)]),
        (2.0, "fails", (0,), [Kill(0), failed(0, "exit code -9", "restarted, for the 1st time")]),
        (2.05, "time passes", (), []),
        (2.11, "time passes", (), [StartWorker(0)]),
        (2.12, "is launched", (0,), []),
        (2.12, "time passes", (), []),
        (3.0, "replies", (0,), [SendPrepare(0)]),
        (3.1, "replies", (0,), [SendPoint(0, POINT), run(mine, 1, 2)]),
        (4.0, "arrives", (1,), [Deliver(other, COMPLETE)]),
        (5.0, "arrives", (0,), [Deliver(mine, COMPLETE)]),
    )


def test_it_dies_while_it_starts_and_while_it_prepares():
    """The waits double; the job stays its own."""
    mine = job(0)
    roster = experienced()
    play(
        roster,
        (1.0, "submitted", (mine,), [SendPoint(0, POINT), run(mine, 1)]),
        (2.0, "fails", (0,), [Kill(0), failed(0, "exit code -9", "restarted, for the 1st time")]),
        (2.11, "time passes", (), [StartWorker(0)]),
        (2.11, "is launched", (0,), []),
        (3.0, "fails", (0, "no such simulator"), [Kill(0), failed(0, "no such simulator", "restarted, for the 2nd time")]),
        (3.19, "time passes", (), []),
        (3.21, "time passes", (), [StartWorker(0)]),
        (3.21, "is launched", (0,), []),
        (4.0, "replies", (0,), [SendPrepare(0)]),
    )
    roster.jobs.cancel()
    play(
        roster,
        (5.0, "fails", (0,), [Kill(0), failed(0, "exit code -9", "restarted, for the 3rd time")]),
        (5.39, "time passes", (), []),
        (5.41, "time passes", (), [StartWorker(0)]),
    )


def test_it_dies_while_it_is_idle():
    """What it held is gone; a job that is submitted meanwhile waits."""
    held, following = job(0), job(0, 1)
    roster = started()
    play(
        roster,
        (1, "submitted", (held,), [SendPoint(0, POINT), run(held, 1)]),
        (2, "arrives", (0,), [Deliver(held, COMPLETE)]),
        (2, "is taken", (0,), []),
        (3, "fails", (0,), [Kill(0), failed(0, "exit code -9", "restarted, for the 1st time")]),
        (3, "is asked", (0, contributions(held)), []),
        (3, "submitted", (following,), []),
        (4, "time passes", (), [StartWorker(0)]),
        (4, "is launched", (0,), []),
        (4, "is asked", (0, contributions(held)), []),
        (5, "replies", (0,), [SendPrepare(0)]),
        (6, "replies", (0,), [SendPoint(0, POINT), run(following, 1, 2)]),
    )


def test_it_dies_before_any_settings():
    """As when PPO trains on the workers: there is nothing to prepare."""
    speeds = Speeds(np.ones(1))
    roster = Roster("a", RestartLimits(10), speeds, TIMEOUT)
    play(roster, (0, "is launched", (0,), []), (1, "replies", (0,), []))
    roster.open()
    play(
        roster,
        (2, "fails", (0,), [Kill(0), failed(0, "exit code -9", "restarted, for the 1st time")]),
        (3, "time passes", (), [StartWorker(0)]),
        (3, "is launched", (0,), []),
        (4, "replies", (0,), []),
    )
    assert states(roster) == [State.IDLE]


def test_before_the_workers_are_open_a_failure_is_an_error():
    roster = started(opened=False)
    kill, error = roster.failed(1, "exit code 17", 1.0)
    assert kill == Kill(1)
    assert isinstance(error, Raise)
    assert error.worker == 1
    assert error.message.startswith("making its environment failed: exit code 17. What it has printed says more.")
    assert roster.tick(1000.0) == []


def restart(roster, now, worker, expected):
    """Play what brings a worker back whose restart is due."""
    play(
        roster,
        (now, "time passes", (), [StartWorker(worker)]),
        (now, "is launched", (worker,), []),
        (now, "replies", (worker,), [SendPrepare(worker)]),
        (now, "replies", (worker,), expected),
    )


def test_a_trajectory_that_fails_three_times_is_given_up():
    """Its worker goes on with the next one, whose failures are counted from 0. A reason that repeats takes one line."""
    first, second = job(0), job(0, 1)
    cause = "LookupError: the physics exploded"
    traceback = f"{cause}\nTraceback\n  in step\n{cause}\n"
    roster = experienced()
    play(roster, (0, "submitted", (first,), [SendPoint(0, POINT), run(first, 1)]))
    again = "LookupError: the physics exploded (as before)"
    warning = Warn(failed(0, cause, "restarted, for the 1st time").message + f"\nTraceback\n  in step\n{cause}")
    play(roster, (1, "fails", (0, traceback), [Kill(0), warning]))
    restart(roster, 20, 0, [SendPoint(0, POINT), run(first, 1, 2)])
    play(roster, (21, "fails", (0, traceback), [Kill(0), failed(0, again, "restarted, for the 2nd time")]))
    restart(roster, 40, 0, [SendPoint(0, POINT), run(first, 1, 3)])
    expected = [Kill(0), Reject(first, "crash"), failed(0, again, "restarted, for the 3rd time")]
    play(roster, (41, "fails", (0, traceback), expected))
    assert roster.jobs.is_busy(0)  # until the arrival that says so is taken
    play(roster, (41, "is taken", (0,), []), (41, "submitted", (second,), []))
    restart(roster, 60, 0, [SendPoint(0, POINT), run(second, 1, 4)])
    play(roster, (61, "fails", (0, "exit code 3"), [Kill(0), failed(0, "exit code 3", "restarted, for the 4th time")]))
    restart(roster, 80, 0, [SendPoint(0, POINT), run(second, 1, 5)])


def raised(roster, now, age, kind="LookupError", worker=0, episode=NO_EPISODE):
    """Let a worker raise; return what is done and why."""
    *told, last = roster.raised(worker, RemoteFailure(None, kind, kind, "Traceback\n  in step\n", episode, age), now)
    return told, last


@pytest.mark.parametrize(
    ("place", "kind", "stops"), [(7, "LookupError", True), (8, "LookupError", False), (7, "OSError", False)]
)
def test_an_exception_that_repeats_at_the_same_step_is_not_the_workers(place, kind, stops):
    mine = job(0)
    roster = experienced()
    play(roster, (0, "submitted", (mine,), [SendPoint(0, POINT), run(mine, 1)]))
    told, last = raised(roster, 1, 7)
    assert told == [Kill(0)]
    assert "LookupError. It is restarted, for the 1st time" in last.message
    restart(roster, 20, 0, [SendPoint(0, POINT), run(mine, 1, 2)])
    told, last = raised(roster, 21, place, kind)
    assert told == [Kill(0)]
    assert isinstance(last, Raise if stops else Warn)
    if stops:
        assert last.worker == 0
        assert "twice at the same step of the same episode: LookupError\nTraceback\n  in step" in last.message
    assert roster.slots[0].state is State.WAITING


def test_an_exception_is_forgotten_when_something_arrives_and_with_new_settings():
    for event in ("arrives", "settings"):
        first, second = job(0), job(0, 1)
        roster = experienced()
        play(roster, (0, "submitted", (first,), [SendPoint(0, POINT), run(first, 1)]))
        raised(roster, 1, 7)
        restart(roster, 20, 0, [SendPoint(0, POINT), run(first, 1, 2)])
        if event == "arrives":
            play(roster, (21, "arrives", (0,), [Deliver(first, COMPLETE)]), (21, "is taken", (0,), []))
            play(roster, (22, "submitted", (second,), [run(second, 2, 2)]))
        else:
            roster.new_settings()
        assert isinstance(raised(roster, 23, 7)[1], Warn)


def segment(round_=0):
    return Job(0, TrajectoryKey(round_, 0, 0), POINT, segment_steps=50)


@pytest.mark.parametrize("cancelled", [False, True])
def test_the_episode_that_has_raised_is_begun_once_more(cancelled):
    """Which one it was, the worker says: it may have begun several in its job, whose round may be complete meanwhile."""
    roster = experienced()
    roster.slots[0].progress = SegmentStart(40, 3, new_episode=False)
    play(roster, (0, "submitted", (segment(),), [SendPoint(0, POINT), RunSegment(segment(), 1, 1, roster.slots[0].progress)]))

    def start_after(age, episode, kind=Warn):
        if cancelled:
            roster.jobs.cancel()
        assert isinstance(raised(roster, 1, age, episode=episode)[1], kind)
        if cancelled:
            roster.jobs.submit(segment(), 0, 1)
        roster.launched(0, 0, 1)
        roster.replied(0, 0, 1)
        (run,) = (told for told in roster.replied(0, 0, 1) if isinstance(told, RunSegment))
        return run.start

    assert start_after(7, 5) == SegmentStart(40, 5)
    assert start_after(9, 5) == SegmentStart(40, 6)  # at another step: another process may do better
    assert start_after(9, 6) == SegmentStart(40, 6)
    assert start_after(9, 6, Raise)


def test_settings_that_a_worker_cannot_take_twice_are_an_error():
    roster = experienced()
    for now, expected in ((1, Warn), (20, Raise)):
        roster.launched(0, 0, now)
        roster.replied(0, 0, now)
        assert roster.slots[0].state is State.PREPARING
        assert isinstance(raised(roster, now, 1)[1], expected)


@pytest.mark.parametrize("event", ["arrives", "settings"])
def test_failures_of_a_trajectory_are_forgotten_when_it_arrives_and_with_new_settings(event):
    """Two failures, then the same name again: two more are not one too many."""
    mine = job(0)
    roster = experienced()
    for _ in range(2):
        play(roster, (0, "submitted", (mine,), [SendPoint(0, POINT), run(mine, 1, roster.slots[0].point_number + 1)]))
        for now in (1, 20):
            assert not any(isinstance(one, Reject) for one in roster.failed(0, "exit code -9", now))
            restart(roster, now + 15, 0, [SendPoint(0, POINT), run(mine, 1, roster.slots[0].point_number + 1)])
        if event == "arrives":
            play(roster, (40, "arrives", (0,), [Deliver(mine, COMPLETE)]), (40, "is taken", (0,), []))
            roster.slots[0].point = None
            roster.slots[0].job_number = 0
        else:
            roster.jobs.cancel()
            play(
                roster,
                (40, "arrives", (0, CANCELLED), [Discard(0, mine.key, POINT, CANCELLED)]),
                (40, "settings", (), []),
                (40, "is prepared", (0,), [SendPrepare(0)]),
                (40, "replies", (0,), []),
            )
            roster.slots[0].job_number = 0


@pytest.mark.parametrize(
    ("limits", "times", "broken"),
    [
        (RestartLimits(0), [5.0], "max_restarts=0"),
        (RestartLimits(2), [100.0, 200.0, 300.0], "max_restarts=2"),
        (RestartLimits(9, 2), [100.0, 120.0, 159.9], "max_restarts_per_minute=2"),
        (RestartLimits(9, 2), [100.0, 120.0, 160.0, 179.9], "max_restarts_per_minute=2"),  # the one of 100 is forgotten
    ],
)
def test_beyond_the_limits_a_worker_is_lost_and_gives_its_job_back(limits, times, broken):
    roster = experienced(limits=limits)
    for number, now in enumerate(times):
        mine = job(0, number)
        roster.jobs.submit(mine, 0, now - 1.0)
        end, *rest, warning = roster.failed(0, "exit code -9", now)
        roster.jobs.delivered(0)
        if number < len(times) - 1:
            assert (end, rest) == (Kill(0), [])
            assert "It is restarted" in warning.message
            roster.jobs.cancel()
            restart(roster, now + 15.0, 0, [])
        else:
            assert (end, rest) == (Kill(0), [Reject(mine, "lost")])
            assert warning.message.endswith(f"It is lost ({broken}).")
    assert states(roster) == [State.LOST, State.IDLE]
    play(roster, (10**6, "time passes", (), []))
    assert roster.listened_to() == []
    assert roster.predicted_durations(10.0, 400.0).tolist() == [math.inf, 10.0]


def test_all_workers_are_lost():
    roster = experienced(limits=RestartLimits(0))
    for worker in range(2):
        play(
            roster,
            (1, "submitted", (job(worker),), [SendPoint(worker, POINT), run(job(worker), 1)]),
            (
                2,
                "fails",
                (worker,),
                [
                    Kill(worker),
                    Reject(job(worker), "lost"),
                    failed(worker, "exit code -9", "lost (max_restarts=0)"),
                ],
            ),
        )
    assert roster.within(State.LOST) == [0, 1]
    assert roster.jobs.under_way() == []


def test_all_workers_fail_before_the_first_trajectory():
    """A configuration error is raised at once, without waiting for the limits."""
    roster = started()
    play(
        roster,
        (1, "submitted", (job(0),), [SendPoint(0, POINT), run(job(0), 1)]),
        (1, "submitted", (job(1),), [SendPoint(1, POINT), run(job(1), 1)]),
        (2, "fails", (0, "boom"), [Kill(0), failed(0, "boom", "restarted, for the 1st time")]),
        (
            2,
            "fails",
            (1, "boom"),
            [Kill(1), Raise(1, "every worker has failed before the first trajectory, this one: boom")],
        ),
    )


def test_a_worker_that_is_down_is_predicted_to_begin_later():
    roster = experienced()
    roster.failed(0, "exit code -9", 5.0)
    assert roster.predicted_durations(3.0, 5.04) == pytest.approx([3.06, 3.0])
    assert roster.predicted_durations(3.0, 9.0) == pytest.approx([3.0, 3.0])  # it is overdue
    play(roster, (9, "time passes", (), [StartWorker(0)]), (9, "is launched", (0,), []))
    assert roster.predicted_durations(3.0, 9.0) == pytest.approx([3.0, 3.0])


def test_several_are_restarted_when_each_is_due():
    roster = experienced(3)
    for now, worker in ((1.0, 2), (1.02, 0), (1.04, 1)):
        roster.failed(worker, "exit code -9", now)
    play(
        roster,
        (1.09, "time passes", (), []),
        (1.13, "time passes", (), [StartWorker(0), StartWorker(2)]),
        (1.13, "time passes", (), []),
        (1.15, "time passes", (), [StartWorker(1)]),
    )


# Silence


def test_a_hung_worker_is_examined():
    """One second without a step: is it alive? ``timeout`` seconds: where is it?"""
    roster = experienced()
    play(
        roster,
        (10, "submitted", (job(0),), [SendPoint(0, POINT), run(job(0), 1)]),
        (10.9, "is looked at", (0, 0), []),
        (11.1, "is looked at", (0, 0), [CheckAlive(0)]),
        (12, "is looked at", (0, 7), []),
        (12.9, "is looked at", (0, 7), []),
        (72, "is looked at", (0, 7), [CheckAlive(0)]),
        (72.1, "is looked at", (0, 7), [Examine(0, pytest.approx(60.1))]),
    )
    (kill, warning) = roster.hung(0, 60.1, "in step", 73.0)
    assert kill == Kill(0)
    first, *where = warning.message.split("\n")
    assert failed(0, "no sign of life for 60.1 s (timeout=60)", "restarted, for the 1st time") == Warn(first)
    assert where == ["It was here:", "in step"]
    play(roster, (200, "is looked at", (0, 7), []))  # there are no workers to look at


def test_slow_steps_are_no_silence():
    """Steps of 20 seconds: after the first, 200 seconds are allowed."""
    roster = started()
    play(roster, (0, "submitted", (job(0),), [SendPoint(0, POINT), run(job(0), 1)]))
    for second in range(1, 20):
        roster.look(0, 1, float(second))
    roster.look(0, 1, 20.0)
    play(
        roster,
        (21, "is looked at", (0, 2), []),
        (200, "is looked at", (0, 2), [CheckAlive(0)]),
        (222, "is looked at", (0, 2), [Examine(0, 201.0)]),
    )


@pytest.mark.parametrize(("longest_look", "examined"), [(math.inf, True), (1.0, False)])
def test_while_the_parent_was_away(longest_look, examined):
    """An hour in a callback. Counters in shared memory tell that the worker hung; those that are asked for do not."""
    roster = started(longest_look=longest_look)
    assert roster.is_time_to_look(0.0)
    play(roster, (0, "submitted", (job(0),), [SendPoint(0, POINT), run(job(0), 1)]))
    assert roster.is_time_to_look(3600.1)
    assert roster.look(0, 0, 3600.1) == ([Examine(0, 3600.1)] if examined else [])
    assert not roster.is_time_to_look(3600.2)
    assert roster.is_time_to_look(3600.35)


@pytest.mark.parametrize("what", ["starts", "prepares", "differentiates"])
def test_two_minutes_for_what_gives_no_sign_of_life(what):
    roster = experienced()
    if what == "starts":
        play(roster, (0, "is launched", (0,), []))
    elif what == "prepares":
        play(roster, (0, "is prepared", (0,), [SendPrepare(0)]))
    else:
        play(roster, (0, "is asked", (0, []), [RequestGradient(0, [])]))
    play(
        roster,
        (119, "is looked at", (0, 0), [CheckAlive(0)]),
        (121, "is looked at", (0, 0), [Examine(0, 121.0)]),
    )


def test_idle_workers_may_be_silent():
    roster = started()
    assert roster.listened_to() == []
    play(roster, (10**6, "is looked at", (0, 0), []))


# Gradients


def test_gradients_of_idle_workers_are_waited_for():
    roster = started()
    mine = job(0)
    wanted = contributions(mine)
    play(
        roster,
        (1, "submitted", (mine,), [SendPoint(0, POINT), run(mine, 1)]),
        (2, "arrives", (0,), [Deliver(mine, COMPLETE)]),
        (3, "gradients", (), []),
        (3, "is asked", (0, wanted), [RequestGradient(0, wanted)]),
    )
    assert roster.listened_to() == [0]
    assert roster.jobs.hesitating(4.0) == []
    play(roster, (5, "gradient comes", (0,), []))
    assert (roster.jobs.gradients_owed, roster.jobs.gradients_here) == (set(), {0})
    play(roster, (6, "gradients", (), []), (6, "is asked", (0, wanted), []))  # the worker that was asked no longer holds it
    assert roster.jobs.gradients_here == set()


def with_a_gradient_owed_by_a_busy_worker():
    roster = experienced()
    done, following = job(0), job(0, 1)
    wanted = contributions(done)
    play(
        roster,
        (1, "submitted", (done,), [SendPoint(0, POINT), run(done, 1)]),
        (2, "arrives", (0,), [Deliver(done, COMPLETE)]),
        (2, "is taken", (0,), []),
        (3, "submitted", (following,), [run(following, 2)]),
        (4, "gradients", (), []),
        (4, "is asked", (0, wanted), [RequestGradient(0, wanted)]),
    )
    return roster, following


def test_a_busy_worker_that_makes_a_long_step_is_not_waited_for():
    """After 50 ms it hesitates; whether it has begun meanwhile is for others to find out. Its trajectory goes on."""
    roster, following = with_a_gradient_owed_by_a_busy_worker()
    assert roster.jobs.patience(4.0) == pytest.approx(0.05)
    assert roster.jobs.hesitating(4.04) == []
    assert roster.jobs.hesitating(4.06) == [0]
    assert roster.jobs.patience(4.06) == 0.0
    play(
        roster,
        (4.06, "gradient is dropped", (0,), [DropGradient(0)]),
        (9, "arrives", (0,), [Deliver(following, COMPLETE)]),
    )
    assert roster.jobs.gradients_here == roster.jobs.gradients_owed == set()


def test_a_busy_worker_answers_within_its_trajectory():
    roster, following = with_a_gradient_owed_by_a_busy_worker()
    play(roster, (4.01, "gradient comes", (0,), []), (5, "arrives", (0,), [Deliver(following, COMPLETE)]))
    assert roster.jobs.gradients_here == {0}


def test_a_worker_that_dies_owes_no_gradient():
    roster, following = with_a_gradient_owed_by_a_busy_worker()
    play(roster, (4.01, "fails", (0,), [Kill(0), failed(0, "exit code -9", "restarted, for the 1st time")]))
    assert roster.jobs.gradients_owed == roster.jobs.gradients_here == set()
    restart(roster, 5, 0, [SendPoint(0, POINT), run(following, 1, 2)])


def test_cancel_drops_gradients():
    roster, _ = with_a_gradient_owed_by_a_busy_worker()
    play(roster, (5, "all cancelled", (), [DropGradient(0), CancelJob(0, 2)]))
    assert roster.jobs.gradients_owed == set()


def test_trajectories_of_past_rounds_are_not_held():
    """With the next point the worker drops what it has of rounds before, so it is not asked for that."""
    old, new = job(0), job(0, point=NEXT_POINT)
    play(
        started(),
        (1, "submitted", (old,), [SendPoint(0, POINT), run(old, 1)]),
        (2, "arrives", (0,), [Deliver(old, COMPLETE)]),
        (2, "is taken", (0,), []),
        (3, "submitted", (new,), [SendPoint(0, NEXT_POINT), run(new, 2, 2)]),
        (4, "is asked", (0, contributions(old)), []),
    )


# Places of a cluster


def test_an_absent_worker_returns_its_ticket():
    """
    Its node leaves, which counts as no failure, and there is no place for 10 seconds: others run what it was to run.

    When there is a place it starts, and joins.
    """
    ticket = job(0, committed=True)
    roster = experienced(place_seconds=10.0)
    left = Warn("Worker 0 (task 'a') has lost its node. It starts again where there is a place.")
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


# All together


class Chaos:
    """Workers that do what they are told, and fail, lose their node or find no place at random moments."""

    TOLD = {StartWorker: ("gone", "starts"), SendPrepare: ("started", "prepares"), Run: ("idle", "runs")}  # noqa: RUF012

    def __init__(self, seed):
        self.rng, self.now = random.Random(seed), 0.0
        limits = RestartLimits(self.rng.choice([2, 10**6]), None)
        self.roster = experienced(3, limits=limits, place_seconds=5.0)
        self.doing = ["idle"] * 3
        self.submitted, self.ended = [], []

    def event(self, worker):
        """Let something happen that can happen to this worker; return what is to be done."""
        self.now += self.rng.expovariate(1.0)
        roster, state = self.roster, self.doing[worker]
        if not roster.jobs.is_busy(worker) and roster.slots[worker].state is not State.LOST:
            new = job(worker, len(self.submitted), committed=self.rng.random() < 0.5)
            self.submitted.append(new.key)
            return roster.jobs.submit(new, 0, self.now)
        if state == "gone":
            return roster.tick(self.now)
        if self.rng.random() < 0.2:
            return roster.node_left(worker) if self.rng.random() < 0.5 else roster.failed(worker, "boom", self.now)
        return self.goes_on(worker, state)

    def goes_on(self, worker, state):
        """Let a worker come a step further."""
        if state == "starts" and self.rng.random() < 0.3:
            return self.roster.unplaced(worker, self.now)
        self.roster.placed(worker, 0, self.now)
        self.doing[worker] = "started" if state == "starts" else "idle"
        if state == "runs":
            return self.roster.jobs.arrived(worker, COMPLETE, 0, self.now)
        return self.roster.replied(worker, 0, self.now) if state in ("starts", "prepares") else []

    def carry_out(self, instructions):
        for one in instructions:
            if isinstance(one, (Deliver, Reject)):
                self.ended.append(one.job.key)
            elif isinstance(one, Kill):
                self.doing[one.worker] = "gone"
            elif type(one) in self.TOLD:
                before, after = self.TOLD[type(one)]
                worker = one.job.worker if isinstance(one, Run) else one.worker
                assert self.doing[worker] == before
                self.doing[worker] = after
            if isinstance(one, StartWorker):
                self.roster.launched(one.worker, 0, self.now)
            if isinstance(one, Run):
                assert one.job is self.roster.slots[one.job.worker].job


@pytest.mark.parametrize("seed", range(100))
def test_every_job_ends_once_whatever_happens(seed):
    """A process has one job at a time, and only when it was prepared; each job is delivered or given up, once."""
    chaos = Chaos(seed)
    for _ in range(300):
        worker = chaos.rng.randrange(3)
        chaos.carry_out(chaos.event(worker))
        if chaos.rng.random() < 0.5:
            chaos.roster.jobs.delivered(worker)
    in_flight = [slot.job.key for slot in chaos.roster.slots if slot.job is not None]
    assert sorted([*chaos.ended, *in_flight]) == sorted(chaos.submitted)
