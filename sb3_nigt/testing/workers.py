"""What workers must do: two suites, each the contract of one class, that workers of your own inherit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from numpy.testing import assert_allclose, assert_array_equal
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv

from sb3_nigt.aggregators import Rennala
from sb3_nigt.algorithms.book import BetweenRounds, LengthEstimate
from sb3_nigt.algorithms.round import run_round
from sb3_nigt.messages import Contribution, Job, SamplingPoint, TrajectoryKey
from sb3_nigt.parameters import load_flat
from sb3_nigt.policies import MlpPolicy, MultiInputPolicy
from sb3_nigt.replica.copying import copy_of
from sb3_nigt.replica.gradients import policy_gradient
from sb3_nigt.schedules import FirstFinished
from sb3_nigt.testing.environments import DictEnv, FixedLengthEnv, LengthFromSeedEnv, NanEnv, NeverEndingEnv
from sb3_nigt.testing.jobs import Arrived, Coefficients, arrive, coefficients, collect, contributions, job, prepared, run

EnvFn = Callable[[], gym.Env[Any, Any]]
Start = Callable[[int, int], tuple[Any, SamplingPoint]]  # number of workers, steps of each trajectory
Make = Callable[..., Any]  # functions that make environments


class RoundWorkersTests:
    """
    The contract of ``RoundWorkers``, which rounds are made of: jobs in, arrivals out. Nothing depends on how long that takes.

    :cvar steps_together: all environments make each step together, so that idle ones step as well, and callbacks have seen
        the steps of a trajectory before it is cancelled
    """

    steps_together: ClassVar[bool] = False

    @pytest.fixture
    def start(self) -> Start:
        """Override this: return a function that prepares n workers for trajectories of a given length, see ``Start``."""
        raise NotImplementedError

    def test_every_worker_delivers_its_trajectory(self, start: Start) -> None:
        """Each job arrives once, with its key, and frees its worker."""
        workers, point = start(3, 4)
        assert not any(workers.busy(worker) for worker in range(3))
        for worker in range(3):
            workers.submit(job(point, worker))
            assert workers.busy(worker)
        names = []
        for _ in range(3):
            arrival, trajectory = arrive(workers)
            assert not workers.busy(arrival.worker)
            assert arrival.key == trajectory.key
            assert arrival.n_steps == trajectory.n_steps == 4
            assert arrival.task_id == workers.task_ids[arrival.worker]
            assert arrival.rejected is None
            names.append((arrival.worker, arrival.key))
        assert sorted(names) == [(worker, TrajectoryKey(0, worker, 0)) for worker in range(3)]
        assert workers.steps_executed == 12

    def test_times_go_forward(self, start: Start) -> None:
        """Arrivals come in the order of their times; a worker starts when it is given a job, not earlier."""
        workers, point = start(2, 3)
        before = workers.clock.now()
        arrived = collect(workers, [job(point, worker, number) for number in range(3) for worker in range(2)])
        times = [arrival.arrived_at for arrival, _ in arrived]
        assert times == sorted(times)
        for worker in range(2):
            free_at, own = before, [arrival for arrival, _ in arrived if arrival.worker == worker]
            assert [arrival.key.number for arrival in own] == [0, 1, 2]
            for arrival in own:
                assert free_at <= arrival.started_at <= arrival.finished_at <= arrival.arrived_at <= workers.clock.now()
                free_at = arrival.finished_at

    def test_cancel_stops_everything(self, start: Start) -> None:
        """Nothing of the past turns up again."""
        workers, point = start(3, 50)
        for worker in range(3):
            workers.submit(job(point, worker))
        assert arrive(workers)[0].n_steps == 50
        cancelled = workers.cancel()
        assert not any(workers.busy(worker) for worker in range(3))
        while len(cancelled) < 2 and not self.steps_together:  # what a worker has not said at once comes with a later call
            cancelled += workers.cancel()
        names = {(cancelled_job.worker, cancelled_job.key) for cancelled_job, *_ in cancelled}
        assert len(names) == len(cancelled) == (0 if self.steps_together else 2)
        assert all(one.key == trajectory.key and trajectory.n_steps <= 50 for one, *_, trajectory in cancelled)
        workers.submit(job(point, 1, number=1))
        assert arrive(workers)[0].key == TrajectoryKey(0, 1, 1)
        assert workers.cancel() == []

    def test_durations_are_predicted(self, start: Start) -> None:
        """One positive number per worker, the same or larger for longer trajectories; also before anything was measured."""
        workers, point = start(2, 3)
        for _ in range(2):
            short, long = workers.predicted_durations(5.0), workers.predicted_durations(10.0)
            assert short.shape == long.shape == (2,)
            assert (short > 0).all()
            assert (long >= short).all()
            collect(workers, [job(point, worker) for worker in range(2)])

    def test_nothing_is_lost(self, start: Start) -> None:
        """A worker that has not failed is neither lost nor has a failure to report."""
        workers, point = start(2, 3)
        collect(workers, [job(point, worker) for worker in range(2)])
        assert workers.lost() == frozenset()
        assert [workers.last_failure(worker) for worker in range(2)] == ["", ""]

    def test_an_aggregation_takes_no_time_or_some(self, start: Start) -> None:
        """The clock never goes back."""
        workers, point = start(2, 3)
        run(workers, job(point, 1))
        before = workers.clock.now()
        workers.aggregate_messages([0, 1])
        assert workers.clock.now() >= before

    def test_rounds_run_on_them(self, start: Start) -> None:
        """Three rounds that end with the fifth trajectory: each has its own five, and leaves no worker busy."""
        workers, point = start(2, 4)
        memory, schedule = BetweenRounds(LengthEstimate(4.0)), FirstFinished()
        for number in range(3):
            here = SamplingPoint(number, point.parameters)
            result = run_round(workers, schedule, Rennala(5), Rennala(5), here, lambda trajectory: True, memory)
            assert result is not None
            keys = [arrival.key for arrival, _ in result.accepted]
            assert len(set(keys)) == len(keys) == 5
            assert {key.round for key in keys} == {number}
            assert result.report.counts.tolist() == [sum(key.stream == worker for key in keys) for worker in range(2)]
            assert result.report.used_steps == 20
            assert result.report.discarded_steps >= 0
            assert result.report.started_at <= result.report.finished_at
            assert not any(workers.busy(worker) for worker in range(2))


class TrajectoryWorkersTests(RoundWorkersTests):
    """
    The contract of ``TrajectoryWorkers``: what a trajectory holds, and gradients of what was accepted.

    :cvar make_workers: called with functions that make environments; the class, or a ``staticmethod``
    :cvar infos_of_all_steps: False if only Monitor's summary of an episode comes back
    """

    make_workers: ClassVar[Callable[..., Any]]
    infos_of_all_steps: ClassVar[bool] = True

    @classmethod
    def env_of(cls, workers: Any) -> VecEnv:
        """
        Return what has the spaces and is closed at the end; the workers themselves, unless this is overridden.

        :param workers: the result of ``make_workers``
        """
        env: VecEnv = workers
        return env

    @pytest.fixture
    def make(self) -> Iterator[Make]:
        """Make workers that are closed after the test."""
        made: list[Any] = []

        def make(*env_fns: EnvFn, **kwargs: Any) -> Any:
            made.append(type(self).make_workers(list(env_fns), **kwargs))
            return made[-1]

        yield make
        for workers in made:
            self.env_of(workers).close()

    @pytest.fixture
    def start(self, make: Make) -> Start:
        """Workers of environments whose episodes are longer than the horizon."""
        return lambda n_workers, length: self.prepared(make(*[NeverEndingEnv] * n_workers), n_steps=length)

    def prepared(
        self,
        workers: Any,
        policy_class: type[ActorCriticPolicy] = MlpPolicy,
        n_steps: int = 20,
        seed: int = 0,
        round_steps: int | None = None,
    ) -> tuple[Any, SamplingPoint]:
        """
        Prepare workers, see the function of this name.

        :param workers: the result of ``make_workers``
        :param n_steps: H
        :param seed: of the trajectories
        :param round_steps: steps of a round of steps; None: rounds are made of trajectories
        """
        return prepared(workers, policy_class, n_steps, seed, self.env_of(workers), round_steps)

    # Trajectories

    def test_every_job_arrives_once_and_frees_its_worker(self, make: Make) -> None:
        """Trajectories of different lengths, and the sum of their rewards."""
        workers, point = self.prepared(make(*[partial(FixedLengthEnv, length) for length in (3, 1, 2)]))
        for worker in range(3):
            workers.submit(job(point, worker))
        arrivals = []
        for _ in range(3):
            arrival, trajectory = arrive(workers)
            assert not workers.busy(arrival.worker)
            assert trajectory.key == arrival.key
            assert trajectory.point.round == point.round
            assert arrival.n_steps == trajectory.n_steps
            assert arrival.episode_return == trajectory.rewards.sum()
            assert arrival.started_at <= arrival.finished_at <= arrival.arrived_at <= workers.clock.now()
            assert arrival.rejected is None
            assert workers.shows_steps or (trajectory.report or {})["l"] == trajectory.n_steps  # there is no Monitor
            arrivals.append((arrival.worker, arrival.key, arrival.n_steps))
        assert sorted(arrivals) == [(w, TrajectoryKey(0, w, 0), length) for w, length in enumerate((3, 1, 2))]
        assert workers.steps_executed == (9 if self.steps_together else 6)

    def test_trajectory_has_one_row_a_step_and_the_state_after_the_last(self, make: Make) -> None:
        """The reward of ``PointEnv`` is 1 - |s_{t+1}|² + 0.1 a_t."""
        workers, point = self.prepared(make(partial(FixedLengthEnv, 3)))
        trajectory = run(workers, job(point, 0))
        assert trajectory.observations.shape == (3, 2)
        assert trajectory.actions.shape == (3, 1)
        assert trajectory.final_observation.shape == (2,)
        after = np.vstack([trajectory.observations[1:], trajectory.final_observation])
        expected = 1 - np.sum(after.astype(np.float64) ** 2, axis=1) + 0.1 * trajectory.actions[:, 0]
        assert_allclose(trajectory.rewards, expected, atol=1e-6)
        assert len(trajectory.infos) == 3
        if self.infos_of_all_steps:
            assert [info["t"] for info in trajectory.infos] == [1, 2, 3]

    def test_horizon_cuts_without_an_end_of_episode(self, make: Make) -> None:
        """An episode that ends at the horizon has ended."""
        env_fns = NeverEndingEnv, partial(FixedLengthEnv, 4), partial(FixedLengthEnv, 3)
        workers, point = self.prepared(make(*env_fns), n_steps=4)
        cut, ended, early = [run(workers, job(point, worker)) for worker in range(3)]
        assert (cut.n_steps, cut.terminated, cut.truncated) == (4, False, False)
        assert (ended.n_steps, ended.terminated, ended.truncated) == (4, True, False)
        assert (early.n_steps, early.terminated, early.truncated) == (3, True, False)

    def test_dict_observations_and_discrete_actions(self, make: Make) -> None:
        """Each part of a Dict has its own rows."""
        workers, point = self.prepared(make(DictEnv), MultiInputPolicy)
        trajectory = run(workers, job(point, 0))
        assert {key: array.shape for key, array in trajectory.observations.items()} == {"point": (2, 2), "side": (2,)}
        assert set(trajectory.actions.tolist()) <= {0, 1, 2}

    @pytest.mark.parametrize("what", ["reward", "observation"])
    def test_numbers_that_are_not_finite_are_rejected(self, make: Make, what: str) -> None:
        """The trajectory ends there; the other worker has nothing to do with it."""
        workers, point = self.prepared(make(partial(NanEnv, what), FixedLengthEnv))
        workers.submit(job(point, 0))
        arrival, trajectory = arrive(workers)
        assert arrival.rejected == trajectory.rejected == what
        assert arrival.n_steps == 2
        assert run(workers, job(point, 1)).rejected is None

    def test_cancel_stops_everybody_and_hands_out_the_steps(self, make: Make) -> None:
        """Also a trajectory that would take a million steps."""
        workers, point = self.prepared(make(partial(FixedLengthEnv, 3), NeverEndingEnv, NeverEndingEnv), n_steps=10**6)
        for worker in range(3):
            workers.submit(job(point, worker))
        assert arrive(workers)[0].worker == 0
        cancelled = workers.cancel()
        assert not any(workers.busy(worker) for worker in range(3))
        while len(cancelled) < 2 and not self.steps_together:  # what a worker has not said at once comes with a later call
            cancelled += workers.cancel()
        if not self.steps_together:
            assert sorted(cancelled_job.worker for cancelled_job, *_ in cancelled) == [1, 2]
            assert workers.steps_executed == 3 + sum(trajectory.n_steps for *_, trajectory in cancelled)
        for cancelled_job, started_at, stopped_at, trajectory in cancelled:
            assert cancelled_job.key == trajectory.key == TrajectoryKey(0, cancelled_job.worker, 0)
            assert started_at <= stopped_at <= workers.clock.now()
            assert trajectory.n_steps < 10**6
            assert len(trajectory.actions) == len(trajectory.infos) == len(trajectory.observations) == trajectory.n_steps
            assert (trajectory.terminated, trajectory.truncated) == (False, False)
        workers.submit(job(point, 0, number=1))
        assert arrive(workers)[0].key == TrajectoryKey(0, 0, 1)
        assert workers.cancel() == []

    def test_trajectory_is_sampled_at_its_point(self, make: Make) -> None:
        """All parameters 0 but the last two, the biases of μ and of the argument of the softplus: μ = ±3, σ = 1e-6."""
        workers, _ = self.prepared(make(NeverEndingEnv, NeverEndingEnv), n_steps=5)
        size = sum(p.numel() for p in workers.rollout_spec.policy.parameters())
        points = {mean: SamplingPoint(0, np.array([0] * (size - 2) + [mean, -30], dtype=np.float32)) for mean in (3, -3)}
        for sign in (1, -1, 1):
            for worker, mean in ((0, 3 * sign), (1, -3 * sign)):  # both in flight together
                workers.submit(job(points[mean], worker))
            samples = {arrival.worker: trajectory.samples for arrival, trajectory in (arrive(workers), arrive(workers))}
            assert_allclose(samples[0], np.full((5, 1), 3 * sign), atol=1e-4)
            assert_allclose(samples[1], np.full((5, 1), -3 * sign), atol=1e-4)

    def test_noise_of_a_long_trajectory_does_not_repeat(self, make: Make) -> None:
        """With all parameters 0 the policy is the same in every state, so equal noise would be an equal sample."""
        workers, point = self.prepared(make(NeverEndingEnv), n_steps=200)
        constant = SamplingPoint(0, np.zeros_like(point.parameters))
        assert len(np.unique(run(workers, job(constant, 0)).samples)) == 200

    def test_noise_follows_from_seed_and_key(self, make: Make) -> None:
        """With all parameters 0 the samples are the noise: the same for the same key and seed, another one otherwise."""
        workers, point = self.prepared(make(NeverEndingEnv, NeverEndingEnv), n_steps=5)
        constant = SamplingPoint(0, np.zeros_like(point.parameters))
        base = run(workers, Job(0, TrajectoryKey(0, 0, 0), constant)).samples
        assert_array_equal(run(workers, Job(1, TrajectoryKey(0, 0, 0), constant)).samples, base)  # on another worker
        for key in (TrajectoryKey(1, 0, 0), TrajectoryKey(0, 1, 0), TrajectoryKey(0, 0, 1)):
            assert not np.array_equal(run(workers, Job(0, key, constant)).samples, base)
        workers, _ = self.prepared(workers, n_steps=5, seed=1)
        assert not np.array_equal(run(workers, Job(0, TrajectoryKey(0, 0, 0), constant)).samples, base)

    # Gradients

    def reference(self, workers: Any, arrived: Sequence[Arrived], scored: Coefficients) -> th.Tensor:
        """
        Return Σ_j Σ_t c_jt ∇ log π(a_jt | s_jt) by autograd, each trajectory at the point that sampled it.

        :param workers: prepared
        :param arrived: what was accepted
        :param scored: c_jt, one array per trajectory
        """
        policy, parts = copy_of(workers.rollout_spec.policy, "cpu"), []
        for (_, trajectory), own in zip(arrived, scored, strict=True):
            load_flat(policy, trajectory.point.parameters)
            parts.append(policy_gradient(policy, [trajectory], [own]))
        return th.stack(parts).sum(0)

    def test_gradient_is_that_of_the_weighted_steps(self, make: Make) -> None:
        """Against autograd; linear in the weights, and each worker's part can be had alone."""
        workers, point = self.prepared(make(*[LengthFromSeedEnv] * 2))
        results = collect(workers, [job(point, w, number=k) for k in range(2) for w in range(2)])
        weights, scored = np.array([0.5, 0.125]), contributions(results, gamma=0.5)
        own = coefficients([t for _, t in results], [weights[a.worker] for a, _ in results], gamma=0.5)
        expected = self.reference(workers, results, own)
        gradient = workers.gradient(scored, weights)
        assert gradient.dtype == th.float32
        assert float(gradient.norm()) > 0.01
        th.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-6)
        th.testing.assert_close(workers.gradient(scored, -2 * weights), -2 * gradient)
        alone = [workers.gradient(scored, np.eye(2)[w] * weights[w]) for w in range(2)]
        th.testing.assert_close(alone[0] + alone[1], gradient, rtol=1e-5, atol=1e-6)

    def test_coefficients_are_taken_as_they_come(self, make: Make) -> None:
        """They need not have anything to do with rewards, and a trajectory that is left out counts for nothing."""
        workers, point = self.prepared(make(*[LengthFromSeedEnv] * 2))
        results = collect(workers, [job(point, w, number=k) for k in range(2) for w in range(2)])
        rng, weights = np.random.default_rng(3), np.array([2.0, 0.5])
        chosen = [pair for pair in results if pair[0].key != TrajectoryKey(0, 1, 0)]
        own = [rng.normal(size=a.n_steps) for a, _ in chosen]
        scored = [Contribution(a.worker, a.key, c) for (a, _), c in zip(chosen, own, strict=True)]
        expected = self.reference(workers, chosen, [weights[a.worker] * c for (a, _), c in zip(chosen, own, strict=True)])
        th.testing.assert_close(workers.gradient(scored, weights), expected, rtol=1e-4, atol=1e-5)
        nothing = [Contribution(c.worker, c.key, 0 * c.coefficients) for c in scored]
        assert not workers.gradient(nothing, weights).any()

    def test_gradient_does_not_depend_on_who_came_first(self, make: Make) -> None:
        """Not by a bit."""
        workers, point = self.prepared(make(*[LengthFromSeedEnv] * 3))
        scored = contributions(collect(workers, [job(point, w, number=k) for k in range(3) for w in range(3)]))
        weights = np.array([0.3, 0.1, 0.7])
        gradient = workers.gradient(scored, weights)
        for seed in range(5):
            shuffled = [scored[i] for i in np.random.default_rng(seed).permutation(len(scored))]
            assert th.equal(workers.gradient(shuffled, weights), gradient)

    def test_gradient_is_taken_where_the_trajectory_was_sampled(self, make: Make) -> None:
        """Two points in flight together; one sum over both."""
        workers, here = self.prepared(make(FixedLengthEnv, FixedLengthEnv))
        there = SamplingPoint(0, here.parameters * np.float32(1.5))
        workers.submit(job(here, 0))
        workers.submit(job(there, 1))
        arrived = sorted((arrive(workers) for _ in range(2)), key=lambda pair: pair[0].worker)
        scored, weights = contributions(arrived), np.ones(2)
        both = workers.gradient(scored, weights)
        apart = [workers.gradient([one], weights) for one in scored]
        th.testing.assert_close(both, apart[0] + apart[1])
        for pair, one, gradient in zip(arrived, scored, apart, strict=True):
            th.testing.assert_close(gradient, self.reference(workers, [pair], [one.coefficients]), rtol=1e-4, atol=1e-5)

    def test_forget_spares_what_is_in_flight(self, make: Make) -> None:
        """And what has arrived for a round that is still to be counted."""
        workers, point = self.prepared(make(FixedLengthEnv, FixedLengthEnv))
        workers.submit(job(point, 0))
        workers.submit(job(point, 1))
        arrive(workers)
        workers.forget(before_round=1)
        scored = contributions([arrive(workers)])
        assert float(workers.gradient(scored, np.ones(2)).norm()) > 0
        early = contributions(collect(workers, [Job(0, TrajectoryKey(1, 0, 0), point)]))
        workers.forget(before_round=1)
        assert float(workers.gradient(early, np.ones(2)).norm()) > 0

    # Life cycle

    def test_prepare_voids_jobs_and_takes_new_settings(self, make: Make) -> None:
        """What was in flight does not arrive."""
        workers, point = self.prepared(make(NeverEndingEnv, NeverEndingEnv), n_steps=5)
        workers.submit(job(point, 0))
        workers, point = self.prepared(workers, n_steps=2)
        assert not workers.busy(0)
        workers.submit(job(point, 1))
        arrival, _ = arrive(workers)
        assert (arrival.worker, arrival.n_steps) == (1, 2)
