"""Rounds of steps on worker processes: what counts, what is late, what fails, and that a run can be repeated."""

import os
import signal
import threading
import time
from functools import partial

import numpy as np
import pytest
from envs import (
    LengthFromSeedEnv,
    NanEnv,
    PointEnv,
    make_policy,
    parameters,
    run_rounds,
    simulated,
)
from processes import FAILED, SECONDS, Bell, FaultyEnv, explode, hang, kill_myself, ring, stop_myself, worker_processes

from sb3_nigt import MaleniaNIGT, RennalaNIGT, SimulatedVecEnv
from sb3_nigt.errors import LostWorkerError, WorkerError
from sb3_nigt.messages import SamplingPoint
from sb3_nigt.parameters import flatten
from sb3_nigt.recording import Recording, RunRecorder
from sb3_nigt.replay import replay
from sb3_nigt.replica.copying import copy_of
from sb3_nigt.testing.step_rounds import assert_same_pieces
from sb3_nigt.vec_env.base import RolloutSpec


@pytest.fixture
def workers():
    with worker_processes() as make:
        yield make


def prepared(env, round_steps=30, stagger=True, policy_class="MlpPolicy", seed=0):
    """Workers and a function that gives the point of a round."""
    cls = RennalaNIGT.policy_aliases[policy_class]
    policy = make_policy(env.observation_space, env.action_space, cls, net_arch=[4])
    env.prepare(RolloutSpec(copy_of(policy, "cpu"), 20, seed, stagger, round_steps))
    size, buffers = len(flatten(policy)), {}

    def point(round_):
        values = np.random.default_rng(round_).normal(0.0, 0.5, size).astype(np.float32)
        return SamplingPoint(round_, values, buffers=buffers)

    return env, point


def total(n_steps):
    return lambda counts: counts.sum() >= n_steps


def each(n_steps):
    return lambda counts: bool((counts >= n_steps).all())


def nothing():
    pass


class SlowEnv(LengthFromSeedEnv):
    """Each step takes some time."""

    def __init__(self, seconds):
        super().__init__()
        self.seconds = seconds

    def step(self, action):
        time.sleep(self.seconds)
        return super().step(action)


class WaitingEnv(LengthFromSeedEnv):
    """Rings a bell in its first step, and waits for another one."""

    def __init__(self, begun, go_on):
        super().__init__()
        self.begun, self.go_on, self.n = begun, go_on, 0

    def step(self, action):
        self.n += 1
        if self.n == 1:
            ring(self.begun)
            with open(self.go_on, "rb", buffering=0) as bell:
                bell.read(1)
        return super().step(action)


# What counts


def test_a_segment_that_is_longer_than_the_arrays_comes_in_parts_and_is_joined(workers):
    """Twice ten rows, of which each episode takes one more than it has steps; episodes go on from one part to the next."""
    for env_class in (LengthFromSeedEnv, PointEnv):
        env, point = prepared(workers(env_class), round_steps=10)
        simulated, _ = prepared(SimulatedVecEnv([env_class]), round_steps=10)
        for round_ in range(5):
            segments = env.run_segments(point(round_), total(100), nothing)
            assert segments.counts[0] >= 100
            keys = [arrival.key for arrival, _ in segments.pieces]
            assert keys == [(round_, 0, number) for number in range(len(keys))]
            assert env_class is LengthFromSeedEnv or len(keys) == 1
            assert_same_pieces(segments, simulated.repeat_segments(point(round_), segments.segments))


def test_every_step_is_counted_or_discarded_once(workers):
    """What is discarded was under way when a round was complete, so it began no earlier than what that round counts ended."""
    env, point = prepared(workers(*[LengthFromSeedEnv] * 3))
    used, late, ended = 0, [], {}
    for round_ in range(30):
        segments = env.run_segments(point(round_), total(20), nothing)
        used += segments.counts.sum()
        for job, began, stopped, _ in segments.discarded:
            assert ended.get(job.key.round, 0.0) <= began <= stopped <= env.clock.now()
        late += segments.discarded
        ended[round_] = max(arrival.finished_at for arrival, _ in segments.pieces)
    late += env.cancel()
    while sum(env.busy(worker) for worker in range(3)):
        late += env.cancel()
    env.reset()
    discarded = sum(piece.n_steps for *_, piece in late)
    assert env.steps_executed >= used + discarded
    made = sum(slot.progress.n_steps for slot in env._roster.slots)
    assert env.steps_executed == made


def test_first_episode_is_cut_once_where_the_environment_has_a_limit(workers):
    from gymnasium.wrappers import TimeLimit

    def make():
        env = PointEnv()
        import gymnasium as gym

        env.spec = gym.envs.registration.EnvSpec("Point-v0", max_episode_steps=40)
        return TimeLimit(env, 40)

    env, point = prepared(workers(make, make), round_steps=400)
    simulated, _ = prepared(SimulatedVecEnv([make, make]), round_steps=400)
    segments = env.run_segments(point(0), each(100), nothing)
    assert_same_pieces(segments, simulated.repeat_segments(point(0), segments.segments))
    for worker in range(2):
        first, *rest = [piece for arrival, piece in segments.pieces if arrival.worker == worker]
        assert first.n_steps <= 40
        assert (first.terminated, first.truncated) == (False, first.n_steps == 40)
        assert all(piece.n_steps == 40 and piece.truncated for piece in rest[:-1])


