"""A plan of rounds of steps as text."""

from __future__ import annotations

from collections.abc import Sequence

from sb3_nigt.planning import LOCKSTEP, StepRoundsPlan


def step_rounds_report(planned: StepRoundsPlan, workers: Sequence[int]) -> str:
    """
    Write a plan of rounds of steps as text.

    :param planned: the plan
    :param workers: their numbers
    """
    return "\n\n".join([_methods_table(planned), _workers_table(planned, workers)])


def number(value: float) -> str:
    """
    Write a number for a table.

    :param value: a number of any size
    """
    return f"{value:,.0f}" if 1000 <= value < 1e7 else f"{value:.4g}"


def _methods_table(planned: StepRoundsPlan) -> str:
    n = len(planned.step_times)
    heads = ("s/round", "s/update", "steps", "steps/s", "x steps", "x updates")
    lines = [
        f"{n} worker{'s' * (n > 1)}, rounds of {planned.n_steps * n:,} steps",
        f"{'':<3}{'method':<13}" + "".join(f"{head:>11}" for head in heads),
    ]
    for place, row in enumerate(planned.methods, start=1):
        values = (row.round_seconds, row.update_seconds, row.steps, row.steps_per_second)
        steps, updates = planned.lead(row.method)
        cells = [*map(number, values), f"{steps:.2f}", "-" if row.method == LOCKSTEP else f"{updates:.2f}"]
        lines.append(f"{place:<3}{row.method:<13}" + "".join(f"{cell:>11}" for cell in cells))
    lines.append(
        "x steps, x updates: Rennala's steps and updates per second divided by the method's; for PPO an update is a rollout"
    )
    return "\n".join(lines)


def _workers_table(planned: StepRoundsPlan, workers: Sequence[int]) -> str:
    places = "".join(f"{place:>7}" for place in range(1, len(planned.methods) + 1))
    lines = [
        "Share of each worker in the steps of an update, in %; columns: the methods above",
        f"{'worker':>6}{'s/step':>10}{'s/message':>11}{places}",
    ]
    for i, worker in enumerate(workers):
        times = f"{worker:>6}{number(planned.step_times[i]):>10}{number(planned.message_times[i]):>11}"
        lines.append(times + "".join(f"{100 * row.shares[i]:>7.1f}" for row in planned.methods))
    return "\n".join(lines)
