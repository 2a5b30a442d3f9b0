"""The contract of an estimator: accepted data of a round in, one coefficient a step out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.logger import Logger
from torch import nn

from sb3_nigt.messages import Arrival, SamplingPoint
from sb3_nigt.moments import Moments
from sb3_nigt.sampling.trajectory import Trajectory

FloatArray = npt.NDArray[np.float64]
Accepted = Sequence[tuple[Arrival, Trajectory]]
Rows = Callable[[FloatArray], FloatArray]  # from the vector of this process to those of all that train together, one a row
Mean = Callable[[FloatArray, float], FloatArray | None]  # of all processes, each with a weight; None if these are all 0


class WorkerMoments(NamedTuple):
    """
    Moments of what one worker has done in a round, each step with weight 1.

    :param task: number of its task
    :param moments: moments of its advantages
    """

    task: int
    moments: Moments


@dataclass(frozen=True)
class Assessment:
    """
    What an estimator has to know of a whole round, of which this process may have only a part.

    :param advantages: moments of the advantages, by worker
    :param returns: moments of the discounted returns, to be merged in this order
    """

    advantages: dict[int, WorkerMoments]
    returns: list[Moments]


class Estimator(ABC):
    """
    Computes the coefficient C_t of each step in the gradient Σ_i w_i Σ_t C_t ∇ log π(a_t | s_t).

    It runs in the learner, which has all accepted trajectories (with several ranks, those of its own workers). The workers
    only differentiate. Calls per round: ``assess``, ``coefficients``, ``learn``.
    """

    def assess(self, accepted: Accepted, rows: Rows | None) -> Assessment | None:
        """
        Look at the trajectories of this process; what others have seen is merged with the result.

        :param accepted: as in ``coefficients``; may be empty where there are other processes
        :param rows: a function that exchanges numbers with these, at the price of one message; None: there are none
        :return: None where each trajectory counts for itself
        """
        return None

    @abstractmethod
    def coefficients(self, accepted: Accepted, weights: FloatArray, assessment: Assessment | None) -> list[FloatArray]:
        """
        Return C_t of every step, without the weight w_i of the worker.

        :param accepted: what counts, in an order that does not depend on the order of arrival
        :param weights: w_i, one per worker
        :param assessment: the assessment of the whole round
        :return: one array of shape (L,) for each trajectory
        """

    def at_point(self, point: SamplingPoint) -> None:  # noqa: B027, most estimators need no preparation
        """
        Prepare for a round; called before it is sampled.

        :param point: where it is sampled, with the statistics that are frozen for it
        """

    def learn(self, mean: Mean | None = None) -> None:  # noqa: B027, most estimators learn nothing
        """
        Learn from the last round; called while the workers sample the next one.

        :param mean: the mean over all processes that train together, to be called once by each; None: there are no others
        """

    def shared_state(self) -> FloatArray:
        """Return as one vector what all processes that train together have in common."""
        return np.zeros(0)

    def set_shared_state(self, vector: FloatArray) -> None:  # noqa: B027
        """
        Go on with what another process has.

        :param vector: the result of its ``shared_state``
        """

    @property
    def critic_network(self) -> nn.Module | None:
        """The network that it trains; of most estimators none."""
        return None

    @property
    def task_numbers(self) -> Mapping[Hashable, int]:
        """By which number it knows each task; of most estimators none."""
        return {}

    def keep_task_numbers(self, before: Mapping[Hashable, int]) -> None:  # noqa: B027
        """
        Know tasks by the numbers that they had before, and new ones by those that are free.

        :param before: ``task_numbers`` of the estimator whose state this one continues
        """

    def state_dict(self) -> dict[str, Any]:
        """Return all that changes in a run, apart from what the policy holds."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027
        """
        Go on from a state.

        :param state: the result of ``state_dict``
        """

    def log(self, logger: Logger) -> None:  # noqa: B027
        """
        Record what there is to say of it.

        :param logger: the model's
        """
