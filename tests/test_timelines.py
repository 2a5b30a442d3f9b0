"""Golden timelines: who arrives when, worked out by hand. Arrivals are ordered by time, equal times by who started first."""

from functools import partial

import numpy as np
import pytest
from envs import FixedLengthEnv, NeverEndingEnv, ScriptedLengthEnv, run_rounds, simulated
from paper import MaleniaNIGT, RennalaNIGT, SyncNIGT
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_nigt import AFedPG, RennalaPG, SyncPG
from sb3_nigt.messages import TrajectoryKey

both_schedules = pytest.mark.parametrize("schedule", ["first_finished", "planned"])


def train(algorithm, env, n_rounds, n_steps=10, **kwargs):
    model = algorithm("MlpPolicy", env, horizon=n_steps, seed=0, device="cpu", policy_kwargs={"net_arch": [2]}, **kwargs)
    return model, run_rounds(model, n_rounds)


def order(report):
    return [arrival.worker for arrival in report.arrivals]


def ends(report):
    return [arrival.finished_at for arrival in report.arrivals]


def span(report):
    return report.started_at, report.finished_at


def discarded(report):
    return [(d.worker, d.n_steps, d.started_at) for d in report.discarded]


# Rennala


@both_schedules
def test_rennala_on_three_speeds(schedule):
    """
    h = 1, 2, 5 s a step, 2 steps an episode: τ = 2, 4, 10. M = 5.

    Ends: 2 (w0), 4 (w1, started at 0), 4 (w0, started at 2), 6 (w0), 8 (w1, started at 4; the fifth). At 8 first_finished has
    in flight w0 since 6 (its two steps end at 8) and w2 since 0 (one step, until 5). Planned: w2 could not be back before 10.
    """
    model, reports = train(RennalaNIGT, simulated([2, 2, 2], [1, 2, 5]), 3, n_trajectories=5, schedule=schedule)
    for number, report in enumerate(reports):
        begin = 8.0 * number
        assert report.round == number
        assert report.counts.tolist() == [3, 2, 0]
        assert report.weights.tolist() == [0.2, 0.2, 0.0]
        assert order(report) == [0, 1, 0, 0, 1]
        assert ends(report) == [begin + t for t in (2, 4, 4, 6, 8)]
        assert [a.started_at for a in report.arrivals] == [begin + t for t in (0, 0, 2, 4, 4)]
        assert all(a.arrived_at == a.finished_at and a.n_steps == 2 and a.staleness == 0 for a in report.arrivals)
        assert span(report) == (begin, begin + 8)
        assert report.used_steps == 10
        assert discarded(report) == ([(0, 2, begin + 6), (2, 1, begin)] if schedule == "first_finished" else [])
        assert report.discarded_steps == (3 if schedule == "first_finished" else 0)
    assert model.num_timesteps == 3 * (13 if schedule == "first_finished" else 10)


@pytest.mark.parametrize(
    ("m", "time", "workers", "void"),
    [
        # Equal speeds, n = 3, τ = 2: at 2 the workers arrive in the order of their indices, at 4 again. "void" is what
        # first_finished had in flight when the round was complete: worker, steps, start.
        (1, 2.0, [0], [(1, 2, 0.0), (2, 2, 0.0)]),  # M < n; the steps of the others end at the same time
        (2, 2.0, [0, 1], [(0, 0, 2.0), (2, 2, 0.0)]),
        (3, 2.0, [0, 1, 2], [(0, 0, 2.0), (1, 0, 2.0)]),  # M = n
        (4, 4.0, [0, 1, 2, 0], [(1, 2, 2.0), (2, 2, 2.0)]),  # not a multiple of n
        (6, 4.0, [0, 1, 2, 0, 1, 2], [(0, 0, 4.0), (1, 0, 4.0)]),
    ],
)
@both_schedules
def test_rennala_on_equal_speeds(schedule, m, time, workers, void):
    _, reports = train(RennalaNIGT, simulated([2, 2, 2]), 2, n_trajectories=m, schedule=schedule)
    for begin, report in zip((0.0, time), reports, strict=True):
        assert order(report) == workers
        assert span(report) == (begin, begin + time)
        assert report.used_steps == 2 * m
        shifted = [(worker, steps, begin + start) for worker, steps, start in void]
        assert discarded(report) == (shifted if schedule == "first_finished" else [])


