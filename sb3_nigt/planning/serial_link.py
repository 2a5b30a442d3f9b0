"""
Closed forms for a learner that takes one message at a time.

τ_i are seconds per trajectory of worker i, κ_i seconds per message, n workers. A worker whose gradient waits in the queue
starts its next trajectory only when the gradient has arrived.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from sb3_nigt.validation import per_worker, time_values

FloatArray = npt.NDArray[np.float64]
Times = Iterable[float] | FloatArray

ROUNDING = 1e-12  # relative


def link_load(durations: Times, message_times: float | Times) -> float:
    """
    ρ = Σ_i κ_i/(τ_i + κ_i): seconds of messages a second, where each trajectory is sent on its own and no message waits.

    A serial link cannot take more than 1.

    :param durations: τ_i, seconds per trajectory, one per worker
    :param message_times: κ_i, seconds per message, one number, or one per worker
    """
    tau, kappa = _checked(durations, message_times)
    return float(np.sum(kappa / (tau + kappa)))


def saturating_n_workers(durations: Times, message_times: float | Times) -> int | None:
    """
    ⌈n/ρ⌉, the number of workers like these that load a serial link fully; more of them bring no more updates.

    :param durations: τ_i, seconds per trajectory, one per worker
    :param message_times: κ_i, seconds per message, one number, or one per worker
    :return: None if messages take no time
    """
    tau, kappa = _checked(durations, message_times)
    load = link_load(tau, kappa)
    return math.ceil(len(tau) / load * (1 - ROUNDING)) if load > 0 else None


def serial_afedpg_bounds(durations: Times, message_times: float | Times) -> tuple[float, float]:
    """
    Bounds of the mean seconds between two updates of AFedPG over a serial link.

    Lower: the rates x_i ≤ 1/(τ_i + κ_i) with Σ κ_i x_i ≤ 1 whose sum is largest, those of the shortest messages first. Upper:
    1/Σ_i 1/(τ_i + Σ_j κ_j), since a gradient waits for at most one message of each other worker. Workers of equal speed and
    messages make an update every max(κ, (τ + κ)/n) seconds.

    :param durations: τ_i, seconds per trajectory, one per worker
    :param message_times: κ_i, seconds per message, one number, or one per worker
    :return: both bounds
    """
    tau, kappa = _checked(durations, message_times)
    order = np.argsort(kappa, kind="stable")
    loads = (kappa / (tau + kappa))[order]
    room = np.maximum(0.0, 1.0 - (np.cumsum(loads) - loads))  # that the link has left for each worker
    shares = np.where(loads > room, room / np.where(loads > 0, loads, 1.0), 1.0)
    quickest = 1 / np.sum(shares / (tau + kappa)[order])
    return float(quickest), float(1 / np.sum(1 / (tau + kappa.sum())))


def _checked(durations: Times, message_times: float | Times) -> tuple[FloatArray, FloatArray]:
    tau = np.atleast_1d(time_values("durations", durations, positive=True))
    return tau, per_worker("message_times", message_times, len(tau), positive=False)
