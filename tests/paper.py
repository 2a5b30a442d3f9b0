"""The algorithms with the arguments of the paper as their defaults, which is what most tests are about."""

import sb3_nigt
from sb3_nigt import PAPER


def with_paper(kwargs):
    """Arguments of the paper, where the test says nothing else."""
    policy_kwargs = {**PAPER["policy_kwargs"], **(kwargs.get("policy_kwargs") or {})}
    return {**PAPER, **kwargs, "policy_kwargs": policy_kwargs}


class RennalaNIGT(sb3_nigt.RennalaNIGT):
    def __init__(self, policy, env, **kwargs):
        super().__init__(policy, env, **with_paper(kwargs))


class MaleniaNIGT(sb3_nigt.MaleniaNIGT):
    def __init__(self, policy, env, **kwargs):
        super().__init__(policy, env, **with_paper(kwargs))


class SyncNIGT(sb3_nigt.SyncNIGT):
    def __init__(self, policy, env, **kwargs):
        super().__init__(policy, env, **with_paper(kwargs))
