"""Actions that are no numbers: the policy has diverged, and what the environment makes of them is not its fault."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from sb3_nigt.errors import NonFiniteError

REMEDY = "Try a smaller learning_rate, and check the scale of rewards and observations."


def diverged(n_updates: int) -> str:
    """
    Say what has happened and what to do, as the end of a sentence.

    :param n_updates: number of updates of the policy
    """
    return f"after update {n_updates} the policy's output is no longer finite. {REMEDY}"


def are_finite(actions: npt.NDArray[Any]) -> bool:
    """
    Tell whether all actions are numbers.

    :param actions: one action or several
    """
    return bool(np.isfinite(actions).all())


def blame_output(error: ValueError, n_updates: int) -> None:
    """
    Raise if torch's distributions have refused an output of the policy.

    :param error: the policy's exception
    :param n_updates: number of updates of the policy
    :raises NonFiniteError: if that is why
    """
    if str(error).startswith("Expected parameter"):
        raise NonFiniteError(f"The policy cannot act: {diverged(n_updates)}") from error


def blame_policy(actions: npt.NDArray[Any], n_updates: int) -> None:
    """
    Raise if it is the policy's fault that an environment has raised.

    :param actions: the actions that the environment received
    :param n_updates: number of updates of the policy
    :raises NonFiniteError: if one of them is not finite
    """
    if not are_finite(actions):
        raise NonFiniteError(
            f"The environment has raised an exception because it got an action that is not finite: {diverged(n_updates)}"
        )