def test_a_worker_in_a_long_step_is_not_waited_for_and_joins_when_it_is_done(workers, tmp_path):
    with Bell(tmp_path / "begun") as begun, Bell(tmp_path / "go_on"):
        slow = partial(WaitingEnv, tmp_path / "begun", tmp_path / "go_on")
        env, point = prepared(workers(slow, LengthFromSeedEnv))
        segments = env.run_segments(point(0), total(20), begun.wait)
        assert segments.counts[0] == 0
        assert [segment.worker for segment in segments.segments] == [0, 1]
        for round_ in range(1, 4):
            segments = env.run_segments(point(round_), total(20), nothing)
            assert segments.counts[0] == 0
            assert [segment.worker for segment in segments.segments] == [1]
        ring(tmp_path / "go_on")
        segments = env.run_segments(point(4), each(5), nothing)
        (late,) = [piece for job, *_, piece in segments.discarded if job.worker == 0]
        assert late.n_steps == 1
        assert late.point.round == 0
        assert segments.segments[0].start.n_steps == 1


def test_meanwhile_is_called_once_and_all_steps_made_in_it_count(workers):
    env, point = prepared(workers(*[PointEnv] * 2))
    called = []

    def meanwhile():
        called.append(1)
        assert all(env._transport.ready([worker], SECONDS) for worker in range(2))  # they have stopped by themselves

    segments = env.run_segments(point(0), total(20), meanwhile)
    assert called == [1]
    assert segments.counts.tolist() == [13, 13]  # a quarter more than half of it


# Numbers that are not finite, and failures


def test_rejected_steps_do_not_count(workers):
    env_fns = [NanEnv, LengthFromSeedEnv]
    env, point = prepared(workers(*env_fns))
    segments = env.run_segments(point(0), total(200), nothing)
    assert segments.counts[0] <= 1
    assert segments.counts.sum() >= 200 or any(piece.rejected for _, piece in segments.pieces)
    rejected = [piece for _, piece in segments.pieces if piece.rejected]
    assert {piece.rejected for piece in rejected} == {"reward"}
    assert all(piece.n_steps == 2 for piece in rejected)
    counted = sum(piece.n_steps for _, piece in segments.pieces if not piece.rejected)
    assert counted == segments.counts.sum()


def test_a_run_stops_where_nothing_is_finite(workers):
    model = RennalaNIGT("MlpPolicy", workers(*[NanEnv] * 2), seed=0, device="cpu", n_steps=20)
    with pytest.raises(WorkerError, match="in a row ended with a non-finite reward"):
        model.learn(10_000)


@pytest.mark.filterwarnings(FAILED)
@pytest.mark.parametrize("does", [explode, kill_myself])
def test_a_worker_that_fails_loses_its_segment_and_comes_back(workers, tmp_path, does):
    flag = tmp_path / "failed"
    env, point = prepared(workers(partial(FaultyEnv, does, at=25, flag=flag), LengthFromSeedEnv))
    simulated, _ = prepared(SimulatedVecEnv([LengthFromSeedEnv] * 2))
    new_episodes, restarts = set(), []
    for round_ in range(60):
        segments = env.run_segments(point(round_), each(3), nothing)
        assert_same_pieces(segments, simulated.repeat_segments(point(round_), segments.segments))
        new_episodes |= {round_ for segment in segments.segments if segment.worker == 0 and segment.start.new_episode}
        restarts.append(env.restarts)
    assert flag.exists()
    assert restarts[-1] == 1
    assert new_episodes == {0, restarts.index(1)}  # which is 0, too, if it has made so many steps before the other one's third


@pytest.mark.filterwarnings(FAILED)
@pytest.mark.parametrize("does", [stop_myself, hang])
def test_a_worker_that_hangs_is_restarted_while_rounds_go_on(workers, tmp_path, does):
    faulty = partial(FaultyEnv, does, at=5, flag=tmp_path / "failed")
    env, point = prepared(workers(faulty, LengthFromSeedEnv, timeout=1.0))
    round_ = 0
    while env.restarts == 0:
        env.run_segments(point(round_), total(20), nothing)
        round_ += 1
    assert round_ > 1
    assert env.run_segments(point(round_), each(5), nothing).counts.min() >= 5


@pytest.mark.filterwarnings(FAILED)
def test_a_worker_that_is_killed_between_rounds_starts_a_new_episode(workers):
    env, point = prepared(workers(*[PointEnv] * 2))
    before = env.run_segments(point(0), each(10), nothing)
    env.run_segments(point(1), each(10), nothing)
    os.kill(env.worker_pids[0], signal.SIGKILL)
    after = env.run_segments(point(2), each(10), nothing)
    assert {arrival.worker: piece.age for arrival, piece in before.pieces} == {0: 0, 1: 0}
    ages = {arrival.worker: piece.age for arrival, piece in after.pieces}
    assert ages[0] == 0
    assert ages[1] > 0


