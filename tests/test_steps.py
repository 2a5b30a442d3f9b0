"""Rounds of steps on the simulated clock: golden timelines by hand, and which steps count."""

from contextlib import nullcontext
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from envs import FixedLengthEnv, LengthFromSeedEnv, NanEnv, NeverEndingEnv, parameters, run_rounds
from gymnasium.envs.classic_control import PendulumEnv
from gymnasium.wrappers import TimeLimit
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_nigt import FixedTimes, MaleniaNIGT, RennalaNIGT, SimulatedVecEnv, SyncNIGT, WorkerError
from sb3_nigt.aggregators import Malenia, Rennala, Synchronous
from sb3_nigt.sampling.segments import longest_episode
from sb3_nigt.timing.segments import round_of_steps, steps_by

SMALL = {"net_arch": [8]}


def make(algorithm=RennalaNIGT, env_fns=(NeverEndingEnv,) * 3, step_times=1.0, message_times=0.0, task_ids=None, **kwargs):
    env = SimulatedVecEnv(list(env_fns), FixedTimes(step_times, message_times), task_ids=task_ids)
    arguments = {"seed": 3, "device": "cpu", "policy_kwargs": SMALL, "fisher_samples": 20, **kwargs}
    return algorithm("MlpPolicy", env, **arguments)


def make_on(env, n_steps=8):
    return RennalaNIGT("MlpPolicy", env, n_steps=n_steps, device="cpu", policy_kwargs=SMALL, fisher_samples=20, seed=3)


def timeline(model, n_rounds):
    """Start, end, counts and discarded steps of each round."""
    return [
        (report.started_at, report.finished_at, report.counts.tolist(), report.discarded_steps)
        for report in run_rounds(model, n_rounds)
    ]


# Golden timelines


def test_equal_speeds():
    """Three workers of one second per step, n_steps=2: complete at 2, and nothing is in flight."""
    assert timeline(make(n_steps=2), 2) == [(0, 2, [2, 2, 2], 0), (2, 4, [2, 2, 2], 0)]


def test_a_tie_counts_for_all():
    """
    Speeds 1, 2, 2 and M = 3: steps end at 1 (worker 0) and at 2 (all three). Complete at 2 with four steps, since all that
    have ended by then count; nothing is in flight.
    """
    assert timeline(make(n_steps=1, step_times=[1, 2, 2]), 2) == [(0, 2, [2, 1, 1], 0), (2, 4, [2, 1, 1], 0)]


def test_a_step_in_flight_goes_on_into_the_next_round():
    """
    Speeds 1, 1, 3 and M = 6. Round 0: worker 0 and 1 end steps at 1, 2, 3, worker 2 at 3: by 2 there are 4, by 3 seven.
    With messages of 0.5 the next round begins at 3.5. Nothing was in flight at 3.
    Round 1: ends at 4.5, 5.5, 6.5 and 6.5.
    """
    rounds = timeline(make(n_steps=2, step_times=[1, 1, 3], message_times=0.5), 2)
    assert rounds == [(0, 3.5, [3, 3, 1], 0), (3.5, 7, [3, 3, 1], 0)]


def test_a_step_that_is_longer_than_a_round():
    """
    Speeds 1, 1, 5 and M = 6. By 3 worker 0 and 1 have three steps each: complete at 3, worker 2 is in its first step, which
    began in the round and counts for nothing. It ends at 5. Round 1 begins at 3: worker 0 and 1 have six steps at 6; worker 2
    begins at 5 and is in flight at 6. Round 2, from 6: worker 2 is free at 10, after the end at 9.
    """
    rounds = timeline(make(n_steps=2, step_times=[1, 1, 5]), 3)
    assert rounds == [(0, 3, [3, 3, 0], 1), (3, 6, [3, 3, 0], 1), (6, 9, [3, 3, 0], 0)]


def test_malenia_waits_for_the_first_step_of_a_slow_task():
    """
    Two tasks, speeds 1 and 4, M = 4. The harmonic mean of (4, 1) is 1.6 < 2 at 4; at 8 with (8, 2) it is 3.2 ≥ 2. In between
    (N, 1) with 2 / (1/N + 1) < 2 is never enough. Weights: 1 / (2 · 8) and 1 / (2 · 2).
    """
    model = make(MaleniaNIGT, (NeverEndingEnv,) * 2, [1, 4], n_steps=2)
    assert timeline(model, 1) == [(0, 8, [8, 2], 0)]
    assert model.last_round.weights.tolist() == [1 / 16, 1 / 4]


def test_sync_waits_for_all():
    """Speeds 1, 2, 4 and n_steps=2: complete at 8; the others have gone on meanwhile."""
    assert timeline(make(SyncNIGT, n_steps=2, step_times=[1, 2, 4]), 1) == [(0, 8, [8, 4, 2], 0)]


