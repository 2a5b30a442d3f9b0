"""A copy of the policy at a worker's place: acts at sampling points and turns kept trajectories into gradients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext

import numpy as np
import numpy.typing as npt
import torch as th

from sb3_nigt.actors import Network, TorchNetwork, has_numpy_network, make_head, numpy_mlp
from sb3_nigt.gradients import batches, policy_gradient, weighted_sum
from sb3_nigt.messages import Arrival, SamplingPoint, TrajectoryKey
from sb3_nigt.parameters import PolicySpec, load_flat
from sb3_nigt.scores import MlpGradient
from sb3_nigt.trajectory import Trajectory


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch on one thread: for small networks a second one costs more than it gives, most of all on a busy machine."""
    n_threads = th.get_num_threads()
    th.set_num_threads(1)
    try:
        yield
    finally:
        th.set_num_threads(n_threads)


class PolicyReplica:
    """
    The policy module that samples and differentiates at θ̃ while the algorithm's own one holds θ.

    :param spec: how to build the policy
    :param gamma: γ in [0, 1]
    """

    def __init__(self, spec: PolicySpec, gamma: float) -> None:
        self.policy = spec.build()
        self.gamma = gamma
        self.head = make_head(self.policy)
        self._in_numpy = has_numpy_network(self.policy)
        by_hand = (
            self._in_numpy and self.policy.device.type == "cpu" and all(p.requires_grad for p in self.policy.parameters())
        )
        self._mlp_gradient = MlpGradient(self.policy) if by_hand else None
        self._loaded: SamplingPoint | None = None

    def network(self, point: SamplingPoint) -> Network:
        """
        Return the policy at a point, for observations one at a time or in batches.

        :param point: parameters and statistics
        """
        if self._in_numpy:
            return numpy_mlp(self.policy, point.parameters)
        torch_network = TorchNetwork(self.policy)

        def network(observation: object) -> npt.NDArray[np.float32]:
            self._load(point)
            return torch_network(observation)

        return network

    def batch_network(self, point: SamplingPoint) -> Network:
        """
        Return the policy at a point, for batches of observations.

        :param point: parameters and statistics
        """
        self._load(point)
        return TorchNetwork(self.policy)

    def gradient(self, trajectories: Sequence[Trajectory], weights: Sequence[float]) -> th.Tensor:
        """
        Weighted sum of trajectory gradients, each at the point that sampled it: one backward pass a point.

        :param trajectories: in an order that does not depend on who came first
        :param weights: one a trajectory
        :return: flat float32 vector over the parameters, direction of ascent
        """
        with one_thread() if self._in_numpy else nullcontext():
            return self._gradient(trajectories, weights)

    def aggregate(
        self,
        kept: Mapping[tuple[int, TrajectoryKey], Trajectory],
        arrivals: Sequence[Arrival],
        weights: npt.NDArray[np.float64],
        sums_by_worker: bool = False,
    ) -> th.Tensor:
        """
        Σ_i w_i S_i where all workers are in this process: one backward pass, in worker order.

        :param kept: trajectories by worker and key
        :param arrivals: which of them count, in any order
        :param weights: w_i, one a worker
        :param sums_by_worker: one backward pass a worker for its S_i, as where the workers are apart
        :return: flat float32 vector over the parameters, direction of ascent
        """
        ordered = sorted(arrivals, key=lambda arrival: (arrival.worker, arrival.key))
        trajectories = [kept[arrival.worker, arrival.key] for arrival in ordered]
        if sums_by_worker:
            by_worker: dict[int, list[Trajectory]] = {}
            for arrival, trajectory in zip(ordered, trajectories, strict=True):
                by_worker.setdefault(arrival.worker, []).append(trajectory)
            return weighted_sum({w: self.gradient(mine, [1.0] * len(mine)) for w, mine in by_worker.items()}, weights)
        return self.gradient(trajectories, [float(weights[arrival.worker]) for arrival in ordered])

    def _gradient(self, trajectories: Sequence[Trajectory], weights: Sequence[float]) -> th.Tensor:
        points = {id(trajectory.point): trajectory.point for trajectory in trajectories}
        sums = []
        for point in points.values():
            chosen = [(t, w) for t, w in zip(trajectories, weights, strict=True) if t.point is point]
            sums.append(self._gradient_at(point, [t for t, _ in chosen], [w for _, w in chosen]))
        return sums[0] if len(sums) == 1 else th.stack(sums).sum(0)

    def _gradient_at(self, point: SamplingPoint, trajectories: Sequence[Trajectory], weights: Sequence[float]) -> th.Tensor:
        if self._mlp_gradient is None:
            self._load(point)
            return policy_gradient(self.policy, trajectories, weights, self.gamma)
        pieces = [self._mlp_gradient(point.parameters, *batch) for batch in batches(trajectories, weights, self.gamma)]
        return pieces[0] if len(pieces) == 1 else th.stack(pieces).sum(0)

    def _load(self, point: SamplingPoint) -> None:
        if self._loaded is not point:
            load_flat(self.policy, point.parameters)
            self._loaded = point
