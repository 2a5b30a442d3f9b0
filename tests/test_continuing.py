"""A run that is saved and loaded goes on as if it had never been interrupted, bit for bit."""

import copy
import io
import threading

import gymnasium as gym
import numpy as np
import pytest
from envs import DictEnv, LengthFromSeedEnv, PointEnv, parameters
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback
from stable_baselines3.common.vec_env import VecNormalize

from sb3_nigt import (
    PAPER,
    AFedPG,
    FixedTimes,
    MaleniaNIGT,
    ProcessVecEnv,
    RandomTimes,
    RennalaNIGT,
    RennalaPG,
    ReplayedTimes,
    SimulatedVecEnv,
    SyncNIGT,
    SyncPG,
)
from sb3_nigt.distributed import RoundCheckpoint, newest_checkpoint

TRAJECTORIES = {**PAPER, "n_trajectories": 4, "horizon": 20}
STEPS = {"n_steps": 7}
FIRST = (20, 50, 61)  # timesteps before the interruption
UNEVEN = {"step_times": [1.0, 2.0, 5.0], "message_times": [0.5, 0.0, 1.0]}


def workers(env=LengthFromSeedEnv, times=None):
    return SimulatedVecEnv([env] * 3, times or FixedTimes(**UNEVEN))


def limited():
    return gym.wrappers.TimeLimit(PointEnv(), 17)


def make(algorithm, env, policy="MlpPolicy", **kwargs):
    policy_kwargs = {**kwargs.pop("policy_kwargs", {}), "net_arch": [4]}
    return algorithm(policy, env, seed=0, policy_kwargs=policy_kwargs, **kwargs)


def saved_and_loaded(model, env):
    """The model in another process, as far as that matters: nothing is shared with the first one."""
    file = io.BytesIO()
    model.save(file)
    normalize = model.get_vec_normalize_env()
    if normalize is not None:
        statistics = copy.deepcopy(normalize.__getstate__())
        env = VecNormalize(env)
        env.__setstate__(statistics)
        env.venv, env.num_envs = None, 0
        env.set_venv(workers())
    return type(model).load(file, env=env)


class Seen(BaseCallback):
    """What callbacks see."""

    def __init__(self):
        super().__init__()
        self.ticks = []

    def _on_step(self):
        self.ticks.append(np.concatenate([self.locals[n].ravel() for n in ("new_obs", "rewards", "dones")]))
        return True


def run(algorithm, env, timesteps, interrupted, **kwargs):
    model = make(algorithm, env(), **kwargs).learn(timesteps)
    if interrupted:
        model = saved_and_loaded(model, env())
    seen = Seen()
    model.learn(150, callback=seen, reset_num_timesteps=False)
    return model, seen


def assert_the_same(one, other):
    (model, seen), (loaded, seen_then) = one, other
    assert np.array_equal(parameters(model), parameters(loaded))
    assert model.num_timesteps == loaded.num_timesteps
    assert model.env.clock.now() == loaded.env.clock.now()
    assert len(seen.ticks) == len(seen_then.ticks)
    assert all(np.array_equal(a, b) for a, b in zip(seen.ticks, seen_then.ticks, strict=True))
    for field in ("round", "arrivals", "discarded_steps", "segments"):
        assert repr(getattr(model.last_round, field)) == repr(getattr(loaded.last_round, field))


CASES = {
    "planned": (RennalaNIGT, TRAJECTORIES),
    "pipelined": (RennalaNIGT, {**TRAJECTORIES, "schedule": "pipelined"}),
    "first_finished": (RennalaNIGT, {**TRAJECTORIES, "schedule": "first_finished"}),
    "alpha": (RennalaNIGT, {**TRAJECTORIES, "learning_rate": lambda progress: 0.1 * progress}),
    "eta": (RennalaNIGT, {**TRAJECTORIES, "eta": lambda progress: 0.1 + 0.8 * progress}),
    "critic": (RennalaNIGT, {**TRAJECTORIES, "gae_lambda": 0.95, "schedule": "pipelined"}),
    "Malenia pipelined": (MaleniaNIGT, {**TRAJECTORIES, "schedule": "pipelined"}),
    "RennalaPG": (RennalaPG, {"n_trajectories": 4, "horizon": 20, "schedule": "pipelined"}),
    "SyncPG": (SyncPG, {"n_trajectories": 4, "horizon": 20}),
    "AFedPG": (AFedPG, {"horizon": 20}),
    "steps": (RennalaNIGT, STEPS),
    "steps, alpha": (RennalaNIGT, {**STEPS, "learning_rate": lambda progress: 0.1 * progress}),
    "steps, Malenia": (MaleniaNIGT, STEPS),
    "steps, Sync": (SyncNIGT, STEPS),
}


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("timesteps", FIRST)
def test_all_methods_and_schedules(name, timesteps):
    algorithm, kwargs = CASES[name]
    one, other = (run(algorithm, workers, timesteps, interrupted, **kwargs) for interrupted in (False, True))
    assert_the_same(one, other)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("kwargs", [STEPS, {**TRAJECTORIES, "schedule": "pipelined"}], ids=["steps", "pipelined"])
