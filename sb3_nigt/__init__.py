"""Asynchronous policy gradients for Stable-Baselines3: one policy, many workers of very different speed."""

from importlib.resources import files

from sb3_nigt import envs
from sb3_nigt.algorithms import AFedPG, MaleniaNIGT, RennalaNIGT, RennalaPG, SyncNIGT, SyncPG
from sb3_nigt.errors import WorkerError
from sb3_nigt.optimizers import NIGT
from sb3_nigt.recording import Recording, RunRecorder
from sb3_nigt.replay import replay
from sb3_nigt.timing import FixedTimes, RandomTimes, ReplayedTimes, TimeModel, VaryingTimes
from sb3_nigt.vec_env import ProcessVecEnv, SimulatedVecEnv, WorkerVecEnv, make_worker_vec_env

__version__ = files(__name__).joinpath("version.txt").read_text(encoding="utf-8").strip()

__all__ = [
    "NIGT",
    "AFedPG",
    "FixedTimes",
    "MaleniaNIGT",
    "ProcessVecEnv",
    "RandomTimes",
    "Recording",
    "RennalaNIGT",
    "RennalaPG",
    "ReplayedTimes",
    "RunRecorder",
    "SimulatedVecEnv",
    "SyncNIGT",
    "SyncPG",
    "TimeModel",
    "VaryingTimes",
    "WorkerError",
    "WorkerVecEnv",
    "__version__",
    "envs",
    "make_worker_vec_env",
    "replay",
]
