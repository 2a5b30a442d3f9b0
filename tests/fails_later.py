"""Environments whose thirty-first step fails, by ids such as ``fails_later:FailsLater-v0`` in every process."""

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class OddError(Exception):
    """Cannot be unpickled: that calls it with its one argument."""

    def __init__(self, code, what):
        super().__init__(f"{what} (code {code})")


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
            self.fail()
        return np.zeros(1, np.float32), 0.0, False, False, {}

    def fail(self):
        raise ValueError("out of coffee")


class FailsOddly(FailsLater):
    """See the module."""

    def fail(self):
        raise OddError(17, "no licence")


gym.register("FailsLater-v0", FailsLater)
gym.register("FailsOddly-v0", FailsOddly)
