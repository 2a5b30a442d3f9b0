"""One ``on_step`` stands for exactly n environment steps, and every step is shown once, in order."""

from functools import partial

import numpy as np
import pytest
from envs import LengthFromSeedEnv, NeverEndingEnv, run_rounds, simulated
from hypothesis import given
from hypothesis import strategies as st
from paper import RennalaNIGT
from stable_baselines3.common.callbacks import BaseCallback

from sb3_nigt import AFedPG
from sb3_nigt.messages import SamplingPoint, TrajectoryKey
from sb3_nigt.sampling.ticks import TickAssembler
from sb3_nigt.sampling.trajectory import Trajectory

POINT = SamplingPoint(0, np.zeros(1, dtype=np.float32))


def trajectory(first, length, end="terminated", point=POINT, infos=None, as_dict=False):
    """
    Steps number ``first`` to ``first + length - 1`` of a recording.

    Step k has observation k before and k + 1 after, action 10 k and reward k / 8, exact in float32. After the last step the
    observation is -1, as it would be if the environment jumped.
    """
    numbers = np.arange(first, first + length)
    observations, final = numbers.astype(np.float32)[:, None], np.array([-1.0], dtype=np.float32)
    if as_dict:
        observations, final = {"a": observations, "b": numbers}, {"a": final, "b": np.int64(-1)}
    return Trajectory(
        key=TrajectoryKey(0, 0, 0),
        point=point,
        observations=observations,
        final_observation=final,
        samples=np.zeros((length, 1)),
        actions=10 * numbers[:, None],
        rewards=numbers / 8,
        terminated=end == "terminated",
        truncated=end == "truncated",
        infos=[{"number": k} for k in numbers.tolist()] if infos is None else infos,
    )


def fed(assembler, *trajectories):
    return [tick for one in trajectories for tick in assembler.feed(one)]


def numbers(ticks):
    return [info["number"] for tick in ticks for info in tick.infos]


@given(st.integers(1, 5), st.lists(st.integers(0, 9), max_size=8))
def test_every_step_once_in_order_and_the_rest_waits(n_envs, lengths):
    starts = np.cumsum([0, *lengths])
    assembler = TickAssembler(n_envs)
    ticks = []
    for first, length in zip(starts[:-1].tolist(), lengths, strict=True):
        ticks += fed(assembler, trajectory(first, length))
        assert len(ticks) == (first + length) // n_envs  # as many as are full, not later
    shown = int(starts[-1]) // n_envs * n_envs
    assert numbers(ticks) == list(range(shown))
    assert all(len(tick.infos) == n_envs for tick in ticks)
    assert np.array_equal([a for tick in ticks for a in tick.actions[:, 0]], 10 * np.arange(shown))
    assert np.array_equal([r for tick in ticks for r in tick.rewards], np.arange(shown) / 8)
    ends = set((starts[1:] - 1)[np.array(lengths, dtype=int) > 0].tolist())
    assert [bool(d) for tick in ticks for d in tick.dones] == [k in ends for k in range(shown)]
    after = [-1 if k in ends else k + 1 for k in range(shown)]
    assert [float(o) for tick in ticks for o in tick.new_obs[:, 0]] == after


def test_shapes_and_types_are_those_of_a_vec_env():
    (tick,) = fed(TickAssembler(3), trajectory(0, 3))
    assert tick.new_obs.shape == (3, 1)
    assert tick.new_obs.dtype == np.float32
    assert tick.rewards.shape == tick.dones.shape == (3,)
    assert tick.rewards.dtype == np.float32
    assert tick.dones.dtype == bool
    assert tick.actions.shape == (3, 1)


def test_remainder_is_carried_over_trajectories_shorter_than_a_tick():
    """With n = 4: 3 + 2 + 1 + 2 = 8 steps make two ticks, at the second and at the fourth trajectory."""
    assembler = TickAssembler(4)
    sizes = [len(fed(assembler, trajectory(first, length))) for first, length in ((0, 3), (3, 2), (5, 1), (6, 2))]
    assert sizes == [0, 1, 0, 1]