@pytest.mark.parametrize(
    "env",
    [
        lambda: VecNormalize(workers()),
        lambda: workers(times=RandomTimes([1.0, 2.0, 5.0])),
        lambda: workers(times=FixedTimes([10.0, 20.0, 50.0], [0.5, 0.0, 1.0], per="trajectory")),
        lambda: workers(times=FixedTimes([1.0, 2.0, 5.0], [0.5, 0.0, 1.0], link="serial")),
        lambda: workers(limited),
        lambda: workers(times=ReplayedTimes([[1.0, 3.0, 2.0, 1.5] * 20, [2.0, 1.0] * 40, [5.0, 7.0] * 40])),
    ],
    ids=["VecNormalize", "random times", "times of trajectories", "serial link", "time limit", "replayed times"],
)
def test_environments_and_times(env, kwargs):
    assert_the_same(*(run(RennalaNIGT, env, 61, interrupted, **kwargs) for interrupted in (False, True)))


def test_observations_that_are_dicts():
    one, other = (make(RennalaNIGT, workers(DictEnv), "MultiInputPolicy", **STEPS).learn(50) for _ in range(2))
    other = saved_and_loaded(other, workers(DictEnv))
    for model in (one, other):
        model.learn(60, reset_num_timesteps=False)
    assert np.array_equal(parameters(one), parameters(other))


@pytest.mark.parametrize("name", ["AFedPG", "pipelined", "steps"])
def test_several_interruptions(name):
    algorithm, kwargs = CASES[name]
    whole, parts = make(algorithm, workers(), **kwargs), make(algorithm, workers(), **kwargs)
    for n_files in (1, 2, 0):  # the second time saved again before it has gone on
        whole.learn(40, reset_num_timesteps=False)
        parts.learn(40, reset_num_timesteps=False)
        for _ in range(n_files):
            parts = saved_and_loaded(parts, workers())
    assert np.array_equal(parameters(whole), parameters(parts))


@pytest.mark.parametrize("name", ["AFedPG", "pipelined", "steps"])
def test_copies_go_on_as_well(name):
    algorithm, kwargs = CASES[name]
    model = make(algorithm, workers(), **kwargs).learn(61)
    copied = copy.deepcopy(model)
    for each in (model, copied):
        each.learn(60, reset_num_timesteps=False)
    assert np.array_equal(parameters(model), parameters(copied))


@pytest.mark.parametrize("name", ["AFedPG", "pipelined", "steps"])
def test_checkpoints_between_rounds(name, tmp_path):
    """A run that dies in the middle goes on from the newest file."""
    algorithm, kwargs = CASES[name]

    class Dies(BaseCallback):
        def _on_step(self):
            if self.num_timesteps >= 100:
                raise KeyboardInterrupt
            return True

    whole = make(algorithm, workers(), **kwargs).learn(200)
    model = make(algorithm, workers(), **kwargs)
    with pytest.raises(KeyboardInterrupt):
        model.learn(200, callback=[RoundCheckpoint(tmp_path), Dies()])
    loaded = algorithm.load(newest_checkpoint(tmp_path), env=workers())
    loaded.learn(200 - loaded.num_timesteps, reset_num_timesteps=False)
    assert np.array_equal(parameters(loaded), parameters(whole))


def test_another_clock():
    """Workers that are not fresh keep their clock, and times count from there."""
    one, other = (make(AFedPG, workers(), horizon=20).learn(61) for _ in range(2))
    used = workers()
    used.clock.advance_to(1000.0)
    ahead = 1000.0 - other.env.clock.now()
    other = saved_and_loaded(other, used)
    for model in (one, other):
        model.learn(60, reset_num_timesteps=False)
    assert np.allclose(parameters(one), parameters(other))
    assert used.clock.now() == pytest.approx(one.env.clock.now() + ahead)


