"""
Stable-Baselines3's wrappers around a ``WorkerVecEnv``.

Workers run whole trajectories, so a wrapper's ``step_wait`` never sees them. Two wrappers are taken over: the transposition of
images, and ``VecNormalize``, whose statistics are frozen within a round and updated from its accepted trajectories.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, VecTransposeImage
from stable_baselines3.common.vec_env.base_vec_env import VecEnvWrapper

from sb3_nigt.sampling.trajectory import Trajectory
from sb3_nigt.vec_env.transforms import (
    Chain,
    FloatArray,
    NormalizeObservations,
    NormalizeRewards,
    ObsTransform,
    TransposeImages,
)

INSIDE = "around each environment (make_worker_vec_env: wrapper_class; rl_zoo3: env_wrapper)"
INSTEAD = {
    "VecFrameStack": f"Put gymnasium.wrappers.FrameStackObservation {INSIDE}; remove the channel axis of images first",
    "VecMonitor": "Leave it out: make_worker_vec_env puts a Monitor around every worker",
    "VecExtractDictObs": f"Put a gymnasium.ObservationWrapper {INSIDE}",
    "VecCheckNan": "Leave it out: steps and trajectories with non-finite numbers are rejected anyway",
    "VecVideoRecorder": f"Put gymnasium.wrappers.RecordVideo {INSIDE}, or use a separate evaluation environment",
}


class WrapperStack:
    """
    What lies between the algorithm and the workers, as functions of whole trajectories.

    :param wrappers: the wrappers, the innermost first; none where a plain ``VecEnv`` is stepped with its wrappers
    """

    def __init__(self, wrappers: Sequence[VecEnvWrapper] = ()) -> None:
        self._wrappers = list(wrappers)
        # each VecNormalize, and what is done to observations and rewards before they reach it
        self._originals: list[tuple[VecNormalize, ObsTransform, Callable[[FloatArray], FloatArray]]] = []
        # discounted returns of the running episodes: for each VecNormalize, by worker
        self.returns: dict[int, dict[int, float]] = {}

    @classmethod
    def around(cls, env: VecEnv) -> WrapperStack:
        """
        Take the wrappers of an environment.

        :param env: a ``WorkerVecEnv`` with any wrappers
        :raises ValueError: for a wrapper that only works step by step
        """
        wrappers: list[VecEnvWrapper] = []
        while isinstance(env, VecEnvWrapper):
            wrappers.insert(0, env)
            env = env.venv
        for wrapper in wrappers:
            if not isinstance(wrapper, (VecNormalize, VecTransposeImage)):
                name = type(wrapper).__name__
                raise ValueError(
                    f"env={name}({type(env).__name__}) is not allowed: workers step independently, and {name} would not "
                    f"see their steps. {INSTEAD.get(name, f'Put a gymnasium.Wrapper {INSIDE}')}."
                )
        return cls(wrappers)

    def freeze(self) -> tuple[ObsTransform | None, Callable[[FloatArray], FloatArray] | None]:
        """Return the transformations of observations and of rewards as they are now; None where nothing changes."""
        obs_parts, reward_parts = list[ObsTransform](), list[NormalizeRewards]()
        self._originals = []
        for wrapper in self._wrappers:
            if isinstance(wrapper, VecNormalize):
                self._originals.append((wrapper, Chain(tuple(obs_parts)), Chain(tuple(reward_parts))))
                if wrapper.norm_reward:
                    std = float(np.sqrt(wrapper.ret_rms.var + wrapper.epsilon))
                    reward_parts.append(NormalizeRewards(std, wrapper.clip_reward))
            if (part := _frozen_obs(wrapper)) is not None:
                obs_parts.append(part)
        obs_chain = obs_parts[0] if len(obs_parts) == 1 else Chain(tuple(obs_parts)) if obs_parts else None
        return obs_chain, Chain(tuple(reward_parts)) if reward_parts else None

    def show(self, observations: Any, rewards: Any) -> None:
        """
        Let ``get_original_obs`` and ``get_original_reward`` return those of the step that callbacks are shown.

        :param observations: observations after the step, as the environments gave them, leading dimension n
        :param rewards: rewards as the environments gave them, shape (n,)
        """
        for wrapper, transform_obs, transform_rewards in self._originals:
            wrapper.old_obs, wrapper.old_reward = transform_obs(observations), transform_rewards(rewards)

    def update(self, trajectories: Sequence[Trajectory]) -> None:
        """
        Take the accepted trajectories of a round into the running statistics.

        :param trajectories: trajectories, in an order that does not depend on the order of arrival
        """
        for number, wrapper in self._in_training():
            transform = self._inside_of(number)
            for trajectory in trajectories:
                for rms, values in self._new_values(number, wrapper, transform, trajectory):
                    rms.update(values)

    def moments(self, trajectories: Sequence[Trajectory]) -> FloatArray:
        """
        What ``update`` would take in, for ``merge``: number, mean and variance for each of the running statistics.

        :param trajectories: trajectories, in an order that does not depend on the order of arrival; may be empty
        """
        parts: list[npt.NDArray[Any]] = []
        for number, wrapper in self._in_training():
            transform = self._inside_of(number)
            new = [[values for _, values in self._new_values(number, wrapper, transform, t)] for t in trajectories]
            for index, rms in enumerate(_statistics(wrapper)):
                if new:
                    batch = np.concatenate([values[index] for values in new]).astype(np.float64)
                    parts += [np.array([len(batch)]), batch.mean(axis=0), batch.var(axis=0)]
                else:
                    parts += [np.zeros(1), np.zeros_like(rms.mean), np.zeros_like(rms.var)]
        return _as_vector(parts)

    def merge(self, rows: npt.NDArray[np.float64]) -> None:
        """
        Take several ``moments`` into the running statistics, in their order.

        :param rows: one vector per row
        """
        statistics = [rms for _, wrapper in self._in_training() for rms in _statistics(wrapper)]
        for row in rows:
            position = 0
            for rms in statistics:
                shape, size = rms.mean.shape, rms.mean.size
                count, (mean, var) = row[position], row[position + 1 : position + 1 + 2 * size].reshape(2, *shape)
                position += 1 + 2 * size
                if count > 0:
                    rms.update_from_moments(mean, var, count)

    def state(self) -> list[npt.NDArray[Any]]:
        """All running statistics: number, mean and variance of each."""
        statistics = [rms for wrapper in self._wrappers for rms in _statistics(wrapper)]
        return [part for rms in statistics for part in (np.array([rms.count]), rms.mean, rms.var)]

    def set_state(self, vector: FloatArray) -> None:
        """
        Replace all running statistics.

        :param vector: the result of ``state``, flattened and joined
        """
        position = 0
        for rms in (rms for wrapper in self._wrappers for rms in _statistics(wrapper)):
            size = int(np.prod(rms.mean.shape))
            rms.count = float(vector[position])
            rms.mean, rms.var = (x.copy() for x in vector[position + 1 : position + 1 + 2 * size].reshape(2, *rms.mean.shape))
            position += 1 + 2 * size

    def _in_training(self) -> list[tuple[int, VecNormalize]]:
        return [(i, w) for i, w in enumerate(self._wrappers) if isinstance(w, VecNormalize) and w.training]

    def _new_values(
        self, number: int, wrapper: VecNormalize, transform: ObsTransform, trajectory: Trajectory
    ) -> list[tuple[RunningMeanStd, npt.NDArray[Any]]]:
        """What one trajectory, or the next piece of an episode, adds to each of the running statistics."""
        values = [self._discounted_sums(number, wrapper, trajectory)]
        if wrapper.norm_obs:
            observations = transform(trajectory.observations)
            is_dict = isinstance(wrapper.obs_rms, dict)
            values = [*([observations[key] for key in wrapper.obs_rms] if is_dict else [observations]), *values]
        return list(zip(_statistics(wrapper), values, strict=True))

    def _discounted_sums(self, number: int, wrapper: VecNormalize, trajectory: Trajectory) -> FloatArray:
        """R_t = γ R_{t-1} + r_t, VecNormalize's running return; a piece continues where the worker's last piece ended."""
        of_workers, worker = self.returns.setdefault(number, {}), trajectory.key.stream
        sums, total = np.empty_like(trajectory.rewards), of_workers.get(worker, 0.0) if trajectory.age else 0.0
        for t, reward in enumerate(trajectory.rewards.tolist()):
            total = wrapper.gamma * total + reward
            sums[t] = total
        of_workers[worker] = total
        return sums

    def _inside_of(self, number: int) -> ObsTransform:
        """What a wrapper's observations have been through before it."""
        return Chain(tuple(part for w in self._wrappers[:number] if (part := _frozen_obs(w)) is not None))


