"""The algorithms with the arguments of the paper as their defaults, which is what most tests are about."""

import sb3_nigt
from sb3_nigt import PAPER
from sb3_nigt.policies import ActorPolicy


def with_paper(policy, kwargs):
    """Arguments of the paper, where the test says nothing else; a policy class of another library has arguments of its own."""
    policy_kwargs = kwargs.get("policy_kwargs") or {}
    if isinstance(policy, str) or issubclass(policy, ActorPolicy):
        policy_kwargs = {**PAPER["policy_kwargs"], **policy_kwargs}
    return {**PAPER, **kwargs, "policy_kwargs": policy_kwargs}


class RennalaNIGT(sb3_nigt.RennalaNIGT):
    def __init__(self, policy, env, learning_rate=PAPER["learning_rate"], **kwargs):
        super().__init__(policy, env, **with_paper(policy, {"learning_rate": learning_rate, **kwargs}))


class MaleniaNIGT(sb3_nigt.MaleniaNIGT):
    def __init__(self, policy, env, learning_rate=PAPER["learning_rate"], **kwargs):
        super().__init__(policy, env, **with_paper(policy, {"learning_rate": learning_rate, **kwargs}))


class SyncNIGT(sb3_nigt.SyncNIGT):
    def __init__(self, policy, env, learning_rate=PAPER["learning_rate"], **kwargs):
        super().__init__(policy, env, **with_paper(policy, {"learning_rate": learning_rate, **kwargs}))
