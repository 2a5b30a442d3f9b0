"""Running normalisation of observations, as a part of the policy: saved, loaded and exported with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from torch import nn

from sb3_nigt.moments import Moments

Array = npt.NDArray[Any]
IMAGE_DIMENSIONS = 3  # float images too: the statistics of single pixels say little about the next image


def as_array(tensor: th.Tensor) -> Array:
    """
    Return the values of a tensor.

    :param tensor: on any device
    """
    return tensor.detach().cpu().numpy()


def is_normalized(space: spaces.Space[Any]) -> bool:
    """
    Tell whether observations of a space are normalised: Box spaces that hold no images.

    :param space: of an observation, or of one entry of a Dict observation
    """
    is_image = len(space.shape or ()) >= IMAGE_DIMENSIONS or is_image_space(space)
    return isinstance(space, spaces.Box) and not is_image


class RunningNorm(nn.Module):
    """
    (x - mean) / (var + ε)^{1/2}, clipped; the statistics are buffers.

    ``mean`` and ``var`` are float32, so they travel with the parameters in one vector; the statistics that they are rounded
    from, ``exact_mean`` and ``exact_var``, are float64.

    :param shape: shape of one observation
    :param clip: largest absolute value of the output
    :param epsilon: ε
    """

    BOOKKEEPING = ("exact_mean", "exact_var", "count")  # buffers that only an update of the statistics needs

    mean: th.Tensor
    var: th.Tensor
    exact_mean: th.Tensor
    exact_var: th.Tensor
    count: th.Tensor

    def __init__(self, shape: tuple[int, ...], clip: float = 10.0, epsilon: float = 1e-8) -> None:
        super().__init__()
        self.shape, self.clip, self.epsilon = shape, clip, epsilon
        for name in ("mean", "var"):
            self.register_buffer(name, th.zeros(shape))
            self.register_buffer(f"exact_{name}", th.zeros(shape, dtype=th.float64))
        self.register_buffer("count", th.zeros((), dtype=th.float64))
        self.set_moments(Moments.prior(shape))

    def forward(self, observation: th.Tensor) -> th.Tensor:
        """
        Normalise a batch with the statistics as they are; nothing is updated.

        :param observation: any numeric dtype, one observation or a batch
        :return: float32
        """
        std = (self.var + self.epsilon).double().sqrt().float()  # torch's root of a float32 is sometimes off by a bit
        return ((observation.float() - self.mean) / std).clamp(-self.clip, self.clip)

    def frozen(self, read: Callable[[th.Tensor], Array] = as_array) -> Callable[[Array], Array]:
        """
        Return ``forward`` as a NumPy function; on a CPU the bits are the same.

        :param read: see ``ObservationNormalizer.frozen``
        """
        mean, variance = (read(x).astype(np.float32) for x in (self.mean, self.var))  # a copy
        std = np.sqrt((variance + np.float32(self.epsilon)).astype(np.float64)).astype(np.float32)
        clip = np.float32(self.clip)

        def normalize(observation: Array) -> Array:
            out = np.subtract(observation, mean, dtype=np.float32, casting="unsafe")
            np.divide(out, std, out=out)
            np.minimum(out, clip, out=out)
            return np.maximum(out, -clip, out=out)

        return normalize

    def moments(self) -> Moments:
        """Statistics so far."""
        mean, var, count = (x.detach().cpu().numpy().copy() for x in (self.exact_mean, self.exact_var, self.count))
        return Moments(count, mean, var * count)

    def set_moments(self, moments: Moments) -> None:
        """
        Replace the statistics.

        :param moments: of the shape of one observation, with a weight above 0
        """
        self.exact_mean.copy_(th.as_tensor(moments.mean, dtype=th.float64))
        self.exact_var.copy_(th.as_tensor(moments.variance, dtype=th.float64))
        self.count.copy_(th.as_tensor(moments.weight, dtype=th.float64))
        self.mean.copy_(self.exact_mean)
        self.var.copy_(self.exact_var)


class ObservationNormalizer(nn.Module):
    """
    Normalises a vector observation, or the vector entries of a Dict; everything else is unchanged.

    The statistics equal those of ``VecNormalize`` on the same data. They are frozen during a round: sampling and gradients
    use ``forward`` or ``frozen``. After a round, ``merge`` adds the ``moments_of`` its accepted steps.

    :param observation_space: what the environment returns
    :param clip: largest absolute value of the output
    :param epsilon: added to the variance
    """

    def __init__(self, observation_space: spaces.Space[Any], clip: float = 10.0, epsilon: float = 1e-8) -> None:
        super().__init__()
        self.is_dict = isinstance(observation_space, spaces.Dict)
        parts: Mapping[Any, spaces.Space[Any]]
        parts = observation_space.spaces if isinstance(observation_space, spaces.Dict) else {None: observation_space}
        self.keys = tuple(key for key, space in parts.items() if is_normalized(space))  # (None,) without a Dict
        self.norms = nn.ModuleList([RunningNorm(parts[key].shape or (), clip, epsilon) for key in self.keys])

    def forward(self, observation: Any) -> Any:
        """
        Normalise a batch of observations.

        :param observation: tensor or dict of tensors
        """
        return self._apply_each(list(self.norms), observation)

    def frozen(self, read: Callable[[th.Tensor], Array] = as_array) -> Callable[[Any], Any]:
        """
        Return ``forward`` as a NumPy function of one observation or a batch, with the statistics of this moment.

        :param read: a function that returns the values of a buffer, for example from a flat vector
        """
        functions = [norm.frozen(read) for norm in self._running_norms()]
        return functions[0] if functions and not self.is_dict else lambda observation: self._apply_each(functions, observation)

    def _apply_each(self, functions: list[Any], observation: Any) -> Any:
        if self.is_dict:
            return {**observation, **{key: f(observation[key]) for key, f in zip(self.keys, functions, strict=True)}}
        return functions[0](observation) if functions else observation

    def moments_of(self, observations: Any) -> list[Moments]:
        """
        Moments of a batch, for ``merge``, one for each normalised entry.

        :param observations: as the environment gave them, arrays with a leading batch dimension, which may be 0
        """
        return [Moments.of(observations[key] if self.is_dict else observations) for key in self.keys]

    def moments(self) -> list[Moments]:
        """Statistics so far, one for each normalised entry."""
        return [norm.moments() for norm in self._running_norms()]

    def merge(self, moments: list[Moments]) -> None:
        """
        Take new moments into the statistics.

        :param moments: one for each normalised entry
        """
        for norm, new in zip(self._running_norms(), moments, strict=True):
            norm.set_moments(norm.moments().merge(new))

    def has_overflown(self) -> bool:
        """Tell whether a variance exceeds the range of float32, so that the networks see zeros."""
        return any(bool(th.isinf(norm.var).any()) for norm in self._running_norms())

    def _running_norms(self) -> list[RunningNorm]:
        return [norm for norm in self.norms if isinstance(norm, RunningNorm)]
