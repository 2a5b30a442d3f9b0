"""Generalised advantages with a critic: the estimator of this package."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.logger import Logger

from sb3_nigt.critic import Critic, FitReport
from sb3_nigt.estimators.advantages import gae, lambda_returns
from sb3_nigt.estimators.base import Estimator, FloatArray
from sb3_nigt.estimators.reward_scale import RewardScale
from sb3_nigt.estimators.standardize import standardize, task_moments
from sb3_nigt.messages import Arrival
from sb3_nigt.sampling.trajectory import Trajectory, map_observation


@dataclass(frozen=True)
class _Lesson:
    """What the critic is to be fitted to."""

    observations: Any
    targets: FloatArray
    values: FloatArray
    tasks: npt.NDArray[np.int64]


class GeneralizedAdvantage(Estimator):
    """
    C_t = (A_t - mean of its task) / σ, with A_t = Σ_l (γλ)^l δ_{t+l} and δ_t = r_t + γ V(s_{t+1}) - V(s_t).

    The sum ends at the end of an episode and where a trajectory was cut. V(s_{t+1}) is 0 at a termination, and V of the final
    observation at a truncation and at a cut. σ is one standard deviation of all steps after the mean of each task is
    removed, each step weighted with the w of its worker. The baseline of a step depends on the state and the task only.

    :param gamma: γ in [0, 1]
    :param gae_lambda: λ in [0, 1]
    :param critic: V, in normalised units
    :param scale: the unit of rewards
    :param as_seen: from raw observations to what the policy's networks see, with the statistics of the round
    :param tasks: the number that the critic has for each task id; an id that is missing has number 0
    """

    def __init__(
        self,
        gamma: float,
        gae_lambda: float,
        critic: Critic,
        scale: RewardScale,
        as_seen: Callable[[Any], Any],
        tasks: Mapping[Hashable, int],
    ) -> None:
        self.gamma, self.gae_lambda, self.critic, self.scale, self._as_seen = gamma, gae_lambda, critic, scale, as_seen
        self._number_of, self._n_tasks = tasks, max(tasks.values(), default=0) + 1
        self._lesson: _Lesson | None = None
        self.last_fit: FitReport | None = None

    def coefficients(self, accepted: Sequence[tuple[Arrival, Trajectory]], weights: FloatArray) -> list[FloatArray]:
        """See ``Estimator.coefficients``; what the critic is to learn from these steps is kept for ``learn``."""
        trajectories = [trajectory for _, trajectory in accepted]
        lengths = [trajectory.n_steps for trajectory in trajectories]
        of_task = [self._number_of.get(arrival.task_id, 0) for arrival, _ in accepted]
        tasks, ends = np.repeat(of_task, lengths), np.cumsum(lengths)
        seen = self._as_seen(_joined([t.policy_observations for t in trajectories]))
        values = self.critic.values(seen, tasks)
        final = self.critic.values(self._as_seen(_joined([_final(t) for t in trajectories])), np.array(of_task))
        following = np.append(values[1:], 0.0)
        following[ends - 1] = final
        terminated, ended = (np.zeros(len(values), dtype=bool) for _ in range(2))
        terminated[ends - 1] = [t.terminated for t in trajectories]
        ended[ends - 1] = True  # nothing is summed beyond the end of a trajectory
        is_first = self.scale.moments.weight < 1  # there is no unit yet: take that of this round
        if is_first:
            self._move_scale(accepted)
        rewards = self.scale.normalize(np.concatenate([t.learning_rewards for t in trajectories]))
        advantages = gae(rewards, values, following, terminated, ended, self.gamma, self.gae_lambda)
        self._lesson = _Lesson(seen, lambda_returns(advantages, values), values, tasks)
        by_step = np.repeat([weights[arrival.worker] for arrival, _ in accepted], lengths)
        moments = task_moments(advantages, tasks, by_step, self._n_tasks)
        if not is_first:
            self._move_scale(accepted)
        return np.split(standardize(advantages, tasks, moments), ends[:-1])

    def _move_scale(self, accepted: Sequence[tuple[Arrival, Trajectory]]) -> None:
        moments = []
        for arrival, trajectory in accepted:
            if trajectory.age == 0:
                self.scale.restart(arrival.worker)
            ended = np.zeros(trajectory.n_steps, dtype=bool)
            ended[-1] = trajectory.terminated or trajectory.truncated
            moments.append(self.scale.advance(arrival.worker, trajectory.learning_rewards, ended))
        self.scale.merge(moments)

    def learn(self) -> None:
        """Fit the critic to the last round; called while the workers sample the next one."""
        lesson, self._lesson = self._lesson, None
        if lesson is not None:
            self.last_fit = self.critic.fit(lesson.observations, lesson.targets, lesson.values, lesson.tasks)
            self.critic.network.reward_scale.fill_(self.scale.scale)

    def state_dict(self) -> dict[str, Any]:
        """See ``Estimator``; a round that was not learned from yet is not part of it."""
        return {"critic": self.critic.state_dict(), "scale": self.scale.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See ``Estimator``."""
        self.critic.load_state_dict(state["critic"])
        self.scale.load_state_dict(state["scale"])

    def log(self, logger: Logger) -> None:
        """See ``Estimator.log``: of the last fit, which is that of the round before."""
        logger.record("train/reward_scale", self.scale.scale)
        if self.last_fit is not None:
            logger.record("train/value_loss", self.last_fit.value_loss)
            logger.record("train/explained_variance", self.last_fit.explained_variance)


def _final(trajectory: Trajectory) -> Any:
    """The observation after the last step as a batch of one."""
    final = map_observation(lambda x: np.asarray(x)[None], trajectory.final_observation)
    transform = trajectory.point.transform_obs
    return final if transform is None else transform(final)


def _joined(observations: list[Any]) -> Any:
    return map_observation(lambda *xs: np.concatenate(xs), *observations)
