"""Generalised advantages with a critic: the estimator of this package."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.logger import Logger
from torch import nn

from sb3_nigt.critic import Critic, FitReport
from sb3_nigt.estimators.advantages import gae, lambda_returns
from sb3_nigt.estimators.base import Accepted, Assessment, Estimator, FloatArray, Mean, Rows, WorkerMoments
from sb3_nigt.estimators.reward_scale import RewardScale, unit_of
from sb3_nigt.estimators.standardize import merged_task_moments, standardize, task_moments
from sb3_nigt.messages import SamplingPoint
from sb3_nigt.moments import Moments
from sb3_nigt.sampling.trajectory import Trajectory, map_observation


@dataclass(frozen=True)
class _Lesson:
    """Training data of the critic."""

    observations: Any
    targets: FloatArray
    values: FloatArray
    tasks: npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Part:
    """
    This process's part of the round.

    :param advantages: advantages of all steps, not standardised
    :param tasks: number of each step's task
    :param is_whole: whether there are no other processes
    :param has_moved_scale: whether the unit of rewards already includes this round's returns
    :param scale_before: state of the unit of rewards before the round
    :param lesson_before: what the critic had to learn then
    """

    advantages: FloatArray
    tasks: npt.NDArray[np.int64]
    is_whole: bool
    has_moved_scale: bool
    scale_before: dict[str, Any]
    lesson_before: _Lesson | None


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
    :param as_seen: the map from raw observations to what the policy's networks see, with the statistics of the round
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
        self._number_of = tasks  # this process may have workers of some of the critic's tasks only
        self._n_tasks = max(critic.network.n_tasks, max(tasks.values(), default=0) + 1)
        self._lesson: _Lesson | None = None
        self._part: _Part | None = None
        self.last_fit: FitReport | None = None

    def at_point(self, point: SamplingPoint) -> None:
        """See ``Estimator``: the unit of rewards is that of the wrappers."""
        self.scale.set_unit(unit_of(point.transform_rewards))

    def assess(self, accepted: Accepted, rows: Rows | None) -> Assessment:
        """See ``Estimator``; what the critic is to learn from these steps is kept for ``learn``."""
        before = self.scale.state_dict(), self._lesson
        returns = [self._returns(arrival.worker, trajectory) for arrival, trajectory in accepted]
        is_first = bool(self.scale.moments.weight < 1)  # there is no unit yet: take that of this round
        if is_first:
            self.scale.merge(returns if rows is None else _exchanged(returns, rows))
        advantages, tasks = self._advantages(accepted) if accepted else (np.zeros(0), np.zeros(0, dtype=np.int64))
        self._part = _Part(advantages, tasks, rows is None, is_first, *before)
        return Assessment({} if rows is None else _by_worker(accepted, advantages, tasks), returns)

    def _advantages(self, accepted: Accepted) -> tuple[FloatArray, npt.NDArray[np.int64]]:
        """Return A_t and the number of its task, for all steps."""
        trajectories = [trajectory for _, trajectory in accepted]
        of_task = [self._number_of.get(arrival.task_id, 0) for arrival, _ in accepted]
        lengths = [trajectory.n_steps for trajectory in trajectories]
        tasks, ends = np.repeat(of_task, lengths), np.cumsum(lengths)
        seen = self._as_seen(_joined([t.policy_observations for t in trajectories]))
        values = self.critic.values(seen, tasks)
        final = self.critic.values(self._as_seen(_joined([_final(t) for t in trajectories])), np.array(of_task))
        following = np.append(values[1:], 0.0)
        following[ends - 1] = final
        terminated, ended = (np.zeros(len(values), dtype=bool) for _ in range(2))
        terminated[ends - 1] = [t.terminated for t in trajectories]
        ended[ends - 1] = True  # nothing is summed beyond the end of a trajectory
        rewards = self.scale.normalize(np.concatenate([t.learning_rewards for t in trajectories]))
        advantages = gae(rewards, values, following, terminated, ended, self.gamma, self.gae_lambda)
        self._lesson = _Lesson(seen, lambda_returns(advantages, values), values, tasks)
        return advantages, tasks

    def _returns(self, worker: int, trajectory: Trajectory) -> Moments:
        """Continue the discounted return of a worker; return the moments of its new values."""
        if trajectory.age == 0:
            self.scale.restart(worker)
        ended = np.zeros(trajectory.n_steps, dtype=bool)
        ended[-1] = trajectory.terminated or trajectory.truncated
        return self.scale.advance(worker, trajectory.learning_rewards, ended)

    def coefficients(self, accepted: Accepted, weights: FloatArray, assessment: Assessment | None) -> list[FloatArray]:
        """See ``Estimator.coefficients``; of the steps that ``assess`` has seen last."""
        part, self._part = self._part, None
        assert part is not None
        assert assessment is not None
        lengths = [trajectory.n_steps for _, trajectory in accepted]
        if part.is_whole:
            by_step = np.repeat([weights[arrival.worker] for arrival, _ in accepted], lengths)
            moments = task_moments(part.advantages, part.tasks, by_step, self._n_tasks)
        else:
            moments = merged_task_moments(assessment.advantages, weights, self._n_tasks)
        if not part.has_moved_scale:
            self.scale.merge(assessment.returns)
        if not accepted:
            return []
        return np.split(standardize(part.advantages, part.tasks, moments), np.cumsum(lengths)[:-1])

    def learn(self, mean: Mean | None = None) -> None:
        """Fit the critic to the last round; several processes fit it to their own steps, and take the mean by steps."""
        lesson, self._lesson = self._lesson, None
        if lesson is not None:
            self.last_fit = self.critic.fit(lesson.observations, lesson.targets, lesson.values, lesson.tasks)
        if mean is not None:
            self.critic.take_mean(mean)
        if self.scale.moments.weight >= 1:  # before the first round, the network may be another model's with its own
            self.critic.network.reward_scale.fill_(self.scale.scale)

    def shared_state(self) -> FloatArray:
        """See ``Estimator``: the critic and the unit of rewards."""
        return np.concatenate([self.critic.vector(), self.scale.moments.vector(), [self.scale.unit]])

    def set_shared_state(self, vector: FloatArray) -> None:
        """See ``Estimator``."""
        size = len(self.scale.moments.vector()) + 1
        self.critic.set_vector(vector[:-size])
        self.scale.moments, self.scale.unit = self.scale.moments.from_vector(vector[-size:-1]), float(vector[-1])
        self.critic.network.reward_scale.fill_(self.scale.scale)

    def state_dict(self) -> dict[str, Any]:
        """
        See ``Estimator``; the round that the critic has not learned from yet is part of it.

        A round that was assessed but has no coefficients yet is not: on ranks, a signal may end the run there.
        """
        scale, lesson = self.scale.state_dict(), self._lesson
        if self._part is not None:
            scale, lesson = self._part.scale_before, self._part.lesson_before
        kept = None if lesson is None else tuple(getattr(lesson, f.name) for f in fields(_Lesson))
        return {"critic": self.critic.state_dict(), "scale": scale, "lesson": kept, "tasks": dict(self._number_of)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See ``Estimator``."""
        self.critic.load_state_dict(state["critic"])
        self.scale.load_state_dict(state["scale"])
        self._lesson = None if state.get("lesson") is None else _Lesson(*state["lesson"])
        self.keep_task_numbers(state.get("tasks", {}))

    @property
    def critic_network(self) -> nn.Module | None:
        """See ``Estimator``."""
        return self.critic.network

    @property
    def task_numbers(self) -> Mapping[Hashable, int]:
        """See ``Estimator``."""
        return self._number_of

    def keep_task_numbers(self, before: Mapping[Hashable, int]) -> None:
        """See ``Estimator``: workers may come back in another order."""
        if self.critic.network.n_tasks > 1 and len(set(before.values())) == len(before):  # it distinguishes them, and did
            self._number_of = renumbered(self._number_of, before, self._n_tasks)

    def log(self, logger: Logger) -> None:
        """See ``Estimator.log``: of the last fit, which is that of the round before."""
        logger.record("train/reward_scale", self.scale.scale)
        if self.last_fit is not None:
            logger.record("train/value_loss", self.last_fit.value_loss)
            logger.record("train/explained_variance", self.last_fit.explained_variance)


