"""Checks of user input: every message names the argument, what was given and what to type instead."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt


def check_integer(name: str, value: Any, minimum: int, maximum: float = math.inf) -> int:
    """
    Return ``value`` as an int.

    :param name: the argument, for the message
    :param value: what the user gave
    :param minimum: smallest value allowed
    :param maximum: largest value allowed
    :raises ValueError: if it is not an integer, too small or too large
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not minimum <= value <= maximum:
        allowed = f"of at least {minimum}" if math.isinf(maximum) else f"from {minimum} to {maximum:,}"
        raise ValueError(f"{name}={value!r} is not allowed: give an integer {allowed}, for example {name}={minimum}.")
    return int(value)


def check_bool(name: str, value: Any) -> bool:
    """
    Return ``value`` as a bool.

    :param name: the argument, for the message
    :param value: what the user gave
    :raises ValueError: if it is anything but True or False
    """
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{name}={value!r} is not allowed: give True or False.")
    return bool(value)


def check_interval(name: str, value: Any, low: float, high: float, *, open_low: bool = False) -> float:
    """
    Return ``value`` as a float in [low, high], or in (low, high] with ``open_low``.

    :param name: the argument, for the message
    :param value: what the user gave
    :param low: lower end, may be infinite
    :param high: upper end, may be infinite
    :param open_low: exclude the lower end
    :raises ValueError: if it is not a number in the interval
    """
    number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value < low or value > high or (open_low and value == low):
        interval = f" in {'(' if open_low else '['}{low:g}, {high:g}{')' if math.isinf(high) else ']'}"
        raise ValueError(f"{name}={value!r} is not allowed: give a finite number{'' if math.isinf(low) else interval}.")
    return float(value)


def time_values(name: str, values: Any, *, positive: bool) -> npt.NDArray[np.float64]:
    """
    Return one number, or one per worker, as an array of dimension 0 or 1.

    :param name: the argument, for the message
    :param values: what the user gave
    :param positive: zero is not allowed
    :raises ValueError: if it is something else, or a value is negative, non-finite, or zero where that is not allowed
    """
    if isinstance(values, Iterable) and not isinstance(values, (str, dict, np.ndarray)):
        values = list(values)
    try:
        given = np.array(values)
    except ValueError:  # lists of different lengths
        given = np.array(None)
    if given.ndim > 1 or given.dtype.kind not in "iuf":
        raise ValueError(f"{name}={values!r} is not allowed: give one number for all workers, or a list with one per worker.")
    array = given.astype(np.float64)
    bad = ~np.isfinite(array) | (array <= 0 if positive else array < 0)
    if bad.any():
        where = f"{name}[{int(np.argmax(bad))}]" if array.ndim else name
        rule = "finite and greater than 0" if positive else "finite and at least 0"
        raise ValueError(f"{where}={float(array[bad][0])!r} is not allowed: every value must be {rule}.")
    return array


def per_worker(name: str, values: Any, n_workers: int, *, positive: bool) -> npt.NDArray[np.float64]:
    """
    Return one number per worker, repeating a scalar.

    :param name: the argument, for the message
    :param values: a scalar or one value per worker
    :param n_workers: how many workers there are
    :param positive: zero is not allowed
    :return: read-only array of shape (n_workers,)
    :raises ValueError: if the length differs, or for what ``time_values`` does not allow
    """
    array = time_values(name, values, positive=positive)
    if array.ndim and len(array) != n_workers:
        raise ValueError(
            f"{name} has {len(array)} values for {n_workers} workers: give one number for all, or a list of {n_workers}."
        )
    array = np.full(n_workers, array) if array.ndim == 0 else array
    array.setflags(write=False)
    return array
