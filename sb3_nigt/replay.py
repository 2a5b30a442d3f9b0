"""A recorded run again, in the simulator: the same trajectories in the same rounds, the same parameters."""

from __future__ import annotations

from collections import defaultdict
from typing import TypeVar

from sb3_nigt.algorithms.base import AsyncPolicyGradient
from sb3_nigt.messages import Arrival, Job, SamplingPoint, TrajectoryKey
from sb3_nigt.recording import Recording, settings_of
from sb3_nigt.trajectory import Trajectory
from sb3_nigt.vec_env import SimulatedVecEnv

Model = TypeVar("Model", bound=AsyncPolicyGradient)
Name = tuple[int, TrajectoryKey]  # worker and key


def replay(model: Model, recording: Recording) -> Model:
    """
    Train a model along a recorded run: each round gets the trajectories that the recorded round accepted.

    A trajectory is a function of parameters, seed and key, and sums are formed by worker as they were, so the model has the
    parameters of the recorded one after the last round. Callbacks are not called, nothing is logged.

    :param model: as the recorded one was when its recording began (same class, settings, seed), on a ``SimulatedVecEnv``
        with the same environments
    :param recording: the run
    :return: the model
    :raises ValueError: if the model does not fit the recording
    :raises RuntimeError: if a trajectory comes out differently
    """
    if not isinstance(recording, Recording):
        raise ValueError(f"recording={recording!r} is not a recording: give Recording.load(path).")
    workers = _fitting_workers(model, recording)
    model._root_seed = recording.seed
    assert model.env is not None
    if model._last_obs is None:  # learn() resets at its start, which statistics of normalisation take in
        model._last_obs = model.env.reset()  # type: ignore[assignment]
    model._connect(model.env)
    begun_in: dict[int, list[Name]] = defaultdict(list)  # by the round at whose point it was sampled
    for report in recording.reports:
        for arrival in report.arrivals:
            begun_in[report.round - arrival.staleness].append((arrival.worker, arrival.key))
    sampled: dict[Name, tuple[Arrival, Trajectory]] = {}
    usual, workers.sums_by_worker = workers.sums_by_worker, recording.sums_by_worker
    try:
        for recorded in recording.rounds:
            report = recorded.report
            model._current_progress_remaining = recorded.progress[0]
            point = model._sampling_point()
            sampled.update(_sample(workers, point, begun_in[point.round]))
            accepted = [sampled.pop((arrival.worker, arrival.key)) for arrival in report.arrivals]
            for was, (now, _) in zip(report.arrivals, accepted, strict=True):
                _check_same(report.round, was, now)
            model._take_round(report, accepted)
            model._current_progress_remaining = recorded.progress[1]
            model._train()
            oldest = min((name[1].round for name in sampled), default=report.round + 1)
            workers.forget(min(oldest, report.round + 1))
    finally:
        workers.sums_by_worker = usual
    return model


def _fitting_workers(model: AsyncPolicyGradient, recording: Recording) -> SimulatedVecEnv:
    env = None if model.env is None else model.env.unwrapped
    if not isinstance(env, SimulatedVecEnv):
        raise ValueError(f"model: its environment is {type(env).__name__}: give it a SimulatedVecEnv.")
    if type(model).__name__ != recording.algorithm:
        raise ValueError(f"model: it is a {type(model).__name__}, the recorded one was a {recording.algorithm}.")
    if env.num_envs != len(recording.task_ids):
        raise ValueError(f"model: it has {env.num_envs} workers, the recorded one had {len(recording.task_ids)}.")
    if recording.rounds and model._n_updates != recording.rounds[0].report.round:
        raise ValueError(
            f"model: it has made {model._n_updates} updates, the recording begins after {recording.rounds[0].report.round}: "
            "give a fresh model, or the one that was saved before the recording began."
        )
    settings = settings_of(model)
    for name, was in recording.settings.items():
        if settings.get(name) != was:
            raise ValueError(
                f"model: {name} is {settings.get(name)!r}, the recorded model began with {was!r}: "
                "make it with the same arguments and seed, or load the one that was saved before the recording began."
            )
    return env


def _sample(workers: SimulatedVecEnv, point: SamplingPoint, names: list[Name]) -> dict[Name, tuple[Arrival, Trajectory]]:
    """Run some trajectories at a point; each worker runs its own one after the other."""
    waiting: dict[int, list[TrajectoryKey]] = defaultdict(list)
    for worker, key in reversed(names):
        waiting[worker].append(key)
    for worker, keys in waiting.items():
        workers.submit(Job(worker, keys.pop(), point, committed=True))
    results: dict[Name, tuple[Arrival, Trajectory]] = {}
    while len(results) < len(names):
        result = workers.next_arrival()
        assert result is not None
        arrival, trajectory = result
        results[arrival.worker, arrival.key] = arrival, trajectory
        if waiting[arrival.worker]:
            workers.submit(Job(arrival.worker, waiting[arrival.worker].pop(), point, committed=True))
    return results


def _check_same(round_: int, was: Arrival, now: Arrival) -> None:
    if (was.n_steps, was.episode_return) != (now.n_steps, now.episode_return):
        raise RuntimeError(
            f"Round {round_}, worker {was.worker}, {was.key}: {now.n_steps} steps with return {now.episode_return!r}, "
            f"recorded were {was.n_steps} with {was.episode_return!r}. The environment or the model is another one, or what "
            "it does depends on something else than its seed."
        )
