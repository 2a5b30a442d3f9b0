"""Synchronous NIGT."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from sb3_nigt.aggregators import Aggregator, Synchronous
from sb3_nigt.algorithms.base import AsyncPolicyGradient


class SyncNIGT(AsyncPolicyGradient):
    """
    NIGT with a barrier: a round ends when every worker has made its share, so the slowest worker sets the pace.

    The share is ``n_steps`` steps, or ⌈M/n⌉ trajectories with ``rollout="trajectories"``. For the arguments see
    ``AsyncPolicyGradient``; there is no ``schedule``.
    """

    fixed: ClassVar[Mapping[str, Any]] = {"schedule": "planned", "on_lost_task": "raise"}

    def make_aggregator(self, n_trajectories: int) -> Aggregator:
        """See ``AsyncPolicyGradient.make_aggregator``."""
        return Synchronous(n_trajectories)
