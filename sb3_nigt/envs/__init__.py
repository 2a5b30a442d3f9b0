"""Different tasks for the workers: gymnasium wrappers, registered ids, and one call that gives every worker its task."""

from sb3_nigt.envs.observations import FlippedObservation
from sb3_nigt.envs.physics import ScaledFriction, ScaledGravity
from sb3_nigt.envs.rewards import TargetDirection, TargetVelocity
from sb3_nigt.envs.tasks import make_task_env, make_tasks

__all__ = [
    "FlippedObservation",
    "ScaledFriction",
    "ScaledGravity",
    "TargetDirection",
    "TargetVelocity",
    "make_task_env",
    "make_tasks",
]
