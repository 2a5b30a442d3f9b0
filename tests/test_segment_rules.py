"""What is decided about rounds of steps without any process: jobs, waits, parts, and steps in arrays."""

import math
from dataclasses import replace

import numpy as np
import pytest
from envs import FixedLengthEnv, LengthFromSeedEnv, NanEnv, PointEnv, make_policy, same

from sb3_nigt.messages import Job, SamplingPoint, Segment, SegmentStart, TrajectoryKey
from sb3_nigt.replica.copying import copy_of
from sb3_nigt.replica.replica import PolicyReplica
from sb3_nigt.sampling.segments import SegmentSampler
from sb3_nigt.sampling.steps import StepTable
from sb3_nigt.timing.clock import WallClock
from sb3_nigt.vec_env.pool.arrays import CONTROL, note_shape
from sb3_nigt.vec_env.pool.infos import InfoWriter, info_room
from sb3_nigt.vec_env.pool.instructions import (
    CancelJob,
    DropSegment,
    Kill,
    LoseSegment,
    Run,
    RunSegment,
    SendPoint,
    SendPrepare,
    StartWorker,
    TakeSegment,
    Warn,
)
from sb3_nigt.vec_env.pool.pieces import PieceWriter, joined, read_pieces, steps_that_count
from sb3_nigt.vec_env.pool.protocol import SegmentArrival
from sb3_nigt.vec_env.pool.restarts import RestartLimits
from sb3_nigt.vec_env.pool.roster import Roster
from sb3_nigt.vec_env.pool.segment_book import Progress, SegmentBook
from sb3_nigt.vec_env.pool.slot import State
from sb3_nigt.vec_env.pool.speeds import Speeds
from sb3_nigt.vec_env.pool.step_rounds import WAITS, predicted_shares, seconds_to_wait

POINTS = [SamplingPoint(round_, np.zeros(1, np.float32)) for round_ in range(3)]


# Jobs of segments, as a table: what happens, what is to be done


def job(worker, round_=0):
    return Job(worker, TrajectoryKey(round_, worker, 0), POINTS[round_], segment_steps=100)


def said(n_steps, made, episodes, cancelled=1):
    return SegmentArrival(1, n_steps, 1, made, episodes, cancelled, 0, 10.0, 12.0)


def run(worker, number, start, round_=0, point_number=1):
    return RunSegment(job(worker, round_), number, point_number, start)


def opened(limits=None):
    roster = Roster("ab", limits or RestartLimits(10, 10), Speeds(np.ones(2)), 60.0)
    for worker in range(2):
        roster.launched(worker, 0, 0)
        roster.replied(worker, 0, 0)
    roster.open()
    roster.new_settings()
    for worker in range(2):
        assert roster.prepare(worker, 0, 0) == [SendPrepare(worker)]
        roster.replied(worker, 0, 0)
    roster.jobs.ever_arrived = True
    return roster


START = SegmentStart()


def test_a_worker_goes_on_where_it_has_stopped():
    roster = opened()
    jobs = roster.jobs
    assert jobs.submit(job(0), 0, 0) == [SendPoint(0, POINTS[0]), run(0, 1, START)]
    assert jobs.cancel() == [CancelJob(0, 1)]
    jobs.counted(0, SegmentStart(7, 2, False))
    assert jobs.submit(job(0, 1), 0, 0) == []  # it has a step to end
    arrived = jobs.arrived(0, said(8, 8, 2), 0, 1)
    expected = [DropSegment(0, POINTS[0], said(8, 8, 2)), SendPoint(0, POINTS[1])]
    assert arrived == [*expected, run(0, 2, SegmentStart(8, 2, False), 1, 2)]


def test_a_worker_without_room_is_read_and_goes_on_in_the_same_round():
    roster = opened()
    jobs = roster.jobs
    jobs.submit(job(0), 0, 0)
    full = said(5, 5, 1, cancelled=0)
    assert jobs.arrived(0, full, 0, 1) == [TakeSegment(job(0), full)]
    assert not jobs.is_busy(0)
    assert jobs.submit(job(0), 0, 1) == [run(0, 2, SegmentStart(5, 1, False))]


