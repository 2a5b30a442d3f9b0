"""Rounds of steps on given workers, before anything is trained, next to a method that steps all workers together."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sb3_nigt.aggregators import Aggregator
from sb3_nigt.algorithms.steps import steps_of_a_round
from sb3_nigt.methods import kinds_of_rounds
from sb3_nigt.timing.limits import LARGEST_MESSAGE, LARGEST_RATIO
from sb3_nigt.timing.link import Aggregation, Link, aggregation_messages, check_link
from sb3_nigt.timing.segments import round_of_steps
from sb3_nigt.validation import check_integer, per_worker, time_values
from sb3_nigt.vec_env.base import checked_task_ids

FloatArray = npt.NDArray[np.float64]

N_ROUNDS = 50  # of which all but the first enter the means
LOCKSTEP = "PPO"  # and all other methods that step the workers together
ROLLOUT = 2048  # steps of all workers together, the size for which the defaults of PPO are meant


@dataclass(frozen=True)
class StepRoundsRow:
    """
    Prediction for one method: means over many rounds.

    :param method: "Rennala", "Malenia" or "Synchronous", see ``Method.rounds``, or "PPO"
    :param round_seconds: from the start of a round until it is complete
    :param update_seconds: from one update to the next, including the message of the aggregation
    :param counts: steps of each worker that enter an update, shape (n,)
    """

    method: str
    round_seconds: float
    update_seconds: float
    counts: FloatArray

    @property
    def steps(self) -> float:
        """Steps that enter an update."""
        return float(self.counts.sum())

    @property
    def steps_per_second(self) -> float:
        """Steps per second that enter updates."""
        return self.steps / self.update_seconds

    @property
    def shares(self) -> FloatArray:
        """Share of each worker in the steps of an update, shape (n,)."""
        return self.counts / self.steps


@dataclass(frozen=True)
class StepRoundsPlan:
    """
    Predictions for all methods with rounds of steps.

    :param step_times: h_i, seconds per environment step, shape (n,)
    :param message_times: κ_i, seconds per message, shape (n,)
    :param n_steps: steps of a round for each worker
    :param methods: one row each
    """

    step_times: FloatArray
    message_times: FloatArray
    n_steps: int
    methods: tuple[StepRoundsRow, ...]

    def __getitem__(self, method: str) -> StepRoundsRow:
        """
        Return the row of a method.

        :raises KeyError: if there is none with this name
        """
        rows = {row.method: row for row in self.methods}
        return rows[method]

    def lead(self, method: str) -> tuple[float, float]:
        """
        Compare Rennala with a method: ratio of the steps per second, and ratio of the updates per second.

        If both learn equally well from equally many steps, Rennala needs the first ratio less time; if both learn equally
        well from equally many updates, the second one.

        :param method: of a row
        """
        first, other = self["Rennala"], self[method]
        return first.steps_per_second / other.steps_per_second, other.update_seconds / first.update_seconds


def plan_steps(
    step_times: float | Sequence[float] | FloatArray,
    n_steps: int | None = None,
    message_times: float | Sequence[float] | FloatArray = 0.0,
    task_ids: Sequence[Hashable] | None = None,
    link: Link = "parallel",
    aggregation: Aggregation = "all_reduce",
) -> StepRoundsPlan:
    """
    Predict the rounds of ``rollout="steps"`` from the speeds of the workers: the rule of each method on step after step.

    A step that is in progress at the end of a round is completed, does not count, and delays its worker in the next round.
    Methods that step all workers together, such as PPO, pay max h_i for each step, and max κ_i for each rollout, which has
    about 2,048 steps. The learner takes no time.

    :param step_times: h_i, seconds per environment step, one number, or one per worker
    :param n_steps: a round has ``n_steps`` · n steps; None: the default of the algorithms
    :param message_times: κ_i, seconds per message, one number, or one per worker
    :param task_ids: tasks of the workers, for Malenia; None: each worker has its own
    :param link: "parallel", or "serial": see ``TimeModel``
    :param aggregation: "all_reduce", or "server": a round takes the time of all its messages, see ``TimeModel``
    :raises ValueError: for a value that is not allowed
    """
    h = np.atleast_1d(time_values("step_times", step_times, positive=True))
    n = check_integer("len(step_times)", len(h), 1)
    if h.max() > LARGEST_RATIO * h.min():
        raise ValueError(f"step_times: {h.max()} is more than {LARGEST_RATIO:,} times {h.min()}: leave such workers out.")
    if n_steps is not None:
        check_integer("n_steps", n_steps, 1)
    kappa = per_worker("message_times", message_times, n, positive=False)
    if kappa.max() > LARGEST_MESSAGE * h.min():
        raise ValueError(f"message_times: {kappa.max()} is more than {LARGEST_MESSAGE:,} times {h.min()}: give less.")
    check_link(link, aggregation)
    tasks, size = checked_task_ids(task_ids, n), steps_of_a_round(n_steps, n)
    rows = [
        _asynchronous(method.rounds, method.aggregator(size, tasks), h, kappa, aggregation)
        for method in kinds_of_rounds().values()
        if method.takes("n_steps")
    ]
    return StepRoundsPlan(h, kappa, size // n, (*rows, _lockstep(h, kappa, aggregation)))


def _asynchronous(name: str, rule: Aggregator, h: FloatArray, kappa: FloatArray, aggregation: Aggregation) -> StepRoundsRow:
    free_at, now = np.zeros(len(h)), 0.0
    ends, updates, counts = [], [], []
    for _ in range(N_ROUNDS):
        starts = np.maximum(now, free_at)
        end, made = round_of_steps(starts, h, rule.is_complete)
        free_at = starts + (made + (starts + made * h < end)) * h
        now = end + _message_seconds(np.flatnonzero(made), kappa, aggregation)
        ends.append(end)
        updates.append(now)
        counts.append(made)
    update_seconds = (updates[-1] - updates[0]) / (N_ROUNDS - 1)
    round_seconds = float(np.mean(np.subtract(ends[1:], updates[:-1])))
    return StepRoundsRow(name, round_seconds, update_seconds, np.mean(counts[1:], axis=0))


def _lockstep(h: FloatArray, kappa: FloatArray, aggregation: Aggregation) -> StepRoundsRow:
    n = len(h)
    n_steps = max(1, round(ROLLOUT / n))
    seconds = n_steps * float(h.max())
    update_seconds = seconds + _message_seconds(np.arange(n), kappa, aggregation)
    return StepRoundsRow(LOCKSTEP, seconds, update_seconds, np.full(n, float(n_steps)))


def _message_seconds(workers: npt.NDArray[np.int64], kappa: FloatArray, aggregation: Aggregation) -> float:
    return max(m.ended for m in aggregation_messages(workers.tolist(), kappa[workers].tolist(), 0.0, aggregation))
