"""What a saved model is of: asked before anything is made of it."""

from __future__ import annotations

import io
import json
import pathlib
import zipfile
from collections.abc import Container
from typing import Any

import torch as th
from stable_baselines3.common.save_util import open_path
from torch import nn

from sb3_nigt.errors import warn_user

CRITIC = "value_network."  # where the parameters of a policy's critic are


def check_file(cls: type[Any], path: str | pathlib.Path | io.BufferedIOBase) -> Container[str]:
    """
    Refuse the file of another class; return the names of the attributes in it.

    :param cls: the class to load
    :param path: of the zip file, or an open file, which stays where it is
    :raises ValueError: if the file holds something else
    """
    data = _contents(path)
    if data is None:
        return ()  # no model: Stable-Baselines3 says so
    shown = "The file" if isinstance(path, io.IOBase) else str(path)
    known = [base.__name__ for base in cls.__mro__]
    classes = data.get("saved_classes")
    if classes is None and "eta" in data and "rollout" not in data:
        raise ValueError(
            f"{shown} was saved by sb3_nigt 0.1.0, whose policies have other parameters: load it with that version, or train "
            "a new model."
        )
    if classes is None and "rollout" not in data:
        raise ValueError(f"{shown} was not saved by a class of sb3_nigt: load it with the class that saved it.")
    if classes is not None and classes[0] not in known and cls.__name__ not in classes:
        raise ValueError(
            f"{shown} contains a model of {classes[0]}, not of {cls.__name__}: use {classes[0]}.load. To continue "
            f"from its parameters with {cls.__name__}, create a model with the same policy and call set_parameters(path)."
        )
    return data


def saved_classes(cls: type[Any], parent: type[Any]) -> list[str]:
    """
    Return the names that ``check_file`` looks for.

    :param cls: of the model
    :param parent: of all algorithms, left out
    """
    return [base.__name__ for base in cls.__mro__ if issubclass(base, parent) and base is not parent]


def with_own_critic(parameters: dict[str, Any], policy: nn.Module) -> dict[str, Any]:
    """
    Keep the policy's critic where the given one has another shape or is missing, as between methods with other tasks.

    :param parameters: of a policy, by name
    :param policy: that is to take them
    """
    own = {name: tensor for name, tensor in policy.state_dict().items() if name.startswith(CRITIC)}
    given = {name: tensor for name, tensor in parameters.items() if name.startswith(CRITIC)}
    if bool(own) == bool(given) and all(given[name].shape == own[name].shape for name in own.keys() & given.keys()):
        return parameters  # load_state_dict reports what is missing
    if own:
        warn_user(
            "These parameters have no critic of this model's shape: this model's critic "
            "stays as it is. Train on; it is fitted anew."
        )
    return {name: tensor for name, tensor in parameters.items() if name not in given} | own


def fits_optimizer(state: dict[str, Any], optimizer: th.optim.Optimizer) -> bool:
    """
    Return whether a state comes from this kind of optimizer, judged by the names of its settings.

    Another version may have more or fewer of them.

    :param state: the ``state_dict`` of any optimizer
    :param optimizer: the optimizer to load it into
    """
    if "param_groups" not in state:
        return True  # load_state_dict says what is missing
    given, own = ([group.keys() for group in groups] for groups in (state["param_groups"], optimizer.param_groups))
    return len(given) == len(own) and all(a <= b or b <= a for a, b in zip(given, own, strict=True))


def _contents(path: str | pathlib.Path | io.BufferedIOBase) -> dict[str, Any] | None:
    """The plain values of a file, and descriptions of those that are pickled; None if it is no model."""
    file = open_path(path, "r", suffix="zip")
    position = file.tell()
    try:
        with zipfile.ZipFile(file) as archive:
            data = json.loads(archive.read("data"))
    except (zipfile.BadZipFile, KeyError):
        return None
    finally:
        if file is path:
            file.seek(position)
        else:
            file.close()
    return data if isinstance(data, dict) else None
