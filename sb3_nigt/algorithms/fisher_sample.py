"""The observations from which the metric of the natural step is estimated."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sb3_nigt.messages import Arrival
from sb3_nigt.sampling.trajectory import Trajectory, map_observation


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
        self, accepted: Sequence[tuple[Arrival, Trajectory]], weights: npt.NDArray[np.float64], seed: tuple[int, int]
    ) -> None:
        """
        Draw from a round.

        :param accepted: in worker order
        :param weights: w_i, one a worker
        :param seed: of what is drawn
        """
        lengths = [trajectory.n_steps for _, trajectory in accepted]
        by_step = np.repeat([weights[arrival.worker] for arrival, _ in accepted], lengths)
        rng = np.random.default_rng(seed)
        n_samples = min(self.n_samples, int(np.count_nonzero(by_step)))
        chosen = np.sort(rng.choice(len(by_step), n_samples, replace=False, p=by_step / by_step.sum()))
        starts = np.cumsum([0, *lengths])
        parts = []
        for (_, trajectory), start, length in zip(accepted, starts, lengths, strict=False):
            own = chosen[(chosen >= start) & (chosen < start + length)] - start
            if len(own):
                parts.append(map_observation(lambda rows, own=own: rows[own], trajectory.policy_observations))
        self.rounds.append(map_observation(lambda *rows: np.concatenate(rows), *parts))

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
