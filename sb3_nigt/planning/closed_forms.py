"""
Closed forms for workers of constant speed.

τ_i are seconds per trajectory of worker i, n workers, M trajectories a round, A_m = Σ_{i≤m} 1/τ_i over the m fastest.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from sb3_nigt.aggregators import Malenia, predicted_counts
from sb3_nigt.timing.link import Aggregation
from sb3_nigt.validation import check_integer, check_interval, per_worker, time_values

FloatArray = npt.NDArray[np.float64]
Times = Iterable[float] | FloatArray

ROUNDING = 1e-12  # relative; a multiple of τ_i may come out a little too large


def rennala_round_time(durations: Times, n_trajectories: int) -> float:
    """
    T = min{t : Σ_i ⌊t/τ_i⌋ ≥ M}, the M-th smallest of {k τ_i : k ≥ 1}.

    :param durations: τ_i, seconds per trajectory, one per worker
    :param n_trajectories: M
    """
    times, _ = _first_arrivals(_checked(durations), check_integer("n_trajectories", n_trajectories, 1))
    return float(times[-1])


def rennala_bounds(durations: Times, n_trajectories: int) -> tuple[float, float]:
    """
    M/A_n ≤ T ≤ min_m (M + m)/A_m.

    :param durations: τ_i, seconds per trajectory, one per worker
    :param n_trajectories: M
    :return: both bounds
    """
    totals = _upper_bounds(durations, n_trajectories)
    n_workers = len(totals)
    return float(totals[-1] * n_trajectories / (n_trajectories + n_workers)), float(totals.min())


def workers_worth_waiting_for(durations: Times, n_trajectories: int) -> int:
    """
    m* = argmin_m (M + m)/A_m; the smallest where several are minimal.

    The guarantee for the time of a round is no better with the slower workers than without them.

    :param durations: τ_i, seconds per trajectory, one per worker
    :param n_trajectories: M
    """
    return int(np.argmin(_upper_bounds(durations, n_trajectories))) + 1


def malenia_round_time(durations: Times, n_trajectories: int) -> float:
    """
    T = min{t : Σ_i 1/⌊t/τ_i⌋ ≤ n²/M}, every worker with its own task.

    :param durations: τ_i, seconds per trajectory, one per worker
    :param n_trajectories: M
    """
    tau = _checked(durations)
    rule = Malenia.of(check_integer("n_trajectories", n_trajectories, 1), range(len(tau)))
    return float((predicted_counts(rule, tau) * tau).max())


def malenia_bounds(durations: Times, n_trajectories: int) -> tuple[float, float]:
    """
    max(τ_n, (M/n) mean τ) ≤ T ≤ max(τ_n, 2 (M/n) mean τ).

    :param durations: τ_i, seconds per trajectory, one per worker
    :param n_trajectories: M
    :return: both bounds
    """
    tau = _checked(durations)
    work = check_integer("n_trajectories", n_trajectories, 1) / len(tau) * float(tau.mean())
    slowest = float(tau.max())
    return max(slowest, work), max(slowest, 2 * work)


def synchronous_round_time(durations: Times, n_trajectories: int) -> float:
    """
    T = ⌈M/n⌉ τ_n.

    :param durations: τ_i, seconds per trajectory, one per worker
    :param n_trajectories: M
    """
    tau = _checked(durations)
    return float(-(-check_integer("n_trajectories", n_trajectories, 1) // len(tau)) * tau.max())


def afedpg_interval(durations: Times, message_times: float | Times = 0.0) -> float:
    """
    Mean seconds between two updates, 1 / Σ_i 1/(τ_i + κ_i); the mean staleness is n - 1.

    Over a parallel link; for a serial one see ``serial_afedpg_bounds``.

    :param durations: τ_i, seconds per trajectory, one per worker
    :param message_times: κ_i, seconds per message, one number, or one per worker
    """
    tau = _checked(durations)
    return float(1 / np.sum(1 / (tau + per_worker("message_times", message_times, len(tau), positive=False))))


def efficient_n_trajectories(
    durations: Times, message_times: float | Times = 0.0, efficiency: float = 0.8, aggregation: Aggregation = "all_reduce"
) -> int:
    """
    Smallest M from which on a Rennala round uses a share x of what the workers can do: M/A_n ≥ x (T + κ).

    In T + κ seconds (the round and its aggregation, κ the longest message among those who deliver, or through a server all
    their messages) the workers could make A_n (T + κ) trajectories, the round uses M of them. With T ≤ (M + n)/A_n every
    M ≥ x/(1-x) (n + A_n max κ), or Σ κ instead of max κ, is enough.

    :param durations: τ_i, seconds per trajectory, one per worker
    :param message_times: κ_i, seconds per message, one number, or one per worker
    :param efficiency: x in [0, 1)
    :param aggregation: see ``TimeModel``
    """
    tau, x = _checked(durations), check_interval("efficiency", efficiency, 0.0, 1.0 - 1e-6)
    kappa, rate = per_worker("message_times", message_times, len(tau), positive=False), float(np.sum(1 / tau))
    odds, of_all = x / (1 - x), kappa.sum() if aggregation == "server" else kappa.max()
    enough = int(np.ceil(odds * (len(tau) + rate * of_all))) + 1
    # by then all have delivered, so κ is the one of all, and T ≥ M/A_n rules out every M so far: nothing to look at
    after = odds * of_all - tau.max()
    skipped = np.floor(after / tau).astype(np.int64) if after >= tau.max() else np.zeros(len(tau), dtype=np.int64)
    times, workers = _first_arrivals(tau, enough, skipped)
    updates = times + (of_all if skipped.any() else _aggregations(kappa, workers, aggregation))
    m = skipped.sum() + np.arange(1, len(times) + 1)
    too_small = m[m < x * rate * updates * (1 - ROUNDING)]
    return int(too_small[-1] if len(too_small) else skipped.sum()) + 1


def _aggregations(kappa: FloatArray, workers: npt.NDArray[np.int64], aggregation: Aggregation) -> FloatArray:
    """Return the seconds of an aggregation after the first, second, … arrival."""
    if aggregation == "all_reduce":
        longest: FloatArray = np.maximum.accumulate(kappa[workers])
        return longest
    is_first = np.zeros(len(workers), dtype=bool)
    is_first[np.unique(workers, return_index=True)[1]] = True
    return np.cumsum(np.where(is_first, kappa[workers], 0.0))


def malenia_free_n_trajectories(durations: Times) -> int:
    """
    Largest M for which a Malenia round lasts no longer than a trajectory of the slowest worker: ⌊n² / Σ_i 1/⌊τ_n/τ_i⌋⌋.

    A smaller M is not quicker.

    :param durations: τ_i, seconds per trajectory, one per worker, each with its own task
    """
    tau = _checked(durations)
    counts = np.floor(tau.max() / tau * (1 + ROUNDING))
    return int(len(tau) ** 2 / np.sum(1 / counts) * (1 + ROUNDING))


def _upper_bounds(durations: Times, n_trajectories: int) -> FloatArray:
    """Return (M + m)/A_m for m = 1 … n."""
    m_fastest = np.cumsum(1 / np.sort(_checked(durations)))
    upper: FloatArray = (check_integer("n_trajectories", n_trajectories, 1) + np.arange(1, len(m_fastest) + 1)) / m_fastest
    return upper


def _first_arrivals(
    tau: FloatArray, m: int, skipped: npt.NDArray[np.int64] | None = None
) -> tuple[FloatArray, npt.NDArray[np.int64]]:
    """
    Return the m smallest k τ_i in order, and i; equal times in the order of their starts, (k-1) τ_i, then of i.

    Without those of k ≤ skipped_i, which must be the smallest of all.
    """
    late = (m + len(tau)) / np.sum(1 / tau)  # an upper bound of the m-th
    before = np.zeros(len(tau), dtype=np.int64) if skipped is None else skipped
    counts = (late / tau).astype(np.int64) + 1 - before
    workers = np.repeat(np.arange(len(tau)), counts)
    numbers = np.concatenate([np.arange(count) for count in counts]) + before[workers]
    times = (numbers + 1) * tau[workers]
    first = np.lexsort((workers, numbers * tau[workers], times))[: m - before.sum()]
    return times[first], workers[first]


def _checked(durations: Times) -> FloatArray:
    tau = np.atleast_1d(time_values("durations", durations, positive=True))
    check_integer("len(durations)", len(tau), 1)
    return tau
