"""Ranks that fail, hosts that are cut off, and the restart by torchrun: everybody is told, in a bounded time."""

import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import paper
import pytest
from envs import LengthFromSeedEnv, NanEnv, PointEnv, parameters, run_rounds, simulated
from namespaces import hosts
from paper import MaleniaNIGT, RennalaNIGT
from processes import Bell, explode, hang, kill_myself, ring, stop_myself
from ranks import N_WORKERS, SIZE, Failed, SlowEnv, checksum, make, make_steps, rank_processes
from stable_baselines3.common.callbacks import BaseCallback

import sb3_nigt
from sb3_nigt import ProcessVecEnv
from sb3_nigt.errors import RankError

BOUND = 60  # seconds; the timeouts below are one or two, and the machine has other things to do


class FailAt(BaseCallback):
    """Does something on one rank once two updates have been made, and tells the test before."""

    def __init__(self, rank, culprit, what):
        super().__init__()
        self.mine, self.what = rank == culprit, what

    def _on_step(self):
        if self.mine and self.model.n_updates >= 2:
            self.what()
        return True


class Hangs(PointEnv):
    def step(self, action):
        hang()


def fail(rank, algorithm, culprit, what):
    env_fn = Hangs if what is Hangs and rank == culprit else LengthFromSeedEnv
    model = make(getattr(paper, algorithm), simulated([env_fn] * N_WORKERS), timeout=1.5)
    model.learn(10**9, callback=None if what is Hangs else FailAt(rank, culprit, what))


class Strikes(LengthFromSeedEnv):
    """Does something in a step: the 35th one of two workers is in the middle of a round of steps."""

    def __init__(self, what):
        super().__init__()
        self.what, self.n_steps = what, 0

    def step(self, action):
        self.n_steps += 1
        if self.n_steps == 35:
            self.what()
        return super().step(action)


def fail_in_steps(rank, algorithm, culprit, what):
    what = hang if what is Hangs else what
    env_fns = [LengthFromSeedEnv, partial(Strikes, what) if rank == culprit else LengthFromSeedEnv]
    make_steps(getattr(sb3_nigt, algorithm), simulated(env_fns), timeout=1.5).learn(10**9)


FAILURES = {
    "raises": (explode, "rank {} has failed: LookupError: the physics exploded"),
    "killed": (kill_myself, "rank {} has given no sign of life"),
    "stopped": (stop_myself, "rank {} has given no sign of life"),
    "hangs in an environment": (Hangs, "rank {}: no step or reset of its environments has ended"),
}


@pytest.mark.one_in(8)
@pytest.mark.parametrize(
    ("function", "algorithm", "culprit"),
    [
        (fail, "RennalaNIGT", 0),
        (fail_in_steps, "RennalaNIGT", 1),
        (fail, "RennalaNIGT", 1),
        (fail_in_steps, "RennalaNIGT", 0),
        (fail, "MaleniaNIGT", 0),
        (fail_in_steps, "MaleniaNIGT", 1),
    ],
)
@pytest.mark.parametrize("failure", FAILURES)
def test_the_others_are_told_which_rank_has_failed(failure, function, algorithm, culprit, note_fault):
    """Between two rounds of trajectories, or in the middle of a round of steps."""
    what, message = FAILURES[failure]
    with rank_processes(SIZE, function, algorithm, culprit, what) as processes:
        for rank in set(range(SIZE)) - {culprit}:
            result = processes.result(rank, BOUND)
            assert isinstance(result, Failed)
            assert result.type == "RankError"
            assert message.format(culprit) in result.text
    note_fault(f"rank {failure}", "ranks", algorithm, "trajectories" if function is fail else "steps", "told")


def reject(rank):
    model = make(RennalaNIGT, simulated([NanEnv if rank == 1 else SlowEnv] * N_WORKERS), timeout=5.0, n_trajectories=50)
    model.learn(10**9)


def test_an_error_of_a_worker_reaches_all_ranks():
    with rank_processes(2, reject) as processes:
        assert "rank 1 has failed: WorkerError: Worker 2 (task 2)" in processes.result(0, BOUND).text
        assert processes.result(1, BOUND).type == "WorkerError"


class Dies(LengthFromSeedEnv):
    """Its process ends in a step, at once after a restart: the file says that there has been one."""

    def __init__(self, at, memory):
        super().__init__()
        self.at = 1 if memory.exists() else at
        memory.touch()

    def step(self, action):
        self.at -= 1
        if self.at == 0:
            os._exit(17)
        return super().step(action)


