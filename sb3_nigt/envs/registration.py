"""Ids such as "sb3_nigt/FlippedHumanoid-v4", known to ``gymnasium.make`` once ``sb3_nigt`` is imported."""

from __future__ import annotations

import gymnasium as gym

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
