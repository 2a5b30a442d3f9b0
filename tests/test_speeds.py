"""
Speeds that are measured where workers run, and schedules that let those run that are quick: no worker is shut out for good.

The timelines are those of simulated workers whose speeds the schedule does not know. Workers have 1 s a trajectory if nothing
else is said.
"""

import heapq
import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
from envs import FixedLengthEnv, prepared, run_rounds, simulated
from hypothesis import given, settings
from hypothesis import strategies as st
from paper import RennalaNIGT

from sb3_nigt import SimulatedVecEnv
from sb3_nigt.aggregators import Malenia, Rennala
from sb3_nigt.algorithms.book import LengthEstimate
from sb3_nigt.distributed.workers import RankWorkers
from sb3_nigt.messages import Job, TrajectoryKey
from sb3_nigt.schedules import Pipelined, Planned
from sb3_nigt.timing import FixedTimes, RandomTimes, ReplayedTimes, SimulatedClock, VaryingTimes
from sb3_nigt.vec_env.pool.speeds import MOST_SURPRISES, PROBING_SHARE, SPREAD, Speeds

both_schedules = pytest.mark.parametrize("schedule", [Planned, Pipelined])


class Run:
    """
    Rounds on simulated workers, one step a trajectory.

    :param times: time model of the workers
    :param n_workers: number of workers
    :param rule: aggregator
    :param schedule: class
    """

    def __init__(self, times, n_workers=3, rule=None, schedule=Planned):
        times.bind(n_workers)
        self.times, self.rule, self.schedule = times, rule or Rennala(n_workers), schedule()
        self.speeds, self.n_workers = Speeds(np.ones(n_workers)), n_workers
        self.lengths = LengthEstimate(1.0, seen=True)
        self.now, self.counts, self.ends = 0.0, [], []
        self._order, self._in_flight = itertools.count(), []

    def rounds(self, n_rounds):
        """Run so many rounds more; return their counts."""
        for _ in range(n_rounds):
            busy = [worker for _, _, worker, _ in self._in_flight]
            self._start(self.schedule.begin(self.rule, len(self.counts), self.now, self._durations(), busy))
            while not self.schedule.complete:
                self.now, _, worker, seconds = heapq.heappop(self._in_flight)
                self.speeds.note(worker, seconds, 1, self.now)
                self.lengths.add(1)
                self._start(self.schedule.accepted(worker, self.now, self._durations()))
            self.counts.append(self.schedule.counts.tolist())
            self.ends.append(self.now)
        return self.counts[-n_rounds:]

    def _durations(self):
        busy = {worker for _, _, worker, _ in self._in_flight}
        idle = [worker for worker in range(self.n_workers) if worker not in busy]
        return self.speeds.aged(self.lengths.mean, idle) * self.lengths.mean

    def _start(self, starts):
        for start in starts:
            number = next(self._order)
            seconds = self.times.unit_time(start.worker, self.now, number)
            heapq.heappush(self._in_flight, (self.now + seconds, number, start.worker, seconds))


def slow_between(begin, end, factor, n_workers=3):
    """The last worker is slow in a trajectory that it begins between two times."""
    return VaryingTimes(lambda now: [1.0] * (n_workers - 1) + [factor if begin <= now < end else 1.0])


def rounds_with(run, worker):
    return [number for number, counts in enumerate(run.counts) if counts[worker]]


# Timelines


@both_schedules
def test_slow_once(schedule):
    """In the round from 5 s to 105 s; the next one has a trajectory of each worker again."""
    run = Run(slow_between(5, 6, 100.0), schedule=schedule)
    run.rounds(12)
    assert run.counts == [[1, 1, 1]] * 12 if schedule is Planned else sum(map(np.array, run.counts[6:])).min() >= 5
    if schedule is Planned:
        assert run.ends == [1, 2, 3, 4, 5, *range(105, 112)]


def test_slow_once_at_the_very_first():
    """
    Nothing else is known of it, so it counts as slow, 9 s. The others need 2 s a round for three.

    It is left out when it has been idle for 9 s, as long as a trajectory would take it; in another 9 s it ages to 1 s. It gets
    one when 1 + 8 · (1 - age) is at most the 2 s that the others need: at an age of 7/8, after 9 · 15/8 = 16.9 s, so in the
    tenth round after its first one. It is quick, and keeps its age, so that it has its share from then on.
    """
    run = Run(ReplayedTimes([[1.0], [1.0], [9.0, 1.0]]))
    run.rounds(20)
    assert run.counts == [[1, 1, 1]] + [[2, 1, 0]] * 9 + [[1, 1, 1]] * 10


