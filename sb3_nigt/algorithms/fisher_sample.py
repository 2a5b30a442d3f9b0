"""The observations from which the metric of the natural step is estimated."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sb3_nigt.messages import Arrival, RoundReport
from sb3_nigt.sampling.trajectory import Trajectory, map_observation

IntArray = npt.NDArray[np.int64]
Collect = Callable[[Any, IntArray], Any]  # observations of this process, and how many each worker gives; see ``Group.collect``


class FisherSample:
    """
    A few observations of each of the last rounds, drawn over the accepted steps with the weights of their workers.

    :param n_samples: observations of one round
    :param n_rounds: rounds that are used together
    """

    def __init__(self, n_samples: int, n_rounds: int) -> None:
        self.n_samples = n_samples
        self.rounds: deque[Any] = deque(maxlen=n_rounds)

    def add(
        self,
        accepted: Sequence[tuple[Arrival, Trajectory]],
        report: RoundReport,
        seed: tuple[int, int],
        collect: Collect,
    ) -> None:
        """
        Draw from a round.

        Which steps are drawn follows from the report, so that every process of a group knows it.

        :param accepted: of this process, in worker order
        :param report: of the round
        :param seed: of what is drawn
        :param collect: brings what is drawn to the process that makes the step; None elsewhere
        """
        steps = np.zeros(len(report.weights), dtype=np.int64)  # of each worker
        np.add.at(steps, [arrival.worker for arrival in report.arrivals], [arrival.n_steps for arrival in report.arrivals])
        by_step = np.repeat(report.weights, steps)
        rng = np.random.default_rng(seed)
        n_samples = min(self.n_samples, int(np.count_nonzero(by_step)))
        chosen = np.sort(rng.choice(len(by_step), n_samples, replace=False, p=by_step / by_step.sum()))
        of_worker = np.repeat(np.arange(len(steps)), steps)[chosen]
        observations = collect(_rows(accepted, chosen, np.cumsum(steps) - steps), np.bincount(of_worker, minlength=len(steps)))
        if observations is not None:
            self.rounds.append(observations)

    def with_size(self, n_samples: int, n_rounds: int) -> FisherSample:
        """
        Return a sample of another size that begins with the newest rounds of this one.

        :param n_samples: observations of one round
        :param n_rounds: rounds that are used together
        """
        other = FisherSample(n_samples, n_rounds)
        other.rounds.extend(self.rounds)
        return other

    def observations(self) -> Any:
        """Return all of them, as the policy gets them."""
        return map_observation(lambda *rows: np.concatenate(rows), *self.rounds)


def _rows(accepted: Sequence[tuple[Arrival, Trajectory]], chosen: IntArray, starts: IntArray) -> Any:
    """
    Return the observations of this process at some steps; None if there are none.

    :param chosen: numbers of steps, counted over all workers in their order
    :param starts: number of the first step of each worker
    """
    parts, starts = [], starts.copy()
    for arrival, trajectory in accepted:
        start = starts[arrival.worker]
        own = chosen[(chosen >= start) & (chosen < start + trajectory.n_steps)] - start
        if len(own):
            parts.append(map_observation(lambda rows, own=own: rows[own], trajectory.policy_observations))
        starts[arrival.worker] += trajectory.n_steps
    return map_observation(lambda *rows: np.concatenate(rows), *parts) if parts else None
