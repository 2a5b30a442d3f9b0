"""Rennala NIGT."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from sb3_nigt.aggregators import Aggregator, Rennala
from sb3_nigt.algorithms.base import AsyncPolicyGradient


class RennalaNIGT(AsyncPolicyGradient):
    """
    Rennala NIGT (arXiv 2509.24305): one policy on many workers of different speed, none of which is waited for.

    A round ends when the workers together have M trajectories; g_t is their mean; θ follows normalized momentum with
    implicit gradient transport (``NIGT``). With equal speeds and M = n it is ``SyncNIGT``, with n = 1 sequential NIGT. All
    workers should hold the same task; for different ones see ``MaleniaNIGT``. Arguments: see ``AsyncPolicyGradient``.
    """

    fixed: ClassVar[Mapping[str, Any]] = {"on_lost_task": "raise"}

    def make_aggregator(self, n_trajectories: int) -> Aggregator:
        """See ``AsyncPolicyGradient.make_aggregator``."""
        return Rennala(n_trajectories)
