"""Small environments whose trajectories can be worked out by hand; everything in them follows from reset seed and actions."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces


class PointEnv(gym.Env[Any, Any]):
    """
    A point in the square [-1, 1]² that the action pushes to the right; the reward is high where the point is near the middle.

    It never ends. Subclasses say with ``_episode_length`` when an episode does. The reward is 1 - |s_{t+1}|² + 0.1 a_t, and
    ``info["t"]`` counts the steps of the episode from 1.
    """

    def __init__(self) -> None:
        self.observation_space: spaces.Space[Any] = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.action_space: spaces.Space[Any] = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.n_steps_executed = 0  # in all episodes together
        self._t = 0

    def _episode_length(self, first_action: float) -> int | None:
        """
        Say how long an episode is; called at its first step.

        :param first_action: of the episode
        """
        return None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """See ``gymnasium.Env``."""
        super().reset(seed=seed)
        self._point: npt.NDArray[np.float32] = self.np_random.uniform(-0.5, 0.5, 2).astype(np.float32)
        self._t = 0
        return self._point.copy(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """See ``gymnasium.Env``."""
        if self._t == 0:
            self._length = self._episode_length(float(action[0]))
        self._t += 1
        self.n_steps_executed += 1
        push = np.array([0.2 * action[0], self.np_random.normal(0.0, 0.05)])
        self._point = np.clip(self._point + push, -1.0, 1.0).astype(np.float32)
        reward = 1.0 - float(np.sum(self._point**2)) + 0.1 * float(action[0])
        return self._point.copy(), reward, self._t == self._length, False, {"t": self._t}


NeverEndingEnv = PointEnv


class FixedLengthEnv(PointEnv):
    """
    Every episode has the same length.

    :param length: steps
    """

    def __init__(self, length: int = 2) -> None:
        super().__init__()
        self.length = length

    def _episode_length(self, first_action: float) -> int | None:
        return self.length


class LengthFromSeedEnv(PointEnv):
    """
    Every episode has 1 to ``longest`` steps, drawn at the reset.

    :param longest: steps
    """

    def __init__(self, longest: int = 6) -> None:
        super().__init__()
        self.longest = longest

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """See ``gymnasium.Env``."""
        observation, info = super().reset(seed=seed)
        self._drawn = int(self.np_random.integers(1, self.longest + 1))
        return observation, info

    def _episode_length(self, first_action: float) -> int | None:
        return self._drawn


class DictEnv(PointEnv):
    """A Dict observation and discrete actions; two steps an episode."""

    def __init__(self) -> None:
        super().__init__()
        self.observation_space = spaces.Dict({"point": self.observation_space, "side": spaces.Discrete(2)})
        self.action_space = spaces.Discrete(3)

    def _episode_length(self, first_action: float) -> int | None:
        return 2

    def _as_dict(self, point: npt.NDArray[np.float32]) -> dict[str, Any]:
        return {"point": point, "side": np.int64(point[0] > 0)}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """See ``gymnasium.Env``."""
        point, info = super().reset(seed=seed)
        return self._as_dict(point), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """See ``gymnasium.Env``."""
        point, reward, terminated, truncated, info = super().step([action - 1.0])
        return self._as_dict(point), reward, terminated, truncated, info


class NanEnv(PointEnv):
    """
    The second step of every episode gives a number that is none.

    :param what: "reward" or "observation"
    """

    def __init__(self, what: str = "reward") -> None:
        super().__init__()
        self.what = what

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """See ``gymnasium.Env``."""
        observation, reward, terminated, truncated, info = super().step(action)
        if self._t == 2 and self.what == "reward":
            reward = float("nan")
        elif self._t == 2:
            observation[0] = np.nan
        return observation, reward, terminated, truncated, info
