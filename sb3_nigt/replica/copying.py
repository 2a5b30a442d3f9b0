"""Copies of a live policy for the workers: everything that makes it act as it does, and no memory in common with it."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
from collections.abc import Iterator
from typing import Any

import cloudpickle
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

from sb3_nigt.critic import ValueNetwork
from sb3_nigt.errors import warn_user
from sb3_nigt.parameters import unwrapped

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
    policy = unwrapped(policy)
    _check_functions(policy)
    _warn_of_tensor_hooks(policy)
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

    :param policy: the result of ``copy_of``
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
    Return something that changes when a copy made earlier no longer fits.

    The values of parameters and buffers do not enter it, since they reach the workers with every round.

    :param policy: the live policy
    :return: a digest; for a policy that cannot be pickled an object that equals nothing else
    """
    policy = unwrapped(policy)
    buffer = io.BytesIO()
    attributes = vars(policy.action_dist)
    last = {name: attributes.pop(name) for name in ("distribution",) if name in attributes}  # of the last forward pass, if any
    state = {id(tensor): (tuple(tensor.shape), str(tensor.dtype), tensor.requires_grad) for tensor in _state(policy)}
    left_out = {id(part): "left out" for part in _left_out(policy)}
    try:
        _StructurePickler(buffer, {**state, **left_out, id(policy.action_dist): _kind(policy.action_dist)}).dump(policy)
    except Exception:  # there is no common type of these errors
        return object()
    finally:
        attributes.update(last)
    return hashlib.sha256(buffer.getvalue()).hexdigest()


class _StructurePickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Writes a description instead of some objects."""

    def __init__(self, file: io.BytesIO, descriptions: dict[int, Any]) -> None:
        super().__init__(file)
        self._descriptions = descriptions

    def persistent_id(self, obj: Any) -> Any:
        """Called for every object before it is pickled; None: pickle it."""
        if isinstance(obj, spaces.Space):  # it may have been sampled from, and holds a generator
            return type(obj), repr(obj)
        return self._descriptions.get(id(obj))


def _check_functions(policy: ActorCriticPolicy) -> None:
    """Refuse functions that have closed over a part of the policy: they are copied as they are, with the live part."""
    named = (*policy.named_modules(), *policy.named_parameters(), *policy.named_buffers())
    parts = {id(part): name or "the policy itself" for name, part in named}
    for module in policy.modules():
        for function in (*vars(module).values(), *module._forward_hooks.values(), *module._forward_pre_hooks.values()):
            held = [parts[id(content)] for content in _closed_over(function) if id(content) in parts]
            if held:
                raise ValueError(
                    f"policy={type(policy).__name__}: the function {function.__qualname__} in it refers to {held[0]}. "
                    "Workers get a copy of that module, but the function would still use the original. Take it from the "
                    "arguments of a hook, or give functools.partial(function, module), which is copied with the module."
                )


def _closed_over(function: Any) -> Iterator[Any]:
    for cell in getattr(function, "__closure__", None) or ():
        with contextlib.suppress(ValueError):  # the cell is empty
            yield cell.cell_contents


def _warn_of_tensor_hooks(policy: ActorCriticPolicy) -> None:
    kinds = ("_backward_hooks", "_post_accumulate_grad_hooks")
    names = [name for name, p in policy.named_parameters() if any(getattr(p, kind, None) for kind in kinds)]
    if names:
        warn_user(
            f"The hooks of {', '.join(names[:3])}{', …' if len(names) > 3 else ''} are not called: workers compute the "
            "gradients with copies of the parameters, and torch does not copy such hooks. Put them on a module, or change "
            "p.grad in the step() of an optimizer of your own."
        )


def _state(policy: nn.Module) -> Iterator[th.Tensor]:
    """Parameters and buffers that have any memory."""
    yield from (tensor for tensor in (*policy.parameters(), *policy.buffers()) if tensor.numel())


def _left_out(policy: ActorCriticPolicy) -> list[Any]:
    """What a worker has no use for: optimizer, critic, and the distribution of the last forward pass."""
    parts = [getattr(policy, "optimizer", None), getattr(policy.action_dist, "distribution", None)]
    parts += [module for module in policy.modules() if isinstance(module, ValueNetwork)]
    return [part for part in parts if part is not None]


def _kind(distribution: Distribution) -> tuple[Any, ...]:
    """Type and settings of a distribution, without what the last forward pass has left in it."""
    plain = (int, float, str, list, tuple, np.ndarray)
    settings = {n: repr(x) for n, x in vars(distribution).items() if isinstance(x, plain) and n != "distribution"}
    return type(distribution), settings


def _tensors_of_a_graph(policy: ActorCriticPolicy) -> Iterator[th.Tensor]:
    for part in (*policy.modules(), policy.action_dist):
        yield from (value for value in vars(part).values() if isinstance(value, th.Tensor) and not value.is_leaf)
