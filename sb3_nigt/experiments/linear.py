"""A learning rate that falls linearly, in the notation of rl_zoo3: ``lin_0.2`` from 0.2 to 0 at the end of the run."""

from __future__ import annotations

from functools import partial
from typing import Any

PREFIX = "lin_"


def is_schedule(value: Any) -> bool:
    """
    Tell whether a value is one that changes over the run.

    :param value: an argument of an algorithm
    """
    return isinstance(value, str) and value.startswith(PREFIX)


def as_schedule(value: Any) -> Any:
    """
    Return the function for a value that changes over the run; any other value as it is.

    :param value: an argument of an algorithm
    :raises ValueError: if no number follows
    """
    if not is_schedule(value):
        return value
    try:
        initial = float(value.removeprefix(PREFIX))
    except ValueError:
        raise ValueError(f"{value!r} is not allowed: write {PREFIX} and the first value, for example {PREFIX}0.2") from None
    return partial(_linear, initial=initial)


def _linear(progress_remaining: float, initial: float) -> float:
    return progress_remaining * initial
