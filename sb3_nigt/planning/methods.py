"""What each method would do on given workers, side by side."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt

from sb3_nigt.aggregators import predicted_counts
from sb3_nigt.messages import RoundReport
from sb3_nigt.methods import Method, kinds_of_rounds
from sb3_nigt.planning.closed_forms import afedpg_interval
from sb3_nigt.planning.serial_link import link_load
from sb3_nigt.planning.simulation import Workload, simulate
from sb3_nigt.timing.link import Aggregation, Link, check_link
from sb3_nigt.validation import check_integer, per_worker, time_values
from sb3_nigt.vec_env.base import checked_task_ids

FloatArray = npt.NDArray[np.float64]

MAX_ROUNDS = 50  # of which all but the first enter the means
MAX_TRAJECTORIES = 10_000  # about so many are simulated, but not fewer than three rounds
CYCLES, FIRST_CYCLES = 100, 10  # arrivals over the workers, where each is an update; the first ones do not enter the means


@dataclass(frozen=True)
class MethodPlan:
    """
    Prediction for one method: means over many rounds.

    :param method: "Rennala", "Malenia", "Synchronous" or "AFedPG", see ``Method.rounds``
    :param schedule: of the rounds; always "barrier" for Synchronous and "immediate" for AFedPG
    :param round_seconds: from the start of a round until it is complete
    :param update_seconds: from one update to the next, including the message of the aggregation
    :param counts: accepted trajectories of each worker per update, shape (n,)
    :param messages: gradients sent to the learner per update
    :param staleness: updates between the sampling of a trajectory and its arrival
    :param discarded: share of all workers' time spent on trajectories that no update uses
    :param idle: share of all workers' time in which no trajectory runs
    :param link: share of the time in which messages are in transit, which on a serial link is its utilisation; single
        gradients over a parallel link add up, so there it may exceed 1
    """

    method: str
    schedule: str
    round_seconds: float
    update_seconds: float
    counts: FloatArray
    messages: float
    staleness: float
    discarded: float
    idle: float
    link: float = 0.0

    @property
    def n_trajectories(self) -> float:
        """Trajectories in an update."""
        return float(self.counts.sum())

    @property
    def shares(self) -> FloatArray:
        """Share of each worker in the trajectories, shape (n,)."""
        shares: FloatArray = self.counts / self.counts.sum()
        return shares


@dataclass(frozen=True)
class Plan:
    """
    Predictions for all methods on the same workers.

    :param workload: speeds, messages and lengths
    :param n_trajectories: M
    :param methods: one for each method and schedule
    """

    workload: Workload
    n_trajectories: int
    methods: tuple[MethodPlan, ...]

    def __getitem__(self, name: tuple[str, str]) -> MethodPlan:
        """Return the row of (method, schedule)."""
        return next(row for row in self.methods if (row.method, row.schedule) == name)

    def rounds(self, method: str, schedule: str) -> Iterator[RoundReport]:
        """
        Simulate one method round by round, without end.

        :param method: as in ``MethodPlan``
        :param schedule: as in ``MethodPlan``
        """
        return _rounds(self.workload, self.n_trajectories, kinds_of_rounds()[method], schedule)


def plan(
    step_times: float | Iterable[float],
    n_trajectories: int = 20,
    trajectory_steps: int | Sequence[int] = 1000,
    message_times: float | Iterable[float] = 0.0,
    task_ids: Sequence[Hashable] | None = None,
    link: Link = "parallel",
    aggregation: Aggregation = "all_reduce",
) -> Plan:
    """
    Predict what each method does on given workers, with its real schedule, on simulated time and without environments.

    :param step_times: h_i, seconds per environment step, one per worker
    :param n_trajectories: M
    :param trajectory_steps: steps of a trajectory; from several numbers, one is drawn for each trajectory
    :param message_times: κ_i, seconds per message, one number, or one per worker
    :param task_ids: tasks of the workers, for Malenia; None: each worker has its own
    :param link: "parallel", or "serial": the learner receives one message at a time, see ``TimeModel``
    :param aggregation: "all_reduce", or "server": a round takes the time of all its messages, see ``TimeModel``
    :raises ValueError: for a value that is not allowed
    """
    h = np.atleast_1d(time_values("step_times", step_times, positive=True))
    check_integer("len(step_times)", len(h), 1)
    check_integer("n_trajectories", n_trajectories, 1)
    lengths = tuple(trajectory_steps) if isinstance(trajectory_steps, Sequence) else (trajectory_steps,)
    check_integer("len(trajectory_steps)", len(lengths), 1)
    lengths = tuple(check_integer("trajectory_steps", length, 1) for length in lengths)
    kappa = per_worker("message_times", message_times, len(h), positive=False)
    check_link(link, aggregation)
    workload = Workload(h, kappa, lengths, checked_task_ids(task_ids, len(h)), link, aggregation)
    rows = ((method, schedule) for method in kinds_of_rounds().values() for schedule in method.schedules)
    return Plan(workload, n_trajectories, tuple(_row(workload, n_trajectories, *row) for row in rows))


def _rounds(workload: Workload, n_trajectories: int, method: Method, schedule: str) -> Iterator[RoundReport]:
    return simulate(workload, method.aggregator(n_trajectories, workload.task_ids), method.schedules[schedule]())


def _row(workload: Workload, n_trajectories: int, method: Method, schedule: str) -> MethodPlan:
    if method.schedules[schedule].uploads:
        every_arrival = _queued_arrivals if workload.link == "serial" else _every_arrival
        return every_arrival(workload, method, schedule)
    return _round_based(workload, n_trajectories, method, schedule)


def _round_based(workload: Workload, n_trajectories: int, method: Method, schedule: str) -> MethodPlan:
    rule = method.aggregator(n_trajectories, workload.task_ids)
    of_a_round = int(predicted_counts(rule, workload.durations).sum())
    n_rounds = min(MAX_ROUNDS, max(3, MAX_TRAJECTORIES // of_a_round))
    # in the first round no trajectory can have begun before the round
    first, *rounds = islice(_rounds(workload, n_trajectories, method, schedule), n_rounds)
    elapsed = rounds[-1].finished_at - first.finished_at
    counts = np.array([report.counts for report in rounds])
    aggregations = [max(m.ended for m in report.messages) - report.messages[0].began for report in rounds]
    used = sum(a.finished_at - a.started_at for report in rounds for a in report.arrivals)
    discarded = sum(d.stopped_at - d.started_at for report in rounds for d in report.discarded)
    available = workload.n_workers * elapsed
    return MethodPlan(
        method.rounds,
        schedule,
        round_seconds=elapsed / len(rounds) - float(np.mean(aggregations)),
        update_seconds=elapsed / len(rounds),
        counts=counts.mean(axis=0),
        messages=float((counts > 0).sum(axis=1).mean()),
        staleness=float(np.mean([a.staleness for report in rounds for a in report.arrivals])),
        discarded=discarded / available,
        # what the first round began early may exceed what the last one did
        idle=max(0.0, 1.0 - (used + discarded) / available),
        link=float(sum(aggregations)) / elapsed,
    )


def _every_arrival(workload: Workload, method: Method, schedule: str) -> MethodPlan:
    """Worker i delivers every τ_i + κ_i seconds, and every arrival is an update."""
    tau, kappa = workload.durations, workload.message_times
    interval = afedpg_interval(tau, kappa)
    return MethodPlan(
        method.rounds,
        schedule,
        round_seconds=interval,
        update_seconds=interval,
        counts=interval / (tau + kappa),
        messages=1.0,
        staleness=workload.n_workers - 1.0,
        discarded=0.0,
        idle=float(np.mean(kappa / (tau + kappa))),
        link=link_load(tau, kappa),
    )


def _queued_arrivals(workload: Workload, method: Method, schedule: str) -> MethodPlan:
    """Every arrival is an update, but messages wait for each other."""
    n = workload.n_workers
    n_rounds = min(CYCLES * n, max(MAX_TRAJECTORIES, (FIRST_CYCLES + 1) * n))
    reports = list(islice(_rounds(workload, 1, method, schedule), n_rounds))
    before, rounds = reports[: FIRST_CYCLES * n], reports[FIRST_CYCLES * n :]
    elapsed = rounds[-1].finished_at - before[-1].finished_at
    counts = np.sum([report.counts for report in rounds], axis=0)
    used = sum(a.finished_at - a.started_at for report in rounds for a in report.arrivals)
    return MethodPlan(
        method.rounds,
        schedule,
        round_seconds=elapsed / len(rounds),
        update_seconds=elapsed / len(rounds),
        counts=counts / len(rounds),
        messages=1.0,
        staleness=n - 1.0,
        discarded=0.0,
        idle=max(0.0, 1.0 - used / (n * elapsed)),
        link=min(1.0, float(counts @ workload.message_times) / elapsed),
    )
