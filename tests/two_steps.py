"""Environments of two steps with any spaces, for tests of what is refused before a step is made."""

import re
from functools import partial

import gymnasium as gym
from gymnasium import spaces

from sb3_nigt import SimulatedVecEnv


class TwoStepEnv(gym.Env):
    """Observation and action spaces as wanted, episodes of two steps; counts the steps of all instances."""

    steps = 0

    def __init__(self, observation_space=None, action_space=None, goal=None):
        self.observation_space = spaces.Box(-1, 1, (3,)) if observation_space is None else observation_space
        self.action_space = spaces.Box(-1, 1, (2,)) if action_space is None else action_space

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action), f"{action} is not in {self.action_space}"
        TwoStepEnv.steps += 1
        self.t += 1
        return self.observation_space.sample(), 1.0, self.t == 2, False, {}


def workers(n=2, time_model=None, task_ids=None, **env_kwargs):
    return SimulatedVecEnv([partial(TwoStepEnv, **env_kwargs)] * n, time_model=time_model, task_ids=task_ids)


def says(text):
    return re.escape(text)
