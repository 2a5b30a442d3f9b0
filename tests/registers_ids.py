"""Registers an id when it is imported, as packages of environments do."""

import gymnasium as gym

gym.register("OddModule-v0", entry_point="odd_envs:Counter")
