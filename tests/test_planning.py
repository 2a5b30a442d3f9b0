"""The planner: closed forms by hand and by brute force, and its rounds without environments against the simulator."""

from contextlib import nullcontext
from fractions import Fraction
from itertools import islice

import numpy as np
import pytest
from envs import LengthFromSeedEnv, run_rounds, simulated
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from paper import MaleniaNIGT, RennalaNIGT, SyncNIGT

from sb3_nigt import AFedPG, Recording, RunRecorder
from sb3_nigt.planning import (
    ORDERS,
    afedpg_interval,
    efficient_n_trajectories,
    malenia_bounds,
    malenia_free_n_trajectories,
    malenia_round_time,
    measure,
    plan,
    rennala_bounds,
    rennala_round_time,
    synchronous_round_time,
    workers_worth_waiting_for,
)

quick = settings(deadline=None, max_examples=10)
whole_speeds = st.lists(st.integers(1, 12), min_size=1, max_size=5)  # so that every time is exact
CLASSES = {"Rennala": RennalaNIGT, "Malenia": MaleniaNIGT, "Synchronous": SyncNIGT, "AFedPG": AFedPG}


# By hand


@pytest.mark.parametrize(
    ("tau", "rennala", "malenia", "synchronous"),
    [
        # M = 20; where the first numbers come from is in test_aggregators.py
        (np.sqrt(np.arange(1, 11)), 5.0, 6.0, 2 * np.sqrt(10)),
        (np.arange(1, 101), 8.0, 100.0, 100.0),
        # Rennala: ⌊19/1⌋ + ⌊19/10⌋ = 20. Malenia: at 60 1/60 + 1/6 = 0.183 ≤ 4/20, before that at most 1/59 + 1/5.
        ([1, 10], 19.0, 60.0, 100.0),
        ([3], 60.0, 60.0, 60.0),
    ],
)
def test_round_times(tau, rennala, malenia, synchronous):
    assert rennala_round_time(tau, 20) == pytest.approx(rennala, rel=1e-12)
    assert malenia_round_time(tau, 20) == pytest.approx(malenia, rel=1e-12)
    assert synchronous_round_time(tau, 20) == pytest.approx(synchronous, rel=1e-12)


def test_bounds_and_workers_worth_waiting_for():
    """τ = 1, 1, 100 and M = 4: (M + m)/A_m = 5/1, 6/2, 7/2.01."""
    assert rennala_bounds([1, 100, 1], 4) == pytest.approx((4 / 2.01, 3.0))
    assert workers_worth_waiting_for([1, 100, 1], 4) == 2
    assert workers_worth_waiting_for([1, 100, 1], 1000) == 3  # 1002/2 = 501, 1003/2.01 = 499
    assert workers_worth_waiting_for([2, 2], 1) == 2  # 2/0.5, 3/1
    assert malenia_bounds([1, 100, 1], 4) == pytest.approx((100, 100))
    assert malenia_bounds([1, 2, 3], 9) == pytest.approx((6, 12))


def test_afedpg_interval():
    assert afedpg_interval([1, 2, 4]) == pytest.approx(4 / 7)
    assert afedpg_interval([1, 2, 4], 1) == pytest.approx(30 / 31)
    assert afedpg_interval([1, 2], [1, 0]) == pytest.approx(1)


def test_m_that_balances():
    """
    One worker is always at work: M = 1 is enough; with κ = 4 τ the share M/(M + 4) is 80 % at M = 16.

    Two of τ = 1: T = ⌈M/2⌉, so an odd M uses M/(M + 1): 80 % from 3 on, but 2/3 at M = 1 and all at M = 2.
    Malenia, τ = 1, 1, 100: 9/(1/100 + 1/100 + 1) = 8.8.
    """
    assert efficient_n_trajectories([3]) == 1
    assert efficient_n_trajectories([3], 12, efficiency=0.799) == 16
    assert efficient_n_trajectories([1], 1e9, efficiency=0.75) == 3_000_000_000
    assert efficient_n_trajectories([1, 1], efficiency=0.8) == 4
    assert efficient_n_trajectories([1, 1], efficiency=0.74) == 2
    assert efficient_n_trajectories([1, 1], efficiency=0.0) == 1
    assert malenia_free_n_trajectories([1, 1, 100]) == 8
    assert malenia_free_n_trajectories([2, 2, 2]) == 3


