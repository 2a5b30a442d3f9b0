"""Asynchronous policy gradients for Stable-Baselines3: one policy, many workers of very different speed."""

import sys
from importlib import import_module
from importlib.resources import files
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from sb3_nigt.chooser import set_chooser
from sb3_nigt.envs.registration import register_tasks

if TYPE_CHECKING:
    from sb3_nigt import distributed as distributed
    from sb3_nigt import envs as envs
    from sb3_nigt.algorithms import AFedPG, MaleniaNIGT, RennalaNIGT, RennalaPG, SyncNIGT, SyncPG
    from sb3_nigt.algorithms.paper import PAPER
    from sb3_nigt.errors import WorkerError
    from sb3_nigt.optimizers import NIGT
    from sb3_nigt.recording import Recording, RunRecorder
    from sb3_nigt.replay import replay
    from sb3_nigt.timing import FixedTimes, RandomTimes, ReplayedTimes, TimeModel, VaryingTimes
    from sb3_nigt.vec_env import ProcessVecEnv, SimulatedVecEnv, WorkerVecEnv, make_worker_vec_env
    from sb3_nigt.vec_env.ray.vec_env import RayVecEnv as RayVecEnv

# Where each name is. They are imported when they are asked for: the command line needs none of them to answer a typo.
_PLACES = {
    "algorithms": ("AFedPG", "MaleniaNIGT", "RennalaNIGT", "RennalaPG", "SyncNIGT", "SyncPG"),
    "algorithms.paper": ("PAPER",),
    "errors": ("WorkerError",),
    "optimizers": ("NIGT",),
    "recording": ("Recording", "RunRecorder"),
    "replay": ("replay",),
    "timing": ("FixedTimes", "RandomTimes", "ReplayedTimes", "TimeModel", "VaryingTimes"),
    "vec_env": ("ProcessVecEnv", "SimulatedVecEnv", "WorkerVecEnv", "make_worker_vec_env"),
    "vec_env.ray.vec_env": ("RayVecEnv",),
}
_PLACE_OF = {name: f"{__name__}.{place}" for place, names in _PLACES.items() for name in names}

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


def _chosen_group(group: Any) -> Any:
    from sb3_nigt.distributed import chosen_group

    return chosen_group(group)


set_chooser(_chosen_group)  # here, since algorithms know nothing of ranks
register_tasks()


class _Package(ModuleType):
    """The package itself: ``replay`` stays the function when the module of the same name is imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _PLACE_OF and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    """Import a public name, or a module of the package, when it is asked for."""
    if name not in _PLACE_OF:
        module = f"{__name__}.{name}"
        if name.startswith("_") or find_spec(module) is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return import_module(module)
    try:
        found = getattr(import_module(_PLACE_OF[name]), name)
    except ModuleNotFoundError as error:
        if name == "RayVecEnv" and error.name == "ray":
            raise ImportError('RayVecEnv needs Ray: pip install "sb3_nigt[ray]"') from error
        raise
    globals()[name] = found  # from now on without this function
    return found


def __dir__() -> list[str]:
    """All public names, those included that have not been imported yet."""
    return sorted({*globals(), *__all__})