@both_schedules
def test_rennala_does_not_wait_for_a_worker_1000_times_slower(schedule):
    """h = 1, 1, 1000, 2 steps: w0 and w1 at 2 and at 4 make M = 4; w2 has not made a step by then."""
    _, reports = train(RennalaNIGT, simulated([2, 2, 2], [1, 1, 1000]), 2, n_trajectories=4, schedule=schedule)
    for begin, report in zip((0.0, 4.0), reports, strict=True):
        assert report.counts.tolist() == [2, 2, 0]
        assert order(report) == [0, 1, 0, 1]
        assert span(report) == (begin, begin + 4)
        assert report.discarded_steps == 0
        assert [d[0] for d in discarded(report)] == ([0, 2] if schedule == "first_finished" else [])


@both_schedules
def test_rennala_with_workers_whose_trajectories_differ_in_length(schedule):
    """
    One second per step, 2 and 6 steps, M = 3: w0 at 2 and 4; at 6 w1, which started at 0, before w0, which started at 4.

    Planned: one ticket is left at 2, when one length of 2 has been seen: w0 back at 4, w1 expected at 2 and then at 4.
    """
    _, (report,) = train(RennalaNIGT, simulated([2, 6]), 1, n_trajectories=3, schedule=schedule)
    assert order(report) == [0, 0, 1]
    assert ends(report) == [2.0, 4.0, 6.0]
    assert report.used_steps == 10
    assert discarded(report) == ([(0, 2, 4.0)] if schedule == "first_finished" else [])


@both_schedules
def test_time_per_trajectory(schedule):
    """
    h = 2, 3 s a trajectory of 3, 7 steps, M = 3: ends 2 (w0), 3 (w1), 4 (w0), whatever the lengths.

    At 4 first_finished has in flight w1 since 3: a third of its time, 7/3 steps, two of them complete.
    """
    env = simulated([3, 7], [2, 3], per="trajectory")
    _, reports = train(RennalaNIGT, env, 2, n_trajectories=3, schedule=schedule)
    for begin, report in zip((0.0, 4.0), reports, strict=True):
        assert order(report) == [0, 1, 0]
        assert ends(report) == [begin + t for t in (2, 3, 4)]
        assert report.used_steps == 13
        assert discarded(report) == ([(1, 2, begin + 3)] if schedule == "first_finished" else [])


@pytest.mark.parametrize(
    ("schedule", "second_round"),
    [
        # Both start at 4. Episodes of w0: one step each, at 5, 6, 7; w1 is in an episode of 6 steps and 3 of them are dropped.
        ("first_finished", ([0, 0, 0], [5.0, 6.0, 7.0], 3, 3)),
        # Both get a ticket at 4 and one is left. At 5 w0 is back. The mean length is 1, 1.1, 1.39 after 1, 2, 4 and then
        # 0.9 · 1.39 + 0.1 = 1.351: w0 could be back at 6.351, w1 only at 4 + 2 · 1.351 = 6.702. The long one counts, at 10.
        ("planned", ([0, 0, 1], [5.0, 6.0, 10.0], 8, 0)),
    ],
)
def test_long_episodes_are_dropped_by_first_finished_and_kept_by_planned(schedule, second_round):
    """
    One second per step, M = 3. Episodes of w0: 4, then 1, 1, …; of w1: 1, 2, then 6, 6, ….

    First round, both schedules: w1 at 1 and 3, w0 at 4. first_finished has started an episode of w1 at 3, one step lost.
    """
    env = simulated([partial(ScriptedLengthEnv, (4, 1)), partial(ScriptedLengthEnv, (1, 2, 6))])
    _, (first, second) = train(RennalaNIGT, env, 2, n_trajectories=3, schedule=schedule)
    assert order(first) == [1, 1, 0]
    assert ends(first) == [1.0, 3.0, 4.0]
    assert (first.used_steps, first.discarded_steps) == (7, 1 if schedule == "first_finished" else 0)
    assert (order(second), ends(second), second.used_steps, second.discarded_steps) == second_round


class FailsOnceEnv(FixedLengthEnv):
    """The reward at the end of the first episode is not a number."""

    def step(self, action):
        observation, reward, *rest = super().step(action)
        return observation, float("nan") if self.n_steps_executed == self.length else reward, *rest