def test_what_arrives_after_the_end_of_the_round_is_dropped_although_it_was_complete():
    jobs = opened().jobs
    jobs.submit(job(0), 0, 0)
    jobs.cancel()
    full = said(5, 5, 1, cancelled=0)
    assert jobs.arrived(0, full, 0, 1) == [DropSegment(0, POINTS[0], full)]


@pytest.mark.parametrize("counted", [False, True])
def test_a_worker_that_fails_starts_with_an_episode_that_was_not_tried(counted):
    roster = opened()
    jobs = roster.jobs
    jobs.submit(job(0), 0, 0)
    if counted:
        jobs.cancel()
        jobs.counted(0, SegmentStart(7, 2, False))
    told = roster.failed(0, "exit code -9", 1)
    assert [type(one) for one in told] == ([Kill, Warn] if counted else [Kill, LoseSegment, Warn])
    assert roster.tick(2) == [StartWorker(0)]
    if counted:
        assert jobs.submit(job(0, 1), 0, 2) == []
    roster.launched(0, 0, 2)
    assert roster.replied(0, 0, 3) == [SendPrepare(0)]
    *_, last = roster.replied(0, 0, 4)
    assert last == run(0, 1, SegmentStart(7, 3) if counted else SegmentStart(0, 1), int(counted), 2)


def test_a_lost_worker_has_no_job():
    roster = opened(RestartLimits(0))
    roster.jobs.submit(job(0), 0, 0)
    told = roster.failed(0, "exit code -9", 1)
    assert [type(one) for one in told] == [Kill, LoseSegment, Warn]
    assert roster.slots[0].state is State.LOST
    assert not roster.jobs.is_busy(0)


def test_an_episode_is_left_where_the_environment_is_reset_or_its_state_unknown():
    roster = opened()
    jobs = roster.jobs
    jobs.submit(job(0), 0, 0)
    jobs.cancel()
    jobs.arrived(0, said(8, 8, 2), 0, 1)
    jobs.leave_episodes()
    assert jobs.submit(job(0), 0, 2)[-1].start == SegmentStart(8, 2, True)
    lost, told = roster.unheard(0, 0, 3)
    assert lost == LoseSegment(0)
    assert told.start == SegmentStart(8, 2, True)
    assert roster.unheard(1, 0, 3) == []  # it is idle


def test_trajectories_run_as_before():
    one = Job(0, TrajectoryKey(0, 0, 0), POINTS[0])
    assert opened().jobs.submit(one, 0, 0)[-1] == Run(one, 1, 1)


# How long to wait, and what share of a round is expected


@pytest.mark.parametrize(
    ("counts", "rates", "steps", "expected"),
    [
        ([0, 0], [100.0, 100.0], 1000, 0.005),  # far away
        ([98, 0], [500.0, 0.0], 100, 0.002),  # two steps are made after 4 ms
        ([99, 0], [10_000.0, 0.0], 100, WAITS[0]),  # a step is made after 0.1 ms
        ([0, 0], [0.0, 0.0], 100, 0.005),  # nothing is known to run
    ],
)
def test_wait(counts, rates, steps, expected):
    seconds = seconds_to_wait(np.array(counts), np.array(rates), lambda counts: counts.sum() >= steps)
    assert seconds == expected


@pytest.mark.parametrize(
    ("rates", "steps", "expected"),
    [
        ([1.0, 1.0], 80, [40, 40]),
        ([1000.0, 3000.0], 80, [20, 60]),
        ([1.0, 0.0], 80, [80, 0]),  # one is away
    ],
)
def test_shares(rates, steps, expected):
    shares = predicted_shares(np.array(rates), lambda counts: counts.sum() >= steps)
    np.testing.assert_allclose(shares, expected, rtol=0.03, atol=1)


def test_shares_are_numbers_where_the_round_never_ends():
    assert np.isfinite(predicted_shares(np.array([1.0, 0.0]), lambda counts: False)).all()


# Steps in arrays


