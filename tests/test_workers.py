"""The contracts of workers where they are no ``WorkerVecEnv``: stepped together, of one rank, and without environments."""

from datetime import timedelta

import numpy as np
import pytest
import torch.distributed as dist
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_nigt import SimulatedVecEnv
from sb3_nigt.distributed.ranks import Ranks
from sb3_nigt.distributed.workers import RankWorkers
from sb3_nigt.messages import SamplingPoint
from sb3_nigt.planning.simulation import PacedWorkers, Workload
from sb3_nigt.testing import RoundWorkersTests, StepRoundsTests, TrajectoryWorkersTests
from sb3_nigt.testing.environments import NeverEndingEnv
from sb3_nigt.testing.jobs import collect, job
from sb3_nigt.vec_env.lockstep import LockstepWorkers


class TestLockstep(StepRoundsTests):
    steps_together = True

    @staticmethod
    def make_workers(env_fns):
        return LockstepWorkers(DummyVecEnv(env_fns))

    @classmethod
    def env_of(cls, workers):
        return workers.env

    def start_episodes(self, workers):
        workers.resume(workers.env.reset(), np.ones(workers.n, dtype=bool), lambda tick: True)


class TestOneRank(TrajectoryWorkersTests):
    """Global numbers, wall clock and reduction, with simulated workers behind them."""

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def ranks(cls):
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1, timeout=timedelta(seconds=20))
        cls.all_ranks = Ranks(dist.group.WORLD, timeout=20.0)
        yield
        cls.all_ranks.close()
        dist.destroy_process_group()

    @classmethod
    def make_workers(cls, env_fns):
        return RankWorkers(SimulatedVecEnv(env_fns), cls.all_ranks, [len(env_fns)], tuple(map(str, range(len(env_fns)))))

    @classmethod
    def env_of(cls, workers):
        return workers.inner

    def test_durations_are_predicted(self, start):
        """Measured, so not known before; those of other ranks never are."""
        workers, point = start(2, 3)
        assert np.isnan(workers.predicted_durations(5.0)).all()
        collect(workers, [job(point, worker) for worker in range(2)])
        short, long = workers.predicted_durations(5.0), workers.predicted_durations(10.0)
        assert (short > 0).all()
        assert (long > short).all()

    def test_workers_of_other_ranks_come_before_or_after(self, ranks):
        """Two workers, three before and one after them."""
        inner = SimulatedVecEnv([NeverEndingEnv] * 2)
        workers = RankWorkers(inner, self.all_ranks, [5, 1], tuple("abcdef"))  # the last two of this rank's five
        workers, point = self.prepared(workers, n_steps=4)
        arrived = collect(workers, [job(point, worker) for worker in (4, 3)])
        assert [(arrival.worker, arrival.task_id) for arrival, _ in arrived] == [(4, "e"), (3, "d")]
        assert np.isfinite(workers.predicted_durations(1.0)).tolist() == [False] * 3 + [True] * 2 + [False]
        inner.close()


class TestPaced(RoundWorkersTests):
    """They have lengths, and nothing else."""

    @pytest.fixture
    def start(self):
        def start(n_workers, length):
            times, messages = np.arange(1.0, n_workers + 1), np.full(n_workers, 0.5)
            return PacedWorkers(Workload(times, messages, (length,), tuple(range(n_workers)))), point

        point = SamplingPoint(0, np.zeros(0, dtype=np.float32))
        return start
