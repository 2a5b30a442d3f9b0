"""The experiments of the paper (arXiv 2509.24305), as data. What the paper does not say is our choice, see reproduce.md."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sb3_nigt.experiments.arguments import FloatArray
from sb3_nigt.experiments.methods import make_model
from sb3_nigt.experiments.setting import Setting
from sb3_nigt.timing.time_models import TimePer

LAWS: dict[str, Callable[[FloatArray], FloatArray]] = {
    "0": np.zeros_like,
    "1": np.ones_like,
    "√i": np.sqrt,
    "1/√i": lambda i: 1.0 / np.sqrt(i),
    "1, 10": lambda i: np.where(i == 1, 1.0, 10.0),
}
BY_PARAMETERS = "√i·d^(1/4)"  # d: number of parameters of the policy


@dataclass(frozen=True)
class Experiment:
    """
    One figure, or one panel of it.

    :param env: a registered id
    :param step_times: law of h_i
    :param message_times: law of κ_i
    :param n_workers: n
    :param methods: who is compared
    :param tasks: None, or a family of ``make_tasks``
    :param task_kwargs: further arguments of ``make_tasks``
    :param timesteps: what workers that never wait would make; it gives the length in seconds, equal for all methods
    """

    env: str
    step_times: str
    message_times: str
    n_workers: int = 10
    methods: tuple[str, ...] = ("rennala", "rennala:first_finished", "sync", "afedpg")
    tasks: str | None = None
    task_kwargs: dict[str, Any] = field(default_factory=dict)
    timesteps: int = 2_000_000

    def setting(self, time_per: TimePer) -> Setting:
        """
        Return environment and workers.

        :param time_per: how h_i is read
        """
        workers = np.arange(1.0, self.n_workers + 1)
        if self.message_times == BY_PARAMETERS:
            message_times = np.sqrt(workers) * number_of_parameters(self.env) ** 0.25
        else:
            message_times = LAWS[self.message_times](workers)
        step_times = LAWS[self.step_times](workers)
        times = tuple(step_times.tolist()), tuple(message_times.tolist())
        return Setting(self.env, *times, time_per, self.tasks, dict(self.task_kwargs))


def number_of_parameters(env: str) -> int:
    """
    Count d, the parameters of the default policy.

    :param env: a registered id
    """
    model = make_model("rennala", Setting(env, (1.0,), (0.0,)).make_workers(0), 0, {})
    return sum(p.numel() for p in model.policy.parameters())


def _two_tasks(tasks: str, **task_kwargs: Any) -> Experiment:
    methods = ("malenia", "malenia:first_finished", "afedpg")
    return Experiment("Humanoid-v4", "1, 10", "0", 2, methods, tasks, task_kwargs)


_TIMES = {"equal": ("1", "0"), "sqrt": ("√i", "√i"), "communication": ("√i", BY_PARAMETERS)}

FIGURES: dict[str, Experiment] = {
    **{
        f"{env.lower()}-{name}": Experiment(f"{env}-v4", *times)
        for env in ("Humanoid", "Reacher", "Walker2d", "Hopper")
        for name, times in _TIMES.items()
    },
    **{f"{env.lower()}-sqrt-n100": Experiment(f"{env}-v4", "√i", "√i", 100) for env in ("Humanoid", "Reacher")},
    "humanoid-decreasing": Experiment("Humanoid-v4", "1/√i", "1/√i"),
    "malenia-bit": _two_tasks("flipped"),
    "malenia-no-bit": _two_tasks("flipped", append_bit=False),
    "malenia-reward": _two_tasks("velocity", values=[0.5, 2.0]),
    "malenia-dynamics": _two_tasks("gravity", values=[0.5, 1.5]),
}