@pytest.mark.parametrize("n_envs", [1, 2, 4])
@pytest.mark.parametrize("end", ["terminated", "truncated", "horizon"])
def test_end_of_a_trajectory(n_envs, end):
    """Only an episode that ended has ``done``; its info has what Stable-Baselines3's VecEnvs put there."""
    ticks = fed(TickAssembler(n_envs), trajectory(0, 4, end))
    dones = [bool(d) for tick in ticks for d in tick.dones]
    infos = [info for tick in ticks for info in tick.infos]
    assert dones == [False, False, False, end != "horizon"]
    assert all(set(info) == {"number"} for info in infos[:3])
    if end == "horizon":
        assert set(infos[3]) == {"number"}
    else:
        assert infos[3]["terminal_observation"].tolist() == [-1.0]
        assert infos[3]["TimeLimit.truncated"] is (end == "truncated")


def test_reports_on_episodes_are_kept_and_infos_are_not_written_to():
    infos = [{"number": 0}, {"number": 1, "episode": {"r": 5.0, "l": 9, "t": 0.1}}]
    (tick,) = fed(TickAssembler(2), trajectory(0, 2, infos=infos))
    assert tick.infos[1]["episode"] == {"r": 5.0, "l": 9, "t": 0.1}
    assert "terminal_observation" not in infos[1]


def test_callbacks_see_what_the_policy_sees_and_learns_from():
    """As under VecNormalize: transformed observations, the terminal one too, and transformed rewards."""
    point = SamplingPoint(0, POINT.parameters, lambda obs: obs * 2, lambda rewards: rewards + 1)
    (tick,) = fed(TickAssembler(2), trajectory(4, 2, point=point))
    assert tick.new_obs[:, 0].tolist() == [10.0, -2.0]
    assert tick.infos[1]["terminal_observation"].tolist() == [-2.0]
    assert tick.rewards.tolist() == [1.5, 1.625]


def test_dict_observations():
    ticks = fed(TickAssembler(2), trajectory(0, 3, as_dict=True), trajectory(3, 1, as_dict=True))
    assert [tick.new_obs["a"][:, 0].tolist() for tick in ticks] == [[1.0, 2.0], [-1.0, -1.0]]
    assert [tick.new_obs["b"].tolist() for tick in ticks] == [[1, 2], [-1, -1]]
    assert {k: v.tolist() for k, v in ticks[1].infos[0]["terminal_observation"].items()} == {"a": [-1.0], "b": -1}


class StepCounter(BaseCallback):
    def __init__(self, stop_after=None):
        super().__init__()
        self.counts, self.times, self.n_dones, self.stop_after = [], [], 0, stop_after

    def _on_step(self):
        self.counts.append(self.model.num_timesteps)
        self.times += [info["t"] for info in self.locals["infos"]]
        self.n_dones += int(self.locals["dones"].sum())
        return len(self.counts) != self.stop_after


@pytest.mark.parametrize("make", [AFedPG, RennalaNIGT], ids=lambda cls: cls.__name__)
def test_learn_counts_n_timesteps_a_call(make):
    env = simulated([LengthFromSeedEnv] * 3, [1.0, 2.0, 5.0])
    model, callback = make("MlpPolicy", env, horizon=4, seed=0, device="cpu"), StepCounter()
    model.learn(300, callback)
    assert callback.counts == list(range(3, model.num_timesteps + 1, 3))
    assert callback.counts[-1] >= 300
    # the environment counts its steps from 1 in every episode; no step is lost, none is shown twice
    assert all(now in (1, before + 1) for before, now in zip([0, *callback.times], callback.times, strict=False))
    # all but fewer than n of the steps that were executed have been shown
    assert 0 <= env.steps_executed - model.num_timesteps < 3


