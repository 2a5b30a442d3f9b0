"""From the environment that a model was given to the workers that run its rounds."""

from __future__ import annotations

from stable_baselines3.common.vec_env import VecEnv

from sb3_nigt.vec_env.base import TrajectoryWorkers, WorkerVecEnv
from sb3_nigt.vec_env.lockstep import LockstepWorkers
from sb3_nigt.vec_env.wrappers import WrapperStack


def workers_behind(env: VecEnv) -> tuple[TrajectoryWorkers, WrapperStack]:
    """
    Return the workers and the wrappers that apply to whole trajectories.

    :param env: a ``WorkerVecEnv`` with wrappers, or any other ``VecEnv``, which is stepped together with its wrappers
    :raises ValueError: for a wrapper that workers cannot have
    """
    inner = env.unwrapped
    if isinstance(inner, WorkerVecEnv):
        return inner, WrapperStack.around(env)
    return LockstepWorkers(env), WrapperStack()
