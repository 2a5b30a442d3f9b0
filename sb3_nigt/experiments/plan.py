"""How long rounds and updates of each method take on given workers, before anything is trained."""

from __future__ import annotations

import argparse
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import groupby, takewhile, zip_longest
from pathlib import Path

from matplotlib.figure import Figure

from sb3_nigt.experiments.arguments import FloatArray, UsageError, link_of, parse_message_times, parse_times
from sb3_nigt.experiments.figures import N_TRAJECTORIES
from sb3_nigt.experiments.plan_steps import number, step_rounds_report
from sb3_nigt.experiments.plots import TIMELINE_KEY, draw_timeline, save_picture
from sb3_nigt.planning import (
    ORDERS,
    MethodPlan,
    Plan,
    Workload,
    efficient_n_trajectories,
    link_load,
    malenia_bounds,
    malenia_free_n_trajectories,
    measure,
    plan,
    plan_steps,
    rennala_bounds,
    saturating_n_workers,
    serial_afedpg_bounds,
    workers_worth_waiting_for,
)
from sb3_nigt.timing.limits import LARGEST_RATIO
from sb3_nigt.timing.link import Aggregation, Link

EFFICIENCY = 0.8  # at the M that balances
LARGEST_RATIO_OF_TRAJECTORIES = 10_000  # of two workers' step times: each trajectory of many rounds is simulated
MOST_TRAJECTORIES = 100_000  # of a round: each is an object in memory
SHOWN_UPDATES = 3  # of planned Rennala, in the picture


@dataclass(frozen=True)
class _Speeds:
    """Workers as the user described them: arguments of ``plan`` and ``plan_steps``, and their numbers."""

    step_times: FloatArray
    message_times: FloatArray
    trajectory_steps: int | tuple[int, ...]
    task_ids: tuple[Hashable, ...] | None
    link: Link
    aggregation: Aggregation
    workers: Sequence[int]


def run(args: argparse.Namespace) -> None:
    """
    Print the plan, and draw it.

    :param args: parsed command line
    """
    rollout = _rollout(args)
    speeds = _from_recording(args, rollout) if args.recording else _from_times(args, rollout)
    of_workers = speeds.task_ids, speeds.link, speeds.aggregation
    if rollout == "steps":
        of_steps = plan_steps(speeds.step_times, args.n_steps, speeds.message_times, *of_workers)
        print(step_rounds_report(of_steps, speeds.workers))
        return
    m = args.n_trajectories or N_TRAJECTORIES
    if m > MOST_TRAJECTORIES:
        raise UsageError(f"--n-trajectories {m}: give at most {MOST_TRAJECTORIES}, each of them is simulated")
    planned = plan(speeds.step_times, m, speeds.trajectory_steps, speeds.message_times, *of_workers)
    if args.output:
        draw(planned, speeds.workers, args.output)
        print(f"{args.output}: {SHOWN_UPDATES} updates of planned Rennala, all methods on the same axis\n")
    print(report(planned, speeds.workers))


def _rollout(args: argparse.Namespace) -> str:
    """Return the kind of rounds, and refuse options that say nothing about it."""
    has_steps = args.recording is not None and any(report.segments for report in args.recording.reports)
    rollout: str = args.rollout or ("steps" if has_steps else "trajectories")
    others = ("n_steps",) if rollout == "trajectories" else ("n_trajectories", "trajectory_steps", "output")
    for name in others:
        if getattr(args, name) is not None:
            option, needed = name.replace("_", "-"), "steps" if rollout == "trajectories" else "trajectories"
            raise UsageError(f"--{option} goes with --rollout {needed}: leave it out, or add --rollout {needed}")
    if has_steps and rollout == "trajectories" and args.trajectory_steps is None:
        raise UsageError(
            "--from: this run has rounds of steps, which do not tell the lengths of trajectories: "
            "give --rollout steps, or the lengths by --trajectory-steps"
        )
    return rollout


def _largest_ratio(rollout: str) -> float:
    return LARGEST_RATIO if rollout == "steps" else LARGEST_RATIO_OF_TRAJECTORIES


