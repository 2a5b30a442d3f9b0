"""The unit in which the critic works: rewards over the running standard deviation of the discounted return."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from sb3_nigt.estimators.advantages import BoolArray, FloatArray, backward_sums
from sb3_nigt.moments import Moments

EPSILON = 1e-8
PROBE = 1e-6  # a reward that no wrapper clips


def discounted_returns(rewards: FloatArray, ended: BoolArray, gamma: float, start: float = 0.0) -> FloatArray:
    """
    Running discounted return of one worker: R_t = γ R_{t-1} + r_t, which starts again from 0 after the end of an episode.

    :param rewards: r_t of consecutive steps, shape (L,)
    :param ended: whether the episode ended with step t, shape (L,)
    :param gamma: γ in [0, 1]
    :param start: R of the step before the first one, 0 if that one ended its episode
    :return: R_t, shape (L,)
    """
    if not len(rewards):
        return np.zeros(0)
    terms = rewards.astype(np.float64)
    terms[0] += gamma * start
    factors = np.append(0.0, np.where(ended[:-1], 0.0, gamma))
    return backward_sums(terms[::-1], factors[::-1])[::-1]  # the same recurrence, with time reversed


def unit_of(transform: Callable[[FloatArray], FloatArray] | None) -> float:
    """
    Return what a wrapper makes of a reward of 1; 1 without a wrapper, and where its answer is no positive number.

    :param transform: of rewards, as in ``SamplingPoint``
    """
    unit = 1.0 if transform is None else float(transform(np.array([PROBE]))[0]) / PROBE
    return unit if 0 < unit < np.inf else 1.0


class RewardScale:
    """
    Running standard deviation of the discounted return R_t, equal to that of ``VecNormalize`` on the same data.

    R_t is carried over the rounds, one number per worker. A round goes: ``normalize`` with the scale so far, ``advance`` for
    the segment of each worker, ``merge`` in worker order.

    A wrapper may scale the rewards as well, by another number in each round; ``set_unit`` follows it.

    :param n_workers: number of workers
    :param gamma: γ in [0, 1]
    :param clip: largest absolute value of a normalised reward
    """

    def __init__(self, n_workers: int, gamma: float, clip: float = 10.0) -> None:
        self.gamma, self.clip = gamma, clip
        self.moments = Moments.prior()
        self.unit = 1.0
        self._returns = np.zeros(n_workers)

    @property
    def scale(self) -> float:
        """Real units in one normalised unit, (variance + ε)^{1/2}; 1 before the first round."""
        return float(np.sqrt(self.moments.variance + EPSILON))

    def set_unit(self, unit: float) -> None:
        """
        Express all that was seen in another unit: ``VecNormalize`` has a new one in each round.

        :param unit: what a wrapper makes of a reward of 1
        """
        if unit != self.unit:
            factor, self.unit = unit / self.unit, unit
            self.moments = self.moments.times(factor)
            self._returns *= factor

    def normalize(self, rewards: FloatArray) -> FloatArray:
        """
        Return the rewards over the scale, clipped.

        :param rewards: rewards as the environment gave them, any shape
        """
        return np.clip(rewards / self.scale, -self.clip, self.clip)

    def advance(self, worker: int, rewards: FloatArray, ended: BoolArray) -> Moments:
        """
        Continue R_t of a worker by one segment and return the moments of its new values, for ``merge``.

        :param worker: its number
        :param rewards: rewards as the environment gave them, shape (L,)
        :param ended: whether the episode ended with step t, shape (L,)
        """
        returns = discounted_returns(rewards, ended, self.gamma, float(self._returns[worker]))
        if len(returns):
            self._returns[worker] = 0.0 if ended[-1] else returns[-1]
        return Moments.of(returns)

    def restart(self, worker: int) -> None:
        """
        Forget R of a worker that begins a new episode without having ended the last one.

        :param worker: its number
        """
        self._returns[worker] = 0.0

    def merge(self, moments: Iterable[Moments]) -> None:
        """
        Take moments of ``advance`` into the running ones.

        :param moments: moments of all workers, in an order that does not depend on the order of arrival
        """
        self.moments = self.moments.merge_all(moments)

    def state_dict(self) -> dict[str, Any]:
        """All that changes in a run, as arrays."""
        return {"moments": self.moments.vector(), "returns": self._returns.copy(), "unit": self.unit}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """
        Continue from a state; if it is that of another number of workers, they all begin new episodes.

        :param state: the result of ``state_dict``
        """
        self.moments = self.moments.from_vector(np.asarray(state["moments"], dtype=np.float64))
        self.unit = state.get("unit", 1.0)
        returns = np.array(state["returns"], dtype=np.float64)
        self._returns = returns if len(returns) == len(self._returns) else np.zeros_like(self._returns)
