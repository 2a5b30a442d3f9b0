"""
Pytest plugin that puts SimulatedVecEnv and ProcessVecEnv in the place of DummyVecEnv and SubprocVecEnv.

Stable-Baselines3's tests of vectorised environments have these two classes in their lists, so the substitution runs each of
the tests with ours, without a change to the suite. All of them apply; what is not installed or has no display is skipped.

Environment variable: SB3_SUITE_START_METHOD, of the worker processes.
"""

import multiprocessing
import os
import types

import stable_baselines3.common.env_util
import stable_baselines3.common.vec_env
from stable_baselines3.common import vec_env as library

from sb3_nigt import ProcessVecEnv, SimulatedVecEnv

START_METHOD = os.environ["SB3_SUITE_START_METHOD"]

# Of these files only the tests that name SubprocVecEnv or have one of the classes in a list; of the others every test.
IN_PART = ["test_dict_env.py", "test_her.py", "test_utils.py"]


class OfStartMethod(ProcessVecEnv):
    """The class with another default, for tests that do not say how processes start."""

    def __init__(self, env_fns, start_method=None):
        super().__init__(env_fns, start_method=start_method or START_METHOD)


OfStartMethod.__name__ = ProcessVecEnv.__name__
library.DummyVecEnv = stable_baselines3.common.env_util.DummyVecEnv = SimulatedVecEnv
library.SubprocVecEnv = OfStartMethod

# The tests try every start method that there is; "fork" is refused, since it is not safe with threads, and torch has some.
available = multiprocessing.get_all_start_methods()
multiprocessing.get_all_start_methods = lambda: [method for method in available if method != "fork"]


def names_in(code):
    """All names that a function uses, and the functions in it."""
    nested = [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return set(code.co_names).union(*map(names_in, nested))


def pytest_collection_modifyitems(config, items):
    """Keep what runs on our classes; with another start method than the default, what starts processes."""
    kept, dropped = [], []
    for item in items:
        values = item.callspec.params.values() if hasattr(item, "callspec") else ()
        on_processes = OfStartMethod in values or "SubprocVecEnv" in names_in(item.function.__code__)
        wanted = on_processes
        if START_METHOD == "forkserver":
            wanted = wanted or SimulatedVecEnv in values or item.path.name not in IN_PART
        (kept if wanted else dropped).append(item)
    config.hook.pytest_deselected(items=dropped)
    items[:] = kept
