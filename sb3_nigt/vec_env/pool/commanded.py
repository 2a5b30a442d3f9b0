"""Stable-Baselines3's synchronous API on workers that are apart from this process."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from sb3_nigt.errors import warn_user
from sb3_nigt.vec_env.base import WorkerVecEnv
from sb3_nigt.vec_env.pool.commands import Commands
from sb3_nigt.vec_env.pool.packing import unpack_rows
from sb3_nigt.vec_env.pool.roster import Roster
from sb3_nigt.vec_env.pool.slot import State


class CommandedVecEnv(WorkerVecEnv):
    """The part of ``WorkerPool`` that steps and resets all environments together, by commands."""

    _commands: Commands
    _roster: Roster

    @abstractmethod
    def _settle(self) -> None:
        """Cancel all jobs and wait until every worker is free for commands."""

    def reset(self) -> VecEnvObs:
        """Reset all environments; trajectories in flight are void."""
        self.n_resets += 1
        self._settle()
        self._roster.jobs.leave_episodes()
        results = self._commands.reset(self._seeds, self._options)
        self.reset_infos = [info for _, info in results]
        self._reset_seeds()
        self._reset_options()
        return unpack_rows(self.observation_space, [observation for observation, _ in results])  # type: ignore[no-any-return]

    def step_async(self, actions: npt.NDArray[Any]) -> None:
        """
        Start a step of all environments; workers that are absent are waited for.

        :param actions: one action per worker
        """
        every = range(self.num_envs)
        if self._commands.is_closed or not self._roster.are_within(every, State.IDLE):
            self._settle()
            self._commands.await_idle(every)
        if self._commands.needs_reset:
            self.reset()
        self._commands.send_step(self.action_space, actions)

    def step_wait(self) -> VecEnvStepReturn:
        """Return what the step has brought, waiting for the slowest."""
        results = self._commands.take_step()
        observations, rewards, dones, infos, reset_infos = zip(*results, strict=True)
        for worker, reset_info in enumerate(reset_infos):
            if reset_info is not None:
                self.reset_infos[worker] = reset_info
        stacked = unpack_rows(self.observation_space, observations)
        return stacked, np.array(rewards, dtype=np.float32), np.array(dones), list(infos)

    def _call(self, name: str, args: tuple[Any, ...], indices: VecEnvIndices = None) -> list[Any]:
        every = range(self.num_envs)
        workers = [every[index] for index in self._get_indices(indices)]  # also counted from the end
        return self._commands.call(name, [args] * len(workers), workers)

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """See ``VecEnv.get_attr``."""
        return self._call("get_attr", (attr_name,), indices)

    def has_attr(self, attr_name: str) -> bool:
        """See ``VecEnv.has_attr``."""
        return all(self._call("has_attr", (attr_name,)))

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """See ``VecEnv.set_attr``."""
        self._call("set_attr", (attr_name, value), indices)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """See ``VecEnv.env_method``."""
        return self._call("env_method", (method_name, method_args, method_kwargs), indices)

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """See ``VecEnv.env_is_wrapped``."""
        return self._call("is_wrapped", (wrapper_class,), indices)

    def get_images(self) -> Sequence[npt.NDArray[Any] | None]:
        """See ``VecEnv.get_images``."""
        if self.render_mode != "rgb_array":
            warn_user(f'render() needs render_mode="rgb_array", but it is {self.render_mode!r}.')
            return [None] * self.num_envs
        return self._call("render", ())
