"""What the other parts of the package may know of a model, and the counters of a run."""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from sb3_nigt.algorithms.book import Accepted, BetweenRounds, LengthEstimate
from sb3_nigt.algorithms.fisher_sample import FisherSample
from sb3_nigt.algorithms.group import Group
from sb3_nigt.estimators import Estimator
from sb3_nigt.vec_env.base import TrajectoryWorkers

COUNTERS = {  # name and attribute of the numbers that decide how a run continues
    "num_timesteps": "num_timesteps",
    "n_updates": "_n_updates",
    "root_seed": "_root_seed",
    "mean_length": "_mean_length",
    "bad_gradients": "_bad_gradients",
}


class Known(OnPolicyAlgorithm):
    """The part of ``Model`` that tells others about it."""

    _accepted: Accepted
    _estimator: Estimator
    _fisher: FisherSample
    _memory: BetweenRounds
    _root_seed: int
    _group: Group | None = None  # of this learn() or the last one
    _mean_length: float | None = None  # of trajectories; durations are predicted with it
    _n_critic_tasks: int | None = None  # also in a file, which may be loaded without an environment

    @property
    def n_updates(self) -> int:
        """Outer updates so far, which is also the number of the next round."""
        return int(self._n_updates)

    @property
    def accepted(self) -> Accepted:
        """Arrivals and trajectories of the last round, in worker order; of several ranks each has its own part."""
        return self._accepted

    @property
    def progress_remaining(self) -> float:
        """Progress remaining (from 1 to 0), which schedules of the learning rate and of η depend on."""
        return float(self._current_progress_remaining)

    def progress_at_update(self) -> float:
        """Return the progress remaining at the update that follows the round which has just ended."""
        total = max(1, self._total_timesteps)
        return 1.0 - min(self.num_timesteps, total) / total

    @property
    def root_seed(self) -> int:
        """Seed of all trajectories."""
        return self._root_seed

    @root_seed.setter
    def root_seed(self, seed: int) -> None:
        self._root_seed = seed

    @property
    def estimator(self) -> Estimator:
        """Says how much each step counts for."""
        return self._estimator

    @property
    def fisher_sample(self) -> FisherSample:
        """Observations that the metric of the next step is taken from; in a group only where steps are made."""
        return self._fisher

    @property
    def n_critic_tasks(self) -> int | None:
        """How many tasks the critic tells apart; None without one."""
        return self._n_critic_tasks

    @property
    def workers(self) -> TrajectoryWorkers:
        """
        The workers that rounds run on; of all ranks where there are several.

        :raises RuntimeError: before ``learn()``
        """
        if self._group is None:
            raise RuntimeError("There are no workers yet: they are connected when learn() begins.")
        return self._group.workers

    def counters(self) -> dict[str, Any]:
        """Return the numbers that decide how a run continues, apart from parameters and optimizer."""
        return {name: getattr(self, attribute) for name, attribute in COUNTERS.items()}

    def set_counters(self, values: dict[str, Any]) -> None:
        """
        Go on as another model would.

        :param values: its ``counters()``
        """
        for name, attribute in COUNTERS.items():
            setattr(self, attribute, values[name])
        if self._mean_length is not None:
            self._memory.lengths = LengthEstimate(self._mean_length, seen=True)
