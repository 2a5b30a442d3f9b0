"""The paper's estimator."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sb3_nigt.estimators.base import Accepted, Assessment, Estimator, FloatArray


@dataclass(frozen=True)
class ReturnToGo(Estimator):
    """
    C_t = Σ_{h≥t} γ^h r_h (arXiv 2509.24305, the estimator g_H of Section 2).

    The discount counts from time 0, there is no baseline and no bootstrapping.

    :param gamma: γ in [0, 1]
    """

    gamma: float

    def coefficients(self, accepted: Accepted, weights: FloatArray, assessment: Assessment | None = None) -> list[FloatArray]:
        """See ``Estimator.coefficients``."""
        return [returns_to_go(trajectory.learning_rewards, self.gamma) for _, trajectory in accepted]


def returns_to_go(rewards: FloatArray, gamma: float) -> FloatArray:
    """
    Sum what follows each step: C_t = Σ_{h≥t} γ^h r_h.

    :param rewards: r_0 … r_{L-1}, shape (L,)
    :param gamma: γ in [0, 1]
    :return: shape (L,)
    """
    discounted = gamma ** np.arange(len(rewards)) * rewards
    return np.cumsum(discounted[::-1])[::-1]
