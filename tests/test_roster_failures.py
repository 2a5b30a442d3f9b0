"""What a pool does when a worker dies, raises or is silent, see ``rosters.py``."""

import math

import numpy as np
import pytest
from rosters import (
    CANCELLED,
    COMPLETE,
    POINT,
    TIMEOUT,
    contributions,
    experienced,
    failed,
    job,
    play,
    restart,
    run,
    started,
    states,
)

from sb3_nigt.messages import Job, SegmentStart, TrajectoryKey
from sb3_nigt.vec_env.pool.instructions import (
    CheckAlive,
    Deliver,
    Discard,
    Examine,
    Kill,
    Raise,
    Reject,
    RequestGradient,
    RunSegment,
    SendPoint,
    SendPrepare,
    StartWorker,
    Warn,
)
from sb3_nigt.vec_env.pool.protocol import NO_EPISODE, RemoteFailure, SegmentArrival
from sb3_nigt.vec_env.pool.restarts import RestartLimits
from sb3_nigt.vec_env.pool.roster import Roster
from sb3_nigt.vec_env.pool.slot import FIRST_STEP_TRIES, State
from sb3_nigt.vec_env.pool.speeds import Speeds

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
    assert error.message.startswith("making its environment failed: exit code 17. See its output above.")
    assert roster.tick(1000.0) == []


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
        assert "2 times in a row at the same step of the same episode: LookupError\nTraceback\n  in step" in last.message
    assert roster.slots[0].state is State.WAITING


@pytest.mark.parametrize("steps_between", [0, 1])
@pytest.mark.parametrize("episode", [NO_EPISODE, 3])
def test_at_the_first_step_it_has_to_repeat_more_often(episode, steps_between):
    """
    What an environment needs from outside, a simulator that is restarted as well, may come back meanwhile.

    Which trajectory or episode it is makes no difference. A worker that has made a step meanwhile begins to count anew.
    """
    roster = experienced()
    for n in range(1, 2 * FIRST_STEP_TRIES - 1):
        if not roster.jobs.is_busy(0):
            roster.jobs.submit(job(0, n) if episode == NO_EPISODE else segment(), 0, 20 * n)
        last = raised(roster, 20 * n, 0, episode=episode if episode == NO_EPISODE else episode + n)[1]
        if n == FIRST_STEP_TRIES and not steps_between:
            assert isinstance(last, Raise)
            assert "5 times in a row at the first step" in last.message
            break
        assert isinstance(last, Warn)
        roster.jobs.delivered(0)  # of the arrival of a trajectory that is given up
        restart_as_it_comes(roster, 20 * n + 15)
        if n == FIRST_STEP_TRIES - 1 and steps_between:
            roster.jobs.cancel()
            cancelled = CANCELLED if episode == NO_EPISODE else SegmentArrival(1, 1, 0, 1, 1, 1, 0, 0.0, 1.0)
            roster.jobs.arrived(0, cancelled, 1, 20 * n + 16)


def restart_as_it_comes(roster, now):
    roster.launched(0, 0, now)
    for _ in range(2):  # it has made its environment, it has taken the settings
        roster.replied(0, 0, now)


def test_on_request_a_worker_that_raises_again_and_again_is_lost():
    mine, roster = job(0), experienced()
    roster.may_lose = True
    roster.jobs.submit(mine, 0, 0)
    raised(roster, 1, 7)
    restart_as_it_comes(roster, 20)
    told, last = raised(roster, 21, 7)
    assert "It is lost (the same exception again and again)" in last.message
    assert roster.slots[0].state is State.LOST
    assert told == [Kill(0), Reject(mine, "lost")]


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


def test_starts_that_fail_are_no_failures_of_the_trajectory_that_waits():
    """It has run and died once; however often its worker cannot be started after that, it runs again."""
    mine, roster = job(0), experienced(limits=RestartLimits(100, None))
    play(roster, (0, "submitted", (mine,), [SendPoint(0, POINT), run(mine, 1)]))
    for failure in range(9):
        assert not any(isinstance(one, Reject) for one in roster.failed(0, "exit code -9", 20.0 * failure))
        play(roster, (20.0 * failure + 15, "time passes", (), [StartWorker(0)]))
    play(roster, (200, "is launched", (0,), []), (200, "replies", (0,), [SendPrepare(0)]))
    play(roster, (200, "replies", (0,), [SendPoint(0, POINT), run(mine, 1, 2)]))


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


@pytest.mark.parametrize(
    ("longest_look", "away", "examined"), [(math.inf, 30.0, True), (math.inf, 30.5, False), (1.0, 1.5, False)]
)
def test_while_the_parent_was_away(longest_look, away, examined):
    """Up to half of the timeout counts, if signs of life are not missed meanwhile; after more, all may have been stopped."""
    roster = started(longest_look=longest_look)
    assert roster.is_time_to_look(0.0)
    play(roster, (0, "submitted", (job(0),), [SendPoint(0, POINT), run(job(0), 1)]))
    now = 0.0
    while now < TIMEOUT:
        assert not roster.is_time_to_look(now + 0.2)
        now += 0.25 + away
        assert roster.is_time_to_look(now)
        said = roster.look(0, 0, now)
    assert (said == [Examine(0, now)]) is examined


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