def renumbered(present: Mapping[Hashable, int], before: Mapping[Hashable, int], n_tasks: int) -> dict[Hashable, int]:
    """
    Give tasks the numbers that they had before, and new ones those that are free, at best never used.

    Tasks are recognised by their ids, or else by their names, since ranks know them by these. Those that are absent keep a
    number that is not taken, since this process may see them again: a rank has workers of some of the tasks only.

    :param present: numbers of the tasks of the workers; where several have the same one, the critic does not distinguish them
    :param before: numbers of the tasks then, each another
    :param n_tasks: how many numbers there are
    """
    usable = {task: number for task, number in before.items() if number < n_tasks}
    by_name = {str(task): number for task, number in usable.items()}
    kept = {task: usable.get(task, by_name.get(str(task), -1)) for task in present if str(task) in by_name}
    if len(set(present.values())) < len(present):
        numbers = {**present, **kept}
    else:
        free = sorted(set(range(n_tasks)) - set(kept.values()), key=lambda number: (number in usable.values(), number))
        numbers = {**present, **dict(zip((task for task in present if task not in kept), free, strict=False)), **kept}
    names, taken = {str(task) for task in present}, set(numbers.values())
    return {**{t: n for t, n in before.items() if str(t) not in names and n not in taken}, **numbers}


def _final(trajectory: Trajectory) -> Any:
    """The observation after the last step as a batch of one."""
    final = map_observation(lambda x: np.asarray(x)[None], trajectory.final_observation)
    transform = trajectory.point.transform_obs
    return final if transform is None else transform(final)


def _joined(observations: list[Any]) -> Any:
    return map_observation(lambda *xs: np.concatenate(xs), *observations)


def _exchanged(returns: list[Moments], rows: Rows) -> list[Moments]:
    """Moments of all processes, each of its own part."""
    own = Moments.empty().merge_all(returns)
    return [own.from_vector(row) for row in rows(own.vector())]


def _by_worker(accepted: Accepted, advantages: FloatArray, tasks: npt.NDArray[np.int64]) -> dict[int, WorkerMoments]:
    """Moments of the advantages of each worker."""
    of_step = np.repeat([arrival.worker for arrival, _ in accepted], [trajectory.n_steps for _, trajectory in accepted])
    first = {int(worker): int(np.argmax(of_step == worker)) for worker in np.unique(of_step)}
    return {worker: WorkerMoments(int(tasks[row]), Moments.of(advantages[of_step == worker])) for worker, row in first.items()}
