"""The measurements of ``sb3-nigt benchmark`` that need ranks or Ray; the others are run by ``.ci/run``."""

import pytest

from sb3_nigt.experiments.benchmark import allreduce, overhead, scaling, store

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
