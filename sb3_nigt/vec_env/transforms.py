"""What wrappers do to observations and rewards, as functions whose statistics do not change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
ObsTransform = Callable[[Any], Any]


@dataclass(frozen=True)
class TransposeImages:
    """
    Channels last to channels first, for one observation or a batch.

    :param keys: keys of a Dict observation that are images; None if the observation is one
    """

    keys: tuple[str, ...] | None

    def __call__(self, observation: Any) -> Any:
        """
        Transpose.

        :param observation: array or dict of arrays
        """
        if self.keys is None:
            return np.moveaxis(observation, -1, -3)
        return {k: np.moveaxis(x, -1, -3) if k in self.keys else x for k, x in observation.items()}


@dataclass(frozen=True)
class NormalizeObservations:
    """
    (s - mean) / std, clipped, with fixed statistics; for one observation or a batch.

    :param statistics: mean and standard deviation of each normalised key, of key None if the observation is an array
    :param clip: largest absolute value
    """

    statistics: dict[str | None, tuple[FloatArray, FloatArray]]
    clip: float

    def __call__(self, observation: Any) -> Any:
        """
        Normalise.

        :param observation: array or dict of arrays
        """
        if isinstance(observation, dict):
            return {key: self._normalize(key, x) if key in self.statistics else x for key, x in observation.items()}
        return self._normalize(None, observation)

    def _normalize(self, key: str | None, observation: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        mean, std = self.statistics[key]
        normalized = (observation - mean) / std
        return np.minimum(np.maximum(normalized, -self.clip), self.clip).astype(np.float32)


@dataclass(frozen=True)
class NormalizeRewards:
    """
    r / std, clipped, with a fixed standard deviation.

    :param std: standard deviation of the discounted return
    :param clip: largest absolute value
    """

    std: float
    clip: float

    def __call__(self, rewards: FloatArray) -> FloatArray:
        """
        Normalise.

        :param rewards: shape (L,)
        """
        return np.clip(rewards / self.std, -self.clip, self.clip)


@dataclass(frozen=True)
class Chain:
    """
    Transformations one after the other.

    :param parts: the parts; the first is applied first
    """

    parts: tuple[ObsTransform, ...]

    def __call__(self, observation: Any) -> Any:
        """
        Apply all.

        :param observation: array or dict of arrays
        """
        for part in self.parts:
            observation = part(observation)
        return observation
