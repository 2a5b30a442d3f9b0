"""One training run, from its description to its two files: the curve while it grows, the configuration when it is done."""

from __future__ import annotations

import csv
import json
import math
import os
import platform
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, sync_envs_normalization

from sb3_nigt.experiments.methods import (
    deliver_messages,
    effective_arguments,
    is_baseline,
    make_model,
    timesteps_made,
    updates_made,
)
from sb3_nigt.experiments.setting import ONE_TASK, Budget, CountedVecEnv, Run, Setting

COLUMNS = ("method", "seed", "seconds", "timesteps", "messages", "updates", "return")
PACKAGES = ("sb3_nigt", "stable-baselines3", "sb3-contrib", "gymnasium", "mujoco", "torch", "numpy")
EVALUATION_STREAM = 1  # keeps evaluation's random numbers apart from those of training
FOREVER = 10**12  # timesteps for learn(): the budget ends a run


class _BudgetSpent(Exception):
    """ARS does not stop when a callback returns False, an exception stops all of it."""


def files_of(run: Run, directory: Path) -> tuple[Path, Path]:
    """
    Name the files of a run: its curve, and its configuration, which exists only once the run is finished.

    :param directory: where they are
    """
    return directory / f"{run.name}.csv", directory / f"{run.name}.json"


def execute(run: Run, directory: Path) -> None:
    """
    Train and measure; what an earlier attempt has left is replaced.

    :param run: what to do
    :param directory: takes the files
    """
    curve, configuration = files_of(run, directory)
    workers = run.setting.make_workers(run.seed)
    model = make_model(run.method, workers, run.seed, run.arguments, run.paper)
    with curve.open("w", newline="", encoding="utf-8") as file:
        writer = CurveWriter(run, workers, file)
        with suppress(_BudgetSpent):
            model.learn(timesteps_of(run, workers), callback=writer, log_interval=None)  # type: ignore[arg-type]
    record = {
        "run": run.as_json(),
        "algorithm": type(model).__name__,
        "arguments": effective_arguments(model),
        "n_parameters": sum(p.numel() for p in model.policy.parameters()),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }
    unfinished = configuration.with_suffix(".part")
    unfinished.write_text(json.dumps(record, indent=1, default=str) + "\n", encoding="utf-8")
    os.replace(unfinished, configuration)  # there at once and complete, or not at all


def timesteps_of(run: Run, workers: CountedVecEnv) -> int:
    """
    Return what a budget allows, or a little more: schedules of a baseline depend on it, the budget ends the run.

    :param workers: what it trains on
    """
    if not is_baseline(run.method):
        return FOREVER
    if run.budget.timesteps is not None:
        return run.budget.timesteps + workers.num_envs
    assert run.budget.seconds is not None
    return run.setting.lockstep_timesteps(run.budget.seconds)


class Evaluator:
    """
    Returns of the iterate on separate episodes; the random numbers of training are left as they are.

    :param setting: names the environments
    :param episodes: for each task
    :param seed: of the run
    """

    def __init__(self, setting: Setting, episodes: int, seed: int) -> None:
        self.envs = setting.make_evaluation_envs(episodes)
        self.episodes, self.seed = episodes, seed

    def returns(self, model: BaseAlgorithm, number: int) -> dict[str, float]:
        """
        Mean return of each task, with sampled actions as in training.

        :param model: whose policy is evaluated
        :param number: of the evaluation in its run; the same for all methods, so that they meet the same episodes
        """
        found, training = {}, model.get_vec_normalize_env()
        with th.random.fork_rng(devices=[]):
            for task, (name, env) in enumerate(self.envs.items()):
                sequence = np.random.SeedSequence((self.seed, EVALUATION_STREAM, number, task))
                seed = int(sequence.generate_state(1)[0]) // 2  # room for one seed an environment
                th.manual_seed(seed)
                env.seed(seed)
                mean, _ = evaluate_policy(model, normalized_as(training, env), self.episodes, deterministic=False)
                found[name] = float(np.mean(mean))
        return found


