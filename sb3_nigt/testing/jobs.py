"""Jobs without an algorithm: prepare workers, run given trajectories, score them as the paper does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv

from sb3_nigt.algorithms.paper import PAPER_POLICY
from sb3_nigt.estimators import ReturnToGo
from sb3_nigt.messages import Arrival, Contribution, Job, SamplingPoint, TrajectoryKey
from sb3_nigt.parameters import flatten
from sb3_nigt.policies import ActorPolicy, MlpPolicy
from sb3_nigt.replica.copying import copy_of
from sb3_nigt.sampling.trajectory import Trajectory
from sb3_nigt.vec_env.base import RolloutSpec, RoundWorkers

Arrived = tuple[Arrival, Trajectory]
Coefficients = list[npt.NDArray[np.float64]]  # one array per trajectory, one number per step


def make_policy(
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    policy_class: type[ActorCriticPolicy] = MlpPolicy,
    **policy_kwargs: Any,
) -> ActorCriticPolicy:
    """
    Make a policy as an algorithm would, without touching torch's random numbers; of this package's classes the paper's.

    :param observation_space: of the environment
    :param action_space: of the environment
    :param policy_kwargs: further arguments of the policy
    """
    if issubclass(policy_class, ActorPolicy):
        policy_kwargs = {**PAPER_POLICY, **policy_kwargs}
    with th.random.fork_rng(devices=[]):
        policy = policy_class(observation_space, action_space, lambda progress: 0.0, **policy_kwargs)
    policy.set_training_mode(False)
    return policy


def prepared(
    workers: Any,
    policy_class: type[ActorCriticPolicy] = MlpPolicy,
    n_steps: int = 20,
    seed: int = 0,
    env: VecEnv | None = None,
    round_steps: int | None = None,
) -> tuple[Any, SamplingPoint]:
    """
    Prepare workers; return them and a sampling point of round 0 whose parameters are always the same.

    :param workers: any ``TrajectoryWorkers``
    :param n_steps: H
    :param seed: seed of the trajectories
    :param env: an environment with the spaces; None: the workers
    :param round_steps: steps of a round of steps; None: rounds are made of trajectories
    """
    env = workers if env is None else env
    policy = make_policy(env.observation_space, env.action_space, policy_class, net_arch=[4])
    workers.prepare(RolloutSpec(copy_of(policy, "cpu"), n_steps, seed, round_steps=round_steps))
    size = len(flatten(policy))
    return workers, SamplingPoint(0, np.random.default_rng(0).normal(0.0, 0.5, size).astype(np.float32))


def job(point: SamplingPoint, worker: int, number: int = 0) -> Job:
    """
    Return a job of the point's round, for the worker that it was first meant for.

    :param point: where it is sampled
    :param worker: index of the worker
    :param number: number of its trajectory
    """
    return Job(worker, TrajectoryKey(point.round, worker, number), point)


def run(workers: RoundWorkers, one_job: Job) -> Trajectory:
    """
    Run one job while nothing else is in flight.

    :param workers: the workers
    :param one_job: its worker must be idle
    """
    workers.submit(one_job)
    return arrive(workers)[1]


def arrive(workers: RoundWorkers) -> Arrived:
    """
    Wait for an arrival.

    :param workers: one of them must be busy
    """
    arrived = workers.next_arrival()
    assert arrived is not None
    return arrived


def collect(workers: RoundWorkers, jobs: Sequence[Job]) -> list[Arrived]:
    """
    Run jobs as soon as their workers are idle; return what arrives, in order of arrival.

    :param workers: the workers
    :param jobs: in the order in which each worker takes its own
    """
    waiting, results = list(jobs), list[Arrived]()
    while len(results) < len(jobs):
        for one_job in list(waiting):
            if not workers.busy(one_job.worker):
                workers.submit(one_job)
                waiting.remove(one_job)
        results.append(arrive(workers))
    return results


def coefficients(trajectories: Sequence[Trajectory], weights: Any, gamma: float = 0.99) -> Coefficients:
    """
    Return w_j C_jt of the paper's estimator, as ``policy_gradient`` takes them.

    :param trajectories: complete ones
    :param weights: w_j, one per trajectory
    :param gamma: γ
    """
    arrived: list[Any] = [(None, trajectory) for trajectory in trajectories]  # the paper's estimator looks at nothing else
    own = ReturnToGo(gamma).coefficients(arrived, np.zeros(0))
    return [weight * one for weight, one in zip(weights, own, strict=True)]


def contributions(arrived: Sequence[Arrived], gamma: float = 0.99) -> list[Contribution]:
    """
    Return what the paper's estimator makes of trajectories.

    :param arrived: arrivals with their trajectories
    :param gamma: γ
    """
    scored = coefficients([t for _, t in arrived], np.ones(len(arrived)), gamma)
    return [Contribution(a.worker, a.key, own) for (a, _), own in zip(arrived, scored, strict=True)]


def leaves(observations: Any) -> list[npt.NDArray[Any]]:
    """
    Return the arrays of an observation, or of a dict of observations.

    :param observations: one or a batch
    """
    return [observations[key] for key in sorted(observations)] if isinstance(observations, dict) else [observations]


def same(first: Trajectory, second: Trajectory) -> bool:
    """
    Tell whether two trajectories are equal bit for bit.

    :param first: one of them
    :param second: the other
    """
    arrays = [
        (t.samples, t.actions, t.rewards, *leaves(t.observations), *leaves(t.final_observation)) for t in (first, second)
    ]
    flags = [(t.key, t.terminated, t.truncated, t.rejected) for t in (first, second)]
    return flags[0] == flags[1] and all(np.array_equal(a, b) for a, b in zip(*arrays, strict=True))