@pytest.mark.filterwarnings(FAILED)
def test_a_worker_that_is_lost_in_a_round_ends_it_only_where_it_is_needed(workers):
    faulty = partial(FaultyEnv, kill_myself, at=30)
    rennala = RennalaNIGT("MlpPolicy", workers(faulty, LengthFromSeedEnv, max_restarts=0), seed=0, device="cpu", n_steps=20)
    run_rounds(rennala, 10)
    assert rennala.env.lost() == {0}
    malenia = MaleniaNIGT("MlpPolicy", workers(faulty, LengthFromSeedEnv, max_restarts=0), seed=0, device="cpu", n_steps=20)
    with pytest.raises(LostWorkerError):
        malenia.learn(10_000)


# Interruptions


def test_an_exception_in_a_round_leaves_workers_that_go_on(workers, tmp_path):
    class Stop(Exception):
        pass

    with Bell(tmp_path / "second_step") as bell:
        env, point = prepared(workers(*[partial(FaultyEnv, partial(ring, bell.path), at=2)] * 3))

        def stop():
            bell.wait(times=3)
            raise Stop

        with pytest.raises(Stop):
            env.run_segments(point(0), total(20), stop)
    discarded = env.cancel()
    while len({job.worker for job, *_, piece in discarded if piece.n_steps}) < env.num_envs:
        discarded += env.cancel()
    segments = env.run_segments(point(1), each(5), nothing)
    assert segments.counts.min() >= 5
    assert all(segment.start.n_steps > 0 for segment in segments.segments)


def test_ctrl_c_ends_training_and_the_next_call_goes_on(workers):
    model = RennalaNIGT("MlpPolicy", workers(*[LengthFromSeedEnv] * 2), seed=0, device="cpu", n_steps=50)
    over = threading.Event()

    def interrupt():
        """Again and again, since Python drops what is raised in a destructor or in a callback of the garbage collector."""
        while not over.wait(1.0):
            os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            model.learn(10**9)
    finally:
        over.set()
    run_rounds(model, 3)


def test_reset_leaves_the_episodes(workers):
    env, point = prepared(workers(*[PointEnv] * 2))
    env.run_segments(point(0), each(10), nothing)
    env.reset()
    env.step(np.zeros((2, 1), dtype=np.float32))
    segments = env.run_segments(point(1), each(10), nothing)
    assert [piece.age for _, piece in segments.pieces] == [0, 0]
    assert all(segment.start.new_episode for segment in segments.segments)


def test_interrupt_gives_the_round_up(workers):
    env = workers(*[PointEnv] * 2)
    env.interrupt = lambda: True
    env, point = prepared(env)
    assert env.run_segments(point(0), lambda counts: False, nothing) is None
    env.cancel()


# Recording


@pytest.mark.slow
@pytest.mark.filterwarnings(FAILED)
def test_a_recorded_run_repeats_in_the_simulator_bit_for_bit(workers, tmp_path):
    """One worker is slower, one dies in the middle."""
    env_fns = [partial(SlowEnv, 0.002), partial(FaultyEnv, kill_myself, at=40, flag=tmp_path / "failed"), LengthFromSeedEnv]
    model = RennalaNIGT("MlpPolicy", workers(*env_fns), seed=3, device="cpu", n_steps=20)
    model.learn(4_000, callback=RunRecorder(tmp_path / "run.jsonl"))
    assert (tmp_path / "failed").exists()
    recording = Recording.load(tmp_path / "run.jsonl")
    assert recording.reports[-1].segments == model.last_round.segments
    other = RennalaNIGT("MlpPolicy", SimulatedVecEnv(env_fns), seed=3, device="cpu", n_steps=20)
    replay(other, recording)
    assert len(recording.rounds) == other.n_updates > 20
    assert np.array_equal(parameters(model), parameters(other))


def test_no_simulated_piece_ends_after_its_round():
    """Fifteen times a tenth of a second, added up one by one, is more than 15 times 0.1."""
    env, point = prepared(simulated([1], 0.1))
    segments = env.run_segments(point(0), total(15), nothing)
    assert len(segments.pieces) == 15
    assert segments.pieces[-1][0].finished_at == env.clock.now()


def test_a_simulated_run_repeats(tmp_path):
    env_fns = [LengthFromSeedEnv] * 3
    model = RennalaNIGT("MlpPolicy", SimulatedVecEnv(env_fns), seed=3, device="cpu", n_steps=20)
    model.learn(2_000, callback=RunRecorder(tmp_path / "run.jsonl"))
    other = RennalaNIGT("MlpPolicy", SimulatedVecEnv(env_fns), seed=3, device="cpu", n_steps=20)
    replay(other, Recording.load(tmp_path / "run.jsonl"))
    assert np.array_equal(parameters(model), parameters(other))
