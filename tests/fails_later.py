"""An environment whose thirty-first step fails, by its id ``fails_later:FailsLater-v0`` in every process."""

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class FailsLater(gym.Env):
    """See the module."""

    observation_space = spaces.Box(-1.0, 1.0, (1,))
    action_space = spaces.Discrete(2)

    def __init__(self):
        self.n_steps = 0

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.n_steps += 1
        if self.n_steps > 30:
            raise ValueError("out of coffee")
        return np.zeros(1, np.float32), 0.0, False, False, {}


gym.register("FailsLater-v0", FailsLater)