def _from_times(args: argparse.Namespace, rollout: str) -> _Speeds:
    step_times = parse_times(args.step_times, args.n_workers, largest_ratio=_largest_ratio(rollout))
    message_times = parse_message_times(args.message_times or "0", step_times)
    return _Speeds(step_times, message_times, args.trajectory_steps or 1000, None, *link_of(args), range(len(step_times)))


def _from_recording(args: argparse.Namespace, rollout: str) -> _Speeds:
    if args.n_workers is not None:
        raise UsageError("--n-workers goes with --step-times: leave it out, the recorded run has its own workers")
    measured = measure(args.recording)
    missing = sorted(set(range(len(args.recording.task_ids))) - set(measured.workers))
    if missing:
        print(f"Workers that made no step in this run, so they are left out: {', '.join(map(str, missing))}\n")
    if measured.step_times.max() > _largest_ratio(rollout) * measured.step_times.min():
        raise UsageError(
            f"--from: the slowest worker of this run is more than {_largest_ratio(rollout):,} times slower than the fastest: "
            "give the times of the others by --step-times"
        )
    message_times = measured.message_times
    if args.message_times is not None:
        message_times = parse_message_times(args.message_times, measured.step_times)
    lengths = args.trajectory_steps or measured.lengths
    link, aggregation = link_of(args, args.recording.link, args.recording.aggregation)
    tasks = measured.task_ids
    return _Speeds(measured.step_times, message_times, lengths, tasks, link, aggregation, measured.workers)


def report(planned: Plan, workers: Sequence[int]) -> str:
    """
    Write a plan as text.

    :param planned: the plan
    :param workers: their numbers
    """
    return "\n\n".join([_methods_table(planned), _advice(planned), _orders_table(planned), _workers_table(planned, workers)])


def _methods_table(planned: Plan) -> str:
    load = planned.workload
    is_serial = load.link == "serial"
    workers = f"{load.n_workers} worker{'s' if load.n_workers > 1 else ''}"
    title = f"{workers}, M = {planned.n_trajectories}, {number(load.mean_length)} steps per trajectory"
    if is_serial:
        title += f", serial link, {'server' if load.aggregation == 'server' else 'all-reduce'}"
    heads = ["s/round", "s/update", "traj.", "traj./s", "messages", "staleness", "discarded", "idle", *["link"] * is_serial]
    lines = [title, f"{'':<3}{'method':<13}{'schedule':<14}" + "".join(f"{head:>10}" for head in heads)]
    for place, row in enumerate(planned.methods, start=1):
        rate = row.n_trajectories / row.update_seconds
        numbers = (row.round_seconds, row.update_seconds, row.n_trajectories, rate, row.messages, row.staleness)
        cells = "".join(f"{number(value):>10}" for value in numbers)
        link = f"{row.link:>10.1%}" if is_serial else ""
        lines.append(f"{place:<3}{row.method:<13}{row.schedule:<14}{cells}{row.discarded:>10.1%}{row.idle:>10.1%}{link}")
    lines.append("traj., messages: per update; discarded and idle: shares of the workers' time")
    return "\n".join([*lines, *["link: share of the time in which messages are in transit"] * is_serial])


def _advice(planned: Plan) -> str:
    load, m = planned.workload, planned.n_trajectories
    n, tau = load.n_workers, load.durations
    low, high = rennala_bounds(tau, m)
    waited_for = workers_worth_waiting_for(tau, m)
    balanced = efficient_n_trajectories(tau, load.message_times, EFFICIENCY, load.aggregation)
    lines = [
        "Closed forms, for trajectories of the mean length",
        f"Rennala      a round takes {number(low)} to {number(high)} s;"
        f" workers worth waiting for: the {waited_for} fastest of {n}",
        f"             M that balances: {balanced}, from there on {EFFICIENCY:.0%} of what the workers can do enters updates",
    ]
    if len(set(load.task_ids)) == n:
        low, high = malenia_bounds(tau, m)
        lines += [
            f"Malenia      a round takes {number(low)} to {number(high)} s",
            f"             M that balances: {malenia_free_n_trajectories(tau)}, up to there a round is one trajectory of the"
            " slowest worker",
        ]
    lines.append(f"Synchronous  M that balances: a multiple of {n}; M = {m} is rounded up to {-(-m // n) * n}")
    return "\n".join([*lines, *_advice_on_link(load)])


