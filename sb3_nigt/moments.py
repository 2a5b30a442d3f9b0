"""Weighted means and variances that can be merged: what workers and ranks send instead of their data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """
    Weight W, mean and sum of squared deviations M2 of a sample, in float64.

    Two samples merge to the moments of their union (Chan, Golub and LeVeque, 1979): with δ = mean_b - mean_a

        W = W_a + W_b,   mean = mean_a + δ W_b / W,   M2 = M2_a + M2_b + δ² W_a W_b / W

    so that any split of the data gives the same moments up to rounding.

    :param weight: W, the number of rows where each counts once; its shape must broadcast against that of ``mean``: ()
        for observations, the same shape (K,) where each of K entries has its own rows
    :param mean: any shape; 0 where W is 0
    :param m2: Σ w (x - mean)², the shape of ``mean``
    """

    weight: FloatArray
    mean: FloatArray
    m2: FloatArray

    @classmethod
    def empty(cls, shape: tuple[int, ...] = ()) -> Moments:
        """
        Return the moments of no data, the neutral element of ``merge``.

        :param shape: shape of one row
        """
        return cls(np.zeros(()), np.zeros(shape), np.zeros(shape))

    @classmethod
    def prior(cls, shape: tuple[int, ...] = (), weight: float = 1e-4) -> Moments:
        """
        Return mean 0 and variance 1 with little weight, where the running statistics of Stable-Baselines3 start.

        :param shape: shape of one row
        :param weight: as many rows as the prior counts for
        """
        return cls(np.asarray(weight), np.zeros(shape), np.full(shape, weight))

    @classmethod
    def of(cls, rows: npt.NDArray[np.generic]) -> Moments:
        """
        Return the moments of the rows of an array, each with weight 1.

        :param rows: any numeric dtype, shape (n, ...); n may be 0
        """
        values = np.array(rows, dtype=np.float64)  # a copy, which the next lines overwrite
        if not len(values):
            return cls.empty(values.shape[1:])
        mean = values.mean(axis=0)
        values -= mean
        return cls(np.asarray(float(len(values))), mean, np.einsum("i...,i...->...", values, values))

    @property
    def variance(self) -> FloatArray:
        """M2 / W, the shape of ``mean``; 0 where W is 0."""
        return np.divide(self.m2, self.weight, out=np.zeros_like(self.m2), where=self.weight > 0)

    def scaled(self, factor: float) -> Moments:
        """
        Multiply the weight of every row.

        :param factor: at least 0
        """
        return Moments(self.weight * factor, self.mean, self.m2 * factor)

    def times(self, factor: float) -> Moments:
        """
        Multiply every row.

        :param factor: any number
        """
        return Moments(self.weight, self.mean * factor, self.m2 * factor**2)

    def merge(self, other: Moments) -> Moments:
        """
        Return the moments of both samples together.

        :param other: of the same shape
        """
        weight = self.weight + other.weight
        share = np.divide(other.weight, weight, out=np.zeros_like(weight), where=weight > 0)
        delta = other.mean - self.mean
        return Moments(weight, self.mean + delta * share, self.m2 + other.m2 + delta * delta * (self.weight * share))

    def merge_all(self, others: Iterable[Moments]) -> Moments:
        """
        Merge several, one after the other: the same order gives the same bits.

        :param others: of the same shape
        """
        total = self
        for other in others:
            total = total.merge(other)
        return total

    def vector(self) -> FloatArray:
        """Weight, mean and M2 as one vector, to be sent."""
        return np.concatenate([np.ravel(part) for part in (self.weight, self.mean, self.m2)])

    def from_vector(self, vector: FloatArray) -> Moments:
        """
        Read what ``vector`` wrote.

        :param vector: as long as the vector of these moments, whose shapes it gets
        """
        weight, mean, m2 = np.split(vector, np.cumsum([self.weight.size, self.mean.size]))
        return Moments(weight.reshape(self.weight.shape), mean.reshape(self.mean.shape), m2.reshape(self.m2.shape))
