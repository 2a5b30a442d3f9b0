"""What a model has to start with, as one vector of numbers and a few counters; nothing of it is pickled."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch as th

from sb3_nigt.algorithms.trained import TrainedModel
from sb3_nigt.parameters import Layout
from sb3_nigt.vec_env.wrappers import WrapperStack


def counters(model: TrainedModel) -> dict[str, Any]:
    """
    Numbers that travel as text, and the layout of the optimizer's state.

    :param model: the model about to learn
    """
    layout = [
        {
            name: list(value.shape)
            for name, value in sorted(model.policy.optimizer.state.get(p, {}).items())
            if th.is_tensor(value)
        }
        for p in _optimized(model)
    ]
    return {**model.counters(), "optimizer": layout}


def set_counters(model: TrainedModel, values: dict[str, Any]) -> None:
    """
    Take over what another rank has.

    :param model: the model to overwrite
    :param values: the result of ``counters``
    """
    model.set_counters(values)
    state = model.policy.optimizer.state
    state.clear()
    for p, shapes in zip(_optimized(model), values["optimizer"], strict=True):
        if shapes:
            state[p] = {
                name: th.zeros(shape, dtype=p.dtype, device=p.device if shape else "cpu") for name, shape in shapes.items()
            }


def pack(model: TrainedModel, stack: WrapperStack) -> th.Tensor:
    """
    Parameters, buffers, state of the optimizer, the estimator and statistics of ``VecNormalize``, in double precision.

    :param model: the model to pack
    :param stack: the wrappers of its environment
    """
    layout = Layout(model.policy)
    policy = [layout.flatten(), *layout.other_buffers().values()]
    optimizer = (tensor.detach().cpu().numpy() for tensor in _optimizer_state(model))
    parts = [*policy, *optimizer, model.estimator.shared_state(), *stack.state()]
    return th.from_numpy(np.concatenate([np.asarray(part, dtype=np.float64).ravel() for part in parts]))


def unpack(model: TrainedModel, stack: WrapperStack, vector: th.Tensor) -> None:
    """
    Take over what ``pack`` has made, perhaps elsewhere.

    :param model: the model to overwrite
    :param stack: the wrappers of its environment, to overwrite
    :param vector: the result of ``pack``
    """
    layout = Layout(model.policy)
    layout.load(vector[: layout.size].float().numpy())
    position, others = layout.size, layout.other_buffers()
    for values in others.values():
        values[...] = vector[position : position + values.size].numpy().reshape(values.shape)
        position += values.size
    layout.load_buffers(others)
    for tensor in _optimizer_state(model):
        tensor.copy_(vector[position : position + tensor.numel()].view_as(tensor))
        position += tensor.numel()
    size = len(model.estimator.shared_state())
    model.estimator.set_shared_state(vector[position : position + size].numpy())
    stack.set_state(vector[position + size :].numpy())


def _optimized(model: TrainedModel) -> Iterator[th.Tensor]:
    for group in model.policy.optimizer.param_groups:
        yield from group["params"]


def _optimizer_state(model: TrainedModel) -> Iterator[th.Tensor]:
    for p in _optimized(model):
        for _, value in sorted(model.policy.optimizer.state.get(p, {}).items()):
            if th.is_tensor(value):
                yield value
