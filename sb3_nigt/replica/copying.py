"""Copies of a live policy for the workers: everything that makes it act as it does, and no memory in common with it."""

from __future__ import annotations

import copy
import hashlib
import io
from collections.abc import Iterator
from typing import Any

import cloudpickle
import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

from sb3_nigt.critic import ValueNetwork

HOW_TO_HELP = (
    "Keep open files, locks, generators and the like out of the policy's modules, or define __deepcopy__ and __reduce__ for "
    "what holds them."
)


def copy_of(policy: ActorCriticPolicy, device: th.device | str) -> ActorCriticPolicy:
    """
    Copy a policy as it is now, in evaluation mode and without its optimizer.

    The copy has all parameters, buffers, ``requires_grad`` flags, hooks, replaced layers and attributes.

    :param policy: the live policy, compiled or not
    :param device: where the copy lives
    :raises ValueError: if something in it cannot be copied, or would be shared with the copy
    """
    policy = getattr(policy, "_orig_mod", policy)  # behind torch.compile
    memo: dict[int, Any] = {id(part): None for part in _left_out(policy)}
    for tensor in _tensors_of_a_graph(policy):  # what a forward pass has left behind cannot be copied otherwise
        memo[id(tensor)] = tensor.detach().clone()
    try:
        copied = copy.deepcopy(policy, memo).to(device)
    except Exception as error:  # whatever a module of the user raises
        raise ValueError(
            f"policy={type(policy).__name__}: workers act with a copy of the policy, and copying it failed with "
            f"{type(error).__name__}: {error}. {HOW_TO_HELP}"
        ) from error
    shared = {p.data_ptr() for p in _state(policy)} & {p.data_ptr() for p in _state(copied)}
    if shared:
        names = [name for name, p in policy.named_parameters() if p.data_ptr() in shared]
        raise ValueError(
            f"policy={type(policy).__name__}: a copy of it shares memory with it ({', '.join(names) or 'buffers'}), so "
            "workers would overwrite what is being trained. A module's __deepcopy__ must copy its parameters."
        )
    copied.set_training_mode(False)
    return copied


def pickled(policy: ActorCriticPolicy) -> bytes:
    """
    Pack a policy for another process.

    :param policy: made by ``copy_of``
    :raises ValueError: if something in it cannot be pickled
    """
    try:
        data: bytes = cloudpickle.dumps(policy)
    except Exception as error:  # whatever a module of the user raises
        raise ValueError(
            f"policy={type(policy).__name__}: workers in other processes get the policy pickled, which failed with "
            f"{type(error).__name__}: {error}. {HOW_TO_HELP}"
        ) from error
    return data


def fingerprint(policy: ActorCriticPolicy) -> object:
    """
    Return something that changes when a copy made earlier does not fit any more.

    The values of parameters and buffers do not enter it, since they reach the workers with every round.

    :param policy: the live policy
    :return: a digest; for a policy that cannot be pickled an object that equals nothing else
    """
    policy = getattr(policy, "_orig_mod", policy)
    buffer = io.BytesIO()
    state = {id(tensor): (tuple(tensor.shape), str(tensor.dtype), tensor.requires_grad) for tensor in _state(policy)}
    left_out = {id(part): "left out" for part in _left_out(policy)}
    try:
        _StructurePickler(buffer, {**state, **left_out}).dump(policy)
    except Exception:  # there is no common type of these errors
        return object()
    return hashlib.sha256(buffer.getvalue()).hexdigest()


class _StructurePickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Writes a description in place of some objects."""

    def __init__(self, file: io.BytesIO, descriptions: dict[int, Any]) -> None:
        super().__init__(file)
        self._descriptions = descriptions

    def persistent_id(self, obj: Any) -> Any:
        """Called for every object before it is pickled; None: pickle it."""
        return self._descriptions.get(id(obj))


def _state(policy: nn.Module) -> Iterator[th.Tensor]:
    """Parameters and buffers that have any memory."""
    yield from (tensor for tensor in (*policy.parameters(), *policy.buffers()) if tensor.numel())


def _left_out(policy: ActorCriticPolicy) -> list[Any]:
    """What a worker has no use for: optimizer, critic, and the distribution of the last forward pass."""
    parts = [getattr(policy, "optimizer", None), getattr(policy.action_dist, "distribution", None)]
    parts += [module for module in policy.modules() if isinstance(module, ValueNetwork)]
    return [part for part in parts if part is not None]


def _tensors_of_a_graph(policy: nn.Module) -> Iterator[th.Tensor]:
    for module in policy.modules():
        yield from (value for value in vars(module).values() if isinstance(value, th.Tensor) and not value.is_leaf)