def test_time_per_trajectory_charges_a_share_of_an_episode():
    """200 steps an episode: h_i = 400 is two seconds per step."""
    env = SimulatedVecEnv([partial(gym.make, "Pendulum-v1")] * 2, FixedTimes([200, 400], per="trajectory"))
    model = RennalaNIGT("MlpPolicy", env, n_steps=3, seed=0, device="cpu", fisher_samples=6)
    assert timeline(model, 1) == [(0, 4, [4, 2], 0)]


def test_default_size_of_a_round():
    assert run_rounds(make(), 1)[0].used_steps == 1002  # ⌈1000/3⌉ for each of three workers
    assert run_rounds(make(env_fns=(FixedLengthEnv,) * 60), 1)[0].used_steps == 1200  # 20 for each of sixty


# Which steps count


speeds = st.lists(st.sampled_from([0.5, 1.0, 2.0, 3.0, 7.0, 50.0, 2**0.5, 3**0.5]), min_size=1, max_size=5)


@settings(max_examples=200, deadline=None)
@given(speeds, st.integers(1, 40), st.sampled_from(["rennala", "malenia", "synchronous"]), st.data())
def test_a_round_ends_at_the_first_moment_that_the_rule_allows(step_times, m, name, data):
    step_times = np.array(step_times)
    starts = np.array(
        data.draw(st.lists(st.sampled_from([0.0, 0.3, 1.0]), min_size=len(step_times), max_size=len(step_times)))
    )
    n = len(step_times)
    rule = {"rennala": Rennala(m), "malenia": Malenia.of(m, range(n)), "synchronous": Synchronous(m)}[name]
    end, counts = round_of_steps(starts, step_times, rule.is_complete)
    assert rule.is_complete(counts)
    ends = [[starts[i] + k * step_times[i] for k in range(1, counts[i] + 2)] for i in range(n)]
    assert all(sum(time <= end for time in own) == count for own, count in zip(ends, counts, strict=True))
    assert any(time == end for own in ends for time in own)
    assert not rule.is_complete(np.array([sum(time < end for time in own) for own in ends]))


def test_steps_by_undoes_rounding():
    starts, step_times = np.zeros(3), np.array([0.1, 0.7, 3.0])
    for k in range(1, 2000):
        for worker in range(3):
            time = float(starts[worker] + k * step_times[worker])
            assert steps_by(time, starts, step_times)[worker] == k
            assert steps_by(float(np.nextafter(time, 0)), starts, step_times)[worker] == k - 1


# Environments between rounds


class Offset(FixedLengthEnv):
    """The same observations with other rewards."""

    def __init__(self, offset):
        super().__init__(5)
        self.offset = offset

    def step(self, action):
        observation, reward, *rest = super().step(action)
        return observation, reward + self.offset, *rest


@pytest.mark.slow
def test_each_environment_of_a_plain_vec_env_is_a_task_of_malenia():
    """Its critic tells them apart: the values of one observation differ by the reward."""
    env = DummyVecEnv([partial(Offset, offset) for offset in (0.0, 10.0)])
    model = MaleniaNIGT("MlpPolicy", env, n_steps=50, seed=0, device="cpu", policy_kwargs=SMALL, fisher_samples=12)
    run_rounds(model, 60)
    assert model.n_critic_tasks == 2
    tasks = th.arange(2)
    poor, rich = model.policy.value_network.real_values(th.zeros(2, *env.observation_space.shape), tasks)
    assert rich > poor + 5
    assert RennalaNIGT("MlpPolicy", env, device="cpu", policy_kwargs=SMALL).n_critic_tasks == 1


@pytest.mark.parametrize(("n_steps", "smallest"), [(None, 1), (104, 4)])
def test_many_tasks(n_steps, smallest):
    """Of 40 one is a hundred times slower. 40² is more than the 1,000 steps of a round; 4 · 40² steps are 160 a worker."""
    env = SimulatedVecEnv([partial(FixedLengthEnv, 5)] * 40, FixedTimes([1.0] * 39 + [100.0]), task_ids=range(40))
    model = MaleniaNIGT("MlpPolicy", env, n_steps=n_steps, device="cpu", policy_kwargs=SMALL, fisher_samples=12)
    with pytest.warns(UserWarning, match=r"n_steps=None is 25 .*: give n_steps=160 ") if n_steps is None else nullcontext():
        (report,) = run_rounds(model, 1)
    assert report.counts.min() == smallest