def _frozen_obs(wrapper: VecEnvWrapper) -> ObsTransform | None:
    if isinstance(wrapper, VecTransposeImage):
        keys = getattr(wrapper, "image_space_keys", None)
        return None if wrapper.skip else TransposeImages(keys and tuple(keys))
    assert isinstance(wrapper, VecNormalize)
    if not wrapper.norm_obs:
        return None
    rms = dict(wrapper.obs_rms) if isinstance(wrapper.obs_rms, dict) else {None: wrapper.obs_rms}
    statistics = {key: (np.array(x.mean), np.sqrt(x.var + wrapper.epsilon)) for key, x in rms.items()}
    return NormalizeObservations(statistics, wrapper.clip_obs)


def _statistics(wrapper: VecEnvWrapper) -> list[RunningMeanStd]:
    """The running statistics of a wrapper, always in the same order."""
    if not isinstance(wrapper, VecNormalize):
        return []
    if not wrapper.norm_obs:
        return [wrapper.ret_rms]
    observations = list(wrapper.obs_rms.values()) if isinstance(wrapper.obs_rms, dict) else [wrapper.obs_rms]
    return [*observations, wrapper.ret_rms]


def _as_vector(parts: list[npt.NDArray[Any]]) -> FloatArray:
    return np.concatenate([np.asarray(part, dtype=np.float64).ravel() for part in parts]) if parts else np.zeros(0)
