"""
Pytest plugin that puts classes of this project in the place of A2C and DummyVecEnv in Stable-Baselines3's own tests.

A2C stands in all of the suite's on-policy class lists, and its tests pass only arguments that every on-policy algorithm has,
so the substitution adds the class to the lists without a change to the suite.

Environment variables: SB3_SUITE_ALGO, the class in place of A2C; SB3_SUITE_VEC_ENV, the class in place of DummyVecEnv.
"""

import os

import stable_baselines3
import stable_baselines3.common.env_util
import stable_baselines3.common.vec_env

import sb3_nigt

ALGO = getattr(sb3_nigt, os.environ.get("SB3_SUITE_ALGO", "RennalaNIGT"))
VEC_ENV = os.environ.get("SB3_SUITE_VEC_ENV")

# Whole files, and tests, that do not apply, with the reason. Everything else must pass.
NOT_APPLICABLE = {
    "test_sde.py": "gSDE is refused",
    "test_gae.py": "there is no critic",
    "test_buffers.py": "rollouts are ragged, there is no RolloutBuffer",
    "test_her.py": "off-policy",
    "test_n_step_replay.py": "off-policy",
    "test_squashed_gaussian": "gSDE is refused",
    "test_save_load_policy[True": "gSDE is refused",
    "test_advantage_normalization": "there are no advantages",
    "test_discrete": "learning rate of an unnormalised step; tests/test_learning.py learns the same environments",
    "test_continuous": "learning rate of an unnormalised step; tests/test_learning.py learns the same environments",
    "test_eval_friendly_error": "expects training to end on the step of the last evaluation, rounds end with a trajectory",
}
# A file that counts timesteps and sets n_steps only: with one trajectory a round that is the same thing.
ONE_TRAJECTORY = "test_save_load.py"


class OneTrajectory(ALGO):
    """The class with another default, for tests that give no argument of ours."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **{"n_trajectories": 1, **kwargs})


OneTrajectory.__name__ = ALGO.__name__
stable_baselines3.A2C = ALGO
if VEC_ENV:
    stable_baselines3.common.vec_env.DummyVecEnv = getattr(sb3_nigt, VEC_ENV)
    stable_baselines3.common.env_util.DummyVecEnv = getattr(sb3_nigt, VEC_ENV)
    WRAPPERS = "wrappers that work step by step are refused around workers"
    NOT_APPLICABLE |= {"framestack": WRAPPERS, "frame_stack": WRAPPERS, "transpose_skip": WRAPPERS}
    NOT_APPLICABLE |= {"batch_norm": "BatchNorm is refused on workers"}


def pytest_collection_modifyitems(config, items):
    """Keep the tests of our classes; the others are the library's own business."""
    kept, dropped = [], []
    for item in items:
        parametrized = hasattr(item, "callspec")
        in_lists = ALGO.__name__ in item.nodeid
        in_body = not parametrized and "A2C" in item.function.__code__.co_names
        applies = not any(reason_for in item.nodeid for reason_for in NOT_APPLICABLE)
        if item.path.name == ONE_TRAJECTORY:
            item.module.A2C = OneTrajectory
            if parametrized:
                item.callspec.params.update({k: OneTrajectory for k, v in item.callspec.params.items() if v is ALGO})
        (kept if applies and (in_lists or in_body) else dropped).append(item)
    config.hook.pytest_deselected(items=dropped)
    items[:] = kept