LOSSES = {
    "one task": (MaleniaNIGT, (None, 60), "rank 1: Worker 1 (task 'task 1'): it is lost after too many restarts"),
    "at once": (
        MaleniaNIGT,
        (None, 1),
        "rank 1: Worker 1 (task 'task 1'): every worker has failed before the first trajectory",
    ),
    "all workers": (RennalaNIGT, (60, 100), ": all 2 workers are lost after too many restarts"),
}


def lose(rank, folder, rounds):
    """Train with workers that are lost in the middle of a round, and once more after that; return what each run ends with."""
    ends = {}
    for case, (algorithm, dies_at, _) in LOSSES.items():
        at, memory = dies_at[rank], folder / f"{case} {rank}"
        env_fn = LengthFromSeedEnv if at is None else partial(Dies, at, memory)
        env = ProcessVecEnv([env_fn], task_ids=[f"task {rank}"], max_restarts=1)
        if rounds == "steps":
            model = make_steps(getattr(sb3_nigt, algorithm.__name__), env, timeout=15.0)
        else:
            model = make(algorithm, env, schedule=rounds, timeout=15.0)
        with pytest.raises(RankError) as raised:
            model.learn(10**9)
        env.close()
        ends[case] = str(raised.value)
    return ends


@pytest.mark.slow
@pytest.mark.parametrize("rounds", ["steps", "planned", "first_finished"])
def test_a_lost_worker_that_the_round_needs_ends_all_ranks(tmp_path, rounds):
    """The rank that has lost it tells the others, which are in the same round."""
    with rank_processes(2, lose, tmp_path, rounds) as processes:
        ends, other = processes.results(10 * BOUND)  # each rank starts a fork server
    assert ends == other, (ends, other)
    for case, text in ends.items():
        assert LOSSES[case][2] in text
        assert re.match(r"rank (\d): Worker \1 \(task 'task \1'\)", text)


def disagree(rank):
    make(RennalaNIGT, simulated([LengthFromSeedEnv]), n_trajectories=7 + rank).learn(100)


def test_different_arguments_are_refused():
    with rank_processes(2, disagree) as processes:
        for result in processes.results(BOUND):
            assert result.type == "ValueError"
            assert "n_trajectories=8 on rank 1 differs from 7 on rank 0" in result.text


def diverge(rank, moment):
    model = make(RennalaNIGT, simulated([LengthFromSeedEnv] * N_WORKERS))

    class Meddle(BaseCallback):
        def meddle(self):
            if rank == 1 and self.model._n_updates == 1:
                next(self.model.policy.parameters()).data += 1

        def _on_rollout_start(self):
            if moment == "before":
                self.meddle()

        def _on_rollout_end(self):
            if moment == "after":
                self.meddle()

        def _on_step(self):
            return True

    model.learn(1000, callback=Meddle())


@pytest.mark.parametrize(
    ("moment", "message"),
    [("before", "the ranks have drifted apart"), ("after", "after update 2 the ranks hold different parameters")],
)
def test_parameters_that_differ_are_noticed_on_all_ranks(moment, message):
    """Before a round is sampled with them, or after the update from it."""
    with rank_processes(2, diverge, moment) as processes:
        for result in processes.results(BOUND):
            assert message in result.text


# Several hosts


class TellAfter(BaseCallback):
    """Rings once some updates have been made."""

    def __init__(self, path, n_updates):
        super().__init__()
        self.path, self.n_updates, self.told = path, n_updates, False

    def _on_step(self):
        if self.path is not None and not self.told and self.model._n_updates >= self.n_updates:
            self.told = True
            ring(self.path)
        return True


# Now and then, with all of the tests side by side, ranks on such hosts take more than a minute to meet
on_hosts = pytest.mark.slow


def train_on_hosts(rank, path, n_timesteps, timeout):
    model = make(RennalaNIGT, simulated([LengthFromSeedEnv] * N_WORKERS), timeout=timeout)
    model.learn(n_timesteps, callback=TellAfter(path if rank == 0 else None, 2))
    return checksum(model), model.num_timesteps, model._n_updates


@on_hosts
def test_hosts_with_a_slow_network():
    """20 ms more for every packet of one host: the same parameters everywhere, only later."""
    with hosts(3) as made:
        made[2].delay(20)
        with rank_processes(3, train_on_hosts, None, 100, 20.0, hosts=made) as processes:
            results = processes.results(BOUND)
    assert results[0] == results[1] == results[2]
    assert results[0][2] > 1


