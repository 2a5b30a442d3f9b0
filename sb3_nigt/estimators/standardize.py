"""Standardised advantages: the mean of each task removed, one standard deviation for all."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from sb3_nigt.estimators.base import WorkerMoments
from sb3_nigt.moments import FloatArray, Moments

IntArray = npt.NDArray[np.int64]
MIN_STD = 1e-8  # advantages that are all equal up to rounding stay small


def task_moments(advantages: FloatArray, tasks: IntArray, weights: FloatArray, n_tasks: int) -> Moments:
    """
    Moments of the advantages of each task.

    With m_k the mean of task k: W_k = Σ w_t, m_k = Σ w_t A_t / W_k, M2_k = Σ w_t (A_t - m_k)², over the steps of task k.
    Those of several workers or ranks are merged with ``Moments.merge``.

    :param advantages: A_t of ``gae``, shape (N,)
    :param tasks: number of each step's task, 0 to K-1, shape (N,)
    :param weights: w of each step's worker, from the aggregator, at least 0, shape (N,)
    :param n_tasks: K
    :return: moments of shape (K,); weight 0 for a task without steps
    """

    def sums(terms: FloatArray) -> FloatArray:
        return np.bincount(tasks, terms, n_tasks).astype(np.float64)  # of no terms at all it would be integers

    weight = sums(weights)
    mean = np.divide(sums(weights * advantages), weight, out=np.zeros(n_tasks), where=weight > 0)
    return Moments(weight, mean, sums(weights * (advantages - mean[tasks]) ** 2))


def merged_task_moments(of_workers: Mapping[int, WorkerMoments], weights: FloatArray, n_tasks: int) -> Moments:
    """
    Return ``task_moments`` of steps that are at other places, from the moments of each worker.

    :param of_workers: moments of the advantages by worker, each step with weight 1
    :param weights: w_i, one per worker
    :param n_tasks: K
    :return: moments of shape (K,)
    """
    totals = [Moments.empty() for _ in range(n_tasks)]
    for worker in sorted(of_workers):
        task, moments = of_workers[worker]
        totals[task] = totals[task].merge(moments.scaled(float(weights[worker])))
    return Moments(*(np.array([getattr(total, name) for total in totals]) for name in ("weight", "mean", "m2")))


def pooled_std(moments: Moments) -> float:
    """
    One standard deviation of all advantages after the mean of each task is removed: (Σ_k M2_k / Σ_k W_k)^{1/2}.

    :param moments: the result of ``task_moments``
    :return: at least MIN_STD
    """
    weight = float(moments.weight.sum())
    return max(float(np.sqrt(moments.m2.sum() / weight)), MIN_STD) if weight > 0 else 1.0


def standardize(advantages: FloatArray, tasks: IntArray, moments: Moments) -> FloatArray:
    """
    Coefficients of the steps: C_t = (A_t - m_k(t)) / σ.

    :param advantages: A_t of ``gae``, shape (N,)
    :param tasks: number of each step's task, shape (N,)
    :param moments: the merged moments of all steps of the round
    :return: shape (N,)
    """
    return (advantages - moments.mean[tasks]) / pooled_std(moments)
