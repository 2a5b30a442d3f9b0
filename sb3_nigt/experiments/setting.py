"""What is run, as data: where, for how long, with which method and seed. Everything can be written as JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from sb3_nigt.envs import make_tasks
from sb3_nigt.sampling.segments import longest_episode
from sb3_nigt.timing.link import Aggregation, Link
from sb3_nigt.timing.time_models import FixedTimes, TimeModel, TimePer, VaryingTimes
from sb3_nigt.vec_env import SimulatedVecEnv, make_worker_vec_env
from sb3_nigt.vec_env.simulated import DEFAULT_EPISODE_STEPS

Workers = Literal["simulated", "processes"]
FOREVER = 10**12  # timesteps for learn(): the budget ends a run
ONE_TASK = "return"  # name of the only task
N_MOMENTS = 1001  # at which times that change are looked at
MOST_LISTED = 10  # workers whose times are listed one by one


class CountedVecEnv(SimulatedVecEnv):
    """Workers that count their lock-steps, since not every baseline counts the steps it makes."""

    lockstep_timesteps = 0

    def step_wait(self) -> VecEnvStepReturn:
        """See ``SimulatedVecEnv``."""
        self.lockstep_timesteps += self.num_envs
        return super().step_wait()


@dataclass(frozen=True)
class Setting:
    """
    Environment and workers, the same for all methods that are compared.

    :param env: a registered id
    :param step_times: h_i, one per worker
    :param message_times: κ_i, one per worker
    :param time_per: what ``step_times`` measures, "step" or "trajectory"
    :param tasks: None, or a family of ``make_tasks``: the workers hold different tasks
    :param task_kwargs: further arguments of ``make_tasks``
    :param final_step_times: None, or the values that ``step_times`` reach exponentially after ``change_seconds``
    :param change_seconds: duration of the change, in seconds on the workers' clock
    :param link: "parallel", or "serial": the learner receives one message at a time, see ``TimeModel``
    :param aggregation: "all_reduce", or "server": a round takes the time of all its messages, see ``TimeModel``
    :param workers: "simulated", or "processes": real ones, whose times are what they are
    """

    env: str
    step_times: tuple[float, ...]
    message_times: tuple[float, ...]
    time_per: TimePer = "step"
    tasks: str | None = None
    task_kwargs: dict[str, Any] = field(default_factory=dict)
    final_step_times: tuple[float, ...] | None = None
    change_seconds: float = 0.0
    link: Link = "parallel"
    aggregation: Aggregation = "all_reduce"
    workers: Workers = "simulated"

    @property
    def n_workers(self) -> int:
        """Number of workers."""
        return len(self.step_times)

    def env_arguments(self) -> dict[str, Any]:
        """
        Return what ``make_worker_vec_env`` needs for the environments.

        :raises ValueError: for tasks that do not fit the environment
        """
        if self.tasks is None:
            return {"env_id": self.env, "n_workers": self.n_workers}
        return make_tasks(self.tasks, self.env, self.n_workers, **self.task_kwargs)

    def timesteps_a_second(self) -> float:
        """Environment steps of all workers if none ever waits and no episode ends early."""
        units = float(np.sum(1.0 / np.array(self.step_times)))
        if self.time_per == "step":
            return units
        return units * self._longest_episode()

    def _longest_episode(self) -> int:
        env = next(iter(self.make_evaluation_envs(1).values())).envs[0]
        return longest_episode(env) or DEFAULT_EPISODE_STEPS

    def lockstep_timesteps(self, seconds: float, rollout: int | None = None) -> int:
        """
        Return how many environment steps workers make that wait for the slowest in every step, or a few more.

        :param seconds: seconds on the workers' clock
        :param rollout: steps of each worker between two messages; None: their time does not count
        """
        steps = seconds / max(self.step_times) if self.final_step_times is None else self._slowest_steps(seconds)
        if self.time_per == "trajectory":
            steps *= self._longest_episode()
        if rollout is not None and max(self.message_times) > 0:
            steps = self._steps_between_messages(seconds, steps, rollout)
        return math.ceil(steps + 1) * self.n_workers

    def _steps_between_messages(self, seconds: float, steps: float, rollout: int) -> float:
        """Of the steps that a worker makes without messages, those that remain; where times change, rather too many."""
        message = sum(self.message_times) if self.aggregation == "server" else max(self.message_times)
        step = seconds / steps
        n_messages = int(seconds / (rollout * step + message))
        return min((n_messages + 1) * rollout, (seconds - n_messages * message) / step)

    def _slowest_steps(self, seconds: float) -> float:
        """Units that the slowest worker makes while times change: at each moment another one may be the slowest."""
        moments = np.linspace(0.0, seconds, N_MOMENTS)
        slowest = np.array([self._step_times_at(float(now)).max() for now in moments])
        return 1 + float(np.mean(1 / np.minimum(slowest[1:], slowest[:-1])) * seconds)  # a step keeps the time of its start

    def _step_times_at(self, now: float) -> npt.NDArray[np.float64]:
        start, final = np.array(self.step_times), np.array(self.final_step_times)
        times: npt.NDArray[np.float64] = start * (final / start) ** min(1.0, now / self.change_seconds)
        return times

    def make_workers(self, seed: int) -> CountedVecEnv:
        """
        Make simulated workers.

        :param seed: seed of the first lock-step reset
        """
        workers = make_worker_vec_env(
            **self.env_arguments(),
            vec_env_cls=CountedVecEnv,
            time_model=self._time_model(),
            seed=seed,
        )
        assert isinstance(workers, CountedVecEnv)
        return workers

    def _time_model(self) -> TimeModel:
        if self.final_step_times is None:
            return FixedTimes(self.step_times, self.message_times, self.time_per, self.link, self.aggregation)
        return VaryingTimes(self._step_times_at, self.message_times, self.time_per, self.link, self.aggregation)

    def make_evaluation_envs(self, episodes: int) -> dict[str, DummyVecEnv]:
        """
        Make environments that no worker uses, for each task as many as episodes are to be run at once.

        :param episodes: number of episodes of one evaluation
        """
        arguments = self.env_arguments()
        if self.tasks is None:
            return {ONE_TASK: DummyVecEnv([partial(_monitored, gym.make, id=self.env)] * episodes)}
        distinct = dict(zip(arguments["task_ids"], arguments["env_kwargs"], strict=True))
        make = arguments["env_id"]
        return {task: DummyVecEnv([partial(_monitored, make, **kwargs)] * episodes) for task, kwargs in distinct.items()}


def _monitored(make: Callable[..., gym.Env[Any, Any]], **kwargs: Any) -> Monitor[Any, Any]:
    env = make(**kwargs)
    if longest_episode(env) is None:  # an episode that does not end by itself would never be evaluated
        env = gym.wrappers.TimeLimit(env, DEFAULT_EPISODE_STEPS)
    return Monitor(env)


@dataclass(frozen=True)
class Budget:
    """
    When a run ends and how often it is evaluated; exactly one of the first two is given.

    :param timesteps: environment steps of all workers together
    :param seconds: seconds on the workers' clock
    :param points: approximate number of evaluations of a run
    :param episodes: number of episodes of an evaluation, for each task
    """

    timesteps: int | None = None
    seconds: float | None = None
    points: int = 30
    episodes: int = 10

    def spent(self, timesteps: int, seconds: float) -> float:
        """
        Return the share that is spent, 1 at the end.

        :param timesteps: timesteps so far
        :param seconds: seconds so far
        """
        if self.timesteps is not None:
            return timesteps / self.timesteps
        assert self.seconds is not None
        return seconds / self.seconds


@dataclass(frozen=True)
class Run:
    """
    One training run.

    :param method: a name that ``methods.check_method`` knows
    :param seed: seed of everything random
    :param setting: environment and workers
    :param budget: its length
    :param arguments: arguments of the algorithm that are not its defaults
    :param label: name of the run in files, tables and pictures; None: the method
    :param paper: whether to use the paper's algorithm to the letter, instead of the defaults of this package
    """

    method: str
    seed: int
    setting: Setting
    budget: Budget
    arguments: dict[str, Any] = field(default_factory=dict)
    label: str | None = None
    paper: bool = False

    @property
    def name(self) -> str:
        """Name of its files, without suffix."""
        return f"{(self.label or self.method).replace(':', '-')}-seed{self.seed}"

    def as_json(self) -> dict[str, Any]:
        """Everything above as it comes back from a JSON file."""
        converted: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return converted


def completed(found: dict[str, Any]) -> dict[str, Any]:
    """
    Return a run from a file of any version: what did not exist yet had its default.

    :param found: the result of ``Run.as_json``
    """
    return {**_defaults(Run), **found, "setting": {**_defaults(Setting), **found.get("setting", {})}}


def _defaults(cls: type[Run] | type[Setting]) -> dict[str, Any]:
    return {field.name: field.default for field in dataclasses.fields(cls) if field.default is not dataclasses.MISSING}


def title(setting: Setting) -> str:
    """
    Describe a setting in a line.

    :param setting: setting of the picture
    """
    messages = f"{_range(setting.message_times)} a message" if any(setting.message_times) else "messages take no time"
    if setting.link == "serial":
        messages += f", serial link, {'server' if setting.aggregation == 'server' else 'all-reduce'}"
    tasks = f", {setting.tasks} tasks" if setting.tasks else ""
    final = setting.final_step_times
    later = f" (at the end {_each(final)})" if final else ""
    steps = f"{_range(setting.step_times)} a {setting.time_per}{later}"
    workers = "1 worker" if setting.n_workers == 1 else f"{setting.n_workers} workers"
    if setting.workers == "processes":
        return f"{setting.env}, {workers}, real seconds"
    return f"{setting.env}{tasks}, {workers}, {steps}, {messages}"


def _each(seconds: Sequence[float]) -> str:
    return f"{', '.join(f'{value:.3g}' for value in seconds)} s" if len(seconds) <= MOST_LISTED else _range(seconds)


def _range(seconds: Sequence[float]) -> str:
    low, high = f"{min(seconds):.3g}", f"{max(seconds):.3g}"
    return f"{low} s" if low == high else f"{low} to {high} s"