@on_hosts
def test_a_network_that_comes_back_in_time_costs_nothing_but_time(tmp_path):
    """One host is cut off for a moment; what was on its way is sent once more."""
    with Bell(tmp_path / "bell") as bell, hosts(3) as made:  # noqa: SIM117
        with rank_processes(3, train_on_hosts, bell.path, 300, 20.0, hosts=made) as processes:
            bell.wait()
            made[2].plug(False)
            made[2].plug(True)  # the kernel takes about a second to notice
            results = processes.results(BOUND)
    assert results[0] == results[1] == results[2]
    assert results[0][2] > 3


@on_hosts
@pytest.mark.parametrize("unplugged", [0, 1])
def test_a_partition_is_an_error_on_all_sides(unplugged, tmp_path):
    """Host 0 keeps the store. Without it no rank knows anything; without another one the rest can say which it is."""
    with Bell(tmp_path / "bell") as bell, hosts(3) as made:  # noqa: SIM117
        with rank_processes(3, train_on_hosts, bell.path, 10**9, 3.0, hosts=made) as processes:
            bell.wait()
            made[unplugged].plug(False)
            results = processes.results(BOUND)
    assert [result.type for result in results] == ["RankError"] * 3
    cut_off = "the store that the ranks share has not answered rank"
    if unplugged == 0:
        assert "has given no sign of life" in results[0].text
        assert cut_off in results[1].text
        assert cut_off in results[2].text
    else:
        assert cut_off in results[1].text
        assert "rank 1 has given no sign of life" in results[0].text
        assert "rank 1 has given no sign of life" in results[2].text


# torchrun

SCRIPT = """
import os, signal, sys
import torch, torch.distributed as dist
from stable_baselines3.common.callbacks import BaseCallback
from envs import LengthFromSeedEnv, parameters, simulated
from paper import RennalaNIGT
from sb3_nigt.distributed import AllReduceGroup, RoundCheckpoint, is_first_rank, newest_checkpoint
import numpy as np

dist.init_process_group("gloo")

class Die(BaseCallback):
    def _on_rollout_start(self):
        if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and dist.get_rank() == 1 and self.model._n_updates == 3:
            os.kill(os.getpid(), signal.SIGKILL)

    def _on_step(self):
        return True

env, folder, group = simulated([LengthFromSeedEnv] * 2), sys.argv[1], AllReduceGroup(timeout=2.0)
path = newest_checkpoint(folder)
if path is None:
    model = RennalaNIGT("MlpPolicy", env, n_trajectories=7, policy_kwargs={"net_arch": [4]}, seed=0, group=group)
else:
    model = RennalaNIGT.load(path, env=env, group=group)
    print("went on after", model._n_updates, "updates", flush=True)
while model._n_updates < 6:
    model.learn(1, callback=[RoundCheckpoint(folder), Die()], reset_num_timesteps=False)
if is_first_rank():
    np.save(folder + "/final.npy", parameters(model))
"""


@pytest.mark.slow
def test_torchrun_starts_again_and_nothing_but_the_round_is_lost(tmp_path):
    """Rank 1 is killed in its fourth round. After the restart the run ends where one process ends that nothing happened to."""
    script, folder = tmp_path / "train.py", tmp_path / "checkpoints"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # or gloo finds the addresses of the processes that have died
    done = subprocess.run(
        [*command, "--monitor-interval", "0.1", str(script), str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    assert "went on after 3 updates" in done.stdout
    alone = make(RennalaNIGT, simulated([LengthFromSeedEnv] * 4), group=False)
    run_rounds(alone, 6)
    np.testing.assert_allclose(np.load(folder / "final.npy"), parameters(alone), rtol=0, atol=1e-5)
    assert sorted(path.name for path in folder.glob("*.zip")) == ["round_4.zip", "round_5.zip"]


@pytest.mark.slow
def test_example(tmp_path):
    """It trains, is run once more and goes on."""
    example = Path(__file__).parents[1] / "examples" / "train_distributed.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(example)]
    for timesteps, n_workers in ((2_000, ["--n-workers", "1"]), (4_000, ["--processes"])):
        arguments = ["--timesteps", str(timesteps), "--folder", str(tmp_path), *n_workers]
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stderr
        assert "2 ranks" in done.stdout
    assert "Going on from" in done.stdout