def test_a_task_keeps_the_number_that_the_critic_knows_it_by(tmp_path):
    """Workers may come back in another order, and one of them with a new task, which gets the number that is free."""

    def workers(*tasks):
        return SimulatedVecEnv([partial(FixedLengthEnv, 5)] * len(tasks), task_ids=tasks)

    model = MaleniaNIGT("MlpPolicy", workers("good", "bad"), n_steps=20, seed=0, device="cpu", policy_kwargs=SMALL)
    model.learn(80).save(tmp_path / "model")
    for tasks, numbers in {
        ("bad", "good"): {"good": 0, "bad": 1},
        ("new", "good"): {"good": 0, "new": 1},
        ("bad", "new", "bad"): {"new": 0, "bad": 1},
        ("bad",): {"good": 0, "bad": 1},
    }.items():
        loaded = MaleniaNIGT.load(tmp_path / "model", env=workers(*tasks), device="cpu")
        loaded.learn(40, reset_num_timesteps=False)
        assert loaded.estimator.task_numbers == numbers


def test_environments_live_on_between_rounds():
    """Episodes of 5 steps, 3 steps a round: pieces of 3, 2 + 1, 3, 1 + 2, 3 steps, and ages that go on."""
    model, seen = make(env_fns=(partial(FixedLengthEnv, 5),), n_steps=3), []
    original = model._estimator.coefficients
    model._estimator.coefficients = lambda accepted, *args: (
        seen.append([(t.age, t.n_steps, t.terminated) for _, t in accepted]) or original(accepted, *args)
    )
    run_rounds(model, 5)
    assert seen == [
        [(0, 3, False)],
        [(3, 2, True), (0, 1, False)],
        [(1, 3, False)],
        [(4, 1, True), (0, 2, False)],
        [(2, 3, True)],
    ]


@pytest.mark.parametrize("make_env", [partial(gym.make, "Pendulum-v1"), lambda: TimeLimit(Monitor(PendulumEnv()), 200)])
def test_stagger_cuts_the_first_episodes_only(make_env):
    """Of registered environments, and of those with a limit of their own."""
    env_fns = [make_env] * 6
    ends = {}
    for stagger in (True, False):
        model = make(env_fns=env_fns, n_steps=200, stagger=stagger)
        run_rounds(model, 3)
        ends[stagger] = [info["l"] for info in model.ep_info_buffer]
    assert ends[False] == [200] * 18
    # of six workers each has lost a part of its first episode, which is no episode for the log
    assert set(ends[True]) == {200}
    assert len(ends[True]) == 12


class RowEnv(FixedLengthEnv):
    """Its observations are rows of a matrix with one row, which a DummyVecEnv writes into vectors."""

    def reset(self, **kwargs):
        observation, info = super().reset(**kwargs)
        return observation[None], info

    def step(self, action):
        observation, *others = super().step(action)
        return observation[None], *others


def test_observations_that_a_plain_vec_env_fits_into_its_arrays():
    """The last one of an episode is handed on as it came."""
    rows, vectors = (make_on(DummyVecEnv([lambda cls=cls: cls(3)] * 2)) for cls in (RowEnv, FixedLengthEnv))
    for model in (rows, vectors):
        run_rounds(model, 2)
    assert equal(rows, vectors)


class Forgetful(DummyVecEnv):
    """Leaves the last observation of an episode out, against the contract of a VecEnv."""

    def step_wait(self):
        observations, rewards, dones, infos = super().step_wait()
        for info in infos:
            info.pop("terminal_observation", None)
        return observations, rewards, dones, infos


@pytest.mark.parametrize(("cls", "ends"), [(DummyVecEnv, (False, True)), (Forgetful, (True, False))])
def test_an_end_without_its_observation_has_no_value_after_it(cls, ends):
    model, seen = make_on(cls([lambda: TimeLimit(NeverEndingEnv(), 4)])), []
    original = model._estimator.coefficients
    model._estimator.coefficients = lambda accepted, *args: (
        seen.extend((t.terminated, t.truncated) for _, t in accepted) or original(accepted, *args)
    )
    run_rounds(model, 1)
    assert seen == [ends] * 2


def test_counters_and_episodes():
    model = make(env_fns=(partial(FixedLengthEnv, 5),) * 3, n_steps=5, step_times=[1, 1, 7])
    reports = run_rounds(model, 4)
    executed = sum(report.used_steps + report.discarded_steps for report in reports)
    assert model.num_timesteps == executed // 3 * 3
    lengths = [info["l"] for info in model.ep_info_buffer]
    assert lengths == [5] * len(lengths)
    assert len(lengths) >= 10


def test_pieces_with_numbers_that_are_not_finite_count_for_nothing():
    """Worker 0 has a bad second step in every episode; the first one cannot be used either, and others make more steps."""
    model = make(env_fns=(NanEnv, NeverEndingEnv), n_steps=2)
    (report,) = run_rounds(model, 1)
    # by 2 seconds each has two steps, of which those of worker 0 are lost; by 3 one more each, in a new episode
    assert (report.finished_at, report.counts.tolist(), len(report.rejected)) == (3, [1, 3], 1)
    assert report.discarded_steps == 2


