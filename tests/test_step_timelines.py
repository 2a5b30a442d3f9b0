"""
Golden timelines, by hand, of rounds of steps on workers apart from the learner: all of the pool but the processes.

The workers are made of lists and make their steps by a clock that moves during waits only; a wait is 5 ms at most, so times
are compared to that.
"""

import math

import numpy as np
import pytest
from envs import PointEnv
from processes import FAILED
from test_driver import Notes, ScriptedHandle, ScriptedTransport
from test_segment_rules import Stepped
from test_step_rounds import each, nothing, total

from sb3_nigt.messages import SamplingPoint, Segment, SegmentStart
from sb3_nigt.timing.clock import WallClock
from sb3_nigt.vec_env.pool import protocol
from sb3_nigt.vec_env.pool.driver import Driver
from sb3_nigt.vec_env.pool.restarts import RestartLimits
from sb3_nigt.vec_env.pool.roster import Roster
from sb3_nigt.vec_env.pool.segment_book import Progress, SegmentBook
from sb3_nigt.vec_env.pool.speeds import Speeds
from sb3_nigt.vec_env.pool.step_rounds import StepRounds

ENV = PointEnv()
DESCRIBED = (ENV.observation_space, ENV.action_space, None, {})


class TimedHandle(ScriptedHandle):
    """Makes one step after the other, each in the same time, and finishes the one that is under way when it is cancelled."""

    def __init__(self, index, now, seconds, dies_at):
        super().__init__(index)
        self.now, self.seconds, self.dies_at, self.job_number = now, seconds, dies_at, None
        self.stepped = Stepped(PointEnv, rows=64)

    def send_command(self, name, *args):
        self.messages.append((protocol.REPLY, None))

    def run_segment(self, job_number, point_number, round_, start, n_steps):
        sampler, control = self.stepped.sampler, self.stepped.control
        control["made"][0] = 0
        self.stepped.writer.begin()
        sampler.go_to(start)
        sampler.begin(SamplingPoint(round_, self.stepped.point.parameters), self.stepped.network)
        self.job_number, self.began, self.limit, self.is_cancelled = job_number, self.now(), n_steps, False

    def cancel(self, job_number):
        self.go_on()
        self.is_cancelled, self.limit = True, self.stepped.sampler.n_done + 1

    def go_on(self):
        """Make the steps that have ended by now."""
        self.alive = self.alive and self.now() < self.dies_at
        if not self.alive or self.job_number is None:
            return
        sampler = self.stepped.sampler
        due = min(self.limit, math.floor((self.now() - self.began) / self.seconds + 1e-9))
        sampler.advance(due - sampler.n_done)
        if sampler.n_done == self.limit:
            sampler.end()
            counts = sampler.n_done, self.stepped.writer.n_pieces, sampler.n_made, sampler.n_episodes
            said = protocol.SegmentArrival(self.job_number, *counts, self.is_cancelled, 0, self.began, self.now())
            self.messages.append((protocol.SEGMENT, said))
            self.job_number = None


class TimedTransport(ScriptedTransport):
    """
    The steps of its workers are seen.

    :param step_times: seconds per step, one per worker
    :param dies_at: when the first process of worker 0 ends
    """

    counters_are_seen = True

    def __init__(self, step_times, dies_at):
        self.step_times, self.dies_at = step_times, dies_at
        super().__init__(len(step_times))

    def _new_handle(self, worker):
        is_restart = len(self.starts) >= self.n_workers
        super()._new_handle(worker)
        dies_at = self.dies_at if worker == 0 and not is_restart else math.inf
        handle = TimedHandle(worker, lambda: self.time, self.step_times[worker], dies_at)
        handle.messages += [(protocol.REPLY, DESCRIBED)] * is_restart  # it describes itself; the first ones have been asked
        return handle

    def ready(self, workers, seconds):
        speaking = super().ready(workers, seconds)
        for handle in self.handles:
            handle.go_on()
        return speaking

    def prepare(self, worker):
        self.handles[worker].send_command("prepare")

    def progress(self):
        of_workers = [handle.stepped.control for handle in self.handles]
        return Progress(*(np.array([control[name][0] for control in of_workers]) for name in ("made", "pieces", "rejected")))


