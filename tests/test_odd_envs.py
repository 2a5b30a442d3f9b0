"""Environments as other people write them, on workers of this machine and on any ``VecEnv``."""

import pytest
from odd_envs import IdTests, OddEnvTests, registry  # noqa: F401  a fixture
from processes import worker_processes
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_nigt import SimulatedVecEnv


class TestSimulated(OddEnvTests, IdTests):
    @pytest.fixture
    def make(self):
        return lambda *env_fns: SimulatedVecEnv(env_fns)


@pytest.mark.one_in(4)
class TestLockstep(OddEnvTests):
    can_have_locks = False  # DummyVecEnv copies infos with deepcopy
    last_of_reused = 0.0  # its terminal_observation is the array that the environment has written to since

    @pytest.fixture
    def make(self):
        return lambda *env_fns: DummyVecEnv(env_fns)


@pytest.mark.one_in(4)
@pytest.mark.filterwarnings("ignore:.*is not returned by the worker:UserWarning")
class TestProcesses(OddEnvTests, IdTests):
    all_infos_travel = False

    @pytest.fixture
    def make(self):
        with worker_processes() as make:
            yield make
