"""A policy as one flat float32 vector: what is broadcast, and what gradients are laid out like."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch as th
from torch import nn

from sb3_nigt.critic.network import ValueNetwork
from sb3_nigt.normalization import RunningNorm

Vector = TypeVar("Vector", npt.NDArray[np.float32], th.Tensor)

EXACT_IN_FLOAT32 = (th.float32, th.float16, th.bfloat16)


class Layout:
    """
    Where the parameters and buffers of a policy are in a flat vector; the only place that knows.

    First all parameters but the critic's in the order of ``policy.parameters()``, then the buffers that float32 can hold.
    Other buffers (integers, double precision) are not part of the vector, see ``other_buffers``. A gradient has the length of
    the parameters only.

    :param policy: the module; its parameters and buffers are found by identity, so replacing one needs a new layout
    """

    def __init__(self, policy: nn.Module) -> None:
        policy = unwrapped(policy)
        self.parameters = actor_parameters(policy)
        buffers = {name: buffer for name, buffer in policy.named_buffers() if not _is_critics(policy, name)}
        self._floats = [buffer for buffer in buffers.values() if buffer.dtype in EXACT_IN_FLOAT32]
        self._others = {name: buffer for name, buffer in buffers.items() if buffer.dtype not in EXACT_IN_FLOAT32}
        self._bookkeeping = {
            f"{path}.{name}"
            for path, module in policy.named_modules()
            if isinstance(module, RunningNorm)
            for name in RunningNorm.BOOKKEEPING
        }
        self._places: dict[int, tuple[int, int, tuple[int, ...]]] = {}  # start, stop and shape, without asking torch again
        self.size = 0  # of the vector
        for tensor in (*self.parameters, *self._floats):
            start, self.size = self.size, self.size + tensor.numel()
            self._places[id(tensor)] = start, self.size, tuple(tensor.shape)
        self.n_parameters = sum(p.numel() for p in self.parameters)

    def __contains__(self, tensor: th.Tensor) -> bool:
        return id(tensor) in self._places

    # Vectors of parameters and buffers

    def flatten(self, values: Mapping[th.Tensor, th.Tensor] | None = None) -> npt.NDArray[np.float32]:
        """
        Join all parameters and float buffers, shape ``(size,)``.

        :param values: by parameter, what to take instead of its own value; parameters that are missing keep theirs
        """
        values = values or {}
        with th.no_grad():
            tensors = [values.get(tensor, tensor) for tensor in (*self.parameters, *self._floats)]
            vector = th.cat([tensor.detach().reshape(-1).float() for tensor in tensors] or [th.zeros(0)])
        return vector.cpu().numpy()

    def load(self, vector: npt.NDArray[np.float32]) -> None:
        """
        Write a vector into the policy.

        :param vector: shape ``(size,)``
        """
        source = th.from_numpy(vector)
        with th.no_grad():
            for target in (*self.parameters, *self._floats):
                target.copy_(self.view(source, target))

    @contextmanager
    def moved_to(self, vector: npt.NDArray[np.floating[Any]]) -> Iterator[None]:
        """
        Give the policy other parameters for a moment; afterwards they are what they were, bit for bit.

        :param vector: shape ``(size,)``, or ``(n_parameters,)`` for the same buffers
        """
        source = th.from_numpy(np.array(vector))
        tensors = [*self.parameters, *(self._floats if len(vector) == self.size else ())]
        before = [tensor.detach().clone() for tensor in tensors]
        try:
            for tensor in tensors:
                tensor.detach().copy_(self.view(source, tensor))
            yield
        finally:
            for tensor, values in zip(tensors, before, strict=True):
                tensor.detach().copy_(values)

    def view(self, vector: Vector, tensor: th.Tensor) -> Vector:
        """
        Return the part of a vector that belongs to one tensor of the policy, in the shape of the tensor.

        :param vector: flat, of parameters (and buffers) or a gradient
        :param tensor: a parameter, or a float buffer
        """
        start, stop, shape = self._places[id(tensor)]
        return vector[start:stop].reshape(shape)

    # Gradients

    def by_parameter(self, gradient: th.Tensor) -> Iterator[tuple[nn.Parameter, th.Tensor]]:
        """
        Split a gradient: each parameter that is trained with its part; frozen ones are left out.

        :param gradient: shape ``(n_parameters,)``
        """
        for p in self.parameters:
            if p.requires_grad:
                yield p, self.view(gradient, p)

    def join(self, gradients: Mapping[th.Tensor, th.Tensor | None]) -> th.Tensor:
        """
        Join gradients to one vector, zero for the parameters that have none.

        :param gradients: by parameter
        """
        parts = [(gradients.get(p), p) for p in self.parameters]
        return th.cat([(th.zeros_like(p) if g is None else g).reshape(-1) for g, p in parts])

    # Buffers of other types

    def other_buffers(self) -> dict[str, npt.NDArray[Any]]:
        """Copy the buffers that float32 cannot hold, by name."""
        return {name: buffer.detach().cpu().numpy().copy() for name, buffer in self._others.items()}

    def sampling_buffers(self) -> dict[str, npt.NDArray[Any]]:
        """Copy those that the policy needs to act, so not what the mean and variance of a normaliser are rounded from."""
        return {name: values for name, values in self.other_buffers().items() if name not in self._bookkeeping}

    def load_buffers(self, buffers: Mapping[str, npt.NDArray[Any]]) -> None:
        """
        Write what ``other_buffers`` or ``sampling_buffers`` returned into the policy.

        :param buffers: by name
        """
        with th.no_grad():
            for name, values in buffers.items():
                self._others[name].copy_(th.from_numpy(values))


def unwrapped(policy: Any) -> Any:
    """
    Return the policy behind ``torch.compile``.

    :param policy: compiled or not
    """
    return getattr(policy, "_orig_mod", policy)


def actor_parameters(policy: nn.Module) -> list[nn.Parameter]:
    """
    Return the parameters without those of a ``ValueNetwork`` in the policy, which has its own optimizer.

    :param policy: the module
    """
    return [p for name, p in policy.named_parameters() if not _is_critics(policy, name)]


def _is_critics(policy: nn.Module, name: str) -> bool:
    """Whether a parameter or buffer belongs to the critic, also inside of a wrapper such as torch.compile's."""
    return any(name.startswith(f"{path}.") for path, module in policy.named_modules() if isinstance(module, ValueNetwork))


def flatten(policy: nn.Module, values: Mapping[th.Tensor, th.Tensor] | None = None) -> npt.NDArray[np.float32]:
    """
    Return all parameters and float buffers as one vector, see ``Layout``.

    :param policy: the module
    :param values: by parameter, what to take instead of its own value
    """
    return Layout(policy).flatten(values)


def load_flat(policy: nn.Module, vector: npt.NDArray[np.float32]) -> None:
    """
    Write a vector made by ``flatten`` into a module.

    :param policy: a module of the same architecture
    :param vector: all parameters, then the float buffers
    """
    Layout(policy).load(vector)


def has_batch_norm(policy: nn.Module) -> bool:
    """
    Tell whether a module keeps running statistics of what passes through it.

    :param policy: the module
    """
    return any(
        isinstance(module, nn.modules.batchnorm._NormBase) and module.track_running_stats for module in policy.modules()
    )
