"""The measurements of ``sb3-nigt benchmark`` that need ranks or Ray; the others are run by ``.ci/run``."""

import pytest

from sb3_nigt.experiments.benchmark import allreduce, overhead, scaling

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
    """A round of all-reduce asks a store in another process several times, a round of the simulator asks nobody."""
    rows = values_of(overhead.measure([2], [2], [8], 20, 2))
    d = 11 * 8 + 8 + 8 * 8 + 8 + 2 * (8 * 3 + 3)  # two layers of eight, μ and σ of three actions
    assert {"SimulatedVecEnv, 2 workers, d = 222", "ProcessVecEnv, 2 workers, d = 222", "2 ranks, all-reduce, d = 222"} <= set(
        rows
    )
    assert d == 222
    assert all(len(values) == len(reference) == 2 for _, values, reference in rows.values())
    assert max(rows["SimulatedVecEnv, 2 workers, d = 222"][1]) < min(rows["2 ranks, all-reduce, d = 222"][1])


def test_scaling():
    rows = values_of(scaling.measure("CartPole-v1", [2], 0.5, 2))
    assert {"CartPole-v1, ProcessVecEnv, 2 workers", "CartPole-v1, all-reduce, 2 ranks"} <= set(rows)
    assert all(unit == "steps/s" and len(values) == 2 and min(values) > 0 for unit, values, _ in rows.values())
