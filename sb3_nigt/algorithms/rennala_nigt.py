"""Rennala NIGT."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from sb3_nigt.aggregators import Aggregator, Rennala
from sb3_nigt.algorithms.base import AsyncPolicyGradient


class RennalaNIGT(AsyncPolicyGradient):
    """
    Rennala NIGT (arXiv 2509.24305): train one policy on many workers of different speed without waiting for slow ones.

    A round ends when the workers together have made ``n_steps`` · n steps (M trajectories with ``rollout="trajectories"``),
    whichever workers made them, and all of them have the same weight. The outer update is ``NIGT``. With equal speeds it
    equals ``SyncNIGT``. All workers should hold the same task; for different tasks see ``MaleniaNIGT``. For the arguments
    see ``AsyncPolicyGradient``.
    """

    fixed: ClassVar[Mapping[str, Any]] = {"on_lost_task": "raise"}

    def make_aggregator(self, n_trajectories: int) -> Aggregator:
        """See ``AsyncPolicyGradient.make_aggregator``."""
        return Rennala(n_trajectories)