@both_schedules
def test_rejected_trajectory_is_replaced(schedule):
    """
    τ = 2 twice, M = 3: at 2 w0 arrives, then w1, rejected. Both start again and arrive at 4 in this order.

    Planned: w0 has the third ticket. The fourth, number 3 = 1 · 2 + 1, replaces the second: the second one of stream 1.
    """
    env = simulated([2, partial(FailsOnceEnv, 2)])
    _, (report,) = train(RennalaNIGT, env, 1, n_trajectories=3, schedule=schedule)
    assert order(report) == [0, 0, 1]
    assert ends(report) == [2.0, 4.0, 4.0]
    assert [(a.worker, a.rejected, a.finished_at) for a in report.rejected] == [(1, "reward", 2.0)]
    assert [a.key for a in report.arrivals] == [TrajectoryKey(0, w, k) for w, k in ((0, 0), (0, 1), (1, 1))]
    assert (report.used_steps, report.discarded_steps) == (6, 2)


# Messages


@pytest.mark.parametrize("algorithm", [RennalaNIGT, RennalaPG])
@both_schedules
def test_aggregation_takes_the_slowest_message_of_those_who_contributed(schedule, algorithm):
    """The round of 8 s above, κ = 0.5, 3, 100: w0 and w1 contribute, 3 s more. The next round starts at 11."""
    env = simulated([2, 2, 2], [1, 2, 5], [0.5, 3, 100])
    _, reports = train(algorithm, env, 2, n_trajectories=5, schedule=schedule)
    assert [span(r) for r in reports] == [(0.0, 11.0), (11.0, 22.0)]
    assert [ends(r)[-1] for r in reports] == [8.0, 19.0]
    assert all(d.stopped_at == end for r, end in zip(reports, (8.0, 19.0), strict=True) for d in r.discarded)


@pytest.mark.parametrize("algorithm", [SyncNIGT, SyncPG])
def test_synchronous_waits_for_the_slowest(algorithm):
    """τ = 2, 4, 10, M = 5: ⌈5/3⌉ = 2 from everybody, w2 at 10 and 20; then max κ = 7 s. At 4 w1 started before w0."""
    env = simulated([2, 2, 2], [1, 2, 5], [0.5, 3, 7])
    model, reports = train(algorithm, env, 2, n_trajectories=5)
    for begin, report in zip((0.0, 27.0), reports, strict=True):
        assert report.counts.tolist() == [2, 2, 2]
        assert report.weights.tolist() == [1 / 6] * 3
        assert order(report) == [0, 1, 0, 1, 2, 2]
        assert ends(report) == [begin + t for t in (2, 4, 4, 8, 10, 20)]
        assert span(report) == (begin, begin + 27)
        assert (report.used_steps, report.discarded_steps, report.discarded) == (12, 0, ())
    assert model.num_timesteps == 24


# Malenia


@both_schedules
def test_malenia_waits_until_the_slow_task_has_enough(schedule):
    """
    τ = 1, 10, M = 20: Σ 1/c ≤ 4/20. Before 60: (59, 5) has 0.217. At 60 w1 (since 50) comes before w0 (since 59): (59, 6).

    first_finished: the step of w0 from 59 to 60 is void.
    """
    _, reports = train(MaleniaNIGT, simulated([1, 1], [1, 10]), 2, n_trajectories=20, schedule=schedule)
    for begin, report in zip((0.0, 60.0), reports, strict=True):
        assert report.counts.tolist() == [59, 6]
        assert report.weights.tolist() == [1 / 118, 1 / 12]
        assert span(report) == (begin, begin + 60)
        expected = sorted([(t, t - 1, 0) for t in range(1, 60)] + [(t, t - 10, 1) for t in range(10, 61, 10)])
        assert order(report) == [worker for _, _, worker in expected]
        assert discarded(report) == ([(0, 1, begin + 59)] if schedule == "first_finished" else [])