def test_a_worker_that_delivers_nothing_else_stops_the_run():
    with pytest.raises(WorkerError, match="5 trajectories in a row ended with a non-finite reward"):
        run_rounds(make(env_fns=(NanEnv, NeverEndingEnv), n_steps=20), 1)


# Reductions


def equal(first, second):
    return np.array_equal(parameters(first), parameters(second))


def trained(*args, n_rounds=4, **kwargs):
    model = make(*args, **kwargs)
    run_rounds(model, n_rounds)
    return model


def test_rennala_with_equal_speeds_is_sync():
    env_fns = (LengthFromSeedEnv,) * 3
    assert equal(trained(RennalaNIGT, env_fns, n_steps=4), trained(SyncNIGT, env_fns, n_steps=4))
    assert not equal(trained(RennalaNIGT, env_fns, [1, 2, 3], n_steps=4), trained(SyncNIGT, env_fns, [1, 2, 3], n_steps=4))


def test_malenia_with_one_task_is_rennala():
    env_fns, speeds = (LengthFromSeedEnv,) * 3, [1, 2, 3]
    one = trained(MaleniaNIGT, env_fns, speeds, task_ids=["a"] * 3, n_steps=4)
    assert equal(one, trained(RennalaNIGT, env_fns, speeds, n_steps=4))
    two = trained(MaleniaNIGT, env_fns, speeds, task_ids=["a", "b", "b"], n_steps=4)
    assert not equal(two, one)


def test_the_same_run_gives_the_same_bits():
    first, second = (trained(env_fns=(LengthFromSeedEnv,) * 3, step_times=[1, 2, 5]) for _ in range(2))
    assert equal(first, second)


def test_speeds_decide_how_many_steps_and_nothing_else():
    """A worker's stream of actions and its episodes do not depend on the others."""
    pieces = {}
    for speed in (1.0, 4.0):
        model = make(env_fns=(LengthFromSeedEnv,) * 2, step_times=[1.0, speed], n_steps=10, learning_rate=0.0, stagger=False)
        run_rounds(model, 1)
        pieces[speed] = [t for a, t in model.accepted if a.worker == 1]
    n = sum(t.n_steps for t in pieces[4.0])
    assert 0 < n < sum(t.n_steps for t in pieces[1.0])
    for name in ("samples", "rewards"):
        slow, fast = (np.concatenate([getattr(t, name) for t in pieces[speed]])[:n] for speed in (4.0, 1.0))
        np.testing.assert_array_equal(slow, fast)


def test_a_plain_vec_env():
    """Environments that step together are workers of equal speed."""
    env = DummyVecEnv([partial(FixedLengthEnv, 5)] * 3)
    model = RennalaNIGT("MlpPolicy", env, n_steps=4, seed=0, device="cpu", policy_kwargs=SMALL, fisher_samples=12)
    reports = run_rounds(model, 3)
    assert [report.counts.tolist() for report in reports] == [[4, 4, 4]] * 3
    assert [a.n_steps for a in reports[1].arrivals if a.worker == 0] == [1, 3]
    assert model.num_timesteps == 36


def test_age_of_episodes_on_a_plain_vec_env():
    """A callback stops after two of four steps; the next run goes on with these episodes, the one after it begins new ones."""
    env = DummyVecEnv([partial(FixedLengthEnv, 50)] * 3)
    model = RennalaNIGT("MlpPolicy", env, n_steps=4, seed=0, device="cpu", policy_kwargs=SMALL, fisher_samples=12)
    ages = []
    for arguments in ({"callback": lambda locals_, _: locals_["self"].num_timesteps < 18}, {"reset_num_timesteps": False}, {}):
        model.learn(1 if ages else 24, **arguments)
        ages.append([piece.age for _, piece in model.accepted])
    assert ages == [[0, 0, 0], [6, 6, 6], [0, 0, 0]]


@pytest.mark.parametrize("limit", [None, 30])
def test_an_environment_may_say_that_it_has_no_limit(limit):
    env = NeverEndingEnv()
    env._max_episode_steps = limit
    assert longest_episode(env) == limit


def test_environments_live_on_between_two_calls_of_learn():
    """h = 1 and 5, n_steps=4: the slow worker's second step goes on until 10, into the round of the next learn()."""
    model = make(env_fns=(NeverEndingEnv,) * 2, step_times=[1.0, 5.0], n_steps=4)
    for _ in range(2):
        model.learn(1, reset_num_timesteps=False)
    first_of = {arrival.worker: arrival.started_at for arrival in reversed(model.last_round.arrivals)}
    assert model.last_round.started_at == 7.0
    assert first_of[1] == 10.0
