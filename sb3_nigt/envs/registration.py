"""Ids such as "sb3_nigt/FlippedHumanoid-v4", known to ``gymnasium.make`` once ``sb3_nigt`` is imported; and ids of users."""

from __future__ import annotations

import copy
import importlib
from typing import cast

import gymnasium as gym
from gymnasium.envs import registration
from gymnasium.envs.registration import EnvCreator, EnvSpec

ROBOTS = ("Ant", "HalfCheetah", "Hopper", "Humanoid", "Walker2d")
VERSIONS = ("v4", "v5")


def register_tasks() -> None:
    """Register each family for each robot; Reacher, an arm in the plane that touches nothing, can only be flipped."""
    names = [(family, robot) for family in ("Flipped", "Velocity", "Direction", "Gravity", "Friction") for robot in ROBOTS]
    for family, robot in [*names, ("Flipped", "Reacher")]:
        for version in VERSIONS:
            gym.register(
                f"sb3_nigt/{family}{robot}-{version}",
                entry_point="sb3_nigt.envs:make_task_env",
                kwargs={"family": family.lower(), "env_id": f"{robot}-{version}"},
            )


def registered(env_id: str) -> EnvSpec:
    """
    Return what is registered under an id in this process, for ``gymnasium.make`` in another one, which may not know the id.

    :param env_id: as ``gymnasium.make`` takes it
    :raises gymnasium.error.UnregisteredEnv: if there is no such id
    """
    module, _, name = env_id.rpartition(":")
    if module:
        importlib.import_module(module)
    namespace, base, version = registration.parse_env_id(name)
    if version is None:
        version = registration.find_highest_version(namespace, base)
    spec = copy.copy(gym.spec(registration.get_env_id(namespace, base, version)))
    if isinstance(spec.entry_point, str) and spec.entry_point.startswith("__main__:"):  # elsewhere that is something else
        spec.entry_point = cast("EnvCreator", registration.load_env_creator(spec.entry_point))
    return spec
