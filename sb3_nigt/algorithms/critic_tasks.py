"""Which tasks the critic tells apart, and where its network is."""

from __future__ import annotations

from collections.abc import Hashable

from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_nigt.critic import ValueNetwork
from sb3_nigt.policies import as_actor_policy
from sb3_nigt.vec_env.base import TrajectoryWorkers


def critic_tasks(workers: TrajectoryWorkers | None, n_envs: int, every_worker: bool) -> dict[Hashable, int]:
    """
    Number the tasks that the critic is told of: those that the user gave, else a single one.

    :param workers: all of them; None if they are environments that are stepped together
    :param n_envs: how many of these
    :param every_worker: where the user gave none, each worker counts as its own task
    """
    if workers is None:
        return {env: env for env in range(n_envs)} if every_worker else {}
    if not (workers.tasks_differ or every_worker):
        return dict.fromkeys(workers.task_ids, 0)
    return {task: number for number, task in enumerate(dict.fromkeys(workers.task_ids))}


def n_critic_tasks(workers: TrajectoryWorkers | None, n_envs: int, every_worker: bool) -> int:
    """
    Count them.

    :param workers: see ``critic_tasks``
    :param n_envs: see ``critic_tasks``
    :param every_worker: where the user gave none, each worker counts as its own task
    """
    return max(critic_tasks(workers, n_envs, every_worker).values(), default=0) + 1


def value_network(policy: ActorCriticPolicy, tasks: dict[Hashable, int]) -> ValueNetwork:
    """
    Return the critic's network: that of the policy, or a new one for a policy without.

    :param policy: of the model
    :param tasks: as ``critic_tasks`` says
    """
    actor = as_actor_policy(policy)
    if actor is not None and actor.value_network is not None:
        return actor.value_network
    network = ValueNetwork(
        policy.observation_space,
        max(tasks.values(), default=0) + 1,
        features_extractor_class=policy.features_extractor_class,
        features_extractor_kwargs=policy.features_extractor_kwargs,
        normalize_images=policy.normalize_images,
    )
    return network.to(policy.device)