def _advice_on_link(load: Workload) -> list[str]:
    if load.link == "parallel":
        return []
    tau, kappa = load.durations, load.message_times
    low, high = serial_afedpg_bounds(tau, kappa)
    n = saturating_n_workers(tau, kappa)
    return [
        f"AFedPG       an update every {number(low)} to {number(high)} s; its workers offer the link"
        f" {number(link_load(tau, kappa))} s of messages a second",
        *([] if n is None else [f"             a serial link saturates at {n} workers like these"]),
    ]


def _orders_table(planned: Plan) -> str:
    h = planned.workload.step_times
    sizes = (0.1, 0.01)
    unit = next(order for order in ORDERS if order.method == "Rennala NIGT")
    lines = [
        "Orders in ε, without constants; H_m: harmonic mean of the m smallest h; right: compute, relative to Rennala NIGT",
        f"{'method':<14}{'compute':<32}{'communication':<21}" + "".join(f"{f'ε = {eps}':>10}" for eps in sizes),
    ]
    for order in ORDERS:
        cells = (order.compute_seconds(h, eps) / unit.compute_seconds(h, eps) for eps in sizes)
        text = f"{order.method:<14}{order.compute:<32}{order.communication:<21}"
        lines.append(text + "".join(f"{number(cell):>10}" for cell in cells))
    return "\n".join(lines)


def _workers_table(planned: Plan, workers: Sequence[int]) -> str:
    load = planned.workload
    numbers = "".join(f"{place:>7}" for place in range(1, len(planned.methods) + 1))
    lines = [
        "Share of each worker in the trajectories of an update, in %; columns: the methods above",
        f"{'worker':>6}{'s/step':>10}{'s/traj.':>10}{'s/message':>11}{numbers}",
    ]
    for i, worker in enumerate(workers):
        times = (
            f"{worker:>6}{number(load.step_times[i]):>10}{number(load.durations[i]):>10}{number(load.message_times[i]):>11}"
        )
        lines.append(times + "".join(f"{100 * row.shares[i]:>7.1f}" for row in planned.methods))
    return "\n".join(lines)


def draw(planned: Plan, workers: Sequence[int], path: Path) -> None:
    """
    Write the timelines of all methods on the same time axis.

    :param planned: the plan
    :param workers: their numbers
    :param path: path of the picture
    """
    load, until = planned.workload, SHOWN_UPDATES * planned["Rennala", "planned"].update_seconds
    messages = load.message_times.sum() if load.link == "serial" else load.message_times.max()
    arrived = until + float(load.step_times.max()) * max(load.lengths) + float(messages)
    figure = Figure(figsize=(12, min(16.0, 4 + 0.7 * len(workers))), layout="constrained")
    columns = _columns(planned)
    axes = figure.subplots(max(map(len, columns)), 2, sharex=True, sharey=True, squeeze=False)
    placed = [(ax, row) for column, rows in zip(axes.T, columns, strict=True) for ax, row in zip_longest(column, rows)]
    for ax, row in placed:
        if row is None:
            ax.set_axis_off()
            continue
        shown = takewhile(lambda round_: round_.started_at < arrived, planned.rounds(row.method, row.schedule))
        draw_timeline(ax, list(shown))
        ax.set_title(f"{row.method}, {row.schedule}: update every {number(row.update_seconds)} s", fontsize="medium")
        ax.label_outer()
    ax.set_xlim(0, until)
    if len(workers) <= 12:
        ax.set_yticks(range(len(workers)), workers)
    figure.suptitle(TIMELINE_KEY, fontsize="medium")
    save_picture(figure, path, dpi=80)


def _columns(planned: Plan) -> list[list[MethodPlan]]:
    """Methods in turn left and right, so that Rennala and the barrier are left, Malenia and AFedPG right."""
    columns: list[list[MethodPlan]] = [[], []]
    for place, (_, rows) in enumerate(groupby(planned.methods, key=lambda row: row.method)):
        columns[place % 2] += rows
    return columns
