"""Returns of a policy on separate episodes."""

from __future__ import annotations

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, sync_envs_normalization

from sb3_nigt.experiments.setting import Setting

EVALUATION_STREAM = 1  # keeps evaluation's random numbers apart from those of training


class Evaluator:
    """
    Returns of the iterate on separate episodes; the random numbers of training are left as they are.

    :param setting: the setting, which names the environments
    :param episodes: number of episodes of each task
    :param seed: seed of the run
    """

    def __init__(self, setting: Setting, episodes: int, seed: int) -> None:
        self.envs = setting.make_evaluation_envs(episodes)
        self.episodes, self.seed = episodes, seed

    def returns(self, model: BaseAlgorithm, number: int) -> dict[str, float]:
        """
        Mean return of each task, with sampled actions as in training.

        :param model: the model to evaluate
        :param number: number of the evaluation in its run; the same for all methods, so that they get the same episodes
        """
        found, training = {}, model.get_vec_normalize_env()
        with th.random.fork_rng(devices=[]):
            for task, (name, env) in enumerate(self.envs.items()):
                sequence = np.random.SeedSequence((self.seed, EVALUATION_STREAM, number, task))
                seed = int(sequence.generate_state(1)[0]) // 2  # room for one seed an environment
                th.manual_seed(seed)
                env.seed(seed)
                mean, _ = evaluate_policy(model, normalized_as(training, env), self.episodes, deterministic=False)
                found[name] = float(np.mean(mean))
        return found


def normalized_as(training: VecNormalize | None, env: VecEnv) -> VecEnv:
    """
    Normalise observations as in training.

    :param training: the environment that the model trains on; None: nothing is normalised
    :param env: the environment to evaluate on
    """
    if training is None:
        return env
    names = training.norm_obs_keys
    normalized = VecNormalize(env, training=False, norm_obs=training.norm_obs, norm_reward=False, norm_obs_keys=names)
    sync_envs_normalization(training, normalized)
    return normalized