@both_schedules
def test_malenia_pools_workers_of_one_task(schedule):
    """
    Tasks a, a, b; τ = 1, 2, 3; M = 6, K = 2: 1/M_a + 1/M_b ≤ 4/6.

    1: w0. 2: w1 (since 0), w0. 3: w2 (since 0), w0. 4: w1 (since 2), w0. 5: w0, (7, 1) has 1.14. 6: w2 (since 3), (7, 2)
    has 0.64. Planned: seven tickets for a; the last is offered at 4, first to w1 (back at 6, w0 at 5: no), then to w0.
    """
    env = simulated([1, 1, 1], [1, 2, 3], [1, 4, 2], task_ids=["a", "a", "b"])
    _, (report,) = train(MaleniaNIGT, env, 1, n_trajectories=6, schedule=schedule)
    assert report.counts.tolist() == [5, 2, 2]
    assert report.weights.tolist() == [1 / 14, 1 / 14, 1 / 4]
    assert order(report) == [0, 1, 0, 2, 0, 1, 0, 0, 2]
    assert [a.task_id for a in report.arrivals] == list("aaabaaaab")
    assert ends(report) == [1, 2, 2, 3, 3, 4, 4, 5, 6]
    assert span(report) == (0.0, 10.0)  # 6 and max κ = 4
    assert discarded(report) == ([(0, 1, 5.0), (1, 1, 4.0)] if schedule == "first_finished" else [])


# AFedPG


def test_afedpg_updates_at_every_arrival():
    """
    2 steps of h = 1, 2 and messages of κ = 1, 0: w0 needs 2 + 1, w1 needs 4. Only the sender starts again.

    Arrivals: 3 (w0), 4 (w1), 6 (w0), 8 (w1), 9 (w0), 12 (w1, since 8), 12 (w0, since 9). Nothing had been updated when the
    first one arrived; all others see exactly one update of the other worker between their start and their arrival.
    """
    model, reports = train(AFedPG, simulated([2, 2], [1, 2], [1, 0]), 7)
    assert [order(r) for r in reports] == [[0], [1], [0], [1], [0], [1], [0]]
    arrivals = [r.arrivals[0] for r in reports]
    assert [a.started_at for a in arrivals] == [0, 0, 3, 4, 6, 8, 9]
    assert [a.finished_at for a in arrivals] == [2, 4, 5, 8, 8, 12, 11]
    assert [a.arrived_at for a in arrivals] == [3, 4, 6, 8, 9, 12, 12]
    assert [a.staleness for a in arrivals] == [0, 1, 1, 1, 1, 1, 1]
    assert [span(r) for r in reports] == [(0, 3), (3, 4), (4, 6), (6, 8), (8, 9), (9, 12), (12, 12)]
    # the round is that of the point it was sampled at: w0 got the points 0, 1, 3, 5, w1 the points 0, 2, 4
    assert [a.key.round for a in arrivals] == [0, 0, 1, 2, 3, 4, 5]
    assert all((r.used_steps, r.discarded_steps, r.discarded) == (2, 0, ()) for r in reports)
    assert model.num_timesteps == 14


def test_afedpg_first_direction_is_a_mean():
    """
    τ = 2, 4 and M_init = 3: 2 (w0), 4 (w1, since 0), 4 (w0). At 4 w1 has started again, still at θ_0, before the update.

    Then 6 (w0, started at 4 after the update), 8 (w1, since 4, two updates behind), 8 (w0, since 6, one update behind).
    """
    _, reports = train(AFedPG, simulated([2, 2], [1, 2]), 4, n_initial_trajectories=3)
    assert [order(r) for r in reports] == [[0, 1, 0], [0], [1], [0]]
    assert reports[0].weights.tolist() == [1 / 3, 1 / 3]
    assert [r.finished_at for r in reports] == [4, 6, 8, 8]
    assert [r.arrivals[0].staleness for r in reports] == [0, 0, 2, 1]


def test_first_round_may_have_another_size():
    """τ = 2, 2: M_init = 5 takes 6 s (2, 2, 4, 4, 6), then M = 2 takes 2 s."""
    _, reports = train(RennalaNIGT, simulated([2, 2]), 3, n_trajectories=2, n_initial_trajectories=5)
    assert [r.counts.tolist() for r in reports] == [[3, 2], [1, 1], [1, 1]]
    assert [span(r) for r in reports] == [(0, 6), (6, 8), (8, 10)]


# Plain VecEnvs


