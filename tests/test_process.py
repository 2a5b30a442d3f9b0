"""Worker processes: the contract that all workers share, the numbers of the simulator, and failures that are injected."""

from conformance import WorkerVecEnvTests

from sb3_nigt import ProcessVecEnv


class TestProcessVecEnv(WorkerVecEnvTests):
    vec_env_cls = ProcessVecEnv
    infos_of_all_steps = False
