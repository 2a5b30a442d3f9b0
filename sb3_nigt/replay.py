"""A recorded run again, in the simulator: the same trajectories in the same rounds, the same parameters."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

import numpy as np

from sb3_nigt.algorithms.base import AsyncPolicyGradient
from sb3_nigt.algorithms.book import RoundResult
from sb3_nigt.algorithms.group import Alone, RoundPlan
from sb3_nigt.algorithms.trained import TrainedModel
from sb3_nigt.messages import Arrival, Job, RoundReport, SamplingPoint, TrajectoryKey
from sb3_nigt.recording import Recording, replay_settings
from sb3_nigt.sampling.trajectory import Trajectory
from sb3_nigt.vec_env import SimulatedVecEnv, TrajectoryWorkers
from sb3_nigt.vec_env.wrappers import WrapperStack

Model = TypeVar("Model", bound=AsyncPolicyGradient)
ANOTHER = "The environment or model differs from the recorded one, or depends on more than its seed."
Name = tuple[int, TrajectoryKey]  # worker and key


def replay(model: Model, recording: Recording) -> Model:
    """
    Repeat a recorded run: each round gets the trajectories, or the steps, that the recorded round accepted.

    A trajectory is a function of parameters, seed and key; a segment is a function of parameters, seed and its position in
    the worker's steps. Sums are taken in the recorded order. So after the last round, the model has the parameters of the
    recorded one. Callbacks are not called, and nothing is logged.

    :param model: in the state of the recorded one when its recording began (same class, settings, seed), on a
        ``SimulatedVecEnv`` with the same environments
    :param recording: the run
    :return: the model
    :raises ValueError: if the model does not fit the recording
    :raises RuntimeError: if a trajectory or a piece of a segment differs from the recorded one
    """
    if not isinstance(recording, Recording):
        raise ValueError(f"recording={recording!r} is not a recording: give Recording.load(path).")
    workers = _fitting_workers(model, recording)
    model.root_seed = recording.seed
    with _as_recorded(model, workers, recording):
        model.learn(sys.maxsize, log_interval=None, reset_num_timesteps=False)  # type: ignore[arg-type]
    return model


@contextmanager
def _as_recorded(model: AsyncPolicyGradient, workers: SimulatedVecEnv, recording: Recording) -> Iterator[None]:
    """For a while, let the model and its workers do what the recorded ones did."""
    run = _RecordedRun(recording)
    usual = model.group, model.lr_schedule, model.eta_schedule, workers.sums_by_worker
    model.group, workers.sums_by_worker = run, recording.sums_by_worker
    model.eta_schedule = lambda _: usual[2](run.progress_at_start)
    model.lr_schedule = lambda _: usual[1](run.progress_at_update)
    try:
        yield
    finally:
        model.group, model.lr_schedule, model.eta_schedule, workers.sums_by_worker = usual


class _RecordedRun:
    """
    Settings of a group whose rounds are those of a recording.

    :param recording: the run
    :ivar progress_at_update: progress remaining at the update of the last round
    """

    def __init__(self, recording: Recording) -> None:
        self._rounds = list(reversed(recording.rounds))  # that are left
        self._memory = max((arrival.staleness for report in recording.reports for arrival in report.arrivals), default=0)
        self._points: dict[int, SamplingPoint] = {}  # of the last rounds
        self.progress_at_update = 1.0

    @property
    def progress_at_start(self) -> float:
        """Progress remaining when the round that is due began."""
        return self._rounds[-1].progress[0] if self._rounds else 0.0

    def check(self, model: TrainedModel) -> None:
        """See ``GroupSettings``; what does not fit has been refused already."""

    def join(self, model: TrainedModel, workers: TrajectoryWorkers, stack: WrapperStack) -> _Replayed:
        """See ``GroupSettings``."""
        return _Replayed(self, workers, stack)

    def next_round(self, workers: SimulatedVecEnv, plan: RoundPlan) -> RoundResult | None:
        """Sample what a round accepted, each trajectory at the point it had then; None after the last round."""
        if not self._rounds:
            return None
        plan.meanwhile()
        recorded, point = self._rounds.pop(), plan.point
        report, self.progress_at_update = _with_own_tasks(recorded.report, workers.task_ids), recorded.progress[1]
        if report.segments:
            segments = workers.repeat_segments(point, report.segments)
            return _as_accepted(report, {(a.worker, a.key): (a, piece) for a, piece in segments.pieces})
        self._points[point.round] = point
        self._points.pop(point.round - self._memory - 1, None)
        jobs = [Job(a.worker, a.key, self._points[report.round - a.staleness], committed=True) for a in report.arrivals]
        return _as_accepted(report, _sample(workers, jobs))


class _Replayed(Alone):
    """The group itself."""

    is_first = False  # nothing is logged

    def __init__(self, run: _RecordedRun, workers: TrajectoryWorkers, stack: WrapperStack) -> None:
        super().__init__(workers, stack)
        self._run = run

    def run_round(self, plan: RoundPlan) -> RoundResult | None:
        """See ``Group``."""
        assert isinstance(self.workers, SimulatedVecEnv)
        return self._run.next_round(self.workers, plan)


def _fitting_workers(model: AsyncPolicyGradient, recording: Recording) -> SimulatedVecEnv:
    env = None if model.env is None else model.env.unwrapped
    if not isinstance(env, SimulatedVecEnv):
        raise ValueError(f"model: its environment is {type(env).__name__}: give it a SimulatedVecEnv.")
    if type(model).__name__ != recording.algorithm:
        raise ValueError(f"model: it is a {type(model).__name__}, the recorded one was a {recording.algorithm}.")
    if env.num_envs != len(recording.task_ids):
        raise ValueError(f"model: it has {env.num_envs} workers, the recorded one had {len(recording.task_ids)}.")
    if recording.rounds and model.n_updates != recording.rounds[0].report.round:
        raise ValueError(
            f"model: it has made {model.n_updates} updates, the recording begins after {recording.rounds[0].report.round}: "
            "give a fresh model, or the one that was saved before the recording began."
        )
    settings = replay_settings(model)
    for name, was in recording.settings.items():
        if settings.get(name) != was:
            raise ValueError(
                f"model: {name} is {settings.get(name)!r}, the recorded model began with {was!r}: "
                "make it with the same arguments and seed, or load the one that was saved before the recording began."
            )
    return env


def _sample(workers: TrajectoryWorkers, jobs: list[Job]) -> dict[Name, tuple[Arrival, Trajectory]]:
    """Run some trajectories; each worker runs its own ones one after the other."""
    waiting: dict[int, list[Job]] = defaultdict(list)
    for job in reversed(jobs):
        waiting[job.worker].append(job)
    for own in waiting.values():
        workers.submit(own.pop())
    results: dict[Name, tuple[Arrival, Trajectory]] = {}
    while len(results) < len(jobs):
        result = workers.next_arrival()
        assert result is not None
        arrival, trajectory = result
        results[arrival.worker, arrival.key] = arrival, trajectory
        if waiting[arrival.worker]:
            workers.submit(waiting[arrival.worker].pop())
    return results


def _with_own_tasks(report: RoundReport, task_ids: Sequence[Hashable]) -> RoundReport:
    """A recording knows tasks by their texts only."""

    def renamed(arrivals: Sequence[Arrival]) -> tuple[Arrival, ...]:
        return tuple(replace(arrival, task_id=task_ids[arrival.worker]) for arrival in arrivals)

    return replace(report, arrivals=renamed(report.arrivals), rejected=renamed(report.rejected))


def _as_accepted(report: RoundReport, sampled: dict[Name, tuple[Arrival, Trajectory]]) -> RoundResult:
    """Return what the recorded round accepted, in its order; refuse what is not the same."""
    accepted = []
    for was in report.arrivals:
        if (was.worker, was.key) not in sampled:
            raise RuntimeError(f"Round {report.round}, worker {was.worker}: {was.key} cannot be reproduced. {ANOTHER}")
        accepted.append(sampled[was.worker, was.key])
        _check_same(report.round, was, accepted[-1][0])
    return RoundResult(report, accepted)


def _check_same(round_: int, was: Arrival, now: Arrival) -> None:
    if was.n_steps != now.n_steps or not np.array_equal(was.episode_return, now.episode_return, equal_nan=True):
        raise RuntimeError(
            f"Round {round_}, worker {was.worker}, {was.key}: {now.n_steps} steps with return {now.episode_return!r}, "
            f"recorded were {was.n_steps} with {was.episode_return!r}. {ANOTHER}"
        )
