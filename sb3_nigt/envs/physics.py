"""The same robot in another world: constants of a MuJoCo model, which no reset touches."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
from gymnasium.utils import RecordConstructorArgs

from sb3_nigt.validation import check_interval


class ScaledGravity(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """
    Multiply the gravity of a MuJoCo task.

    It changes the model of the wrapped environment, so that the environment is no longer the original task.

    :param env: a MuJoCo environment
    :param scale: the factor: 0 weightless, 0.38 Mars, 1 unchanged
    :raises ValueError: if it is not a MuJoCo environment
    """

    def __init__(self, env: gym.Env[Any, Any], scale: float) -> None:
        RecordConstructorArgs.__init__(self, scale=scale)
        super().__init__(env)
        self.scale = check_interval("scale", scale, 0.0, math.inf)
        _model(env).opt.gravity[:] *= self.scale


class ScaledFriction(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """
    Multiply all contact friction of a MuJoCo task: sliding, torsional and rolling.

    Friction inside the joints stays as it is. It changes the model of the wrapped environment, so that the environment is
    no longer the original task.

    :param env: a MuJoCo environment
    :param scale: the factor: 1 unchanged, less is more slippery
    :raises ValueError: if it is not a MuJoCo environment
    """

    def __init__(self, env: gym.Env[Any, Any], scale: float) -> None:
        RecordConstructorArgs.__init__(self, scale=scale)
        super().__init__(env)
        self.scale = check_interval("scale", scale, 0.0, math.inf)
        model = _model(env)
        model.geom_friction[:] *= self.scale
        model.pair_friction[:] *= self.scale  # what a model declares for a pair of geoms overrides theirs


def _model(env: gym.Env[Any, Any]) -> Any:
    model = getattr(env.unwrapped, "model", None)
    if not hasattr(model, "geom_friction"):
        raise ValueError(f"env={env} has no MuJoCo model: give a MuJoCo environment, for example Hopper-v5.")
    return model
