"""The experiments of the paper (arXiv 2509.24305), as data. What the paper does not say is our choice, see reproduce.md."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from sb3_nigt.experiments.arguments import FloatArray
from sb3_nigt.timing.link import Aggregation, Link
from sb3_nigt.timing.time_models import TimePer

if TYPE_CHECKING:
    from sb3_nigt.experiments.setting import Setting

LAWS: dict[str, Callable[[FloatArray], FloatArray]] = {  # of the numbers of the workers, 1 to n
    "0": np.zeros_like,
    "1": np.ones_like,
    "√i": np.sqrt,
    "√i/10": lambda i: np.sqrt(i) / 10.0,
    "√(n+1-i)": lambda i: np.sqrt(i[::-1]),
    "1, 10": lambda i: np.where(i == 1, 1.0, 10.0),
}
BY_PARAMETERS = "√i·d^(1/4)"  # d: number of parameters of the policy
N_TRAJECTORIES = 20  # M, where it is not tuned
TRAJECTORY_STEPS = {"Humanoid-v4": 50, "Reacher-v4": 50, "Walker2d-v4": 100, "Hopper-v4": 100}  # about, in these experiments


@dataclass(frozen=True)
class Experiment:
    """
    One figure, or one panel of it.

    :param env: a registered id
    :param step_times: law of h_i
    :param message_times: law of κ_i
    :param n_workers: n
    :param methods: the methods to compare
    :param tasks: None, or a family of ``make_tasks``
    :param task_kwargs: further arguments of ``make_tasks``
    :param final_step_times: law of h_i at the end of the run, if the speeds change
    :param link: how messages reach the learner, see ``TimeModel``
    :param aggregation: the same
    :param timesteps: approximate timesteps of Rennala NIGT (with tasks, Malenia NIGT), which give the time of all methods
    """

    env: str
    step_times: str
    message_times: str
    n_workers: int = 10
    methods: tuple[str, ...] = ("rennala", "rennala:first_finished", "sync", "afedpg", "ppo")
    tasks: str | None = None
    task_kwargs: dict[str, Any] = field(default_factory=dict)
    final_step_times: str | None = None
    link: Link = "parallel"
    aggregation: Aggregation = "all_reduce"
    timesteps: int = 2_000_000

    def setting(self, time_per: TimePer, scale: float = 1.0) -> Setting:
        """
        Return environment and workers.

        :param time_per: how h_i is read
        :param scale: length of a run, 1 is the full one
        """
        from sb3_nigt.experiments.setting import Setting  # here, so that the names of the figures are known at once

        workers = np.arange(1.0, self.n_workers + 1)
        if self.message_times == BY_PARAMETERS:
            message_times = np.sqrt(workers) * number_of_parameters(self.env) ** 0.25
        else:
            message_times = LAWS[self.message_times](workers)
        h, kappa = tuple(LAWS[self.step_times](workers).tolist()), tuple(message_times.tolist())
        if self.final_step_times is None:
            tasks = self.tasks, dict(self.task_kwargs)
            return Setting(self.env, h, kappa, time_per, *tasks, link=self.link, aggregation=self.aggregation)
        final, seconds = tuple(LAWS[self.final_step_times](workers).tolist()), scale * self._seconds(h, kappa, time_per)
        changing: dict[str, Any] = {"final_step_times": final, "change_seconds": seconds}
        return Setting(self.env, h, kappa, time_per, **changing, link=self.link, aggregation=self.aggregation)

    def methods_for(self, time_per: TimePer) -> tuple[str, ...]:
        """
        Return which methods are compared. PPO steps all workers at once, and a step has no time if only trajectories have one.

        :param time_per: how h_i is read
        """
        return tuple(method for method in self.methods if time_per == "step" or method != "ppo")

    def seconds(self, time_per: TimePer) -> float:
        """
        Predict how long Rennala NIGT, with tasks Malenia NIGT, needs for ``timesteps``; changing speeds count as at the start.

        :param time_per: how h_i is read
        """
        setting = self.setting(time_per)
        return self._seconds(setting.step_times, setting.message_times, time_per)

    def _seconds(self, h: tuple[float, ...], kappa: tuple[float, ...], time_per: TimePer) -> float:
        from sb3_nigt.planning import plan

        steps = TRAJECTORY_STEPS[self.env]
        units = steps if time_per == "step" else 1
        rounds = plan(h, N_TRAJECTORIES, units, kappa, link=self.link, aggregation=self.aggregation)
        update = rounds["Malenia" if self.tasks else "Rennala", "planned"]
        return self.timesteps / (update.n_trajectories * steps) * update.update_seconds


def number_of_parameters(env: str) -> int:
    """
    Count d, the parameters of the paper's policy.

    :param env: a registered id
    """
    from sb3_nigt.experiments.methods import make_model
    from sb3_nigt.experiments.setting import Setting

    model = make_model("rennala", env, Setting(env, (1.0,), (0.0,)).make_workers(0), 0, {}, paper=True)
    return sum(p.numel() for p in model.policy.parameters())


def _many_workers(env: str) -> Experiment:
    methods = ("rennala", "rennala:first_finished", "sync", "afedpg")
    return Experiment(env, "√i", "√i", 100, methods)


def _two_tasks(tasks: str, **task_kwargs: Any) -> Experiment:
    methods = ("malenia", "malenia:first_finished", "afedpg")
    return Experiment("Humanoid-v4", "1, 10", "0", 2, methods, tasks, task_kwargs)


def _ten_workers(env: str, step_times: str, message_times: str) -> Experiment:
    plain = Experiment(env, step_times, message_times)
    if message_times != "√i":
        return plain
    return dataclasses.replace(plain, methods=(*plain.methods, "rennalapg", "syncpg"))  # without NIGT's momentum


_TIMES = {"equal": ("1", "0"), "sqrt": ("√i", "√i"), "communication": ("√i", BY_PARAMETERS)}

FIGURES: dict[str, Experiment] = {
    **{
        f"{env.lower()}-{name}": _ten_workers(f"{env}-v4", *times)
        for env in ("Humanoid", "Reacher", "Walker2d", "Hopper")
        for name, times in _TIMES.items()
    },
    **{
        f"{env.lower()}-communication-serial": dataclasses.replace(
            _ten_workers(f"{env}-v4", *_TIMES["communication"]), link="serial"
        )
        for env in ("Humanoid", "Reacher")
    },
    **{f"{env.lower()}-sqrt-n100": _many_workers(f"{env}-v4") for env in ("Humanoid", "Reacher", "Hopper")},
    "humanoid-faster": Experiment("Humanoid-v4", "√i", "√i", final_step_times="√i/10"),
    "humanoid-reversed": Experiment("Humanoid-v4", "√i", "√i", final_step_times="√(n+1-i)"),
    "malenia-bit": _two_tasks("flipped"),
    "malenia-no-bit": _two_tasks("flipped", append_bit=False),
    "malenia-velocity": _two_tasks("velocity", values=[0.5, 2.0]),
    "malenia-direction": _two_tasks("direction", values=[0, 90]),
    "malenia-gravity": _two_tasks("gravity", values=[0.5, 1.5]),
    "malenia-friction": _two_tasks("friction", values=[0.5, 1.5]),
}
