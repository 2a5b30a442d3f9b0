"""The simulator against the closed forms of the planner: times of rounds for random speeds, time per trajectory."""

import heapq
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from envs import run_rounds, simulated
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from paper import MaleniaNIGT, RennalaNIGT, SyncNIGT

from sb3_nigt import AFedPG

EXACT = 1e-9  # relative; the clock adds durations up, the formulas multiply them

quick = settings(deadline=None, max_examples=5)  # test_schedules.py has hundreds, without environments and policies
speeds = st.lists(st.floats(0.5, 20.0), min_size=1, max_size=6)
both_schedules = pytest.mark.parametrize("schedule", ["first_finished", "planned"])


def train(algorithm, tau, n_rounds=2, message_times=0.0, length=2, **kwargs):
    env = simulated([length] * len(tau), tau, message_times, per="trajectory")
    model = algorithm("MlpPolicy", env, horizon=5, seed=0, device="cpu", policy_kwargs={"net_arch": [2]}, **kwargs)
    return run_rounds(model, n_rounds)


def round_times(reports):
    return [report.finished_at - report.started_at for report in reports]


def smallest_multiples(tau, m):
    """The m smallest of {k τ_i : k ≥ 1}, in order."""
    heap = [(Fraction(t), Fraction(t)) for t in tau]
    heapq.heapify(heap)
    found = []
    for _ in range(m):
        time, step = heap[0]
        found.append(time)
        heapq.heapreplace(heap, (time + step, step))
    return found


