"""The workers: vectorised environments with speeds and tasks that run whole trajectories."""

from sb3_nigt.vec_env.base import RolloutSpec, TrajectoryWorkers, WorkerVecEnv
from sb3_nigt.vec_env.make import make_worker_vec_env
from sb3_nigt.vec_env.process.vec_env import ProcessVecEnv
from sb3_nigt.vec_env.simulated import SimulatedVecEnv

__all__ = ["ProcessVecEnv", "RolloutSpec", "SimulatedVecEnv", "TrajectoryWorkers", "WorkerVecEnv", "make_worker_vec_env"]
