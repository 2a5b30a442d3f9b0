"""The one table that all measurements share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Row:
    """
    One measured thing.

    :param what: what was measured
    :param unit: unit of the values
    :param values: one value per repetition
    :param reference: values of what it is compared with, measured in turn with ``values``; None if there is nothing
    :param compared_with: what that is
    """

    what: str
    unit: str
    values: Sequence[float]
    reference: Sequence[float] | None = None
    compared_with: str = ""

    @property
    def ratio(self) -> float:
        """Median over the repetitions of value / reference, so that a machine whose speed drifts changes both."""
        assert self.reference is not None
        return float(np.median(np.asarray(self.values) / np.asarray(self.reference)))

    def __str__(self) -> str:
        text = f"{self.what:<58}{_number(np.median(self.values)):>12} {self.unit:<9}"
        if self.reference is not None:
            spread = np.asarray(self.values) / np.asarray(self.reference)
            limits = f"[{spread.min():.2f}, {spread.max():.2f}]"
            text += (
                f"{self.ratio:>8.2f} {limits:<16} of {_number(np.median(self.reference))} {self.unit}, {self.compared_with}"
            )
        return text


HEADER = f"{'measured':<58}{'median':>12} {'':<9}{'ratio':>8} [min, max]"


def counted(n: int, noun: str) -> str:
    """
    Write a number with its noun.

    :param n: the number
    :param noun: the noun in the singular
    :return: such as "1 worker" or "2 workers"
    """
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _number(value: np.floating[Any]) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
