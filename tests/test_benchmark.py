"""The measurements of ``sb3-nigt benchmark`` that need ranks or Ray; the others are run by ``.ci/run``."""

import pytest

from sb3_nigt.experiments.benchmark import allreduce, memory, overhead, scaling, steps, store, stragglers

pytestmark = pytest.mark.slow


def values_of(rows):
    return {row.what: (row.unit, list(row.values), row.reference) for row in rows}


def test_cost_of_communication():
    rows = values_of(allreduce.measure([2], [10, 1000], 2))
    assert list(rows) == [
        "2 ranks, look at the counter",
        "2 ranks, exchange of counts",
        "2 ranks, reduction of 10 parameters",
        "2 ranks, reduction of 1,000 parameters",
    ]
    assert all(len(values) == 2 and min(values) > 0 for _, values, _ in rows.values())


def test_overhead_of_a_round():
    rows = values_of(overhead.measure([2], [2], [8], 20, 2))
    d = 11 * 8 + 8 + 8 * 8 + 8 + 2 * (8 * 3 + 3)  # two layers of eight, μ and σ of three actions
    where = ("SimulatedVecEnv, 2 workers", "ProcessVecEnv, 2 workers", "2 ranks, all-reduce")
    assert {f"{place}, d = {d}" for place in where} <= set(rows)
    assert all(len(values) == len(reference) == 2 for _, values, reference in rows.values())
    assert all(min(*values, *reference) > 0 for _, values, reference in rows.values())


def test_scaling():
    rows = values_of(scaling.measure("CartPole-v1", [1, 2], 0.5, 2))
    ends = ("ProcessVecEnv, 1 worker", "all-reduce, 1 rank", "ProcessVecEnv, 2 workers", "all-reduce, 2 ranks")
    assert {f"CartPole-v1, {end}" for end in ends} <= set(rows)
    assert all(unit == "steps/s" and len(values) == len(reference) == 2 for unit, values, reference in rows.values())
    assert all(min(*values, *reference) > 0 for _, values, reference in rows.values())


def test_load_of_the_store():
    rows = values_of(store.measure([3], 2))
    assert list(rows) == ["store, 3 simulated ranks, requests", "store, 3 simulated ranks, last one to know of a stop"]
    assert all(len(values) == 2 and min(values) > 0 for _, values, _ in rows.values())


def test_the_defaults_next_to_ppo():
    rows = list(steps.measure("CartPole-v1", 2, 0.5, 1))
    assert [row.unit for row in rows] == ["steps/s", "steps/s", "us/step", "us/step"]
    assert [row.compared_with for row in rows].count("PPO on SubprocVecEnv") == 1
    assert all(min(*row.values, *row.reference) > 0 for row in rows)


def test_memory_of_workers():
    """Reserved shared memory: the arrays of steps are shorter than those of the paper's trajectories of 1000 steps."""
    reserved, in_use, everything = memory.measure("CartPole-v1", 2)
    assert reserved.values < reserved.reference
    for row in (in_use, everything):
        assert min(*row.values, *row.reference) > 0
    assert in_use.values < everything.values


def test_a_round_has_as_many_steps_without_the_straggler():
    for n in (2, 3, 10, 40):
        with_it, without = (stragglers.steps_of_a_worker(n, present) * present for present in (n, n - 1))
        assert with_it == without >= 500