@pytest.mark.parametrize(
    ("schedule", "m", "n_steps", "workers", "times", "used"),
    [
        # Environments of 2 and 3 steps, one second each for both. Ends 2 (w0), 3 (w1), 4 (w0); w1 makes a step for nothing.
        ("first_finished", 3, 10, [0, 1, 0], [2, 3, 4], 7),
        ("planned", 3, 10, [0, 1, 0], [2, 3, 4], 7),
        # Horizon 2: w1 is cut at 2 in the middle of its episode, w0 ends there: all are reset together, no worker waits.
        ("first_finished", 4, 2, [0, 1, 0, 1], [2, 2, 4, 4], 8),
    ],
)
def test_plain_vec_env(schedule, m, n_steps, workers, times, used):
    env = DummyVecEnv([partial(FixedLengthEnv, 2), partial(FixedLengthEnv, 3)])
    model, reports = train(RennalaNIGT, env, 2, n_steps, n_trajectories=m, schedule=schedule)
    for begin, report in zip((0, times[-1]), reports, strict=True):
        assert order(report) == workers
        assert ends(report) == [begin + t for t in times]
        assert report.used_steps == used
        assert report.used_steps + report.discarded_steps == 2 * times[-1]
    assert model.num_timesteps == 2 * 2 * times[-1]


def test_plain_vec_env_waits_for_an_episode_start():
    """
    Episodes of 5 and 2 steps, H = 3, M = 5: 2 (w1), 3 (w0, cut), 4 (w1). At 3 w0 has to wait for the end of its episode at 5.

    At 4 no worker is in mid-trajectory: all are reset. Then 6 (w1) and 7 (w0), the fifth. Used are 3 + 3 + 2 · 3 of
    14 steps.
    """
    env = DummyVecEnv([partial(FixedLengthEnv, 5), partial(FixedLengthEnv, 2)])
    _, (report,) = train(RennalaNIGT, env, 1, 3, n_trajectories=5, schedule="first_finished")
    assert order(report) == [1, 0, 1, 1, 0]
    assert ends(report) == [2, 3, 4, 6, 7]
    assert (report.used_steps, report.discarded_steps) == (12, 2)


def test_afedpg_on_a_plain_vec_env():
    """Two episodes of 2 steps end together: two updates one after the other at 2, 4, 6, the second of each pair stale."""
    _, reports = train(AFedPG, DummyVecEnv([partial(FixedLengthEnv, 2)] * 2), 6)
    assert [order(r) for r in reports] == [[0], [1]] * 3
    assert [r.finished_at for r in reports] == [2, 2, 4, 4, 6, 6]
    assert [r.arrivals[0].staleness for r in reports] == [0, 1, 1, 1, 1, 1]


def test_one_step_of_all_takes_as_long_as_the_slowest():
    """The synchronous API, for PPO: h = 1, 2, 5, three steps. A reset is free."""
    env = simulated([2, 2, 2], [1, 2, 5])
    env.reset()
    for step in range(1, 4):
        env.step(np.zeros((3, 1), dtype=np.float32))
        assert env.clock.now() == 5.0 * step


def test_one_worker_is_sequential():
    """H = 3 and no end: M = 2 trajectories one after the other."""
    _, reports = train(RennalaNIGT, simulated([NeverEndingEnv], 2.0), 2, 3, n_trajectories=2)
    assert [ends(r) for r in reports] == [[6, 12], [18, 24]]


# Pipelined


def test_rennala_pipelined_on_three_speeds():
    """
    h = 1, 2, 5 s a step, 2 steps an episode: τ = 2, 4, 10. M = 5.

    Round 0: w0 and w1 start at 0. w2 would be back at 10, too late for this round, whose three other tickets w0 and w1 begin
    at 2, 4 and 4. But without it they would be busy with this and the next round until 14 (w0 at 4, 6, 8, 10, 12, 14; w1 at
    8, 12), so at 0 it begins with round 1. At 6 w0 has nothing left either: it begins with round 1, too. w1 ends it at 8.
    Round 1: w1 (until 12) and, after its early trajectory at 8, w0 (until 10). At 10 w2 is back; w0 and w1 could do what is
    left of rounds 1 and 2 until 20, and so could it: round 2 for it, the last ticket of round 1 for w0. At 12 w1 is back, and
    waits, since w0 is expected at that very moment.
    Round 2: w0 until 14 and 16, w1 until 16 and 20 (just as late as w2). At 16 and 18 w0 begins with round 3.
    """
    model, reports = train(RennalaNIGT, simulated([2, 2, 2], [1, 2, 5]), 3, n_trajectories=5, schedule="pipelined")
    assert [span(report) for report in reports] == [(0, 8), (8, 12), (12, 20)]
    assert [order(report) for report in reports] == [[0, 1, 0, 0, 1], [0, 2, 0, 1, 0], [0, 1, 0, 2, 1]]
    assert [ends(report) for report in reports] == [[2, 4, 4, 6, 8], [8, 10, 10, 12, 12], [14, 16, 16, 20, 20]]
    assert [[a.started_at for a in report.arrivals] for report in reports] == [
        [0, 0, 2, 4, 4],
        [6, 0, 8, 8, 10],
        [12, 12, 14, 10, 16],
    ]
    assert [[a.staleness for a in report.arrivals] for report in reports] == [[0] * 5, [1, 1, 0, 0, 0], [0, 0, 0, 1, 0]]
    assert [report.counts.tolist() for report in reports] == [[3, 2, 0], [3, 1, 1], [2, 2, 1]]
    # the five tickets of a round are streams 0, 1, 2, 0, 1, in the order in which they are taken: w2 first in round 1
    assert reports[1].arrivals[1].key == TrajectoryKey(1, 0, 0)
    assert sorted(a.key for a in reports[1].arrivals) == [
        TrajectoryKey(1, *rest) for rest in ((0, 0), (0, 1), (1, 0), (1, 1), (2, 0))
    ]
    assert [(report.used_steps, report.discarded_steps) for report in reports] == [(10, 0)] * 3
    # 32 steps have arrived, the two of w0 at 18 are for round 3; timesteps come in threes
    assert model.num_timesteps == 30


