"""
The image task of the tables, ``catch:Catch-v0``: catch a ball that falls through an image of 36 by 36 pixels.

The paddle is six pixels wide and moves by up to two pixels a step; the ball falls by two. An episode has 15 steps, its return
is 1 if the ball is caught and -1 if not. With random actions the mean is about -0.6.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

SIZE, PADDLE, SPEED, LAST_ROW = 36, 6, 2, 30


class Catch(gym.Env[npt.NDArray[np.uint8], np.int64]):
    """See the module."""

    observation_space = spaces.Box(0, 255, (SIZE, SIZE, 1), np.uint8)
    action_space = spaces.Discrete(3)  # left, stay, right

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[np.uint8], dict[str, Any]]:
        """See gymnasium."""
        super().reset(seed=seed)
        self.ball = [0, int(self.np_random.integers(SIZE - 1))]
        self.paddle = int(self.np_random.integers(SIZE - PADDLE))
        return self._image(), {}

    def step(self, action: np.int64) -> tuple[npt.NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        """See gymnasium."""
        self.paddle = min(max(self.paddle + SPEED * (int(action) - 1), 0), SIZE - PADDLE)
        self.ball[0] += SPEED
        is_over = self.ball[0] >= LAST_ROW
        caught = self.paddle - 1 <= self.ball[1] < self.paddle + PADDLE
        return self._image(), float(is_over and (1 if caught else -1)), is_over, False, {}

    def _image(self) -> npt.NDArray[np.uint8]:
        image = np.zeros((SIZE, SIZE, 1), np.uint8)
        row, column = self.ball
        image[row : row + 2, column : column + 2] = 255
        image[LAST_ROW + 2 : LAST_ROW + 4, self.paddle : self.paddle + PADDLE] = 255
        return image


gym.register("Catch-v0", Catch)
