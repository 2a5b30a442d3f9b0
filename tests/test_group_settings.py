"""What ranks need of workers, callbacks and arguments, in one process; what is refused."""

from datetime import timedelta
from functools import partial
from itertools import count, cycle

import pytest
import torch.distributed as dist
from envs import FixedLengthEnv, LengthFromSeedEnv, PointEnv, job, prepared, run_rounds, same, simulated
from paper import MaleniaNIGT, RennalaNIGT
from ranks import make_steps
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    EveryNTimesteps,
    ProgressBarCallback,
    StopTrainingOnMaxEpisodes,
)
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch.nn import BatchNorm1d

import sb3_nigt
from sb3_nigt import AFedPG, ProcessVecEnv, RunRecorder, SimulatedVecEnv
from sb3_nigt.algorithms.group import Alone
from sb3_nigt.distributed import AllReduceGroup, is_first_rank
from sb3_nigt.distributed.callbacks import callbacks_of

# Workers that can be interrupted


@pytest.mark.parametrize("vec_env_cls", [SimulatedVecEnv, ProcessVecEnv])
def test_a_wait_that_was_given_up_goes_on_where_it_stopped(vec_env_cls):
    trajectories = []
    for answers in ([False], [True, False, True]):
        env = vec_env_cls([PointEnv] * 2)
        env.interrupt = partial(next, cycle(answers))
        _, point = prepared(env)
        for worker in range(2):
            env.submit(job(point, worker))
        arrived, given_up = {}, 0
        while len(arrived) < 2:
            result = env.next_arrival()
            if result is None:
                given_up += 1
            else:
                arrived[result[0].worker] = result[1]
        trajectories.append(arrived)
        assert given_up == 0 if answers == [False] else given_up > 0
        env.close()
    assert all(same(trajectories[0][worker], trajectories[1][worker]) for worker in range(2))


def test_an_interrupted_simulation_executes_nothing_more():
    """Worker 1 takes five steps in the time of one of worker 0; after six steps together no worker shall make another one."""
    env = simulated([PointEnv] * 2, step_times=[5.0, 1.0])
    n_steps = count(1)
    env.interrupt = lambda: next(n_steps) >= 6
    _, point = prepared(env)
    for worker in range(2):
        env.submit(job(point, worker))
    assert env.next_arrival() is None
    assert sum(trajectory.n_steps for *_, trajectory in env.cancel()) == 6
    assert sum(e.n_steps_executed for e in env.envs) == 6


# Callbacks, arguments


class Own(BaseCallback):
    def _on_step(self):
        return True


def test_other_ranks_neither_evaluate_nor_save(tmp_path):
    own, other = Own(), StopTrainingOnMaxEpisodes(3)
    checkpoint = CheckpointCallback(10, str(tmp_path))
    both, now_and_then = CallbackList([other, ProgressBarCallback()]), EveryNTimesteps(5, checkpoint)
    callbacks = [own, checkpoint, both, now_and_then, RunRecorder("x")]
    assert callbacks_of(0, callbacks) is callbacks
    first, second = callbacks_of(1, callbacks)
    assert first is own
    assert second.callbacks == [other]
    assert callbacks_of(1, checkpoint) is None
    assert callbacks_of(1, None) is None


@pytest.fixture
def alone():
    """A group of one rank, in this process."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1, timeout=timedelta(seconds=20))
    yield
    dist.destroy_process_group()


class Normalising(FlattenExtractor):
    def __init__(self, observation_space):
        super().__init__(observation_space)
        self.norm = BatchNorm1d(self.features_dim)


def test_what_cannot_be_shared_is_refused(alone):
    env, group = simulated([2]), AllReduceGroup()
    with pytest.raises(ValueError, match="schedule='pipelined' is not allowed in a process group: give \"planned\""):
        RennalaNIGT("MlpPolicy", env, schedule="pipelined", group=group)
    with pytest.raises(ValueError, match="AFedPG cannot be trained by several ranks"):
        AFedPG("MlpPolicy", env, group=group)
    with pytest.raises(ValueError, match="on_lost_task='drop' is not allowed in a process group"):
        MaleniaNIGT("MlpPolicy", env, on_lost_task="drop", group=group)
    with pytest.raises(ValueError, match="env=DummyVecEnv is not allowed in a process group"):
        RennalaNIGT("MlpPolicy", make_vec_env("CartPole-v1"), group=group)
    with pytest.raises(ValueError, match="policy=ActorPolicy has BatchNorm layers, whose running statistics workers"):
        make_steps(sb3_nigt.RennalaNIGT, env, policy_kwargs={"features_extractor_class": Normalising})
    with pytest.raises(ValueError, match="group='all' is not allowed"):
        RennalaNIGT("MlpPolicy", env, group="all")
    with pytest.raises(ValueError, match="timeout=0 is not allowed"):
        AllReduceGroup(timeout=0)
    with pytest.raises(ValueError, match="process_group=3 is not allowed"):
        AllReduceGroup(3)


def test_without_a_default_group_there_is_nothing_to_join():
    assert is_first_rank()
    with pytest.raises(ValueError, match="process_group=None is not allowed before there is a default group"):
        AllReduceGroup()


class Values(KVWriter):
    def __init__(self):
        self.entries = []

    def write(self, key_values, key_excluded, step=0):
        self.entries.append(dict(key_values))

    def close(self):
        pass


def test_a_round_is_one_reduction_and_one_exchange_of_counts(alone):
    """The default group has a single rank, so it is not picked up automatically; asked for, it gives the same rounds."""
    model = RennalaNIGT("MlpPolicy", simulated([FixedLengthEnv] * 2), n_trajectories=4, group=AllReduceGroup(), seed=0)
    values = Values()
    model.set_logger(Logger(None, [values]))
    model.learn(40)
    for entry in values.entries[1:]:
        assert (entry["group/ranks"], entry["group/gathers"], entry["group/reductions"]) == (1, 1, 1)
        assert entry["group/bytes"] == 0  # there is no other rank to send any to
        assert entry["group/store_requests"] > 4
    assert {key for entry in values.entries for key in entry if key.startswith("group/")} == {
        f"group/{name}"
        for name in ("ranks", "gathers", "reductions", "bytes", "store_requests", "wait_seconds", "reduce_seconds")
    }
    ungrouped = RennalaNIGT("MlpPolicy", simulated([LengthFromSeedEnv] * 2), n_trajectories=4, seed=0)
    assert ungrouped.group is None
    run_rounds(ungrouped, 1)
    assert isinstance(ungrouped._group, Alone)


def test_a_group_of_one_computes_what_no_group_does(alone):
    reports = []
    for group in (False, AllReduceGroup(debug=True)):
        env = simulated([LengthFromSeedEnv] * 3)
        model = RennalaNIGT("MlpPolicy", env, n_trajectories=5, policy_kwargs={"net_arch": [4]}, group=group, seed=0)
        rounds = run_rounds(model, 3)
        reports.append([sorted((a.key, a.n_steps, a.episode_return) for a in report.arrivals) for report in rounds])
        assert model.env.unwrapped.interrupt is None
    assert reports[0] == reports[1]