class Stepped:
    """A worker's sampler that writes into arrays, and one that does not."""

    def __init__(self, env_class, rows=12):
        env = env_class()
        policy = make_policy(env.observation_space, env.action_space, net_arch=[4])
        replica = PolicyReplica(copy_of(policy, "cpu"))
        self.table = StepTable.of(env.observation_space, replica.head)
        shape, dtype = note_shape(rows)
        self.arrays = {name: np.full(shape, 77, dtype) for name, (shape, dtype) in self.table.shapes(rows).items()}
        self.arrays["notes"] = np.full(shape, np.nan, dtype)
        self.arrays["infos"] = np.zeros(info_room(()), np.uint8)
        self.control = {name: np.zeros(shape, dtype) for name, (shape, dtype) in CONTROL.items()}
        self.seen = []
        self.writer = PieceWriter(self.arrays, self.table, self.control, InfoWriter(self.arrays["infos"], ()))
        self.sampler = SegmentSampler(env, replica.head, 5, 0, None, self.after_step, self.writer)
        self.plain = SegmentSampler(env_class(), replica.head, 5, 0)
        values = np.random.default_rng(0).normal(0.0, 0.5, replica.layout.size).astype(np.float32)
        self.point = SamplingPoint(0, values)
        self.network = replica.network(self.point)
        for sampler in (self.sampler, self.plain):
            sampler.begin(self.point, self.network)

    def after_step(self):
        self.control["made"][0] += 1
        self.seen.append(self.read(0, int(self.control["made"][0])))
        return True

    def read(self, start, stop):
        key = TrajectoryKey(0, 0, 0)
        return read_pieces(self.arrays, self.table, int(self.control["pieces"][0]), start, stop, key, self.point)


@pytest.mark.parametrize("env_class", [LengthFromSeedEnv, PointEnv, FixedLengthEnv])
def test_after_each_step_all_steps_before_it_can_be_read(env_class):
    stepped = Stepped(env_class)
    stepped.sampler.advance(100)
    n_steps = stepped.sampler.n_done
    assert len(stepped.seen) == n_steps
    for made, pieces in enumerate(stepped.seen, start=1):
        stepped.plain.advance(1)
        expected, rest = SegmentSampler.split(stepped.plain, made)
        assert not rest
        assert sum(piece.n_steps for piece in pieces) == made
        whole = joined(pieces)
        again = joined(expected)
        assert len(whole) == len(again)
        assert all(same(*pair) for pair in zip(whole, again, strict=True))


def test_arrays_are_full_when_no_step_fits():
    """Twelve rows: episodes of two steps take three of them."""
    stepped = Stepped(FixedLengthEnv, rows=12)
    stepped.sampler.advance(100)
    assert stepped.sampler.n_done == 8
    assert [piece.n_steps for piece in stepped.read(0, 8)] == [2, 2, 2, 2]
    stepped = Stepped(PointEnv, rows=12)
    stepped.sampler.advance(100)
    assert stepped.sampler.n_done == 12
    assert stepped.writer.n_pieces == 1


def test_any_part_can_be_read():
    stepped = Stepped(LengthFromSeedEnv, rows=40)
    stepped.sampler.advance(100)
    n_steps = stepped.sampler.n_done
    whole = joined(stepped.read(0, n_steps))
    for start in range(n_steps + 1):
        for stop in range(start, n_steps + 1):
            pieces = stepped.read(start, stop)
            assert sum(piece.n_steps for piece in pieces) == stop - start
            assert np.array_equal(
                np.concatenate([np.zeros(0), *(piece.rewards for piece in pieces)]),
                np.concatenate([piece.rewards for piece in whole])[start:stop],
            )
        both = joined([*stepped.read(0, start), *stepped.read(start, n_steps)])
        assert all(same(*pair) for pair in zip(both, whole, strict=True))


def test_rejected_pieces_count_only_before_their_last_step_is_there():
    stepped = Stepped(NanEnv)
    stepped.sampler.advance(2)
    assert stepped.control["rejected"][0] == 2
    (before,) = stepped.read(0, 1)
    assert (before.rejected, before.n_steps) == (None, 1)
    (whole,) = stepped.read(0, 2)
    assert (whole.rejected, whole.n_steps) == ("reward", 2)
    assert [steps_that_count(pieces) for pieces in ([before], [whole])] == [1, 0]


