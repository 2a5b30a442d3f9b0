"""What the log says of episodes, where a Monitor sees other episodes than the learner does."""

import gymnasium as gym
import numpy as np
import paper
import pytest
from envs import FixedLengthEnv, LengthFromSeedEnv, run_rounds
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_nigt import FixedTimes, MaleniaNIGT, ProcessVecEnv, RennalaNIGT, SimulatedVecEnv

SMALL = {"device": "cpu", "policy_kwargs": {"net_arch": [4]}}


class Lives(gym.Wrapper):
    """Ends an episode every two steps, the way Atari's lives do: the game inside goes on until it is over."""

    is_over = True

    def reset(self, **kwargs):
        self.left = 2
        return self.env.reset(**kwargs) if self.is_over else (np.zeros(self.observation_space.shape, np.float32), {})

    def step(self, action):
        observation, reward, self.is_over, truncated, info = self.env.step(action)
        self.left -= 1
        return observation, reward, self.is_over or self.left == 0, truncated, info


def game():
    return Lives(Monitor(FixedLengthEnv(6)))


def simulated(env_fns):
    return SimulatedVecEnv(env_fns, FixedTimes(1.0))


@pytest.mark.parametrize("vec_env", [simulated, DummyVecEnv])
def test_the_log_has_games_where_a_monitor_is_inside_of_lives(vec_env):
    """As with PPO; the episodes that end for the learner are shorter."""
    env = vec_env([game] * 2)
    model = RennalaNIGT("MlpPolicy", env, n_steps=12, fisher_samples=20, seed=3, **SMALL)
    (report,) = run_rounds(model, 1)
    assert [a.n_steps for a in report.arrivals] == [2] * 12
    assert [info["l"] for info in model.ep_info_buffer] == [6] * 4
    returns = [a.episode_return for a in report.arrivals]
    assert np.isnan(returns).tolist() == [True, True, False] * 4
    assert np.nansum(returns) == pytest.approx(sum(info["r"] for info in model.ep_info_buffer))


def round_of_trajectories(vec_env, env_fn, n_trajectories):
    env = vec_env([env_fn] * 2)
    model = paper.RennalaNIGT("MlpPolicy", env, n_trajectories=n_trajectories, schedule="planned", seed=3, **SMALL)
    (report,) = run_rounds(model, 1)
    env.close()
    return report.arrivals, list(model.ep_info_buffer)


@pytest.mark.parametrize("vec_env", [simulated, ProcessVecEnv])
def test_the_log_has_games_in_rounds_of_trajectories(vec_env):
    """Each trajectory is a life; two of three end no game."""
    arrivals, games = round_of_trajectories(vec_env, game, 12)
    assert [a.n_steps for a in arrivals] == [2] * 12
    assert {one["l"] for one in games} == {6}
    if vec_env is simulated:  # else it depends on the speeds which lives belong to a game that has ended
        assert len(games) == 12 // 3
        assert sum(one["r"] for one in games) == pytest.approx(sum(a.episode_return for a in arrivals))


@pytest.mark.parametrize("vec_env", [simulated, ProcessVecEnv])
def test_episodes_without_a_monitor_are_reported(vec_env):
    arrivals, episodes = round_of_trajectories(vec_env, LengthFromSeedEnv, 6)
    assert len(episodes) >= 5  # the last step of the round waits where their number is odd
    assert [(one["l"], one["r"]) for one in episodes] == [(a.n_steps, a.episode_return) for a in arrivals][: len(episodes)]


class KeepTasks(KVWriter):
    def __init__(self):
        self.lines = []

    def write(self, key_values, key_excluded, step=0):
        self.lines.append({name: value for name, value in key_values.items() if name.startswith("task/")})

    def close(self):
        pass


def test_the_returns_of_tasks_go_on_in_a_run_that_is_continued():
    """And begin anew in another run."""

    def logged(n_parts):
        env = SimulatedVecEnv([LengthFromSeedEnv] * 2, FixedTimes([1.0, 2.0]), task_ids=["a", "b"])
        model, kept = MaleniaNIGT("MlpPolicy", env, n_steps=30, seed=0, **SMALL), KeepTasks()
        model.set_logger(Logger(None, [kept]))
        for _ in range(n_parts):
            model.learn(240 // n_parts, reset_num_timesteps=False)
        return model, kept.lines

    (_, whole), (model, in_parts) = logged(1), logged(4)
    assert whole[-1].keys() == {"task/a/ep_rew_mean", "task/b/ep_rew_mean"}
    assert in_parts == whole
    model.learn(1)
    episodes = [a.episode_return for a in model.last_round.arrivals if a.task_id == "a" and not np.isnan(a.episode_return)]
    assert model.logger.output_formats[0].lines[-1]["task/a/ep_rew_mean"] == pytest.approx(np.mean(episodes))
