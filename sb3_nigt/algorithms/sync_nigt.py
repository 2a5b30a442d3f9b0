"""Synchronous NIGT."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from sb3_nigt.aggregators import Aggregator, Synchronous
from sb3_nigt.algorithms.base import AsyncPolicyGradient


class SyncNIGT(AsyncPolicyGradient):
    """
    NIGT with a barrier: every worker makes ⌈M/n⌉ trajectories, the slowest one sets the pace.

    Arguments: see ``AsyncPolicyGradient``; there is no ``schedule``.
    """

    fixed: ClassVar[Mapping[str, Any]] = {"schedule": "planned", "on_lost_task": "raise"}

    def make_aggregator(self, n_trajectories: int) -> Aggregator:
        """See ``AsyncPolicyGradient.make_aggregator``."""
        return Synchronous(n_trajectories)
