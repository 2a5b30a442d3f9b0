"""The same robot with another aim: rewards of MuJoCo locomotion tasks with their forward term replaced."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
from gymnasium.utils import RecordConstructorArgs

from sb3_nigt.validation import check_interval


class _ForwardTermReplaced(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """
    Replaces the term w·v_x of the reward; the other terms (survival, control, contact) and ``info`` stay as they are.

    v_x is ``info["x_velocity"]`` and w the task's ``forward_reward_weight``, 1 for a task without one.
    """

    def __init__(self, env: gym.Env[Any, Any], needs: tuple[str, ...]) -> None:
        super().__init__(env)
        # tasks name their velocities nowhere but in the info of a step; a later surprise would cost a run
        env.reset()
        info = env.step(env.action_space.sample())[-1]
        if missing := [key for key in needs if key not in info]:
            raise ValueError(
                f"env={env} does not report {' and '.join(missing)} in info: give a MuJoCo task that moves that way, "
                "for example Ant-v5."
            )
        self._weight = float(getattr(env.unwrapped, "_forward_reward_weight", 1.0))

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Step with the reward of this task."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        change = self._velocity_term(info) - info["x_velocity"]
        return observation, float(reward) + self._weight * float(change), terminated, truncated, info

    def _velocity_term(self, info: dict[str, Any]) -> float:
        raise NotImplementedError


class TargetVelocity(_ForwardTermReplaced):
    """
    Reward a forward velocity instead of speed: the reward's term w·v_x becomes -w·abs(v_x - target).

    :param env: a MuJoCo locomotion task, one with ``info["x_velocity"]``
    :param target: the velocity, in metres per second; negative: backward
    :raises ValueError: if the environment does not report its velocity
    """

    def __init__(self, env: gym.Env[Any, Any], target: float) -> None:
        RecordConstructorArgs.__init__(self, target=target)
        self.target = check_interval("target", target, -math.inf, math.inf)
        super().__init__(env, needs=("x_velocity",))

    def _velocity_term(self, info: dict[str, Any]) -> float:
        return -abs(float(info["x_velocity"]) - self.target)


class TargetDirection(_ForwardTermReplaced):
    """
    Reward speed in another direction: the reward's term w·v_x becomes w·(v_x cos(angle) + v_y sin(angle)).

    :param env: a MuJoCo locomotion task, one with ``info["x_velocity"]``
    :param angle: in degrees, counter-clockwise from the task's own direction: 0 forward, 180 backward. Robots that move
        in a plane take only these two
    :raises ValueError: if the environment does not report its velocity in that direction
    """

    def __init__(self, env: gym.Env[Any, Any], angle: float) -> None:
        RecordConstructorArgs.__init__(self, angle=angle)
        self.angle = check_interval("angle", angle, -360.0, 360.0)
        self._sideways = angle % 180 != 0
        super().__init__(env, needs=("x_velocity", "y_velocity") if self._sideways else ("x_velocity",))
        self._cos, self._sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))

    def _velocity_term(self, info: dict[str, Any]) -> float:
        forward = self._cos * info["x_velocity"]
        return float(forward + self._sin * info["y_velocity"] if self._sideways else forward)