def normalized_as(training: VecNormalize | None, env: VecEnv) -> VecEnv:
    """
    Normalise observations as in training.

    :param training: what the model trains on; None: nothing is normalised
    :param env: to evaluate on
    """
    if training is None:
        return env
    normalized = VecNormalize(env, training=False, norm_obs=training.norm_obs, norm_reward=False)
    sync_envs_normalization(training, normalized)
    return normalized


class CurveWriter(BaseCallback):
    """
    Evaluates at equally spaced moments of the clock, writes a line for each and ends the run.

    A moment is evaluated with the policy that was in force then. Moments between two updates share their policy, so only
    the first of them is evaluated: in between, the last line counts.

    :param run: what is trained
    :param workers: on which
    :param file: takes the lines
    """

    def __init__(self, run: Run, workers: CountedVecEnv, file: TextIO) -> None:
        super().__init__()
        self.run, self.workers, self.file = run, workers, file
        self.interval = _interval(run.setting, run.budget)
        self.evaluator = Evaluator(run.setting, run.budget.episodes, run.seed)
        tasks = [name for name in self.evaluator.envs if name != ONE_TASK]
        self.lines = csv.DictWriter(file, [*COLUMNS, *tasks], lineterminator="\n")
        self.n_evaluations = self.n_messages = 0
        self.in_force_since = 0.0  # the policy, in seconds

    def _on_training_start(self) -> None:
        self.lines.writeheader()
        self._evaluate()
        self._write(0.0)

    def _on_step(self) -> bool:
        self._look()
        return True

    def _on_rollout_end(self) -> None:
        self.n_messages += deliver_messages(self.model, self.workers)
        self._look()
        self.in_force_since = self.workers.clock.now()  # of the next policy: the update comes now and takes no time

    def _look(self) -> None:
        """Evaluate if a moment has passed since the last update, and stop at the end."""
        now, end = self.workers.clock.now(), self.run.budget.seconds or math.inf
        moment = math.ceil(self.in_force_since / self.interval) * self.interval
        fresh = self.in_force_since > self.evaluated_since
        if fresh and moment < min(now, end) and self._far_from_last_line():
            self._evaluate()
            self._write(moment)
        if self.run.budget.spent(timesteps_made(self.model, self.workers), now) >= 1.0:
            if self.in_force_since > self.evaluated_since:
                self._evaluate()
            self._write(min(now, end))
            raise _BudgetSpent

    def _far_from_last_line(self) -> bool:
        """With a budget of timesteps the time is a guess: never more than twice as many points as wanted."""
        timesteps, made = self.run.budget.timesteps, timesteps_made(self.model, self.workers)
        return timesteps is None or made - self.written_timesteps >= timesteps / (2 * self.run.budget.points)

    def _evaluate(self) -> None:
        self.returns = self.evaluator.returns(self.model, self.n_evaluations)
        self.n_evaluations += 1
        self.evaluated_since = self.in_force_since

    def _write(self, seconds: float) -> None:
        self.written_timesteps = timesteps_made(self.model, self.workers)
        values: dict[str, Any] = {
            "method": self.run.label or self.run.method,
            "seed": self.run.seed,
            "seconds": seconds,
            "timesteps": self.written_timesteps,
            "messages": self.n_messages,
            "updates": updates_made(self.model),
            "return": float(np.mean(list(self.returns.values()))),
        }
        self.lines.writerow({**{name: value for name, value in self.returns.items() if name != ONE_TASK}, **values})
        self.file.flush()


def _interval(setting: Setting, budget: Budget) -> float:
    """Seconds between two evaluations; for a budget of timesteps, as if no worker ever waited."""
    if budget.seconds is not None:
        return budget.seconds / budget.points
    assert budget.timesteps is not None
    return budget.timesteps / setting.timesteps_a_second() / budget.points
