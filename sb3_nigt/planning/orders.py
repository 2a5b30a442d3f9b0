"""Orders of complexity: seconds until a point with a gradient of length ε, up to constants and powers of 1/(1-γ)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Order:
    """
    Orders of one method (arXiv 2509.24305, its table of complexities).

    :param method: its name
    :param compute: order of the seconds of sampling, as text
    :param communication: order of the seconds of messages, as text
    :param compute_seconds: the compute order as a function of h_i and ε
    """

    method: str
    compute: str
    communication: str
    compute_seconds: Callable[[FloatArray, float], float]


def _mean_time(h: FloatArray) -> FloatArray:
    """Harmonic mean of the m smallest h, (1/m Σ_{i≤m} 1/h_i)⁻¹, for m = 1 … n."""
    m = np.arange(1, len(h) + 1)
    mean: FloatArray = m / np.cumsum(1 / np.sort(h))
    return mean


def _sync_pg(h: FloatArray, eps: float) -> float:
    return float(h.max() * (eps**-2 + eps**-4 / len(h)))


def _sync_nigt(h: FloatArray, eps: float) -> float:
    return float(h.max() * eps**-3.5 / len(h))


def _rennala_pg(h: FloatArray, eps: float) -> float:
    return float(np.min(_mean_time(h) * (eps**-2 + eps**-4 / np.arange(1, len(h) + 1))))


def _afedpg(h: FloatArray, eps: float) -> float:
    n = len(h)
    return float(_mean_time(h)[-1] * (n ** (4 / 3) * eps ** (-7 / 3) + eps**-3.5 / n))


def _rennala_nigt(h: FloatArray, eps: float) -> float:
    return float(np.min(_mean_time(h) * (eps**-2 + eps**-3.5 / np.arange(1, len(h) + 1))))


def _malenia_nigt(h: FloatArray, eps: float) -> float:
    return float(h.max() * eps**-2 + h.mean() * eps**-3.5 / len(h))


ORDERS: tuple[Order, ...] = (
    Order("Sync PG", "max h (ε^-2 + ε^-4/n)", "κ (ε^-2 + ε^-4/n)", _sync_pg),
    Order("Sync NIGT", "max h ε^-7/2 / n", "κ ε^-7/2", _sync_nigt),
    Order("Rennala PG", "min_m H_m (ε^-2 + ε^-4/m)", "κ ε^-2", _rennala_pg),
    Order("AFedPG", "H_n (n^4/3 ε^-7/3 + ε^-7/2/n)", "≥ κ ε^-3", _afedpg),
    Order("Rennala NIGT", "min_m H_m (ε^-2 + ε^-7/2/m)", "κ ε^-2", _rennala_nigt),
    Order("Malenia NIGT", "max h ε^-2 + mean h ε^-7/2 / n", "κ ε^-2", _malenia_nigt),
)