# Where it cannot


def streams(model):
    return model.env.unwrapped.rollout_spec.seed


def test_another_run_has_other_random_numbers():
    """With reset_num_timesteps=True, other arguments or other workers the streams begin anew, not once more."""
    model = make(RennalaNIGT, workers(), **STEPS).learn(61)
    again = saved_and_loaded(model, workers()).learn(1)
    assert streams(model) == 0 != streams(again)
    assert again.env.clock.now() < model.env.clock.now()
    other = saved_and_loaded(model, SimulatedVecEnv([LengthFromSeedEnv] * 2)).learn(1, reset_num_timesteps=False)
    assert streams(other) == streams(again)


def test_a_file_from_the_middle_of_a_round(tmp_path):
    model = make(RennalaNIGT, workers(), **{**TRAJECTORIES, "schedule": "pipelined"})
    model.learn(100, callback=CheckpointCallback(13, tmp_path))
    for path in sorted(tmp_path.glob("*.zip")):
        RennalaNIGT.load(path, env=workers()).learn(60, reset_num_timesteps=False)


class DriftingEnv(PointEnv):
    """Carries something over that no seed determines."""

    n_made = 0

    def reset(self, *, seed=None, options=None):
        observation, info = super().reset(seed=seed)
        DriftingEnv.n_made += 1
        return (observation + 1e-3 * DriftingEnv.n_made).astype(np.float32), info

    def step(self, action):
        observation, *rest = super().step(action)
        return (observation + 1e-3 * DriftingEnv.n_made).astype(np.float32), *rest


def test_an_environment_that_cannot_be_repeated():
    model = make(RennalaNIGT, workers(DriftingEnv), **STEPS).learn(20)
    loaded = saved_and_loaded(model, workers(DriftingEnv))
    with pytest.warns(UserWarning, match="environment of worker . did not reach its previous state"):
        loaded.learn(30, reset_num_timesteps=False)


class ShorterEnv(PointEnv):
    """Ends an episode at its third step once that is asked for, and steps no further than that."""

    ends_early = False

    def reset(self, **kwargs):
        self.n_steps, self.is_over = 0, False
        return super().reset(**kwargs)

    def step(self, action):
        assert not self.is_over, "stepped after the end"
        observation, reward, *_, info = super().step(action)
        self.n_steps += 1
        self.is_over = self.n_steps == (3 if ShorterEnv.ends_early else 17)
        return observation, reward, self.is_over, False, info


def test_an_episode_that_ends_while_it_is_repeated(monkeypatch):
    model = make(RennalaNIGT, workers(ShorterEnv), n_steps=20).learn(20)
    loaded = saved_and_loaded(model, workers(ShorterEnv))
    monkeypatch.setattr(ShorterEnv, "ends_early", True)
    with pytest.warns(UserWarning, match="did not reach its previous state"):
        loaded.learn(30, reset_num_timesteps=False)


def test_another_environment_after_a_file_was_saved():
    """It begins with new episodes, as it does without the file, and callbacks see no step twice."""
    lengths = []
    for is_saved in (False, True):
        model = make(RennalaNIGT, workers(limited), n_steps=20).learn(20)
        if is_saved:
            model.save(io.BytesIO())
        model.set_env(workers(limited))
        model.learn(20, reset_num_timesteps=False)
        lengths.append((model.last_round.started_at, [segment.start.new_episode for segment in model.last_round.segments]))
    assert lengths[1] == lengths[0] == (0.0, [True] * 3)


def test_infos_that_cannot_be_saved():
    class WithLock(LengthFromSeedEnv):
        def step(self, action):
            *result, info = super().step(action)
            return *result, {**info, "lock": threading.Lock()}

    model = make(RennalaNIGT, workers(WithLock), **{**TRAJECTORIES, "schedule": "pipelined"})
    for _ in range(3):
        model.learn(20, reset_num_timesteps=False)
        saved_and_loaded(model, workers())


@pytest.mark.slow
def test_from_the_simulator_to_processes_and_back():
    model = make(RennalaNIGT, workers(), **STEPS).learn(61)
    processes = ProcessVecEnv([LengthFromSeedEnv] * 3)
    loaded = saved_and_loaded(model, processes)
    try:
        loaded.learn(60, reset_num_timesteps=False)
        assert streams(loaded) != 0
        back = saved_and_loaded(loaded, workers())
    finally:
        processes.close()
    back.learn(60, reset_num_timesteps=False)
    assert streams(back) not in (0, streams(loaded))
