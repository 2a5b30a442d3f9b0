"""
Stable-Baselines3's wrappers around a ``WorkerVecEnv``.

Workers run whole trajectories, so a wrapper's ``step_wait`` never sees them. Two wrappers are taken over: the transposition of
images, and ``VecNormalize``, whose statistics are frozen within a round and updated from its accepted trajectories.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, VecTransposeImage
from stable_baselines3.common.vec_env.base_vec_env import VecEnvWrapper

from sb3_nigt.trajectory import Trajectory
from sb3_nigt.vec_env.base import WorkerVecEnv

FloatArray = npt.NDArray[np.float64]
ObsTransform = Callable[[Any], Any]

INSTEAD = {
    "VecFrameStack": "gymnasium.wrappers.FrameStackObservation as wrapper_class",
    "VecMonitor": "nothing: make_worker_vec_env puts a Monitor around every worker",
    "VecExtractDictObs": "a gymnasium.ObservationWrapper as wrapper_class",
    "VecCheckNan": "nothing: trajectories with non-finite numbers are rejected anyway",
    "VecVideoRecorder": "gymnasium.wrappers.RecordVideo as wrapper_class, or a separate evaluation environment",
}


@dataclass(frozen=True)
class TransposeImages:
    """
    Channels last to channels first, for one observation or a batch.

    :param keys: keys of a Dict observation that are images; None if the observation is one
    """

    keys: tuple[str, ...] | None

    def __call__(self, observation: Any) -> Any:
        """
        Transpose.

        :param observation: array or dict of arrays
        """
        if self.keys is None:
            return np.moveaxis(observation, -1, -3)
        return {k: np.moveaxis(x, -1, -3) if k in self.keys else x for k, x in observation.items()}


@dataclass(frozen=True)
class NormalizeObservations:
    """
    (s - mean) / std, clipped, with fixed statistics; for one observation or a batch.

    :param statistics: mean and standard deviation of each normalised key, of key None if the observation is an array
    :param clip: largest absolute value
    """

    statistics: dict[str | None, tuple[FloatArray, FloatArray]]
    clip: float

    def __call__(self, observation: Any) -> Any:
        """
        Normalise.

        :param observation: array or dict of arrays
        """
        if isinstance(observation, dict):
            return {key: self._normalize(key, x) if key in self.statistics else x for key, x in observation.items()}
        return self._normalize(None, observation)

    def _normalize(self, key: str | None, observation: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        mean, std = self.statistics[key]
        normalized = (observation - mean) / std
        return np.minimum(np.maximum(normalized, -self.clip), self.clip).astype(np.float32)


@dataclass(frozen=True)
class NormalizeRewards:
    """
    r / std, clipped, with a fixed standard deviation.

    :param std: standard deviation of the discounted return
    :param clip: largest absolute value
    """

    std: float
    clip: float

    def __call__(self, rewards: FloatArray) -> FloatArray:
        """
        Normalise.

        :param rewards: shape (L,)
        """
        return np.clip(rewards / self.std, -self.clip, self.clip)


@dataclass(frozen=True)
class Chain:
    """
    Transformations one after the other.

    :param parts: the first is applied first
    """

    parts: tuple[ObsTransform, ...]

    def __call__(self, observation: Any) -> Any:
        """
        Apply all.

        :param observation: array or dict of arrays
        """
        for part in self.parts:
            observation = part(observation)
        return observation


class WrapperStack:
    """
    What lies between the algorithm and the workers, as functions of whole trajectories.

    :param env: a ``WorkerVecEnv`` with any wrappers
    :raises ValueError: for a wrapper that only works step by step
    """

    def __init__(self, env: VecEnv) -> None:
        self._wrappers: list[VecEnvWrapper] = []
        while isinstance(env, VecEnvWrapper):
            self._wrappers.insert(0, env)
            env = env.venv
        assert isinstance(env, WorkerVecEnv)
        self.workers: WorkerVecEnv = env
        for wrapper in self._wrappers:
            if not isinstance(wrapper, (VecNormalize, VecTransposeImage)):
                name = type(wrapper).__name__
                raise ValueError(
                    f"env={name}({type(env).__name__}) is not allowed: workers run whole trajectories, which {name} would not "
                    f"see. Use {INSTEAD.get(name, 'a gymnasium.Wrapper inside each worker (wrapper_class)')}."
                )

    def freeze(self) -> tuple[ObsTransform | None, Callable[[FloatArray], FloatArray] | None]:
        """Return the transformations of observations and of rewards as they are now; None where nothing changes."""
        obs_parts = [part for wrapper in self._wrappers if (part := _frozen_obs(wrapper)) is not None]
        reward_parts = [
            NormalizeRewards(float(np.sqrt(wrapper.ret_rms.var + wrapper.epsilon)), wrapper.clip_reward)
            for wrapper in self._wrappers
            if isinstance(wrapper, VecNormalize) and wrapper.norm_reward
        ]
        obs_chain = obs_parts[0] if len(obs_parts) == 1 else Chain(tuple(obs_parts)) if obs_parts else None
        return obs_chain, Chain(tuple(reward_parts)) if reward_parts else None

    def update(self, trajectories: Sequence[Trajectory]) -> None:
        """
        Take the accepted trajectories of a round into the running statistics.

        :param trajectories: in an order that does not depend on who came first
        """
        for number, wrapper in enumerate(self._wrappers):
            if not (isinstance(wrapper, VecNormalize) and wrapper.training):
                continue
            inner = [part for w in self._wrappers[:number] if (part := _frozen_obs(w)) is not None]
            for trajectory in trajectories:
                if wrapper.norm_obs:
                    _update_obs(wrapper, Chain(tuple(inner))(trajectory.observations))
                wrapper.ret_rms.update(_discounted_sums(trajectory.rewards, wrapper.gamma))


def _frozen_obs(wrapper: VecEnvWrapper) -> ObsTransform | None:
    if isinstance(wrapper, VecTransposeImage):
        return (
            None
            if wrapper.skip
            else TransposeImages(getattr(wrapper, "image_space_keys", None) and tuple(wrapper.image_space_keys))
        )
    assert isinstance(wrapper, VecNormalize)
    if not wrapper.norm_obs:
        return None
    rms: dict[str | None, RunningMeanStd]
    rms = dict(wrapper.obs_rms) if isinstance(wrapper.obs_rms, dict) else {None: wrapper.obs_rms}
    statistics = {key: (np.array(x.mean), np.sqrt(x.var + wrapper.epsilon)) for key, x in rms.items()}
    return NormalizeObservations(statistics, wrapper.clip_obs)


def _update_obs(wrapper: VecNormalize, observations: Any) -> None:
    if isinstance(wrapper.obs_rms, dict):
        for key, rms in wrapper.obs_rms.items():
            rms.update(observations[key])
    else:
        wrapper.obs_rms.update(observations)


def _discounted_sums(rewards: FloatArray, gamma: float) -> FloatArray:
    """R_t = γ R_{t-1} + r_t, VecNormalize's running return of one episode."""
    sums, total = np.empty_like(rewards), 0.0
    for t, reward in enumerate(rewards.tolist()):
        total = gamma * total + reward
        sums[t] = total
    return sums
