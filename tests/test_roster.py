"""What a pool does with jobs and gradients, see ``rosters.py``; and all together, at random."""

import random

import numpy as np
import pytest
from rosters import (
    CANCELLED,
    COMPLETE,
    NEXT_POINT,
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

from sb3_nigt.messages import Contribution, SamplingPoint
from sb3_nigt.vec_env.pool.instructions import (
    CancelJob,
    Deliver,
    Discard,
    DropGradient,
    Kill,
    Reject,
    RequestGradient,
    Run,
    SendContext,
    SendPoint,
    SendPrepare,
    StartWorker,
)
from sb3_nigt.vec_env.pool.restarts import FIRST_BACKOFF, RestartLimits
from sb3_nigt.vec_env.pool.roster import Roster
from sb3_nigt.vec_env.pool.slot import State
from sb3_nigt.vec_env.pool.speeds import Speeds

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
    """0.5 seconds per step, then 0.6: 0.5 + 0.1 · (0.6 - 0.5) = 0.51. Worker 1 is guessed to be twice as slow as worker 0."""
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


@pytest.mark.parametrize(("n_steps", "is_busy", "is_asked"), [(2000, True, True), (2001, True, False), (2001, False, True)])
def test_a_busy_worker_is_not_sent_a_long_request(n_steps, is_busy, is_asked):
    """Its connection may not take that until it reads, and it may never read: the learner would wait for it forever."""
    roster, done, following = experienced(), [job(0), job(0, 1)], job(0, 2)
    wanted = [Contribution(0, one_job.key, np.ones(n_steps)) for one_job in done]
    play(
        roster,
        (1, "submitted", (done[0],), [SendPoint(0, POINT), run(done[0], 1)]),
        (2, "arrives", (0,), [Deliver(done[0], COMPLETE)]),
        (2, "is taken", (0,), []),
        (3, "submitted", (done[1],), [run(done[1], 2)]),
        (4, "arrives", (0,), [Deliver(done[1], COMPLETE)]),
        (4, "is taken", (0,), []),
        *([(5, "submitted", (following,), [run(following, 3)])] if is_busy else []),
        (6, "gradients", (), []),
        (6, "is asked", (0, wanted), [RequestGradient(0, wanted)] if is_asked else []),
    )


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
