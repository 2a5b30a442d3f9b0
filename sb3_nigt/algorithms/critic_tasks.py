"""Which tasks the critic tells apart, and where its network is."""

from __future__ import annotations

from collections.abc import Hashable

from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv

from sb3_nigt.critic import ValueNetwork
from sb3_nigt.policies import ActorPolicy
from sb3_nigt.vec_env.base import WorkerVecEnv


def critic_tasks(env: VecEnv | None, every_worker: bool) -> dict[Hashable, int]:
    """
    Number the tasks that the critic is told of: those that the user gave, else a single one.

    :param env: that is trained on
    :param every_worker: where the user gave none, each worker counts as a task of its own
    """
    inner = None if env is None else env.unwrapped
    if not isinstance(inner, WorkerVecEnv):
        return {}
    if not (inner.tasks_differ or every_worker):
        return dict.fromkeys(inner.task_ids, 0)
    return {task: number for number, task in enumerate(dict.fromkeys(inner.task_ids))}


def n_critic_tasks(env: VecEnv | None, every_worker: bool) -> int:
    """
    Count them.

    :param env: that is trained on
    :param every_worker: where the user gave none, each worker counts as a task of its own
    """
    return max(critic_tasks(env, every_worker).values(), default=0) + 1


def value_network(policy: ActorCriticPolicy, tasks: dict[Hashable, int]) -> ValueNetwork:
    """
    Return the critic's network: that of the policy, or one of its own for a policy without.

    :param policy: of the model
    :param tasks: as ``critic_tasks`` says
    """
    if isinstance(policy, ActorPolicy) and policy.value_network is not None:
        return policy.value_network
    return ValueNetwork(policy.observation_space, max(tasks.values(), default=0) + 1).to(policy.device)