class Arrays:
    def __init__(self, transport):
        self.transport = transport

    def of(self, worker):
        return self.transport.handles[worker].stepped.arrays


def timeline(step_times, rule, n_rounds, dies_at=math.inf):
    """Start, end and counts of each round, steps that it discards, and the segments of the last one."""
    n, transport = len(step_times), TimedTransport(step_times, dies_at)
    roster = Roster("abc"[:n], RestartLimits(10), Speeds(np.ones(n)), timeout=60.0)
    book = SegmentBook("abc"[:n], WallClock(lambda: transport.time))
    driver = Driver(roster, transport, Notes(), book, "abc"[:n])
    transport.start_all()
    for worker in range(n):
        roster.launched(worker, 0, 0.0)
        driver.carry_out(roster.replied(worker, 0, 0.0))
    driver.open(ENV.observation_space, ENV.action_space)
    driver.prepare_idle()
    driver.pump(0.0)
    book.open(Arrays(transport), transport.handles[0].stepped.table)
    roster.jobs.ever_arrived = True
    rounds, steps = StepRounds(driver, book), []
    for number in range(n_rounds):
        start = transport.time
        segments = rounds.run(SamplingPoint(number, np.zeros(1, np.float32)), rule, nothing, None)
        late = sum(piece.n_steps for *_, piece in book.take_discarded())
        steps.append((start, transport.time, segments.counts.tolist(), late))
    return steps, segments.segments


def assert_timeline(found, expected):
    for (start, end, counts, late), by_hand in zip(found, expected, strict=True):
        assert (start, end) == (pytest.approx(by_hand[0], abs=0.02), pytest.approx(by_hand[1], abs=0.02))
        assert (counts, late) == by_hand[2:]


def test_a_tie_counts_for_both():
    """Speeds 1 and 2, three steps: worker 0 ends steps at 1 and 2, worker 1 at 2."""
    found, _ = timeline([1.0, 2.0], total(3), 1)
    assert_timeline(found, [(0, 2, [2, 1], 0)])


def test_a_step_that_is_longer_than_a_round():
    """
    Speeds 1 and 5, three steps a round. Round 0: worker 0 at 1, 2, 3. It has just begun with another step, which ends at 4 and
    counts for nothing, so in round 1 its steps end at 5, 6, 7. The first step of worker 1 ends at 5, in round 1, and is late
    as well; its next one, from 5 to 10, is late for round 1. Round 2: worker 0 ends a late step at 8, and others at 9, 10 and
    11; at 10 worker 1 ends its late one.
    """
    found, _ = timeline([1.0, 5.0], total(3), 3)
    assert_timeline(found, [(0, 3, [3, 0], 0), (3, 7, [3, 0], 2), (7, 11, [3, 0], 2)])


def test_a_slow_worker_that_is_needed_is_waited_for():
    """Speeds 1 and 4, one step of each: the other one has four by then."""
    found, _ = timeline([1.0, 4.0], each(1), 1)
    assert_timeline(found, [(0, 4, [4, 1], 0)])


@pytest.mark.filterwarnings(FAILED)
def test_a_worker_that_dies_in_the_middle_of_a_segment_and_is_needed():
    """
    Worker 0 dies at 2.5, after two steps. A new process is started after 0.1 s; its steps in a new episode end at 3.6, 4.6 and
    5.6. Three of each are complete then; worker 1 has five.
    """
    found, segments = timeline([1.0, 1.0], each(3), 1, dies_at=2.5)
    assert_timeline(found, [(0, 5.6, [3, 5], 0)])
    assert segments == (Segment(0, SegmentStart(0, 1, True), 3), Segment(1, SegmentStart(), 5))


@pytest.mark.filterwarnings(FAILED)
def test_a_worker_that_dies_in_the_middle_of_a_segment_and_is_not_needed():
    """By 4 worker 1 has four steps and the new process of worker 0 one, at 3.6; its second one, at 4.6, is the sixth."""
    found, segments = timeline([1.0, 1.0], total(6), 1, dies_at=2.5)
    assert_timeline(found, [(0, 4.6, [2, 4], 0)])
    assert segments[0] == Segment(0, SegmentStart(0, 1, True), 2)
