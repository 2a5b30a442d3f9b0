"""From the report of a round to its log entries."""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Hashable, Sequence

import numpy as np
from stable_baselines3.common.logger import Logger

from sb3_nigt.messages import RoundReport

MAX_SHARES = 32  # workers whose shares are logged one by one
TASK_NAME_LENGTH = 18  # the logger cuts keys at 36 characters and refuses two that become equal


def bias_bound(lengths: Sequence[int], n_workers: int) -> float:
    """
    First-order bound of the relative length bias of "first M finished": CV² n / M.

    CV is the coefficient of variation of the trajectory lengths, M their number. A statistic R of the trajectory is off by
    about (n/M) Cov(R, L) / E[L]. Estimated on accepted trajectories, which are too much alike, so it is rather too small.

    :param lengths: steps of each accepted trajectory
    :param n_workers: n
    """
    array = np.asarray(lengths, dtype=np.float64)
    return float((array.std() / array.mean()) ** 2 * n_workers / len(array))


class RoundLogger:
    """
    Writes ``async/*``, ``task/*`` and ``time/clock``.

    :param task_ids: one per worker, or None if the returns of the tasks are not logged apart
    :param window_size: episodes that a task's mean return covers
    :param before: that of the run which this one continues
    """

    def __init__(self, task_ids: Sequence[Hashable] | None, window_size: int, before: RoundLogger | None = None) -> None:
        self._names = {} if task_ids is None else task_names(task_ids)
        self._returns: dict[Hashable, deque[float]] = defaultdict(lambda: deque(maxlen=window_size))
        for task_id, returns in () if before is None else before._returns.items():
            if task_id in self._names:
                self._returns[task_id].extend(returns)

    def forget(self) -> None:
        """Begin another run."""
        self._returns.clear()

    def log(self, logger: Logger, report: RoundReport, *, first_finished: bool, restarts: int | None) -> None:
        """
        Record one round.

        :param logger: the model's logger
        :param report: the round
        :param first_finished: the schedule over-samples what finishes early, so its bound is of interest
        :param restarts: of worker processes so far; None if there are no processes
        """
        shares = report.counts / report.counts.sum()
        executed = report.used_steps + report.discarded_steps
        logger.record("time/clock", report.finished_at)
        logger.record("async/round_seconds", report.finished_at - report.started_at)
        logger.record("async/discarded_fraction", report.discarded_steps / max(1, executed))
        logger.record("async/share_min", float(shares.min()))
        logger.record("async/share_max", float(shares.max()))
        if len(shares) <= MAX_SHARES:
            for worker, share in enumerate(shares):
                logger.record(f"async/share_{worker}", float(share), exclude="stdout")
        logger.record("async/rejected", len(report.rejected))
        if restarts is not None:
            logger.record("async/restarts", restarts)
        logger.record("async/staleness", float(np.mean([arrival.staleness for arrival in report.arrivals])))
        if first_finished:
            logger.record("async/bias_bound", bias_bound([a.n_steps for a in report.arrivals], len(report.counts)))
        if self._names:
            for arrival in report.arrivals:
                if not math.isnan(arrival.episode_return):  # as of pieces that end no episode
                    self._returns[arrival.task_id].append(arrival.episode_return)
            for task_id, returns in self._returns.items():
                logger.record(f"task/{self._names[task_id]}/ep_rew_mean", float(np.mean(returns)))


def task_names(task_ids: Sequence[Hashable]) -> dict[Hashable, str]:
    """
    Short, distinct names for log keys.

    :param task_ids: ids of the tasks, possibly with repetitions
    """
    distinct = list(dict.fromkeys(task_ids))
    names = {task_id: str(task_id)[:TASK_NAME_LENGTH] for task_id in distinct}
    if len(set(names.values())) < len(distinct):
        names = {task_id: f"{number}-{str(task_id)[: TASK_NAME_LENGTH - 6]}" for number, task_id in enumerate(distinct)}
    return names
