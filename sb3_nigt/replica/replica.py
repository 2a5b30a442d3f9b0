"""A copy of the policy at a worker's place: acts at sampling points and turns kept trajectories into gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_nigt.messages import Contribution, SamplingPoint, TrajectoryKey
from sb3_nigt.parameters import Layout
from sb3_nigt.policies import ActorPolicy
from sb3_nigt.replica.gradients import Coefficients, batches, policy_gradient, weighted_sum
from sb3_nigt.replica.mlp import MlpGradient
from sb3_nigt.replica.network import TorchNetwork, has_numpy_network, numpy_mlp
from sb3_nigt.sampling.actions import blame_output
from sb3_nigt.sampling.heads import Network, make_head
from sb3_nigt.sampling.trajectory import Trajectory
from sb3_nigt.threads import one_thread


class PolicyReplica:
    """
    The policy module that samples and differentiates at θ̃ while the algorithm's own one holds θ.

    :param policy: a copy that belongs to this object, see ``copy_of``
    """

    def __init__(self, policy: ActorCriticPolicy) -> None:
        self.policy = policy
        self.layout = Layout(policy)
        self.head = make_head(self.policy)
        self._in_numpy = has_numpy_network(self.policy)
        by_hand = self._in_numpy and policy.device.type == "cpu" and all(p.requires_grad for p in self.layout.parameters)
        self._mlp_gradient = MlpGradient(policy, self.layout) if by_hand else None
        self._loaded: SamplingPoint | None = None

    def network(self, point: SamplingPoint) -> Network:
        """
        Return the policy at a point, for observations one at a time or in batches.

        :param point: parameters and statistics
        """
        if self._in_numpy:
            return numpy_mlp(self.policy, self.layout, point.parameters, self._normalizer_at(point))
        return self._in_torch(point)

    def batch_network(self, point: SamplingPoint) -> Network:
        """
        Return the policy at a point, for batches of observations.

        :param point: parameters and statistics
        """
        return self._in_torch(point)

    def _in_torch(self, point: SamplingPoint) -> Network:
        torch_network = TorchNetwork(self.policy)

        def network(observation: object) -> npt.NDArray[np.float32]:
            self._load(point)
            try:
                return torch_network(observation)
            except ValueError as error:
                blame_output(error, point.round)
                raise

        return network

    def gradient(self, trajectories: Sequence[Trajectory], coefficients: Coefficients) -> th.Tensor:
        """
        Weighted sum of scores, each at the point that sampled it: one backward pass a point.

        :param trajectories: in an order that does not depend on which came first
        :param coefficients: of the scores, for each trajectory an array of shape (L,)
        :return: flat float32 vector over the parameters, direction of ascent
        """
        with one_thread(self._in_numpy):
            return self._gradient(trajectories, coefficients)

    def aggregate(
        self,
        kept: Mapping[tuple[int, TrajectoryKey], Trajectory],
        contributions: Sequence[Contribution],
        weights: npt.NDArray[np.float64],
        sums_by_worker: bool = False,
    ) -> th.Tensor:
        """
        Σ_i w_i S_i where all workers are in this process: one backward pass, in worker order.

        :param kept: trajectories by worker and key
        :param contributions: the trajectories that count, with their coefficients, in any order
        :param weights: w_i, one per worker
        :param sums_by_worker: one backward pass a worker for its S_i, as where the workers are apart
        :return: flat float32 vector over the parameters, direction of ascent
        """
        if sums_by_worker:
            sums = {worker: self.local_sum(kept, mine) for worker, mine in by_worker(contributions).items()}
            return weighted_sum(sums, weights)
        ordered = sorted(contributions, key=lambda c: (c.worker, c.key))
        factors = [float(weights[c.worker]) * c.coefficients for c in ordered]
        return self.gradient([kept[c.worker, c.key] for c in ordered], factors)

    def local_sum(
        self, kept: Mapping[tuple[int, TrajectoryKey], Trajectory], contributions: Sequence[Contribution]
    ) -> th.Tensor:
        """
        S_i of one worker.

        :param kept: trajectories by worker and key
        :param contributions: of that worker, ordered by key
        :return: flat float32 vector over the parameters, direction of ascent
        """
        return self.gradient([kept[c.worker, c.key] for c in contributions], [c.coefficients for c in contributions])

    def _gradient(self, trajectories: Sequence[Trajectory], coefficients: Coefficients) -> th.Tensor:
        points = {id(trajectory.point): trajectory.point for trajectory in trajectories}
        sums = []
        for point in points.values():
            chosen = [(t, c) for t, c in zip(trajectories, coefficients, strict=True) if t.point is point]
            sums.append(self._gradient_at(point, [t for t, _ in chosen], [c for _, c in chosen]))
        return sums[0] if len(sums) == 1 else th.stack(sums).sum(0)

    def _gradient_at(self, point: SamplingPoint, trajectories: Sequence[Trajectory], coefficients: Coefficients) -> th.Tensor:
        if self._mlp_gradient is None:
            self._load(point)
            return policy_gradient(self.policy, trajectories, coefficients)
        normalize = self._normalizer_at(point) or _unchanged
        pieces = [
            self._mlp_gradient(point.parameters, normalize(observations), *rest)
            for observations, *rest in batches(trajectories, coefficients)
        ]
        return pieces[0] if len(pieces) == 1 else th.stack(pieces).sum(0)

    def _normalizer_at(self, point: SamplingPoint) -> Callable[[npt.NDArray[Any]], npt.NDArray[Any]] | None:
        """Return the policy's normaliser with the statistics of a point, as a function of arrays."""
        normalizer = self.policy.normalizer if isinstance(self.policy, ActorPolicy) else None
        if normalizer is None:
            return None
        # from the vector itself: a few pages of torch's code fewer in the cache of a worker that steps an environment
        return normalizer.frozen(partial(self.layout.view, point.parameters))

    def _load(self, point: SamplingPoint) -> None:
        if self._loaded is not point:
            self.layout.load(point.parameters)
            self.layout.load_buffers(point.buffers)
            self._loaded = point


def _unchanged(observations: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return observations


def by_worker(contributions: Iterable[Contribution]) -> dict[int, list[Contribution]]:
    """
    Group what was accepted by worker, in worker order and each worker's ordered by key.

    :param contributions: in any order
    """
    groups: dict[int, list[Contribution]] = {}
    for contribution in sorted(contributions, key=lambda c: (c.worker, c.key)):
        groups.setdefault(contribution.worker, []).append(contribution)
    return groups
