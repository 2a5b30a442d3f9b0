"""What every ``WorkerVecEnv`` must do; a new class inherits these tests."""

from functools import partial

import numpy as np
import pytest
import torch as th
from envs import (
    DictEnv,
    FixedLengthEnv,
    LengthFromSeedEnv,
    NanEnv,
    NeverEndingEnv,
    accepted,
    coefficients,
    collect,
    contributions,
    job,
    parameters,
    prepared,
    run,
    run_rounds,
    same,
    train_rounds,
)
from numpy.testing import assert_array_equal
from paper import RennalaNIGT
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_nigt import SimulatedVecEnv
from sb3_nigt.messages import Job, SamplingPoint, TrajectoryKey
from sb3_nigt.parameters import load_flat
from sb3_nigt.policies import MultiInputPolicy
from sb3_nigt.replica.copying import copy_of
from sb3_nigt.replica.gradients import policy_gradient


class WorkerVecEnvTests:
    """
    The contract of a ``WorkerVecEnv``. Nothing here depends on how long anything takes.

    :cvar vec_env_cls: the class, or ``staticmethod(partial(cls, ...))`` if it needs arguments
    :cvar infos_of_all_steps: False if only Monitor's summary of an episode comes back
    """

    vec_env_cls = None
    infos_of_all_steps = True

    @pytest.fixture
    def make(self):
        """Make workers that are closed after the test."""
        made = []

        def make(*env_fns, **kwargs):
            made.append(self.vec_env_cls(list(env_fns), **kwargs))
            return made[-1]

        yield make
        for env in made:
            env.close()

    # Jobs and arrivals

    def test_every_job_arrives_once_and_frees_its_worker(self, make):
        env, point = prepared(make(*[partial(FixedLengthEnv, length) for length in (3, 1, 2)]))
        assert not any(env.busy(worker) for worker in range(3))
        for worker in range(3):
            env.submit(job(point, worker))
            assert env.busy(worker)
        arrivals = []
        for _ in range(3):
            arrival, trajectory = env.next_arrival()
            assert not env.busy(arrival.worker)
            assert trajectory.key == arrival.key
            assert trajectory.point.round == point.round
            assert arrival.n_steps == trajectory.n_steps
            assert arrival.episode_return == trajectory.rewards.sum()
            assert arrival.started_at <= arrival.finished_at <= arrival.arrived_at <= env.clock.now()
            assert arrival.rejected is None
            arrivals.append((arrival.worker, arrival.key, arrival.n_steps))
        assert sorted(arrivals) == [(w, TrajectoryKey(0, w, 0), length) for w, length in enumerate((3, 1, 2))]
        assert env.steps_executed == 6

    def test_trajectory_has_one_row_a_step_and_the_state_after_the_last(self, make):
        env, point = prepared(make(partial(FixedLengthEnv, 3)))
        trajectory = run(env, job(point, 0))
        assert trajectory.observations.shape == (3, 2)
        assert trajectory.actions.shape == (3, 1)
        assert trajectory.final_observation.shape == (2,)
        # the reward of PointEnv is 1 - |s_{t+1}|² + 0.1 a_t
        after = np.vstack([trajectory.observations[1:], trajectory.final_observation])
        expected = 1 - np.sum(after.astype(np.float64) ** 2, axis=1) + 0.1 * trajectory.actions[:, 0]
        np.testing.assert_allclose(trajectory.rewards, expected, atol=1e-6)
        assert len(trajectory.infos) == 3
        if self.infos_of_all_steps:
            assert [info["t"] for info in trajectory.infos] == [1, 2, 3]

    def test_horizon_cuts_without_an_end_of_episode(self, make):
        env, point = prepared(make(NeverEndingEnv, partial(FixedLengthEnv, 4), partial(FixedLengthEnv, 3)), n_steps=4)
        cut, ended, early = [run(env, job(point, worker)) for worker in range(3)]
        assert (cut.n_steps, cut.terminated, cut.truncated) == (4, False, False)
        assert (ended.n_steps, ended.terminated, ended.truncated) == (4, True, False)
        assert (early.n_steps, early.terminated, early.truncated) == (3, True, False)

    def test_dict_observations_and_discrete_actions(self, make):
        env, point = prepared(make(DictEnv), MultiInputPolicy)
        trajectory = run(env, job(point, 0))
        assert {key: array.shape for key, array in trajectory.observations.items()} == {"point": (2, 2), "side": (2,)}
        assert set(trajectory.actions.tolist()) <= {0, 1, 2}

    @pytest.mark.parametrize("what", ["reward", "observation"])
    def test_numbers_that_are_not_finite_are_rejected(self, make, what):
        env, point = prepared(make(partial(NanEnv, what), FixedLengthEnv))
        env.submit(job(point, 0))
        arrival, trajectory = env.next_arrival()
        assert arrival.rejected == trajectory.rejected == what
        assert arrival.n_steps == 2
        assert run(env, job(point, 1)).rejected is None

    def test_cancel_stops_everybody_and_hands_out_the_steps(self, make):
        env, point = prepared(make(partial(FixedLengthEnv, 3), NeverEndingEnv, NeverEndingEnv), n_steps=10**6)
        for worker in range(3):
            env.submit(job(point, worker))
        assert env.next_arrival()[0].worker == 0
        cancelled = env.cancel()
        assert not any(env.busy(worker) for worker in range(3))
        while len(cancelled) < 2:  # nobody waits for a slow process, whose report comes with a later call
            cancelled += env.cancel()
        assert sorted(cancelled_job.worker for cancelled_job, _, _ in cancelled) == [1, 2]
        assert env.steps_executed == 3 + sum(trajectory.n_steps for _, _, trajectory in cancelled)
        for cancelled_job, started_at, trajectory in cancelled:
            assert cancelled_job.key == trajectory.key == TrajectoryKey(0, cancelled_job.worker, 0)
            assert started_at <= env.clock.now()
            assert trajectory.n_steps < 10**6
            assert len(trajectory.actions) == len(trajectory.infos) == len(trajectory.observations) == trajectory.n_steps
            assert (trajectory.terminated, trajectory.truncated) == (False, False)
        # nothing of the past turns up again
        env.submit(job(point, 0, number=1))
        assert env.next_arrival()[0].key == TrajectoryKey(0, 0, 1)
        assert env.cancel() == []

    def test_trajectory_is_sampled_at_its_point(self, make):
        """All parameters 0 but the last two, the biases of μ and of the argument of the softplus: μ = ±3, σ = 1e-6."""
        env, _ = prepared(make(NeverEndingEnv, NeverEndingEnv), n_steps=5)
        size = sum(p.numel() for p in env.rollout_spec.policy.parameters())
        points = {mean: SamplingPoint(0, np.array([0] * (size - 2) + [mean, -30], dtype=np.float32)) for mean in (3, -3)}
        for sign in (1, -1, 1):
            for worker, mean in ((0, 3 * sign), (1, -3 * sign)):  # both in flight together
                env.submit(job(points[mean], worker))
            samples = {arrival.worker: trajectory.samples for arrival, trajectory in (env.next_arrival(), env.next_arrival())}
            np.testing.assert_allclose(samples[0], np.full((5, 1), 3 * sign), atol=1e-4)
            np.testing.assert_allclose(samples[1], np.full((5, 1), -3 * sign), atol=1e-4)

    # Random numbers

    def test_trajectory_depends_on_nothing_but_seed_key_and_parameters(self, make):
        first, point = prepared(make(*[LengthFromSeedEnv] * 3))
        second, same_point = prepared(make(*[LengthFromSeedEnv] * 3))
        keys = [TrajectoryKey(2, stream, number) for stream in range(3) for number in range(2)]
        forward = {a.key: t for a, t in collect(first, [Job(key.stream, key, point) for key in keys])}
        # backwards, with other jobs in between, and key (r, i, j) on worker i + 1: workers of one task are exchangeable
        run(second, job(same_point, 2, number=9))
        elsewhere = [Job((key.stream + 1) % 3, key, same_point) for key in reversed(keys)]
        backward = {a.key: t for a, t in collect(second, elsewhere)}
        for key in keys:
            assert same(forward[key], backward[key]), key

    def test_every_part_of_the_key_and_the_seed_matter(self, make):
        env, point = prepared(make(NeverEndingEnv, NeverEndingEnv))
        base = run(env, Job(0, TrajectoryKey(0, 0, 0), point))
        for key in (TrajectoryKey(1, 0, 0), TrajectoryKey(0, 1, 0), TrajectoryKey(0, 0, 1)):
            other = run(env, Job(0, key, point))
            assert not np.array_equal(base.observations[0], other.observations[0])
            assert not np.array_equal(base.samples, other.samples)
        env, point = prepared(env, seed=1)
        other = run(env, Job(0, TrajectoryKey(0, 0, 0), point))
        assert not np.array_equal(base.observations[0], other.observations[0])
        assert not np.array_equal(base.samples, other.samples)

    def test_shorter_horizon_gives_the_beginning_of_the_same_trajectory(self, make):
        env, point = prepared(make(NeverEndingEnv), n_steps=150)
        long = run(env, job(point, 0))
        env, point = prepared(env, n_steps=7)
        short = run(env, job(point, 0))
        assert (long.n_steps, short.n_steps) == (150, 7)
        assert_array_equal(long.observations[:7], short.observations)
        assert_array_equal(long.samples[:7], short.samples)
        assert_array_equal(long.rewards[:7], short.rewards)

    def test_noise_of_a_long_trajectory_does_not_repeat(self, make):
        """With all parameters 0 the policy is the same in every state, so equal noise would be an equal sample."""
        env, point = prepared(make(NeverEndingEnv), n_steps=200)
        constant = SamplingPoint(0, np.zeros_like(point.parameters))
        assert len(np.unique(run(env, job(constant, 0)).samples)) == 200

    @pytest.mark.parametrize("env_class", [LengthFromSeedEnv, DictEnv])
    def test_planned_round_has_the_trajectories_of_the_simulator(self, make, env_class):
        """Bit for bit: tickets do not depend on time, so not on who runs them and where."""
        env_fns, policy = [env_class] * 3, "MultiInputPolicy" if env_class is DictEnv else "MlpPolicy"
        rounds = []
        for env in (make(*env_fns), SimulatedVecEnv(env_fns)):
            model = RennalaNIGT(policy, env, n_trajectories=7, horizon=9, seed=4, device="cpu")
            run_rounds(model, 1)
            rounds.append({trajectory.key: trajectory for trajectory in accepted(model)})
        here, simulator = rounds
        assert len(here) == 7
        assert here.keys() == simulator.keys()
        assert all(same(trajectory, simulator[key]) for key, trajectory in here.items())

    # Rounds

    def test_planned_training_is_that_of_the_simulator(self, make):
        """Only the order of the sums may differ, by who has run which ticket."""
        results = []
        for env in (make(*[LengthFromSeedEnv] * 3), SimulatedVecEnv([LengthFromSeedEnv] * 3)):
            kwargs = {"n_trajectories": 6, "learning_rate": 0.1, "seed": 1, "policy_kwargs": {"net_arch": [8]}}
            results.append(parameters(train_rounds(RennalaNIGT("MlpPolicy", env, **kwargs), 4)))
        np.testing.assert_allclose(*results, rtol=2e-4, atol=2e-5)

    @pytest.mark.parametrize("schedule", ["planned", "pipelined"])
    def test_nothing_is_discarded_where_all_is_planned(self, make, schedule):
        """Also steps that come in while a gradient is waited for belong to some round."""
        model = RennalaNIGT("MlpPolicy", make(*[LengthFromSeedEnv] * 3), n_trajectories=7, schedule=schedule, seed=0)
        reports = run_rounds(model, 20)
        assert [report.discarded_steps for report in reports] == [0] * 20
        assert [report.counts.sum() for report in reports] == [7] * 20
        staleness = {a.staleness for report in reports for a in report.arrivals}
        assert staleness == ({0, 1} if schedule == "pipelined" else {0})

    # Gradients

    def test_gradient_is_that_of_the_weighted_steps(self, make):
        env, point = prepared(make(*[LengthFromSeedEnv] * 2))
        results = collect(env, [job(point, w, number=k) for k in range(2) for w in range(2)])
        policy = copy_of(env.rollout_spec.policy, "cpu")
        load_flat(policy, point.parameters)
        weights = np.array([0.5, 0.125])
        trajectories, scored = [t for _, t in results], contributions(results, gamma=0.5)
        weighted = coefficients(trajectories, [weights[a.worker] for a, _ in results], gamma=0.5)
        expected = policy_gradient(policy, trajectories, weighted)
        gradient = env.gradient(scored, weights)
        assert gradient.dtype == th.float32
        assert float(gradient.norm()) > 0.01
        th.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-6)
        th.testing.assert_close(env.gradient(scored, -2 * weights), -2 * gradient)
        alone = [env.gradient(scored, np.eye(2)[w] * weights[w]) for w in range(2)]
        th.testing.assert_close(alone[0] + alone[1], gradient, rtol=1e-5, atol=1e-6)

    def test_gradient_does_not_depend_on_who_came_first(self, make):
        env, point = prepared(make(*[LengthFromSeedEnv] * 3))
        scored = contributions(collect(env, [job(point, w, number=k) for k in range(3) for w in range(3)]))
        weights = np.array([0.3, 0.1, 0.7])
        gradient = env.gradient(scored, weights)
        for seed in range(5):
            shuffled = [scored[i] for i in np.random.default_rng(seed).permutation(len(scored))]
            assert th.equal(env.gradient(shuffled, weights), gradient)

    def test_gradient_is_taken_where_the_trajectory_was_sampled(self, make):
        env, here = prepared(make(FixedLengthEnv, FixedLengthEnv))
        there = SamplingPoint(0, here.parameters * np.float32(1.5))
        env.submit(job(here, 0))
        env.submit(job(there, 1))  # both are in flight together
        arrived = sorted((env.next_arrival() for _ in range(2)), key=lambda pair: pair[0].worker)
        first, second = contributions(arrived)
        both, weights = env.gradient([first, second], np.ones(2)), np.ones(2)
        apart = env.gradient([first], weights), env.gradient([second], weights)
        th.testing.assert_close(both, apart[0] + apart[1])
        for point, is_same in ((there, True), (here, False)):
            env.forget(before_round=1)
            (again,) = contributions(collect(env, [job(point, 1)]))
            assert th.equal(env.gradient([again], weights), apart[1]) == is_same

    def test_forget_spares_what_is_in_flight(self, make):
        env, point = prepared(make(FixedLengthEnv, FixedLengthEnv))
        env.submit(job(point, 0))
        env.submit(job(point, 1))
        env.next_arrival()
        env.forget(before_round=1)
        scored = contributions([env.next_arrival()])
        assert float(env.gradient(scored, np.ones(2)).norm()) > 0

    # Life cycle

    def test_prepare_voids_jobs_and_takes_new_settings(self, make):
        env, point = prepared(make(NeverEndingEnv, NeverEndingEnv), n_steps=5)
        env.submit(job(point, 0))
        env, point = prepared(env, n_steps=2)
        assert not env.busy(0)
        env.submit(job(point, 1))
        arrival, _ = env.next_arrival()
        assert (arrival.worker, arrival.n_steps) == (1, 2)

    def test_synchronous_api_before_and_after_trajectories(self, make):
        env_fns = [partial(FixedLengthEnv, 3), partial(FixedLengthEnv, 4)]
        env, reference = make(*env_fns), DummyVecEnv(env_fns)
        actions = np.random.default_rng(0).uniform(-1, 1, (9, 2, 1)).astype(np.float32)
        for _ in range(2):
            for vec_env in (env, reference):
                vec_env.seed(7)
            assert_array_equal(env.reset(), reference.reset())
            assert not env.busy(0)  # the reset of the second turn voids the job of the first
            for action in actions:
                ours, theirs = env.step(action), reference.step(action)
                for a, b in zip(ours[:3], theirs[:3], strict=True):
                    assert_array_equal(a, b)
                assert [info["t"] for info in ours[3]] == [info["t"] for info in theirs[3]]
            _, point = prepared(env)
            env.submit(job(point, 0))

    def test_step_after_trajectories_starts_new_episodes(self, make):
        env, point = prepared(make(partial(FixedLengthEnv, 3), partial(FixedLengthEnv, 3)))
        env.reset()
        env.step(np.zeros((2, 1), dtype=np.float32))
        run(env, job(point, 0))
        _, _, dones, infos = env.step(np.zeros((2, 1), dtype=np.float32))
        assert [info["t"] for info in infos] == [1, 1]
        assert not dones.any()

    # What the workers are

    @pytest.mark.parametrize(("given", "expected"), [(None, (0, 1)), (["a", "a"], ("a", "a"))])
    def test_tasks_that_do_not_differ(self, make, given, expected):
        env = make(FixedLengthEnv, FixedLengthEnv, task_ids=given)
        assert tuple(env.task_ids) == expected
        assert not env.tasks_differ

    def test_tasks_that_differ(self, make):
        env, point = prepared(make(FixedLengthEnv, FixedLengthEnv, FixedLengthEnv, task_ids=["a", "b", "a"]))
        assert env.tasks_differ
        arrivals = [a for a, _ in collect(env, [job(point, worker) for worker in range(3)])]
        assert sorted((a.worker, a.task_id) for a in arrivals) == [(0, "a"), (1, "b"), (2, "a")]
        with pytest.raises(ValueError, match=r"task_ids has 1 entries for 2 workers"):
            make(FixedLengthEnv, FixedLengthEnv, task_ids=["a"])

    def test_spaces_must_agree(self, make):
        with pytest.raises(ValueError, match=r"observation space of worker 1 is Dict.*worker 0 is Box"):
            make(FixedLengthEnv, DictEnv)
        with pytest.raises(ValueError, match="env_fns"):
            make()

    def test_speeds_have_one_entry_a_worker(self, make):
        env, _ = prepared(make(FixedLengthEnv, FixedLengthEnv))
        durations = env.predicted_durations(5.0)
        for times in (env.step_times, env.message_times, durations):
            assert np.shape(times) == (2,)
        assert (env.message_times >= 0).all()
        assert (durations > 0).all()
        assert env.time_per in ("step", "trajectory")
