"""
Runs on real processes for a number of real seconds: our methods on ``ProcessVecEnv``, others on what suits them best.

The policy is kept at each moment and evaluated after the run, so that evaluation takes none of its time.
"""

from __future__ import annotations

import copy
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TextIO

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

from sb3_nigt.algorithms.base import AsyncPolicyGradient
from sb3_nigt.experiments.benchmark.rates import rate
from sb3_nigt.experiments.curve_file import CurveFile
from sb3_nigt.experiments.evaluation import Evaluator
from sb3_nigt.experiments.methods import is_baseline, make_model, messages_of_round, updates_made
from sb3_nigt.experiments.setting import FOREVER, Budget, Run
from sb3_nigt.timing.clock import WallClock
from sb3_nigt.vec_env import ProcessVecEnv, make_worker_vec_env

TRIAL_SECONDS = 1.0  # of random steps, for each of Stable-Baselines3's two kinds of VecEnv


def train(run: Run, file: TextIO) -> BaseAlgorithm:
    """
    Train, then evaluate.

    :param run: the run
    :param file: file for the curve
    :return: the model at its end
    :raises RuntimeError: if a process of a baseline has ended
    """
    workers = make_workers(run)
    callback = SnapshotCallback(run.budget)
    try:
        model = make_model(run.method, run.setting.env, workers, run.seed, run.arguments, run.paper)
        model.learn(FOREVER, callback=callback, log_interval=None)  # type: ignore[arg-type]
    except (EOFError, BrokenPipeError, ConnectionResetError) as error:
        raise RuntimeError(f"an environment of {run.method} has failed, the traceback of its process is above") from error
    finally:
        close(workers)
    evaluator = Evaluator(run.setting, run.budget.episodes, run.seed)
    lines = CurveFile(run, evaluator.envs, file)
    for number, (moment, kept) in enumerate(zip(callback.moments, callback.snapshots, strict=True)):
        put_back(kept, model)
        lines.write(evaluator.returns(model, number), moment, kept.timesteps, kept.messages, kept.updates)
    return model


def make_workers(run: Run) -> VecEnv:
    """
    Make the environments: in processes, or for a baseline in this one if that is faster.

    :param run: the run that they are for
    """
    env_id, n_workers = run.setting.env, run.setting.n_workers
    if not is_baseline(run.method):
        return make_worker_vec_env(env_id, n_workers, vec_env_cls=ProcessVecEnv, seed=run.seed)
    make_env = partial(gym.make, env_id)  # the id alone would be made with a renderer
    make = partial(make_vec_env, make_env, n_workers, seed=run.seed)
    rates = {cls: random_steps_a_second(make(vec_env_cls=cls)) for cls in (DummyVecEnv, SubprocVecEnv)}
    return make(vec_env_cls=max(rates, key=lambda cls: rates[cls]))


def random_steps_a_second(env: VecEnv) -> float:
    """
    Step all environments together for ``TRIAL_SECONDS``, each with a random action that it repeats.

    :param env: the environments; closed at the end
    """
    env.reset()
    actions = np.array([env.action_space.sample() for _ in range(env.num_envs)])

    def work() -> int:
        steps, end = 0, time.perf_counter() + TRIAL_SECONDS
        while time.perf_counter() < end:
            env.step(actions)
            steps += env.num_envs
        return steps

    measured = rate(work)
    env.close()
    return measured


def close(workers: VecEnv) -> None:
    """
    End the processes, those of a ``SubprocVecEnv`` whose environment has failed as well.

    :param workers: the workers of a run
    """
    with suppress(EOFError, OSError):
        workers.close()
    if isinstance(workers, SubprocVecEnv):
        for process in workers.processes:
            process.terminate()
            process.join()


@dataclass(frozen=True)
class Snapshot:
    """
    A policy and what it has cost.

    :param timesteps: timesteps so far
    :param messages: messages to the learner so far
    :param updates: updates so far
    :param parameters: parameters of the policy
    :param observations: statistics of ``VecNormalize``, None where it does not normalise observations
    """

    timesteps: int
    messages: int
    updates: int
    parameters: dict[str, th.Tensor]
    observations: RunningMeanStd | dict[str, RunningMeanStd] | None


class SnapshotCallback(BaseCallback):
    """
    Keeps the policy that is in force at each of equally spaced moments, the first at 0, and ends the run after the last.

    During an update that is the policy before it, so an update that is not complete in time does not count.

    :param budget: seconds of the run, and number of moments after the first
    """

    def __init__(self, budget: Budget) -> None:
        super().__init__()
        assert budget.seconds is not None
        self.moments: list[float] = np.linspace(0.0, budget.seconds, budget.points + 1).tolist()
        self.snapshots: list[Snapshot] = []
        self.n_messages = 0
        self._before_update: Snapshot | None = None

    def _on_training_start(self) -> None:
        self.clock = WallClock()
        self.snapshots.append(self._snapshot())

    def _on_rollout_start(self) -> None:
        self._look()
        self._before_update = None

    def _on_step(self) -> bool:
        self._look()
        return len(self.snapshots) < len(self.moments)

    def _on_rollout_end(self) -> None:
        self._look()
        is_ours = isinstance(self.model, AsyncPolicyGradient)
        self.n_messages += messages_of_round(self.model) if is_ours else self.training_env.num_envs  # type: ignore[arg-type]
        self._before_update = self._snapshot()

    def _look(self) -> None:
        """Keep the policy for all moments that have passed since the last look."""
        now = self.clock.now()
        passed = sum(moment <= now for moment in self.moments) - len(self.snapshots)
        if passed > 0:
            self.snapshots += [self._before_update or self._snapshot()] * passed

    def _snapshot(self) -> Snapshot:
        normalized = self.model.get_vec_normalize_env()
        observations = normalized.obs_rms if normalized is not None and normalized.norm_obs else None
        return Snapshot(
            timesteps=self.num_timesteps,
            messages=self.n_messages,
            updates=updates_made(self.model),
            parameters=copy.deepcopy(self.model.policy.state_dict()),
            observations=copy.deepcopy(observations),
        )


def put_back(snapshot: Snapshot, model: BaseAlgorithm) -> None:
    """
    Give a model the policy that it had.

    :param snapshot: a snapshot of this model
    :param model: the model, no longer in training
    """
    model.policy.load_state_dict(snapshot.parameters)
    if snapshot.observations is not None:
        normalized: Any = model.get_vec_normalize_env()
        normalized.obs_rms = snapshot.observations
