"""The arguments with which the algorithms are the paper's, to the letter."""

from __future__ import annotations

from typing import Any

PAPER_POLICY: dict[str, Any] = {"head": "tanh_gaussian", "normalize_observations": False}

# Keyword arguments for RennalaNIGT, MaleniaNIGT and SyncNIGT; SyncPG, RennalaPG and AFedPG are published methods as they are.
PAPER: dict[str, Any] = {
    "gae_lambda": None,
    "rollout": "trajectories",
    "horizon": 1000,
    "geometry": "euclidean",
    "learning_rate": 2**-6,
    "eta": 0.1,
    "policy_kwargs": PAPER_POLICY,
}


def as_published(**kwargs: Any) -> dict[str, Any]:
    """
    Complete the arguments of a published method: the paper's estimator, rounds and policy.

    :param kwargs: what the user gave
    """
    policy_kwargs = {**PAPER_POLICY, **(kwargs.pop("policy_kwargs", None) or {})}
    rest = {name: PAPER[name] for name in ("gae_lambda", "rollout", "geometry")}
    return {**rest, **kwargs, "policy_kwargs": policy_kwargs}
