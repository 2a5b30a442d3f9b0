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

# Arguments that a published method does not have, with the values that it has them at.
PUBLISHED: dict[str, Any] = {
    **{name: PAPER[name] for name in ("gae_lambda", "rollout", "geometry")},
    "n_steps": None,
    "stagger": True,
    "fisher_samples": 200,
    "fisher_rounds": 10,
    "on_lost_task": "raise",
}


def with_published_policy(kwargs: dict[str, Any]) -> dict[str, Any]:
    """
    Let the policy be the paper's, apart from what the user gave.

    :param kwargs: arguments of the algorithm
    """
    return {**kwargs, "policy_kwargs": {**PAPER_POLICY, **(kwargs.get("policy_kwargs") or {})}}
