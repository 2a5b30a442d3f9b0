"""One worker's environment, stepped through one trajectory at a time; the same in every WorkerVecEnv."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from sb3_nigt.messages import SamplingPoint, TrajectoryKey
from sb3_nigt.sampling.actions import are_finite, blame_policy
from sb3_nigt.sampling.heads import Head, Network
from sb3_nigt.sampling.infos import reports_episodes, with_report
from sb3_nigt.sampling.observations import conform, is_finite, reward_error
from sb3_nigt.sampling.steps import Arrays, StepTable, observations_in
from sb3_nigt.sampling.trajectory import Trajectory, copied, map_observation

FIRST_ROWS = 64  # rows allocated at the start of a trajectory, doubled when they are full


class Noise(Protocol):
    """Random numbers of actions, one row per step."""

    def take(self, rows: int) -> npt.NDArray[Any]:
        """Return the next rows."""
        ...

    def give_back(self, rows: npt.NDArray[Any]) -> None:
        """Take back the last rows, which were not used."""
        ...


@dataclass
class FreshNoise:
    """
    Random numbers of one trajectory, from a separate generator.

    :param head: the head that draws them
    :param rng: the trajectory's generator
    """

    head: Head
    rng: np.random.Generator

    def take(self, rows: int) -> npt.NDArray[Any]:
        """See ``Noise``."""
        return self.head.noise(self.rng, rows)

    def give_back(self, rows: npt.NDArray[Any]) -> None:
        """See ``Noise``; nothing else uses this generator."""


class Sampler:
    """
    Runs trajectories of one environment, resumable after any step.

    :param env: the environment
    :param head: turns distribution parameters and noise into actions
    :param n_steps: H, where a trajectory is cut
    :param after_step: called after every step; False interrupts ``advance``
    :param keep_info: returns what is kept of the info of a step; None: the environment's own dict, which is of use only until
        the environment is stepped again
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        head: Head,
        n_steps: int,
        after_step: Callable[[], bool] | None = None,
        keep_info: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    ) -> None:
        self.env, self.head, self.n_steps, self._after_step, self._keep_info = env, head, n_steps, after_step, keep_info
        self._reports_itself = reports_episodes(env)
        self._table = StepTable.of(env.observation_space, head)
        space = env.observation_space
        # of an observation that needs no second look; none does where the space is a Dict
        self._usual = (None, None) if isinstance(space, spaces.Dict) else (space.shape or (), np.dtype(space.dtype))
        self.n_done = 0
        self.finished = True
        self._rejected: str | None = None
        self._infos: list[dict[str, Any]] = []
        self._noise: npt.NDArray[Any]

    def begin(
        self,
        key: TrajectoryKey,
        point: SamplingPoint,
        network: Network,
        env_seed: int,
        noise: Noise,
        arrays: Arrays | None = None,
    ) -> None:
        """
        Reset the environment for a new trajectory.

        :param key: its name
        :param point: the parameters and statistics it is sampled with
        :param network: the policy at that point
        :param env_seed: seed of the reset
        :param noise: random numbers of the actions
        :param arrays: where its steps go, see ``go_on``
        """
        self._start(key, point, network, noise, arrays)
        observation, _ = self.env.reset(seed=env_seed)
        self._observation = conform(observation, self.env.observation_space)
        self._seen = self._store(0, self._observation)
        if not is_finite(self._observation):
            self.finished, self._rejected = True, "observation"

    def repeat(self, env_seed: int, actions: Iterable[Any]) -> list[float] | None:
        """
        Bring the environment to where it was in an episode, before ``go_on``.

        :param env_seed: seed of the reset
        :param actions: the actions that it received in the episode
        :return: the rewards; None if the episode has ended this time
        """
        observation, _ = self.env.reset(seed=env_seed)
        rewards = []
        for action in actions:
            observation, reward, terminated, truncated, _ = self.env.step(action)
            if terminated or truncated:
                return None
            rewards.append(float(reward))
        self._observation = conform(observation, self.env.observation_space)
        return rewards

    @property
    def observation(self) -> Any:
        """The last one of the environment."""
        return self._observation

    def go_on(
        self, key: TrajectoryKey, point: SamplingPoint, network: Network, noise: Noise, arrays: Arrays | None = None
    ) -> None:
        """
        Begin a new trajectory where the environment is, in the middle of an episode.

        :param key: its name
        :param point: the parameters and statistics it is sampled with
        :param network: the policy at that point
        :param noise: random numbers of the actions
        :param arrays: where its steps go, with one row more for observations; a step and the observation that follows it are
            there before ``after_step`` is called. None: arrays that grow
        """
        self._start(key, point, network, noise, arrays)
        self._seen = self._store(0, self._observation)

    def _start(self, key: TrajectoryKey, point: SamplingPoint, network: Network, noise: Noise, arrays: Arrays | None) -> None:
        self.key, self.point, self._network, self._noise_source = key, point, network, noise
        self.n_done, self.finished = 0, False
        self._terminated = self._truncated = False
        self._rejected = None
        self._infos = []
        # fresh arrays, so that those of an earlier trajectory may still be in use elsewhere
        self._bind(self._fresh(min(FIRST_ROWS, self.n_steps)) if arrays is None else arrays)
        self._noise = noise.take(min(FIRST_ROWS, len(self._rewards)))

    def end(self) -> None:
        """Give the random numbers back that were not used; the trajectory is what has been sampled so far."""
        self._noise_source.give_back(self._noise[self.n_done :])
        self._noise = self._noise[: self.n_done]
        self._observation = copied(self._seen)  # the environment and the arrays may be written to
        self.finished = True

    def advance(self, n_steps: int) -> None:
        """
        Run up to ``n_steps`` further steps, fewer if the trajectory ends.

        :param n_steps: number of environment steps
        """
        if self.finished:
            return
        env_step, network, draw, transform = self.env.step, self._network, self.head.draw, self.point.transform_obs
        after_step, observation, t, (shape, dtype) = self._after_step, self._observation, self.n_done, self._usual
        stop, seen, keep_info = min(t + n_steps, self.n_steps), self._seen, self._keep_info
        while t < stop:
            if t == len(self._noise):
                self._make_room()
            sample, action = draw(network(seen if transform is None else transform(seen)), self._noise[t])
            self._samples[t] = sample
            self._actions[t] = action
            try:
                observation, reward, terminated, truncated, info = env_step(action)
            except Exception:
                blame_policy(action, self.point.round)
                raise
            try:
                self._rewards[t] = reward
                finite = math.isfinite(reward)
            except (TypeError, ValueError, OverflowError):
                raise reward_error(reward) from None
            if observation.__class__ is not np.ndarray or observation.dtype is not dtype or observation.shape != shape:
                observation = conform(observation, self.env.observation_space)
            self._infos.append(info if keep_info is None else keep_info(info))
            t += 1
            seen = self._store(t, observation)
            if not (finite and is_finite(observation)):
                self._rejected = "action" if not are_finite(action) else "observation" if finite else "reward"
                self.finished = True
                break
            if terminated or truncated:
                self._terminated, self._truncated = bool(terminated), bool(truncated)
                self.finished = True
                break
            if after_step is not None and not after_step():
                break
        self._observation, self._seen, self.n_done = observation, seen, t
        self.finished = self.finished or t == self.n_steps

    @property
    def n_begun(self) -> int:
        """Steps that the environment has made, also if it, or what came after it, has raised then."""
        return len(self._infos)

    def trajectory(self, n_steps: int | None = None) -> Trajectory:
        """
        What has been sampled so far.

        :param n_steps: number of steps to keep, from the first
        """
        stop = self.n_done if n_steps is None else min(n_steps, self.n_done)
        cut = stop < self.n_done
        return Trajectory(
            key=self.key,
            point=self.point,
            observations=map_observation(lambda rows: rows[:stop], self._observations),
            final_observation=map_observation(lambda rows: rows[stop], self._observations),
            samples=self._samples[:stop],
            actions=self._actions[:stop],
            rewards=self._rewards[:stop],
            terminated=self._terminated and not cut,
            truncated=self._truncated and not cut,
            infos=self._infos[:stop],
            rejected=self._rejected,
        )

    def episode(self, n_steps: int | None = None) -> Trajectory:
        """
        What has been sampled so far, with a report where an episode has ended, see ``with_report``.

        :param n_steps: number of steps to keep, from the first
        """
        trajectory = self.trajectory(n_steps)
        return self.with_report(trajectory, trajectory.episode_return, trajectory.n_steps)

    def with_report(self, trajectory: Trajectory, episode_return: float, n_steps: int) -> Trajectory:
        """
        Add a report as that of a Monitor if an episode has ended and the environment says nothing of it.

        A Monitor that says nothing of a terminal state is inside of a wrapper that made it, such as one for lives: nothing is
        added then, so that the log has whole games. A time limit outside of it is reported as any.

        :param trajectory: the steps up to the end of the episode
        :param episode_return: of the whole episode
        :param n_steps: of the whole episode
        """
        if not (trajectory.truncated or (trajectory.terminated and not self._reports_itself)):
            return trajectory
        *infos, last = trajectory.infos
        return replace(trajectory, infos=[*infos, with_report(last, episode_return, n_steps)])

    def _store(self, t: int, observation: Any) -> Any:
        """Keep an observation and return it as kept, in the dtype of the space."""
        if isinstance(observation, dict):
            for key, rows in self._observations.items():
                rows[t] = observation[key]
            return {key: rows[t] for key, rows in self._observations.items()}
        self._observations[t] = observation
        return self._observations[t]

    def _fresh(self, rows: int) -> dict[str, npt.NDArray[Any]]:
        return {name: np.empty(shape, dtype) for name, (shape, dtype) in self._table.shapes(rows).items()}

    def _bind(self, arrays: Arrays) -> None:
        self._arrays = arrays
        self._rewards, self._samples, self._actions = arrays["rewards"], arrays["samples"], arrays["actions"]
        self._observations = observations_in(arrays)

    def _make_room(self) -> None:
        """Take more random numbers, and double the arrays where they are full, up to the horizon."""
        old = len(self._noise)
        rows = min(2 * old, self.n_steps)
        if old == len(self._rewards):
            grown = self._fresh(rows)
            for name, array in self._arrays.items():
                grown[name][: len(array)] = array
            self._bind(grown)
        rows = min(rows, len(self._rewards))
        self._noise = np.concatenate([self._noise, self._noise_source.take(rows - old)])
