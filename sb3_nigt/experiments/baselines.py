"""The on-policy methods of Stable-Baselines3 and sb3-contrib, with their defaults or with the tuned values of rl_zoo3."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

from gymnasium import spaces
from sb3_contrib import ARS, TRPO
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from torch import nn

from sb3_nigt.experiments.linear import as_schedule

BASELINES: dict[str, type[BaseAlgorithm]] = {"ppo": PPO, "a2c": A2C, "trpo": TRPO, "ars": ARS}
TUNED = "tuned"
ROLLOUT_OF_ONE = {"ppo": 2048, "trpo": 2048, "a2c": 5}  # n_steps by default
OF_TRAINING = ("n_envs", "n_timesteps", "policy", "normalize")  # keys of rl_zoo3's files that are no arguments


def check_tuned(base: str) -> None:
    """
    Check that a baseline can be run with tuned values.

    :param base: its name
    :raises ValueError: if rl_zoo3 is not installed, or has no values for the method
    """
    if base not in ROLLOUT_OF_ONE:
        raise ValueError(f"{base}:{TUNED} is not allowed: write {', '.join(f'{name}:{TUNED}' for name in ROLLOUT_OF_ONE)}")
    try:
        import_module("rl_zoo3")
    except ModuleNotFoundError:
        raise ValueError(f'{base}:{TUNED} needs the values of rl_zoo3: pip install "sb3_nigt[zoo]"') from None


def make_baseline(
    base: str, tuned: bool, env_id: str, workers: VecEnv, seed: int, arguments: dict[str, Any], normalize: bool
) -> BaseAlgorithm:
    """
    Make a baseline.

    :param base: its name
    :param tuned: whether to take rl_zoo3's arguments for the environment; those it does not have keep their defaults
    :param env_id: the environment
    :param workers: the workers to train on
    :param seed: seed of everything random
    :param arguments: the arguments that are neither defaults nor tuned values
    :param normalize: rewards and observations by ``VecNormalize``, apart from images and observations that are no ``Box``;
        with tuned values their file decides
    """
    given, sizes = dict(arguments), _sizes(base, workers.num_envs)
    if tuned:
        values = tuned_values(base, env_id)
        normalize = bool(values.get("normalize", False))
        sizes = _tuned_sizes(base, values, workers.num_envs)
        given = {**{name: _converted(value) for name, value in values.items() if name not in OF_TRAINING}, **given}
    space = workers.observation_space
    if normalize:
        workers = VecNormalize(workers, gamma=given.get("gamma", 0.99), **_normalized_observations(space))
    policy = "LinearPolicy" if base == "ars" else policy_for(space)
    return BASELINES[base](policy, workers, seed=seed, device="cpu", **{**given, **sizes, **arguments})


def _normalized_observations(space: spaces.Space[Any]) -> dict[str, Any]:
    """Return which observations ``VecNormalize`` is to normalise: numbers, of a Dict by their names; not images or choices."""
    if isinstance(space, spaces.Dict):
        names = [name for name, entry in space.items() if _is_of_numbers(entry)]
        return {"norm_obs": bool(names), "norm_obs_keys": names}
    return {"norm_obs": _is_of_numbers(space)}


def _is_of_numbers(space: spaces.Space[Any]) -> bool:
    return isinstance(space, spaces.Box) and not is_image_space(space)


def policy_for(space: spaces.Space[Any]) -> str:
    """
    Return the name of the policy for an observation space.

    :param space: space of the environment
    """
    if isinstance(space, spaces.Dict):
        return "MultiInputPolicy"
    return "CnnPolicy" if is_image_space(space) else "MlpPolicy"


def tuned_values(base: str, env_id: str) -> dict[str, Any]:
    """
    Read what rl_zoo3 has for an environment, in any version of it, as it is written there; without an entry its defaults.

    :param base: name of the method
    :param env_id: the environment
    """
    rl_zoo3, yaml = import_module("rl_zoo3"), import_module("yaml")  # an extra, and what it needs
    file = Path(str(rl_zoo3.__file__)).parent / "hyperparams" / f"{base}.yml"
    entries: dict[str, dict[str, Any]] = yaml.safe_load(file.read_text(encoding="utf-8"))
    name = _without_version(env_id)
    same = [entry for entry in entries if _without_version(entry) == name]
    return entries[max(same)] if same else entries.get("default", {})


def _without_version(env_id: str) -> str:
    return re.sub(r"-v\d+$", "", env_id)


def _converted(value: Any) -> Any:
    """Read rl_zoo3's two notations: a schedule, and a dict written as Python."""
    if isinstance(value, str) and value.startswith("dict("):
        return eval(value, {"dict": dict, "nn": nn})
    return as_schedule(value)


def _sizes(base: str, n_workers: int) -> dict[str, Any]:
    """Stable-Baselines3's defaults are meant for one environment: keep the sizes of rollouts and batches, about."""
    if base in ("ppo", "trpo"):
        batch_size, n_batches = (64, 32) if base == "ppo" else (128, 16)
        n_steps = max(1, round(batch_size / n_workers))  # of each worker in a batch
        return {"n_steps": n_steps * n_batches, "batch_size": n_steps * n_workers}
    # ARS evaluates a candidate on all workers at once, so each of them may as well make an episode that counts
    return {"n_eval_episodes": n_workers} if base == "ars" else {}


def _tuned_sizes(base: str, values: dict[str, Any], n_workers: int) -> dict[str, Any]:
    """A rollout is as large as with the number of environments the values were tuned for, about."""
    rollout = values.get("n_envs", 1) * values.get("n_steps", ROLLOUT_OF_ONE[base])
    return {"n_steps": max(1, round(rollout / n_workers))}
