"""
Runs on real processes for a number of real seconds: our methods on ``ProcessVecEnv``, others on ``SubprocVecEnv``.

The policy is kept at each moment and evaluated after the run, so that evaluation takes none of its time.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial
from typing import Any, TextIO

import gymnasium as gym
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv

from sb3_nigt.algorithms.base import AsyncPolicyGradient
from sb3_nigt.experiments.curve_file import CurveFile
from sb3_nigt.experiments.evaluation import Evaluator
from sb3_nigt.experiments.methods import is_baseline, make_model, messages_of_round, updates_made
from sb3_nigt.experiments.setting import Budget, Run
from sb3_nigt.timing.clock import WallClock
from sb3_nigt.vec_env import ProcessVecEnv, make_worker_vec_env

FOREVER = 10**12  # timesteps for learn(): the seconds end a run


@dataclass(frozen=True)
class Snapshot:
    """
    A policy and what it has cost.

    :param counts: seconds, timesteps, messages and updates so far
    :param parameters: of the policy
    :param observations: the statistics of ``VecNormalize``, or None where it does not normalise observations
    """

    counts: dict[str, Any]
    parameters: dict[str, th.Tensor]
    observations: Any


def train(run: Run, file: TextIO) -> BaseAlgorithm:
    """
    Train, then evaluate.

    :param run: what to do
    :param file: takes the curve
    :return: the model at its end
    """
    workers = make_processes(run)
    try:
        model = make_model(run.method, run.setting.env, workers, run.seed, run.arguments, run.paper)
        album = SnapshotCallback(run.budget)
        model.learn(FOREVER, callback=album, log_interval=None)  # type: ignore[arg-type]
    finally:
        workers.close()
    evaluator = Evaluator(run.setting, run.budget.episodes, run.seed)
    lines = CurveFile(run, evaluator.envs, file)
    for number, snapshot in enumerate(album.snapshots):
        put_back(snapshot, model)
        lines.write(evaluator.returns(model, number), **snapshot.counts)
    return model


def make_processes(run: Run) -> VecEnv:
    """
    Start a process for each worker.

    :param run: what they are for
    """
    setting = run.setting
    if is_baseline(run.method):
        make_env = partial(gym.make, setting.env)
        return make_vec_env(make_env, setting.n_workers, seed=run.seed, vec_env_cls=SubprocVecEnv)
    return make_worker_vec_env(**setting.env_arguments(), vec_env_cls=ProcessVecEnv, seed=run.seed)


class SnapshotCallback(BaseCallback):
    """
    Keeps the policy at equally spaced moments and ends the run.

    A moment that passes during an update is taken at the first step after it; the last one counts as the end of the run.

    :param budget: seconds of the run, and number of moments
    """

    def __init__(self, budget: Budget) -> None:
        super().__init__()
        assert budget.seconds is not None
        self.seconds, self.interval = budget.seconds, budget.seconds / budget.points
        self.snapshots: list[Snapshot] = []
        self.n_messages = 0

    def _on_training_start(self) -> None:
        self.clock = WallClock()
        self._keep(0.0)

    def _on_step(self) -> bool:
        now = self.clock.now()
        if now >= len(self.snapshots) * self.interval:
            self._keep(min(now, self.seconds))
        return now < self.seconds

    def _on_rollout_end(self) -> None:
        ours = isinstance(self.model, AsyncPolicyGradient)
        self.n_messages += messages_of_round(self.model) if ours else self.training_env.num_envs  # type: ignore[arg-type]

    def _keep(self, now: float) -> None:
        counts = {
            "seconds": now,
            "timesteps": self.num_timesteps,
            "messages": self.n_messages,
            "updates": updates_made(self.model),
        }
        normalized = self.model.get_vec_normalize_env()
        observations = None if normalized is None or not normalized.norm_obs else normalized.obs_rms
        self.snapshots.append(Snapshot(counts, *copy.deepcopy((self.model.policy.state_dict(), observations))))


def put_back(snapshot: Snapshot, model: BaseAlgorithm) -> None:
    """
    Give a model the policy that it had.

    :param snapshot: of this model
    :param model: no longer in training
    """
    model.policy.load_state_dict(snapshot.parameters)
    if snapshot.observations is not None:
        normalized = model.get_vec_normalize_env()
        assert normalized is not None
        normalized.obs_rms = snapshot.observations
