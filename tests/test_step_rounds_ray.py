"""Rounds of steps on Ray beyond their contract: a worker that sticks, one that fails, and a run that repeats."""

from functools import partial

import numpy as np
import pytest
from envs import LengthFromSeedEnv, parameters
from processes import FAILED, Bell, FaultyEnv, kill_myself, ring
from test_step_rounds import WaitingEnv, each, nothing, prepared, total

from sb3_nigt import RennalaNIGT, SimulatedVecEnv
from sb3_nigt.recording import Recording, RunRecorder
from sb3_nigt.replay import replay

pytest.importorskip("ray")

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*accelerator:FutureWarning"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.timeout(300),
]


@pytest.fixture
def workers(ray_workers):
    return ray_workers


@pytest.mark.slow
def test_a_worker_in_a_long_step_is_not_waited_for_and_joins_when_it_is_done(workers, tmp_path):
    with Bell(tmp_path / "begun") as begun, Bell(tmp_path / "go_on"):
        env, point = prepared(workers(partial(WaitingEnv, tmp_path / "begun", tmp_path / "go_on"), LengthFromSeedEnv))
        assert env.run_segments(point(0), total(20), begun.wait).counts[0] == 0
        assert env.run_segments(point(1), total(20), nothing).counts[0] == 0
        ring(tmp_path / "go_on")
        segments = env.run_segments(point(2), each(5), nothing)
        assert segments.counts.min() >= 5
        (late,) = [piece for job, *_, piece in segments.discarded if job.worker == 0]
        assert (late.n_steps, late.point.round) == (1, 0)


@pytest.mark.slow  # the same on processes is not
@pytest.mark.filterwarnings(FAILED)
def test_a_recorded_run_with_a_failure_repeats_in_the_simulator_bit_for_bit(workers, tmp_path):
    env_fns = [partial(FaultyEnv, kill_myself, at=70, flag=tmp_path / "failed"), LengthFromSeedEnv]
    model = RennalaNIGT("MlpPolicy", workers(*env_fns), seed=3, device="cpu", n_steps=20)
    model.learn(1_200, callback=RunRecorder(tmp_path / "run.jsonl"))
    assert (tmp_path / "failed").exists()
    other = RennalaNIGT("MlpPolicy", SimulatedVecEnv(env_fns), seed=3, device="cpu", n_steps=20)
    replay(other, Recording.load(tmp_path / "run.jsonl"))
    assert np.array_equal(parameters(model), parameters(other))