def test_slow_for_a_while():
    """
    50 s a trajectory from 5 s to 200 s. One slow trajectory may be an accident: 1.05 s; after two the worker is left out.

    It is tried once more within that time, from 131 s to 181 s, which three in a row make sure that it is slow. Then it takes
    six times as long until it is tried, by when it is quick.
    """
    run = Run(slow_between(5, 200, 50.0))
    run.rounds(40)
    assert rounds_with(run, 2) == [0, 1, 2, 3, 4, 5, 6, 20]
    while run.counts[-1] != [1, 1, 1]:
        run.rounds(1)
    back = len(run.counts)
    assert run.ends[-1] < 200 + 50 * 2.0**MOST_SURPRISES
    assert run.rounds(30) == [[1, 1, 1]] * 30
    assert back == 168


def test_slow_for_ever():
    """The more often it was slow, the longer it is left alone, up to the sixteen-fold of what it costs."""
    run = Run(FixedTimes([1.0, 1.0, 50.0]))
    run.rounds(3000)
    tried = rounds_with(run, 2)
    assert tried[:5] == [0, 51, 126, 250, 472]
    assert np.diff(tried)[5:].tolist() == [418] * len(np.diff(tried)[5:])


def test_slow_in_turns():
    """Each worker is 20 times slower for 1000 s, then the next one. After half of that it is left out, the others are not."""
    run = Run(VaryingTimes(lambda now: [20.0 if int(now // 1000) % 3 == worker else 1.0 for worker in range(3)]))
    while run.now < 9000:
        run.rounds(1)
    takes_part, ends = np.array(run.counts) > 0, np.array(run.ends)
    for turn in range(1, 9):
        share = takes_part[(1000 * turn + 500 < ends) & (ends < 1000 * (turn + 1))].mean(axis=0)
        assert share[turn % 3] < 0.02
        assert np.delete(share, turn % 3).min() > 0.95


def test_slow_every_other_time():
    """It takes 25.5 s in the mean, and is left alone for the sixteen-fold of that in the end."""
    run = Run(ReplayedTimes([[1.0], [1.0], [1.0, 50.0] * 100]))
    run.rounds(4000)
    assert run.now < 1.25 * 2 * 4000
    assert run.speeds.measured()[2] == pytest.approx(25.5, rel=0.3)


@both_schedules
def test_one_long_trajectory_shuts_no_worker_out(schedule):
    """
    Lengths are predicted by one mean for all workers. After one trajectory of 10^5 steps all durations are predicted to be
    10^4 times as long: the workers go on as before, and one that is left out comes back as without it.
    """
    run = Run(slow_between(5, 200, 50.0), schedule=schedule)
    run.rounds(4)
    run.lengths.add(10**5)
    run.rounds(2)
    assert np.sum(run.counts[4:], axis=0).min() >= 1
    while run.now < 200:
        run.rounds(1)
    run.lengths.add(10**5)
    while run.now < 200 + 50 * 2.0**MOST_SURPRISES:
        run.rounds(1)
    np.testing.assert_allclose(np.sum(run.rounds(30), axis=0), 30, rtol=0.2)


@pytest.mark.parametrize("schedule", ["planned", "pipelined"])
def test_the_algorithms_ask_for_the_speeds_at_every_start(schedule):
    """The whole way from a model to its workers: the counts of a worker that was slow once."""

    class MeasuredVecEnv(SimulatedVecEnv):
        speeds = Speeds(np.ones(3))

        def next_arrival(self):
            arrival, trajectory = super().next_arrival()
            self.speeds.note(arrival.worker, arrival.finished_at - arrival.started_at, arrival.n_steps, self.clock.now())
            return arrival, trajectory

        def predicted_durations(self, n_steps):
            return n_steps * self.speeds.aged(n_steps, [worker for worker in range(3) if not self.busy(worker)])

    env = MeasuredVecEnv([lambda: FixedLengthEnv(2)] * 3, slow_between(5, 6, 100.0))
    model = RennalaNIGT("MlpPolicy", env, n_trajectories=3, schedule=schedule, seed=0, policy_kwargs={"net_arch": [2]})
    counts = [report.counts for report in run_rounds(model, 12)]
    assert sum(counts[6:]).tolist() == [6, 6, 6]


# Whatever happens


@settings(deadline=None, max_examples=30)
@given(
    st.integers(2, 6),
    st.floats(2.0, 50.0),
    st.integers(1, 6),
    st.integers(1, 3),
    st.sampled_from([Planned, Pipelined]),
)
def test_a_worker_that_is_quick_again_gets_its_share_again(n_workers, factor, n_slow, per_worker, schedule):
    """
    It was slow for some trajectories; from the last one on it is as quick as the others.

    It is tried again when it has been idle for 1 + 2^4 of its slow trajectories at the latest, and then at once until its
    share is back.
    """
    times = ReplayedTimes([[1.0]] * (n_workers - 1) + [[1.0] * 5 + [factor] * n_slow + [1.0]])
    run = Run(times, n_workers, Rennala(n_workers * per_worker), schedule)
    delivered = 0
    while delivered < 5 + n_slow:
        delivered += run.rounds(1)[0][-1]
    bound = run.now + (2 + 2**MOST_SURPRISES) * SPREAD * factor + 2 * n_workers * per_worker
    while run.now < bound:
        run.rounds(1)
    shares = np.sum(run.rounds(40), axis=0)
    assert shares[-1] == pytest.approx(40 * per_worker, rel=0.2)


@pytest.mark.slow
@settings(deadline=None, max_examples=10)
@given(st.integers(2, 6), st.integers(1, 3), st.floats(5.0, 40.0), st.integers(1, 3), st.sampled_from([Planned, Pipelined]))
def test_what_workers_that_stay_slow_cost(n_quick, n_slow, factor, per_worker, schedule):
    """
    Three trajectories each to see it and four to be sure; then not more than the stated share of the time.

    The factors of the slow ones differ, so that they are not tried together.
    """
    factors = [factor * (1 + 0.1 * k) for k in range(n_slow)]
    n_workers, rule = n_quick + n_slow, Rennala(per_worker * (n_quick + n_slow))
    run, alone = Run(FixedTimes([1.0] * n_quick + factors), n_workers, rule, schedule), Run(FixedTimes(1.0), n_quick, rule)
    n_rounds = 400
    run.rounds(n_rounds)
    alone.rounds(n_rounds)
    until_sure = sum((3 + MOST_SURPRISES) * one for one in factors)
    assert run.now <= alone.now * (1 + SPREAD * PROBING_SHARE) + until_sure


def test_several_workers_that_stay_slow_share_what_they_cost():
    """The quick ones need 3 s for the five trajectories of a round; together the three slow ones add a sixteenth to that."""
    run = Run(FixedTimes([1.0, 1.0, 20.0, 23.0, 26.0]), 5)
    run.rounds(1000)
    began, n_rounds = run.now, 2000
    tried = np.count_nonzero(np.array(run.rounds(n_rounds))[:, 2:], axis=0)
    assert tried.min() > 1
    assert run.now - began <= 3 * n_rounds * (1 + PROBING_SHARE)


@settings(deadline=None)
@given(st.lists(st.floats(0.5, 20.0), min_size=1, max_size=6), st.integers(1, 30))
def test_known_speeds_are_left_as_they_are(step_times, m):
    """An estimate of constant data is the constant, to the last bit, while no worker is idle for long."""
    run = Run(FixedTimes(step_times), len(step_times), Rennala(m))
    run.rounds(10)
    seen = np.array(run.counts).sum(axis=0) > 0
    np.testing.assert_array_equal(run.speeds.measured()[seen], np.array(step_times)[seen])


def test_workers_of_different_tasks_are_not_taken_for_quick():
    """The slow one is needed in every round and never idle for as long as one of its trajectories takes: nothing ages."""
    run = Run(FixedTimes([1.0, 10.0]), 2, Malenia(20, (0, 1)))
    assert run.rounds(20)[1:] == [[59, 6]] * 19


def test_noise_shuts_no_worker_out():
    run = Run(RandomTimes(1.0, variation=0.5), 4, Rennala(8))
    run.rounds(500)
    shares = np.array(run.counts).sum(axis=0) / (500 * 8)
    np.testing.assert_allclose(shares, 0.25, rtol=0.1)


# Ranks


def test_a_worker_of_a_rank_waits_over_several_rounds():
    """Until it has a trajectory: the clock of the rank goes on from round to round."""
    ranks = SimpleNamespace(rank=0, line=SimpleNamespace(stepping=lambda busy: None))
    workers = RankWorkers(simulated([2, 2]), ranks, [3], (0, 0, 0))
    workers.clock = clock = SimulatedClock()
    workers._idle_since = {1: 0.0, 2: 0.0}
    _, point = prepared(workers, env=workers.inner)
    clock.advance_to(5.0)
    workers.submit(Job(1, TrajectoryKey(0, 1, 0), point))
    clock.advance_to(8.0)
    assert workers.next_arrival()[0].worker == 1
    assert [workers.waited(worker) for worker in workers.idle()] == [0.0, 8.0]
    workers.submit(Job(1, TrajectoryKey(0, 1, 1), point))
    clock.advance_to(9.0)
    workers.cancel()  # the end of a round
    clock.advance_to(10.0)
    assert [workers.waited(worker) for worker in workers.idle()] == [1.0, 10.0]


# One estimate


def measured(*seconds):
    speeds = Speeds(np.ones(1))
    for k, value in enumerate(seconds):
        speeds.note(0, value, 1, now=float(k))
    return float(speeds.measured()[0])


def test_the_first_trajectory_is_all_that_is_known():
    assert math.isnan(measured())
    assert measured(7.0) == 7.0


def test_a_running_mean():
    """1 + 0.1 · (1.2 - 1) = 1.02."""
    assert measured(1.0, 1.2) == pytest.approx(1.02)


def test_one_outlier_counts_as_half_as_slow_again():
    """1 + 0.1 · (1.5 - 1), however large it is."""
    assert measured(1.0, 1.0, 100.0) == measured(1.0, 1.0, 1e6) == pytest.approx(1.05)
    assert measured(1.0, 100.0) == pytest.approx(1.05)


def test_two_in_a_row_count_in_full_and_three_overrule_the_mean():
    """1.05 + 0.1 · (100 - 1.05) = 10.945; then at least 100 / 1.5."""
    assert measured(1.0, 1.0, 100.0, 100.0) == pytest.approx(10.945)
    assert measured(1.0, 1.0, 100.0, 100.0, 100.0) == pytest.approx(100 / 1.5)
    assert measured(100.0, 1.0, 1.0, 1.0) == pytest.approx(1.5)


def test_outliers_that_are_frequent_count_in_full():
    """The second one within ten trajectories counts as twice as much, the third as four times."""
    ones = [1.0] * 4
    second = measured(*ones, 100.0, *ones, 100.0) - measured(*ones, 100.0, *ones)
    third = measured(*ones, 100.0, *ones, 100.0, *ones, 100.0) - measured(*ones, 100.0, *ones, 100.0, *ones)
    assert second == pytest.approx(0.1 * (3 - measured(*ones, 100.0, *ones)))
    assert third == pytest.approx(0.1 * (6 - measured(*ones, 100.0, *ones, 100.0, *ones)))
    calm = [1.0] * 10
    rare = measured(*ones, 100.0, *calm, 100.0) - measured(*ones, 100.0, *calm)
    assert rare == pytest.approx(0.1 * (1.5 - measured(*ones, 100.0, *calm)))


def test_time_in_which_no_worker_works_ages_nothing():
    """As during an evaluation: worker 1 would be left out after 10 s of the others' work, and 1000 s pass without any."""
    speeds = Speeds(np.ones(2))
    speeds.note(0, 1.0, 1, now=1.0)
    speeds.note(1, 10.0, 1, now=10.0)
    speeds.note(0, 1.0, 1, now=1010.0)
    assert speeds.aged(1.0, [0, 1]).tolist() == [1.0, 10.0]
    for k in range(20):
        speeds.note(0, 1.0, 1, now=1011.0 + k)
    assert speeds.aged(1.0, [0, 1]).tolist() == [1.0, 1.0]
    assert speeds.aged(1.0, [0]).tolist() == [1.0, 10.0]  # worker 1 is busy with it: it is as slow as it is
