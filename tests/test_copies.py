"""The workers' copy of the policy, on every kind of workers; those on Ray are in ``test_ray.py``."""

import pytest
from copies import PolicyCopyTests
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_nigt import ProcessVecEnv, SimulatedVecEnv


@pytest.mark.one_in(2)
class TestSimulated(PolicyCopyTests):
    vec_env_cls = SimulatedVecEnv


@pytest.mark.one_in(4)
class TestProcesses(PolicyCopyTests):
    vec_env_cls = ProcessVecEnv
    pickles = True


class TestPlainVecEnv(PolicyCopyTests):
    vec_env_cls = DummyVecEnv