# The book of a round


class OneArray:
    def __init__(self, stepped):
        self.stepped = stepped

    def of(self, worker):
        return self.stepped.arrays


def test_a_round_counts_what_was_made_when_it_was_complete_and_discards_the_rest():
    stepped = Stepped(PointEnv)
    book = SegmentBook(["a"], WallClock(lambda: 3.0))
    book.open(OneArray(stepped), stepped.table)
    book.begin_round(stepped.point)
    book.begun(0, SegmentStart(20, 4, False))
    stepped.sampler.advance(5)

    def progress(made):
        return Progress(np.array([made]), stepped.control["pieces"].copy(), stepped.control["rejected"].copy())

    assert book.counts(progress(3)).tolist() == [3]
    segments, places = book.close_round(progress(3))
    assert segments.counts.tolist() == [3]
    assert segments.segments == (Segment(0, SegmentStart(20, 4, False), 3),)
    assert places == {0: SegmentStart(23, 5, False)}
    stepped.sampler.end()
    book.drop(0, stepped.point, SegmentArrival(1, 5, 1, 25, 5, 1, 0, 0.0, 1.0))
    ((_, began, stopped, late),) = book.take_discarded()
    assert began == stopped == 0.0, "the worker stopped before the round was closed, so nothing was discarded for any time"
    assert (late.n_steps, late.age) == (2, 3)
    assert same(joined([piece for _, piece in segments.pieces] + [late])[0], joined(stepped.read(0, 5))[0])


def test_a_segment_of_two_jobs_begins_where_the_first_one_began():
    """The arrays were full after twelve steps; five more were made by the end of the round."""
    stepped = Stepped(PointEnv)
    book = SegmentBook(["a"], WallClock(lambda: 3.0))
    book.open(OneArray(stepped), stepped.table)
    book.begin_round(stepped.point)
    book.begun(0, SegmentStart(20, 4, False))
    stepped.sampler.advance(12)
    book.take(replace(job(0), point=stepped.point), SegmentArrival(1, 12, 1, 32, 4, 0, 0, 0.0, 1.0))
    book.begun(0, SegmentStart(32, 4, False))
    stepped.writer.begin()
    stepped.sampler.begin(stepped.point, stepped.network)
    stepped.control["made"][0] = 0
    stepped.sampler.advance(5)
    segments, places = book.close_round(Progress(np.array([5]), np.zeros(1, np.int64), np.zeros(1, np.int64)))
    assert segments.segments == (Segment(0, SegmentStart(20, 4, False), 17),)
    assert segments.counts.tolist() == [17]
    assert [(piece.age, piece.n_steps) for _, piece in segments.pieces] == [(0, 17)]
    assert places == {0: SegmentStart(37, 4, False)}


def test_a_part_of_a_worker_that_fails_later_is_discarded():
    stepped = Stepped(PointEnv)
    book = SegmentBook(["a"], WallClock(lambda: 3.0))
    book.open(OneArray(stepped), stepped.table)
    book.begin_round(stepped.point)
    book.begun(0, SegmentStart())
    stepped.sampler.advance(12)
    one_job = replace(job(0), point=stepped.point)
    book.take(one_job, SegmentArrival(1, 12, 1, 12, 1, 0, 0, 0.0, 1.0))
    nothing = Progress(*[np.zeros(1, dtype=np.int64)] * 3)
    assert book.counts(nothing).tolist() == [12]
    assert book.take_due() == [0]
    book.begun(0, SegmentStart(12, 1, False))
    book.lose(0)
    assert book.counts(nothing).tolist() == [0]
    book.begun(0, SegmentStart(12, 2, True))
    segments, _ = book.close_round(nothing)
    assert segments.segments == (Segment(0, SegmentStart(12, 2, True), 0),)
    assert [piece.n_steps for *_, piece in book.take_discarded()] == [12]
    assert math.isclose(segments.counts.sum(), 0)
