"""Speeds and lengths of a recorded run."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sb3_nigt.messages import RoundReport
from sb3_nigt.recording import Recording


@dataclass(frozen=True)
class Measured:
    """
    What a recorded run tells about its workers.

    :param workers: those that made a step; the speeds of the others are not known
    :param step_times: h_i of these workers, seconds per environment step
    :param message_times: κ_i of these workers, seconds per message
    :param lengths: steps of each accepted trajectory
    :param task_ids: tasks of these workers
    """

    workers: tuple[int, ...]
    step_times: npt.NDArray[np.float64]
    message_times: npt.NDArray[np.float64]
    lengths: tuple[int, ...]
    task_ids: tuple[Hashable, ...]


def measure(recording: Recording) -> Measured:
    """
    Measure speeds, messages and lengths.

    h_i are seconds over steps of the worker's accepted trajectories; of a worker without any, those of its discarded ones. A
    message takes the mean of what was measured: a gradient sent on its own belongs to its worker, an aggregation to all,
    unless its messages were recorded one by one, as on simulated workers.

    :param recording: the run
    :raises ValueError: if it has no round
    """
    reports = recording.reports
    if not reports:
        raise ValueError("recording has no complete round: record a longer run.")
    arrivals = [arrival for report in reports for arrival in report.arrivals]
    used, lost = np.zeros((2, 2, len(recording.task_ids)))  # each: seconds and steps of each worker
    for a in arrivals:
        used[:, a.worker] += a.finished_at - a.started_at, a.n_steps
    for d in (discarded for report in reports for discarded in report.discarded):
        lost[:, d.worker] += d.stopped_at - d.started_at, d.n_steps
    seconds, steps = np.where(used[1] > 0, used, lost)
    known = np.flatnonzero(steps > 0)
    return Measured(
        workers=tuple(known.tolist()),
        step_times=seconds[known] / steps[known],
        message_times=_message_times(reports, len(recording.task_ids))[known],
        lengths=tuple(a.n_steps for a in arrivals),
        task_ids=tuple(recording.task_ids[worker] for worker in known),
    )


def _message_times(reports: Sequence[RoundReport], n_workers: int) -> npt.NDArray[np.float64]:
    """Mean seconds of a message of each worker; of one that has sent none, that of all messages."""
    sent = [(message.worker, message.ended - message.began) for report in reports for message in report.messages]
    if not sent:  # each trajectory was sent on its own, or the time of a whole aggregation is all that is known
        arrivals = [a for report in reports for a in report.arrivals]
        aggregation = float(np.mean([_aggregation(report) for report in reports]))
        sent = [(a.worker, aggregation + a.arrived_at - (a.finished_at if a.sent_at is None else a.sent_at)) for a in arrivals]
    workers, seconds = zip(*sent, strict=True)
    totals, numbers = np.bincount(workers, seconds, n_workers), np.bincount(workers, minlength=n_workers)
    return np.where(numbers > 0, totals / np.maximum(numbers, 1), np.mean(seconds))


def _aggregation(report: RoundReport) -> float:
    """Seconds from the arrival that completed the round to its end."""
    return max(0.0, report.finished_at - max(report.started_at, *(a.arrived_at for a in report.arrivals)))
