"""The contract of an estimator: accepted data of a round in, one coefficient a step out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.logger import Logger

from sb3_nigt.messages import Arrival
from sb3_nigt.sampling.trajectory import Trajectory

FloatArray = npt.NDArray[np.float64]


class Estimator(ABC):
    """
    Says what each step of a round counts for in the gradient Σ_i w_i Σ_t C_t ∇ log π(a_t | s_t).

    It works at the learner, which holds every accepted trajectory; workers only differentiate.
    """

    @abstractmethod
    def coefficients(self, accepted: Sequence[tuple[Arrival, Trajectory]], weights: FloatArray) -> list[FloatArray]:
        """
        Return C_t of every step, without the weight w_i of the worker.

        :param accepted: what counts, in an order that does not depend on which came first
        :param weights: w_i, one a worker
        :return: one array of shape (L,) for each trajectory
        """

    def learn(self) -> None:  # noqa: B027, most estimators learn nothing
        """Learn from the last round; called while the workers sample the next one."""

    def state_dict(self) -> dict[str, Any]:
        """Return all that changes in a run, apart from what the policy holds."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027
        """
        Go on from a state.

        :param state: made by ``state_dict``
        """

    def log(self, logger: Logger) -> None:  # noqa: B027
        """
        Record what there is to say of it.

        :param logger: the model's
        """
