"""The same task behind another observation."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

from sb3_nigt.validation import check_bool


class FlippedObservation(gym.ObservationWrapper[Any, Any, Any], RecordConstructorArgs):
    """
    Negate the observation, and say so in an appended bit: the paper's pair of tasks is (s, 0) and (-s, 1).

    The observation space does not depend on ``flip``, so that flipped and unflipped workers can serve one policy.

    :param env: an environment with a Box observation of floats
    :param flip: True: -s; False: s
    :param append_bit: append 1 if flipped, else 0, as the last number of the observation. Without it the policy cannot
        tell the two tasks apart
    :raises ValueError: for other observation spaces
    """

    def __init__(self, env: gym.Env[Any, Any], flip: bool, append_bit: bool) -> None:
        RecordConstructorArgs.__init__(self, flip=flip, append_bit=append_bit)
        super().__init__(env)
        self.flip, self.append_bit = check_bool("flip", flip), check_bool("append_bit", append_bit)
        space = env.observation_space
        if not isinstance(space, spaces.Box) or not np.issubdtype(space.dtype, np.floating):
            raise ValueError(f"env has the observation space {space}, which cannot be negated: give one with a Box of floats.")
        if append_bit and len(space.shape) != 1:
            raise ValueError(f"append_bit=True needs a vector, env has the shape {space.shape}: give append_bit=False.")
        high = np.maximum(space.high, -space.low)
        self._bit = np.array([flip], space.dtype)
        if append_bit:
            bit_low, bit_high = np.array([0, 1], space.dtype)
            self.observation_space = spaces.Box(np.append(-high, bit_low), np.append(high, bit_high), dtype=space.dtype.type)
        else:
            self.observation_space = spaces.Box(-high, high, dtype=space.dtype.type)

    def observation(self, observation: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.floating[Any]]:
        """
        Return the observation of this task.

        :param observation: the observation of the wrapped environment
        """
        signed = -observation if self.flip else observation
        return np.concatenate([signed, self._bit]) if self.append_bit else signed