def malenia_time(tau, m):
    """First t with Σ_i 1/⌊t/τ_i⌋ ≤ n²/M; only multiples of some τ_i come into question."""
    n, k = len(tau), 0
    while True:
        k += 1
        for time in smallest_multiples(tau, k * n * m)[(k - 1) * n * m :]:
            counts = [time // Fraction(t) for t in tau]
            if all(counts) and sum(Fraction(1, int(c)) for c in counts) <= Fraction(n * n, m):
                return time


def near_ties(tau, until):
    """Whether two workers finish at the same time, up to rounding, before ``until``."""
    times = sorted(k * t for t in tau for k in range(1, int(until / t * 1.001) + 2))
    return any(b - a < 1e-6 * b for a, b in pairwise(times))


@pytest.mark.parametrize(
    ("algorithm", "tau", "time"),
    [
        # M = 20; where the numbers come from is in test_aggregators.py
        (RennalaNIGT, np.sqrt(np.arange(1, 11)), 5.0),
        (MaleniaNIGT, np.sqrt(np.arange(1, 11)), 6.0),
        (SyncNIGT, np.sqrt(np.arange(1, 11)), 2 * np.sqrt(10)),
        (RennalaNIGT, np.arange(1, 101), 8.0),
        (MaleniaNIGT, np.arange(1, 101), 100.0),
        (SyncNIGT, np.arange(1, 101), 100.0),
    ],
)
def test_round_times_of_the_closed_forms(algorithm, tau, time):
    (report,) = train(algorithm, tau, 1, n_trajectories=20)
    assert report.finished_at == pytest.approx(time, rel=EXACT)


@both_schedules
@quick
@given(speeds, st.integers(1, 25))
def test_rennala(schedule, tau, m):
    """T is the M-th smallest of {k τ_i}, and M/A_n ≤ T ≤ min_m (M + m)/A_m with A_m = Σ_{i≤m} 1/τ_i over the fastest m."""
    expected = float(smallest_multiples(tau, m)[-1])
    times = round_times(train(RennalaNIGT, tau, n_trajectories=m, schedule=schedule))
    assert times == pytest.approx([expected] * 2, rel=EXACT)
    rates = np.cumsum(1 / np.sort(tau))
    upper = min((m + k) / rate for k, rate in enumerate(rates, start=1))
    assert m / rates[-1] * (1 - EXACT) <= times[0] <= upper * (1 + EXACT)


@both_schedules
@quick
@given(st.lists(st.floats(0.5, 10.0), min_size=1, max_size=4), st.integers(1, 20))
def test_malenia(schedule, tau, m):
    """First t with Σ 1/⌊t/τ_i⌋ ≤ n²/M; max(τ_n, (M/n) mean τ) ≤ T ≤ max(τ_n, 2 (M/n) mean τ)."""
    times = round_times(train(MaleniaNIGT, tau, n_trajectories=m, schedule=schedule))
    assert times == pytest.approx([float(malenia_time(tau, m))] * 2, rel=EXACT)
    slowest, work = max(tau), m / len(tau) * np.mean(tau)
    assert max(slowest, work) * (1 - EXACT) <= times[0] <= max(slowest, 2 * work) * (1 + EXACT)


@quick
@given(speeds, st.integers(1, 25))
def test_synchronous(tau, m):
    """⌈M/n⌉ max τ."""
    times = round_times(train(SyncNIGT, tau, n_trajectories=m))
    quota = int(np.ceil(m / len(tau)))
    assert times == pytest.approx([quota * max(tau)] * 2, rel=EXACT)


@quick
@given(st.lists(st.tuples(st.floats(0.5, 10.0), st.floats(0.0, 10.0)), min_size=1, max_size=4))
def test_afedpg(pairs):
    """
    Worker i delivers every p_i = τ_i + κ_i seconds; A = Σ 1/p_i. Mean interval → 1/A, mean staleness → n - 1.

    Update N comes at t_N, the N-th smallest of {k p_i}. Σ ⌊t/p_i⌋ lies between tA - n and tA, so N/A ≤ t_N ≤ (N + n)/A.
    The staleness of a gradient counts the updates of others since its worker started. Over all gradients of a worker that is
    all updates of others up to its last one; after that there is less than one p_i left, in which at most p_i A + n come. So
    the sum over workers falls short of (n - 1) N by no more than Σ_i (p_i A + n).
    """
    tau, kappa = zip(*pairs, strict=True)
    periods, n, n_updates = np.add(tau, kappa), len(tau), 60
    reports = train(AFedPG, tau, n_updates, kappa)
    expected = [float(t) for t in smallest_multiples(periods.tolist(), n_updates)]
    assert [r.finished_at for r in reports] == pytest.approx(expected, rel=EXACT)
    rate = float(np.sum(1 / periods))
    assert n_updates / rate * (1 - EXACT) <= reports[-1].finished_at <= (n_updates + n) / rate * (1 + EXACT)
    staleness = [arrival.staleness for report in reports for arrival in report.arrivals]
    assert len(staleness) == n_updates
    missing = (n - 1) * n_updates - sum(staleness)
    assert 0 <= missing <= float(np.sum(periods * rate + n))


@both_schedules
@quick
@given(st.lists(st.tuples(st.floats(0.5, 10.0), st.floats(0.0, 10.0)), min_size=1, max_size=5), st.integers(1, 20))
def test_messages_prolong_a_round_by_the_slowest_contributor(schedule, pairs, m):
    tau, kappa = zip(*pairs, strict=True)
    expected = float(smallest_multiples(tau, m)[-1])
    for report in train(RennalaNIGT, tau, message_times=kappa, n_trajectories=m, schedule=schedule):
        message = max(k for k, count in zip(kappa, report.counts, strict=True) if count > 0)
        assert report.finished_at - report.started_at == pytest.approx(expected + message, rel=EXACT)


@pytest.mark.parametrize("algorithm", [RennalaNIGT, MaleniaNIGT])
@quick
@given(st.lists(st.floats(0.5, 10.0), min_size=1, max_size=5), st.integers(1, 20))
def test_planned_is_first_finished_when_durations_are_known(algorithm, tau, m):
    """Same times, and without ties the same counts and arrivals; planned throws nothing away."""
    first = train(algorithm, tau, n_trajectories=m, schedule="first_finished")
    planned = train(algorithm, tau, n_trajectories=m, schedule="planned")
    assert round_times(planned) == pytest.approx(round_times(first), rel=EXACT)
    assert all(report.discarded_steps == 0 and not report.discarded for report in planned)
    assume(not near_ties(tau, first[0].finished_at))
    for a, b in zip(first, planned, strict=True):
        assert a.counts.tolist() == b.counts.tolist()
        assert [arrival.worker for arrival in a.arrivals] == [arrival.worker for arrival in b.arrivals]


@both_schedules
@quick
@given(st.lists(st.floats(0.5, 10.0), min_size=1, max_size=5), st.integers(1, 15), st.integers(1, 5))
def test_time_per_step_is_the_same_for_a_fixed_length(schedule, step_times, m, length):
    """h_i a step and L steps are τ_i = h_i L a trajectory."""
    env = simulated([length] * len(step_times), step_times)
    model = RennalaNIGT("MlpPolicy", env, n_trajectories=m, horizon=9, schedule=schedule, seed=0, device="cpu")
    times = round_times(run_rounds(model, 2))
    expected = length * float(smallest_multiples(step_times, m)[-1])
    assert times == pytest.approx([expected] * 2, rel=EXACT)