def test_another_run_begins_without_the_steps_that_the_last_one_has_left():
    class Runs(LengthFromSeedEnv):
        now = 0

        def step(self, action):
            *rest, info = super().step(action)
            return *rest, {**info, "run": Runs.now}

    class KeepRuns(BaseCallback):
        def __init__(self):
            super().__init__()
            self.runs = []

        def _on_step(self):
            self.runs += [info["run"] for info in self.locals["infos"]]
            return True

    model = RennalaNIGT("MlpPolicy", simulated([Runs] * 10, np.linspace(1, 3.3, 10)), horizon=7, seed=0, device="cpu")
    model.learn(200)
    left, Runs.now, seen = model._ticks.rest, 1, KeepRuns()
    model.learn(200, seen)
    assert len(left.rewards) > 0
    assert set(seen.runs) == {1}


def test_discarded_steps_are_shown_too():
    """first_finished, H = 4, speeds 1 and 3: w0 arrives at 4 and completes M = 1; w1 has made one step: 5 steps a round."""
    env = simulated([NeverEndingEnv] * 2, [1.0, 3.0])
    model = RennalaNIGT("MlpPolicy", env, n_trajectories=1, horizon=4, schedule="first_finished", seed=0, device="cpu")
    reports = run_rounds(model, 6)
    assert [(r.used_steps, r.discarded_steps) for r in reports] == [(4, 1)] * 6
    assert model.num_timesteps == 30


def test_discarded_steps_of_an_episode_do_not_end_it():
    """
    Time per trajectory, h = 2, 3 for 3, 7 steps, M = 3, first_finished: w0, w1, w0 at 2, 3, 4, and two steps of w1 are void.

    That is 15 steps and three ends of an episode a round, 30 and six in two.
    """
    env = simulated([3, 7], [2.0, 3.0], per="trajectory")
    make, callback = partial(RennalaNIGT, n_trajectories=3, horizon=10, schedule="first_finished"), StepCounter()
    make("MlpPolicy", env, seed=0, device="cpu").learn(30, callback)
    assert callback.counts[-1] == 30
    assert callback.n_dones == 6


@pytest.mark.parametrize(
    ("schedule", "step_times", "m", "executed"),
    [
        # Two steps an episode; the first four episodes are done at 4. Worker 2 would end its first step at 1000.
        ("first_finished", [1, 1, 1000], 4, [4, 4, 0]),
        ("planned", [1, 1, 1000], 4, [4, 4, 0]),
        # Ends of episodes: 2, 4, 6 and 8 (w0), 4 and 8 (w1); the fifth is that of w1 at 8, since it started earlier. By then
        # w0 has made two steps in vain and w2 one, until 5, where nothing is planned.
        ("first_finished", [1, 2, 5], 5, [8, 4, 1]),
        ("planned", [1, 2, 5], 5, [6, 4, 0]),
    ],
)
def test_no_step_is_executed_that_the_clock_does_not_know(schedule, step_times, m, executed):
    env = simulated([2, 2, 2], step_times)
    model = RennalaNIGT("MlpPolicy", env, n_trajectories=m, horizon=10, schedule=schedule, seed=0, device="cpu")
    reports = run_rounds(model, 2)
    assert [worker_env.n_steps_executed for worker_env in env.envs] == [2 * steps for steps in executed]
    assert sum(r.used_steps + r.discarded_steps for r in reports) == env.steps_executed == 2 * sum(executed)


@pytest.mark.parametrize("step_time", [0.1, 0.3, 0.7, 1 / 3])
def test_steps_are_counted_right_where_seconds_are_rounded(step_time):
    """Two equal workers, M = 1: when the first one has made its three steps, the other one has, too."""
    env = simulated([3, 3], step_time)
    model = RennalaNIGT("MlpPolicy", env, n_trajectories=1, horizon=10, schedule="first_finished", seed=0, device="cpu")
    assert [(r.used_steps, r.discarded_steps) for r in run_rounds(model, 20)] == [(3, 3)] * 20


def test_false_stops_at_once():
    env = simulated([NeverEndingEnv] * 2)
    model, callback = RennalaNIGT("MlpPolicy", env, horizon=10, seed=0, device="cpu"), StepCounter(stop_after=3)
    model.learn(1000, callback)
    assert callback.counts == [2, 4, 6]
    assert model.num_timesteps == 6
