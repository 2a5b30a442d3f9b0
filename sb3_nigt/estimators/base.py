"""The contract of an estimator: accepted data of a round in, one coefficient a step out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sb3_nigt.sampling.trajectory import Trajectory

FloatArray = npt.NDArray[np.float64]


class Estimator(ABC):
    """
    Says what each step of a round counts for in the gradient Σ_i w_i Σ_t C_t ∇ log π(a_t | s_t).

    It works at the learner, which holds every accepted trajectory; workers only differentiate.
    """

    @abstractmethod
    def coefficients(self, trajectories: Sequence[Trajectory]) -> list[FloatArray]:
        """
        Return C_t of every step, without the weight w_i of the worker.

        :param trajectories: accepted ones, in an order that does not depend on which came first
        :return: one array of shape (L,) for each trajectory
        """