def test_malenia_pipelined_on_two_tasks():
    """
    h = 1, 3 s a step, 1 step an episode, M = 4, K = 2: complete when 2 / (1/M_0 + 1/M_1) ≥ 2.

    By the speeds w0 is back at 1, 2, 3, … and w1 at 3, 6, …: at 3 the counts are (3, 1), 2 / (1/3 + 1) = 1.5; at 4 (4, 1),
    1.6; at 6 w1, which started earlier, is first: (5, 2), 2 / (1/5 + 1/2) = 2.86. So a round is 5 and 2 tickets. w0 has done
    its own at 5 and begins with the next round; at 6 w1 ends the round, before w0, which started later.
    Round 1 from 6: w0 begins its other 4 tickets at 6, 7, 8, 9, w1 its 2 at 6 and 9. From 10 on w0 is in round 2.
    """
    _, reports = train(MaleniaNIGT, simulated([1, 1], [1, 3]), 3, n_trajectories=4, schedule="pipelined")
    assert [span(report) for report in reports] == [(0, 6), (6, 12), (12, 18)]
    assert [report.counts.tolist() for report in reports] == [[5, 2]] * 3
    assert ends(reports[0]) == [1, 2, 3, 3, 4, 5, 6]
    assert order(reports[0]) == [0, 0, 1, 0, 0, 0, 1]
    assert [a.staleness for a in reports[1].arrivals if a.worker == 0] == [1, 0, 0, 0, 0]
    assert [a.staleness for a in reports[2].arrivals if a.worker == 0] == [1, 1, 0, 0, 0]
    assert all(a.staleness == 0 for report in reports for a in report.arrivals if a.worker == 1)
    assert all(report.discarded_steps == 0 for report in reports)


@pytest.mark.parametrize("algorithm", [RennalaNIGT, MaleniaNIGT])
def test_pipelined_is_planned_where_nobody_would_idle(algorithm):
    """Equal speeds and lengths, M a multiple of n: all are done at the same moment, so nothing begins early."""
    runs = [train(algorithm, simulated([2, 2, 2]), 4, n_trajectories=6, schedule=s) for s in ("planned", "pipelined")]
    (planned, first), (pipelined, second) = runs
    for a, b in zip(first, second, strict=True):
        assert a.arrivals == b.arrivals
        assert span(a) == span(b)
    assert all(map(np.array_equal, planned.get_parameters()["policy"].values(), pipelined.get_parameters()["policy"].values()))


@pytest.mark.parametrize("algorithm", [RennalaNIGT, MaleniaNIGT])
def test_pipelined_in_lock_step(algorithm):
    """A plain VecEnv: lengths 2 and 6, M = 2, so each round waits for the second environment while the first goes on."""
    env_fns = [partial(FixedLengthEnv, 2), partial(FixedLengthEnv, 6)]
    _, reports = train(algorithm, DummyVecEnv(env_fns), 4, n_trajectories=2, schedule="pipelined")
    for report in reports:
        assert report.counts.sum() == 2
        assert {a.staleness for a in report.arrivals} <= {0, 1}
    assert any(a.staleness == 1 for report in reports for a in report.arrivals)