def test_orders():
    """One worker, h = 1, ε = 0.1: ε⁻² = 100, ε⁻⁴ = 10⁴, ε^-7/2 = 3162.3, ε^-7/3 = 215.4. Two of h = 1, 3: see below."""
    one = {order.method: order.compute_seconds(np.array([1.0]), 0.1) for order in ORDERS}
    assert one == pytest.approx(
        {"Sync PG": 10100, "Sync NIGT": 3162.3, "Rennala PG": 10100, "AFedPG": 3377.7, "Rennala NIGT": 3262.3}
        | {"Malenia NIGT": 3262.3},
        rel=1e-4,
    )
    # H_1 = 1, H_2 = 2/(1 + 1/3) = 1.5; ε = 0.5: ε⁻² = 4, ε⁻⁴ = 16, ε^-7/2 = 11.314, ε^-7/3 = 5.0397, 2^4/3 = 2.5198
    two = {order.method: order.compute_seconds(np.array([3.0, 1.0]), 0.5) for order in ORDERS}
    assert two == pytest.approx(
        {"Sync PG": 36, "Sync NIGT": 16.971, "Rennala PG": 18, "AFedPG": 27.534, "Rennala NIGT": 14.485}
        | {"Malenia NIGT": 23.314},
        rel=1e-4,
    )


# By brute force


def arrivals(tau, m):
    """First m of k τ_i with the start and the worker, in the order of the clock."""
    return sorted((k * t, (k - 1) * t, i) for i, t in enumerate(tau) for k in range(1, m + 1))[:m]


