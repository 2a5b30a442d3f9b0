"""Asynchronous policy gradients for Stable-Baselines3: one policy, many workers of very different speed."""

from importlib.resources import files
from typing import TYPE_CHECKING, Any

from sb3_nigt import distributed, envs
from sb3_nigt.algorithms import AFedPG, MaleniaNIGT, RennalaNIGT, RennalaPG, SyncNIGT, SyncPG
from sb3_nigt.algorithms.group import set_chooser
from sb3_nigt.algorithms.paper import PAPER
from sb3_nigt.errors import WorkerError
from sb3_nigt.optimizers import NIGT
from sb3_nigt.recording import Recording, RunRecorder
from sb3_nigt.replay import replay
from sb3_nigt.timing import FixedTimes, RandomTimes, ReplayedTimes, TimeModel, VaryingTimes
from sb3_nigt.vec_env import ProcessVecEnv, SimulatedVecEnv, WorkerVecEnv, make_worker_vec_env

if TYPE_CHECKING:
    from sb3_nigt.vec_env.ray.vec_env import RayVecEnv as RayVecEnv

set_chooser(distributed.chosen_group)  # here, since algorithms know nothing of ranks

__version__ = files(__name__).joinpath("version.txt").read_text(encoding="utf-8").strip()

__all__ = [
    "NIGT",
    "PAPER",
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


def __getattr__(name: str) -> Any:
    """Import ``RayVecEnv`` when it is asked for; nothing else needs Ray."""
    if name != "RayVecEnv":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from sb3_nigt.vec_env.ray.vec_env import RayVecEnv
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise ImportError('RayVecEnv needs Ray: pip install "sb3_nigt[ray]"') from error
    return RayVecEnv
