"""One training run, from its description to its two files: the curve while it grows, the configuration when it is done."""

from __future__ import annotations

import json
import math
import os
import platform
import zlib
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import TextIO

from sb3_contrib import ARS
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from sb3_nigt.experiments import wall_clock
from sb3_nigt.experiments.curve_file import CurveFile
from sb3_nigt.experiments.evaluation import Evaluator
from sb3_nigt.experiments.linear import is_schedule
from sb3_nigt.experiments.methods import (
    deliver_messages,
    effective_arguments,
    is_baseline,
    make_model,
    timesteps_made,
    updates_made,
)
from sb3_nigt.experiments.setting import FOREVER, Budget, CountedVecEnv, Run, Setting

PACKAGES = ("sb3_nigt", "stable-baselines3", "sb3-contrib", "gymnasium", "mujoco", "torch", "numpy")


class BudgetSpent(Exception):
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

    :param run: the run
    :param directory: directory for the files
    """
    curve, configuration = files_of(run, directory)
    configuration.unlink(missing_ok=True)  # of an earlier run whose curve is lost
    train = wall_clock.train if run.setting.workers == "processes" else train_simulated
    with curve.open("w", newline="", encoding="utf-8") as file:
        model = train(run, file)
    record = {
        "run": run.as_json(),
        "checksum": checksum_of(curve),
        "algorithm": type(model).__name__,
        "arguments": effective_arguments(model),
        "n_parameters": sum(p.numel() for p in model.policy.parameters()),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }
    unfinished = configuration.with_suffix(".part")
    unfinished.write_text(json.dumps(record, indent=1, default=str) + "\n", encoding="utf-8")
    os.replace(unfinished, configuration)  # there at once and complete, or not at all


def checksum_of(curve: Path) -> int:
    """
    Return what tells whether a curve was damaged later.

    :param curve: its file
    """
    return zlib.crc32(curve.read_bytes())


def train_simulated(run: Run, file: TextIO) -> BaseAlgorithm:
    """
    Train on simulated workers, and evaluate meanwhile: it takes no time on their clock.

    :param run: the run
    :param file: file for the curve
    :return: the model at its end
    """
    workers = run.setting.make_workers(run.seed)
    model = make_model(run.method, run.setting.env, workers, run.seed, run.arguments, run.paper)
    with suppress(BudgetSpent):
        callback = CurveWriter(run, workers, file)
        model.learn(timesteps_of(run, model), callback=callback, log_interval=None)  # type: ignore[arg-type]
        raise RuntimeError(f"{run.name} ended by itself before its budget was spent, at {model.num_timesteps} timesteps.")
    return model


def timesteps_of(run: Run, model: BaseAlgorithm) -> int:
    """
    Return what a budget allows, or a little more: schedules depend on it, the budget ends the run.

    :param model: the model to train
    """
    if not is_baseline(run.method) and not any(map(is_schedule, run.arguments.values())):
        return FOREVER
    counted = model.n_envs if isinstance(model, ARS) else 1  # how often it counts a step
    if run.budget.timesteps is not None:
        return counted * (run.budget.timesteps + model.n_envs)
    assert run.budget.seconds is not None
    rollout = model.n_steps if isinstance(model, OnPolicyAlgorithm) else None  # of ARS it depends on the episodes
    return counted * run.setting.lockstep_timesteps(run.budget.seconds, rollout)


class CurveWriter(BaseCallback):
    """
    Evaluates at equally spaced moments of the clock, writes a line for each and ends the run.

    A moment is evaluated with the policy that was in force then. Moments between two updates share their policy, so only
    the first of them is evaluated: in between, the last line counts. An update at the very end still counts.

    :param run: the run
    :param workers: the workers to train on
    :param file: file for the lines
    """

    def __init__(self, run: Run, workers: CountedVecEnv, file: TextIO) -> None:
        super().__init__()
        self.run, self.workers = run, workers
        self.interval = _interval(run.setting, run.budget)
        self.evaluator = Evaluator(run.setting, run.budget.episodes, run.seed)
        self.lines = CurveFile(run, self.evaluator.envs, file)
        self.n_evaluations = self.n_messages = 0
        self.made_by_the_end: tuple[int, int, int] | None = None  # once the clock shows the end, and may show it once more
        self.in_force_since = 0.0  # the policy, in seconds

    def _on_training_start(self) -> None:
        self._evaluate()
        self._write(0.0, self._made())

    def _on_rollout_start(self) -> None:
        if self.made_by_the_end is not None:  # the update came exactly at the end
            self._finish(self._made())

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
            self._write(moment, self._made())
        if self.run.budget.spent(timesteps_made(self.model, self.workers), now) < 1.0:
            return
        if self.made_by_the_end is None:
            self.made_by_the_end = self._made()
        if now != end:
            self._finish(self.made_by_the_end)

    def _finish(self, made: tuple[int, int, int]) -> None:
        if self.in_force_since > self.evaluated_since:
            self._evaluate()
        self._write(min(self.workers.clock.now(), self.run.budget.seconds or math.inf), made)
        raise BudgetSpent

    def _made(self) -> tuple[int, int, int]:
        """Timesteps, messages and updates so far."""
        return timesteps_made(self.model, self.workers), self.n_messages, updates_made(self.model)

    def _far_from_last_line(self) -> bool:
        """With a budget of timesteps the time is a guess: never more than twice as many points as wanted."""
        timesteps, made = self.run.budget.timesteps, timesteps_made(self.model, self.workers)
        return timesteps is None or made - self.written_timesteps >= timesteps / (2 * self.run.budget.points)

    def _evaluate(self) -> None:
        self.returns = self.evaluator.returns(self.model, self.n_evaluations)
        self.n_evaluations += 1
        self.evaluated_since = self.in_force_since

    def _write(self, seconds: float, made: tuple[int, int, int]) -> None:
        self.written_timesteps, *_ = made
        self.lines.write(self.returns, seconds, *made)


def _interval(setting: Setting, budget: Budget) -> float:
    """Seconds between two evaluations; for a budget of timesteps, as if no worker ever waited."""
    if budget.seconds is not None:
        return budget.seconds / budget.points
    assert budget.timesteps is not None
    return budget.timesteps / setting.timesteps_a_second() / budget.points
