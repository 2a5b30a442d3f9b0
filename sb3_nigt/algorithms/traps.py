"""One-time warnings about settings that silently spoil a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from stable_baselines3.common.policies import (
    ActorCriticCnnPolicy,
    ActorCriticPolicy,
    MultiInputActorCriticPolicy,
)

from sb3_nigt.errors import warn_user
from sb3_nigt.optimizers import NIGT
from sb3_nigt.policies import as_actor_policy
from sb3_nigt.sampling.trajectory import Trajectory

FEWEST_CUT = 10  # trajectories in a row, before that says anything about the episodes
OF_PPO = (ActorCriticPolicy, ActorCriticCnnPolicy, MultiInputActorCriticPolicy)
SMALLEST_STEP = 9e-4  # of the natural geometry: a KL of 4e-7; PPO's learning rate is below, the paper's grid above
FEW = 0.5  # trajectories of a round for each worker


class Traps:
    """What one model has said, and what it has seen of its episodes."""

    def __init__(self) -> None:
        self._said: set[str] = set()
        self._n_cut = 0  # trajectories in a row that no episode has ended

    def _say(self, name: str, text: str) -> None:
        if name not in self._said:
            self._said.add(name)
            warn_user(text)

    def after_round(self, accepted: Sequence[Trajectory], horizon: int) -> None:
        """
        Look whether any episode ends within the horizon.

        :param accepted: trajectories of a round
        :param horizon: H
        """
        for trajectory in accepted:
            self._n_cut = 0 if trajectory.terminated or trajectory.truncated else self._n_cut + 1
        if self._n_cut >= max(FEWEST_CUT, len(accepted)):
            self._say(
                "cut",
                f"All of the last {self._n_cut} trajectories were cut at horizon={horizon} before their episodes ended, so no "
                "episode is logged as rollout/ep_rew_mean, and rewards after the cut do not count: give a horizon as long as "
                'an episode, or rollout="steps", in which episodes continue across rounds.',
            )

    def before_rounds(self, n_trajectories: int, n_workers: int) -> None:
        """
        Look whether a round needs most of the workers.

        :param n_trajectories: M
        :param n_workers: n
        """
        if n_trajectories < FEW * n_workers:
            self._say(
                "few",
                f"n_trajectories={n_trajectories} is far less than the {n_workers} workers, so in each round at least "
                f"{n_workers - n_trajectories} of them do nothing that counts: give n_trajectories={n_workers} or more, or "
                'rollout="steps".',
            )

    def at_point(self, lookahead: float, parameters: npt.NDArray[np.float32], eta: float) -> None:
        """
        Look whether gradients are taken anywhere near the policy.

        :param lookahead: ‖θ̃ - θ‖
        :param parameters: θ, flat
        :param eta: η of the round
        """
        if lookahead > 0 and lookahead > (norm := float(np.sqrt(np.square(parameters, dtype=np.float64).sum()))):
            self._say(
                "far",
                f"With eta={eta:g} workers sample at a distance of {lookahead:.3g} from the policy, which is longer than "
                f"its parameter vector ({norm:.3g}). The distance is (1 - eta) / eta times a step: give a larger eta, "
                "or a smaller learning_rate.",
            )

    def after_update(self, policy: Any) -> None:
        """
        Look whether the policy can still tell observations apart.

        :param policy: the model's policy, with new statistics
        """
        actor = as_actor_policy(policy)
        if actor is not None and actor.normalizer is not None and actor.normalizer.has_overflown():
            self._say(
                "overflow",
                "env: the variance of the observations exceeds 3.4e38, the largest float32, so the policy sees zeros in "
                "place of some of their entries: scale them with a gymnasium.wrappers.TransformObservation, or give "
                "policy_kwargs=dict(normalize_observations=False).",
            )


def warn_of_leftovers(policy: Any, geometry: str, learning_rate: Any, has_critic: bool) -> None:
    """
    Say what is left over from a script for PPO and spoils a run.

    :param policy: of the model
    :param geometry: argument of the algorithm
    :param learning_rate: argument of the algorithm
    :param has_critic: the model has one
    """
    if has_critic and type(policy) in OF_PPO:
        warn_user(
            f"policy={type(policy).__name__} of Stable-Baselines3 does not normalise observations, and its predict_values "
            'stays untrained: give "MlpPolicy", "CnnPolicy" or "MultiInputPolicy".'
        )
    is_natural = isinstance(policy.optimizer, NIGT) and geometry == "natural"
    if is_natural and isinstance(learning_rate, (int, float)) and 0 < learning_rate < SMALLEST_STEP:
        warn_user(
            f"learning_rate={learning_rate:g} limits the KL divergence of an update to {learning_rate**2 / 2:.1g}: values of "
            "PPO do not carry over. The default is 0.2."
        )


def warn_of_policy_kwargs(policy_kwargs: dict[str, Any], policy: Any, has_critic: bool) -> None:
    """
    Say which arguments of the policy have no effect.

    :param policy_kwargs: of the user
    :param policy: made with them
    :param has_critic: the model has one
    """
    reasons = {}
    net_arch = policy_kwargs.get("net_arch")
    if isinstance(net_arch, dict) and net_arch.get("vf") and not (has_critic and as_actor_policy(policy)):
        reasons["net_arch['vf']"] = (
            "there is no critic with gae_lambda=None" if not has_critic else "the critic is a separate network"
        )
    if "share_features_extractor" in policy_kwargs:
        reasons["share_features_extractor"] = "the critic always has its own features extractor"
    if policy_kwargs.get("log_std_init") is not None and not isinstance(policy.action_space, spaces.Box):
        reasons["log_std_init"] = "only Box actions have a standard deviation"
    for name, reason in reasons.items():
        warn_user(f"policy_kwargs: {name} has no effect, since {reason}. Leave it out.")