@quick
@given(whole_speeds, st.integers(1, 30))
def test_first_time_that_completes_a_round(tau, m):
    def first(complete):
        times = sorted(k * t for t in tau for k in range(1, m * len(tau) * max(tau) + 1))
        return next(time for time in times if complete([time // t for t in tau]))

    n = len(tau)
    assert rennala_round_time(tau, m) == first(lambda counts: sum(counts) >= m)
    assert malenia_round_time(tau, m) == first(
        lambda counts: all(counts) and sum(Fraction(1, c) for c in counts) <= Fraction(n * n, m)
    )
    assert synchronous_round_time(tau, m) == first(lambda counts: min(counts) * n >= m)


@quick
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=4), st.sampled_from([0.25, 0.5, 0.75]))
@pytest.mark.parametrize("aggregation", ["all_reduce", "server"])
def test_efficient_from_there_on(aggregation, pairs, efficiency):
    tau, kappa = zip(*pairs, strict=True)
    found = efficient_n_trajectories(tau, kappa, efficiency, aggregation)
    together = max if aggregation == "all_reduce" else sum
    rate = sum(Fraction(1, t) for t in tau)

    def efficient(m):
        first = arrivals(tau, m)
        return m >= Fraction(efficiency) * rate * (first[-1][0] + together(kappa[w] for w in {worker for *_, worker in first}))

    assert found == 1 or not efficient(found - 1)
    assert all(efficient(m) for m in range(found, found + 40))


@quick
@given(whole_speeds)
def test_free_up_to_there(tau):
    free = malenia_free_n_trajectories(tau)
    assert malenia_round_time(tau, free) == max(tau)
    assert malenia_round_time(tau, free + 1) > max(tau)


@quick
@given(whole_speeds, st.integers(1, 40))
def test_workers_that_are_not_worth_waiting_for(tau, m):
    """Without them the bound is the same, and it is the least that any number of the fastest gives."""
    fastest = sorted(tau)
    bounds = [rennala_bounds(fastest[:k], m)[1] for k in range(1, len(tau) + 1)]
    assert rennala_bounds(tau, m)[1] == pytest.approx(min(bounds))
    assert bounds[workers_worth_waiting_for(tau, m) - 1] == pytest.approx(min(bounds))
    assert rennala_bounds(tau, m)[0] <= rennala_round_time(tau, m) * (1 + 1e-12)
    assert rennala_round_time(tau, m) <= min(bounds) * (1 + 1e-12)


# Against the simulator


def compared(report):
    times = "started_at", "finished_at", "sent_at", "arrived_at"
    trajectories = [(a.worker, a.key, a.staleness, *(getattr(a, name) for name in times)) for a in report.arrivals]
    lost = [(d.worker, d.started_at, d.stopped_at, d.n_steps) for d in report.discarded]
    steps = report.used_steps, report.discarded_steps
    return report.counts.tolist(), report.started_at, report.finished_at, trajectories, lost, steps, report.messages


def trained(method, schedule, m, env, n_rounds):
    kwargs = {} if method == "AFedPG" else {"n_trajectories": m}
    kwargs |= {"schedule": schedule} if method in ("Rennala", "Malenia") else {}
    policy = {"policy_kwargs": {"net_arch": [2]}, "device": "cpu", "seed": 0}
    return run_rounds(CLASSES[method]("MlpPolicy", env, horizon=9, **policy, **kwargs), n_rounds)


rows = pytest.mark.parametrize(("method", "schedule"), [(row.method, row.schedule) for row in plan([1.0]).methods])


@pytest.mark.one_in(2)
@rows
@settings(deadline=None, max_examples=5)
@given(
    st.lists(st.tuples(st.floats(0.5, 10.0), st.floats(0.0, 5.0)), min_size=1, max_size=5),
    st.integers(1, 12),
    st.sampled_from([("parallel", "all_reduce"), ("serial", "all_reduce"), ("serial", "server")]),
)
def test_rounds_are_those_of_the_simulator(method, schedule, pairs, m, link):
    """Not only up to rounding: every time is the same number."""
    tau, kappa = zip(*pairs, strict=True)
    reports = trained(method, schedule, m, simulated([1] * len(tau), tau, kappa, "trajectory", None, *link), 4)
    planned = islice(plan(tau, m, 1, kappa, None, *link).rounds(method, schedule), 4)
    assert [compared(report) for report in planned] == [compared(report) for report in reports]


@pytest.mark.one_in(4)
@rows
def test_rounds_with_time_per_step_and_tasks(method, schedule):
    tau, tasks = [1.0, 2.5, 4.0, 7.5], ["a", "b", "a", "b"]
    env = simulated([3] * 4, tau, 0.25, task_ids=tasks)
    with nullcontext() if method == "Malenia" else pytest.warns(UserWarning, match="different tasks"):
        reports = trained(method, schedule, 7, env, 5)
    planned = islice(plan(tau, 7, 3, 0.25, tasks).rounds(method, schedule), 5)
    assert [compared(report) for report in planned] == [compared(report) for report in reports]


@quick
@given(whole_speeds, st.integers(1, 20))
def test_rows_of_constant_speeds_are_the_closed_forms(tau, m):
    planned = plan(tau, m, 1)
    expected = {"Rennala": rennala_round_time(tau, m), "Malenia": malenia_round_time(tau, m)}
    for method, time in expected.items():
        for schedule in ("planned", "first_finished"):
            assert planned[method, schedule].update_seconds == time
    assert planned["Synchronous", "barrier"].update_seconds == synchronous_round_time(tau, m)


# The table


def test_table_of_two_workers():
    """
    τ = 1, 3; κ = 1/2, 1; M = 3.

    Rennala: 1, 2 (w0), at 3 w1, which started at 0, before w0, which started at 2. So counts 2, 1, and one of the 6 seconds
    of a round is idle or discarded; with the message the two have 8 seconds. Malenia needs 1/c_0 + 1/c_1 ≤ 4/3: 3, 1 at 3.
    Synchronous: two each, 6 seconds, then 1 for the message; 8 of 14 seconds are used. AFedPG: every 1.5 and every 4 seconds.
    """
    planned = plan([1, 3], 3, 1, [0.5, 1.0])

    def row(method, schedule):
        row = planned[method, schedule]
        return (row.round_seconds, row.update_seconds, *row.counts, row.messages, row.staleness, row.discarded, row.idle)

    assert row("Rennala", "planned") == pytest.approx((3, 4, 2, 1, 2, 0, 0, 3 / 8))
    assert row("Rennala", "first_finished") == pytest.approx((3, 4, 2, 1, 2, 0, 1 / 8, 2 / 8))
    assert row("Malenia", "planned") == pytest.approx((3, 4, 3, 1, 2, 0, 0, 2 / 8))
    assert row("Synchronous", "barrier") == pytest.approx((6, 7, 2, 2, 2, 0, 0, 6 / 14))
    assert row("AFedPG", "immediate") == pytest.approx((12 / 11, 12 / 11, 8 / 11, 3 / 11, 1, 1, 0, 7 / 24))
    assert_allclose(planned["Rennala", "planned"].shares, [2 / 3, 1 / 3])
    assert planned["Malenia", "planned"].n_trajectories == 4


def test_pipelined_uses_what_planned_leaves_idle():
    """n = 10, τ = √i, M = 20: planned needs 5 seconds a round; no schedule can be faster than M/A_n = 3.98 in the long run."""
    planned = plan(np.sqrt(np.arange(1, 11)), 20, 1)
    pipelined = planned["Rennala", "pipelined"]
    assert pipelined.update_seconds == pytest.approx(3.983, rel=0.01)
    assert pipelined.idle < 0.01
    assert planned["Rennala", "planned"].idle == pytest.approx(1 - 3.983 / 5, abs=0.1)
    assert 0 < pipelined.staleness < 1


def test_afedpg_row_is_the_limit_of_its_rounds():
    """N updates take N/A to (N + n)/A seconds, A one over the interval."""
    planned = plan([1, 2, 5], trajectory_steps=1, message_times=[1, 0, 2])
    reports = list(islice(planned.rounds("AFedPG", "immediate"), 400))
    interval = planned["AFedPG", "immediate"].update_seconds
    assert 400 * interval <= reports[-1].finished_at <= 403 * interval
    assert_allclose(sum(report.counts for report in reports) / 400, planned["AFedPG", "immediate"].counts, atol=0.01)


def test_long_trajectories_take_no_memory():
    long, short = (plan([1, 2, 4], 5, length)["Malenia", "planned"] for length in (10**15, 1))
    assert_allclose(long.counts, short.counts)
    assert long.update_seconds == pytest.approx(10**15 * short.update_seconds)


@pytest.mark.slow
def test_lengths_that_vary():
    """Planned rounds draw the lengths that were given, for any worker; first_finished prefers the short ones."""
    lengths, n_rounds = [1, 19], 40

    def drawn(step_times, schedule):
        reports = islice(plan(step_times, 10, lengths).rounds("Rennala", schedule), n_rounds)
        return [sorted((a.key, a.n_steps) for a in report.arrivals) for report in reports]

    def mean(rounds):
        return np.mean([n_steps for round_ in rounds for _, n_steps in round_])

    assert drawn([1, 2, 4], "planned") == drawn([7, 1, 1], "planned")
    assert mean(drawn([1] * 10, "planned")) == pytest.approx(10, abs=3 * 9 / np.sqrt(10 * n_rounds))
    assert mean(drawn([1] * 10, "first_finished")) < 6
    table = plan([1] * 10, 10, lengths)
    assert table["Rennala", "planned"].update_seconds > table["Rennala", "pipelined"].update_seconds > 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"step_times": [1, -1]}, r"step_times\[1\]=-1.0 is not allowed"),
        ({"step_times": []}, r"len\(step_times\)=0 is not allowed"),
        ({"step_times": [1, 2], "message_times": [1, 2, 3]}, "message_times has 3 values for 2 workers"),
        ({"step_times": [1, 2], "n_trajectories": 0}, "n_trajectories=0 is not allowed"),
        ({"step_times": [1, 2], "trajectory_steps": 0}, "trajectory_steps=0 is not allowed"),
        ({"step_times": [1, 2], "trajectory_steps": []}, r"len\(trajectory_steps\)=0 is not allowed"),
        ({"step_times": [1, 2], "task_ids": ["a"]}, "task_ids has 1 entries for 2 workers"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        plan(**arguments)


# From a recorded run


def recorded(tmp_path, algorithm, env, **kwargs):
    model = algorithm("MlpPolicy", env, device="cpu", seed=0, horizon=9, policy_kwargs={"net_arch": [2]}, **kwargs)
    model.learn(200, callback=RunRecorder(tmp_path / "run.jsonl"))
    return measure(Recording.load(tmp_path / "run.jsonl")), model


def test_measured_is_what_was_simulated(tmp_path):
    env = simulated([LengthFromSeedEnv] * 3, [1.0, 2.0, 5.0], 0.75, task_ids=["a", "b", "a"])
    measured, model = recorded(tmp_path, MaleniaNIGT, env, n_trajectories=20)
    assert measured.workers == (0, 1, 2)
    assert_allclose(measured.step_times, [1.0, 2.0, 5.0], rtol=1e-12)
    assert_allclose(measured.message_times, 0.75, rtol=1e-9)
    assert measured.task_ids == ("a", "b", "a")
    assert set(measured.lengths) == {1, 2, 3, 4, 5, 6}
    assert measured.lengths[-len(model.last_round.arrivals) :] == tuple(a.n_steps for a in model.last_round.arrivals)


def test_gradients_sent_on_their_own_tell_the_message_of_each_worker(tmp_path):
    measured, _ = recorded(tmp_path, AFedPG, simulated([2, 2], [1.0, 3.0], [0.5, 2.0]))
    assert_allclose(measured.message_times, [0.5, 2.0], rtol=1e-9)


def test_workers_that_finished_nothing(tmp_path):
    """h = 1, 8, 1000 and two steps: w1 never finishes but makes a step in 10 seconds, w2 makes none."""
    env = simulated([2, 2, 2], [1.0, 8.0, 1000.0])
    measured, _ = recorded(tmp_path, RennalaNIGT, env, n_trajectories=5, schedule="first_finished")
    assert measured.workers == (0, 1)
    assert_allclose(measured.step_times, [1.0, 10.0])
