"""What rl_zoo3's search for hyperparameters (Optuna) may try."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from torch import nn

from sb3_nigt.algorithms.base import AsyncPolicyGradient
from sb3_nigt.experiments.tune import ETAS, EXPONENTS, N_TRAJECTORIES

if TYPE_CHECKING:
    import optuna

NORMALIZED_STEPS = (2.0 ** EXPONENTS[0], 2.0 ** EXPONENTS[-1])  # α in the paper, where a step has length α
PLAIN_STEPS = (1e-6, 1e-1)  # the step is α g, and g is as large as the rewards
MORE_ETAS = (*ETAS, 0.5, 1.0)  # the paper's, and such as forget within a run of few rounds
ROUND_SIZES = {  # the first one that an algorithm has; AFedPG has the last one only
    "n_steps": (20, 50, 100, 200),
    "n_trajectories": N_TRAJECTORIES,
    "n_initial_trajectories": N_TRAJECTORIES,
}
NET_ARCHS = {"tiny": [64], "small": [64, 64], "medium": [256, 256]}  # rl_zoo3's for on-policy algorithms
ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU}


def sample(
    algorithm: type[AsyncPolicyGradient],
    trial: optuna.Trial,
    n_actions: int,
    n_envs: int,
    additional_args: dict[str, Any],
) -> dict[str, Any]:
    """
    Draw arguments of an algorithm.

    The schedule and H are not searched: they change how long a round takes, or the task.

    :param algorithm: gets only what its constructor takes
    :param trial: draws
    :param n_actions: unused, like the next two; all samplers of rl_zoo3 have them
    :param n_envs: number of workers
    :param additional_args: what off-policy algorithms need
    :return: arguments of the constructor
    """
    takes = inspect.signature(algorithm).parameters
    steps = NORMALIZED_STEPS if "eta" in takes else PLAIN_STEPS
    size, sizes = next((name, values) for name, values in ROUND_SIZES.items() if name in takes)
    drawn = {
        "learning_rate": trial.suggest_float("learning_rate", *steps, log=True),
        size: trial.suggest_categorical(size, sizes),
        "one_minus_gamma": trial.suggest_float("one_minus_gamma", 1e-4, 0.03, log=True),
        "net_arch": trial.suggest_categorical("net_arch", tuple(NET_ARCHS)),
        "activation_fn": trial.suggest_categorical("activation_fn", tuple(ACTIVATIONS)),
    }
    if "eta" in takes:
        drawn["eta"] = trial.suggest_categorical("eta", MORE_ETAS)
    arguments = convert(drawn)
    trial.set_user_attr("gamma", arguments["gamma"])
    return arguments


def convert(sampled_params: dict[str, Any]) -> dict[str, Any]:
    """
    Turn what a trial has drawn, or a study has stored, into arguments of the constructor.

    :param sampled_params: by name
    """
    arguments = dict(sampled_params)
    arguments["gamma"] = 1 - arguments.pop("one_minus_gamma")
    arguments["policy_kwargs"] = {
        "net_arch": NET_ARCHS[arguments.pop("net_arch")],
        "activation_fn": ACTIVATIONS[arguments.pop("activation_fn")],
    }
    return arguments
