"""What workers that are a ``VecEnv`` as well must do: a suite that workers of your own inherit."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch as th
from numpy.testing import assert_allclose, assert_array_equal
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from sb3_nigt.algorithms.paper import PAPER, PAPER_POLICY
from sb3_nigt.algorithms.rennala_nigt import RennalaNIGT
from sb3_nigt.messages import Job, RoundReport, SamplingPoint, TrajectoryKey
from sb3_nigt.parameters import flatten
from sb3_nigt.sampling.trajectory import Trajectory
from sb3_nigt.testing.environments import DictEnv, FixedLengthEnv, LengthFromSeedEnv, NeverEndingEnv
from sb3_nigt.testing.jobs import collect, contributions, job, run, same
from sb3_nigt.testing.workers import EnvFn, Make, TrajectoryWorkersTests
from sb3_nigt.vec_env.simulated import SimulatedVecEnv


def _paper(policy: str, env: VecEnv, **kwargs: Any) -> RennalaNIGT:
    """The paper's algorithm, whose rounds are made of trajectories."""
    policy_kwargs = {**PAPER_POLICY, **kwargs.pop("policy_kwargs", {})}
    return RennalaNIGT(policy, env, **{**PAPER, **kwargs, "policy_kwargs": policy_kwargs})


class WorkerVecEnvTests(TrajectoryWorkersTests):
    """
    The contract of a ``WorkerVecEnv``: its trajectories follow from their keys alone, and it is a ``VecEnv`` as well.

    ``make_workers`` also takes ``task_ids``.
    """

    # Random numbers

    def test_trajectory_depends_on_nothing_but_seed_key_and_parameters(self, make: Make) -> None:
        """Not on the order of the jobs, nor on which worker of a task runs them."""
        first, point = self.prepared(make(*[LengthFromSeedEnv] * 3))
        second, same_point = self.prepared(make(*[LengthFromSeedEnv] * 3))
        keys = [TrajectoryKey(2, stream, number) for stream in range(3) for number in range(2)]
        forward = {a.key: t for a, t in collect(first, [Job(key.stream, key, point) for key in keys])}
        # backwards, with other jobs in between, and key (r, i, j) on worker i + 1: workers of one task are exchangeable
        run(second, job(same_point, 2, number=9))
        elsewhere = [Job((key.stream + 1) % 3, key, same_point) for key in reversed(keys)]
        backward = {a.key: t for a, t in collect(second, elsewhere)}
        for key in keys:
            assert same(forward[key], backward[key]), key

    def test_every_part_of_the_key_and_the_seed_matter(self, make: Make) -> None:
        """For the environment and for the noise."""
        workers, point = self.prepared(make(NeverEndingEnv, NeverEndingEnv))
        base = run(workers, Job(0, TrajectoryKey(0, 0, 0), point))
        for key in (TrajectoryKey(1, 0, 0), TrajectoryKey(0, 1, 0), TrajectoryKey(0, 0, 1)):
            other = run(workers, Job(0, key, point))
            assert not np.array_equal(base.observations[0], other.observations[0])
            assert not np.array_equal(base.samples, other.samples)
        workers, point = self.prepared(workers, seed=1)
        other = run(workers, Job(0, TrajectoryKey(0, 0, 0), point))
        assert not np.array_equal(base.observations[0], other.observations[0])
        assert not np.array_equal(base.samples, other.samples)

    def test_shorter_horizon_gives_the_beginning_of_the_same_trajectory(self, make: Make) -> None:
        """Random numbers are drawn step by step."""
        workers, point = self.prepared(make(NeverEndingEnv), n_steps=150)
        long = run(workers, job(point, 0))
        workers, point = self.prepared(workers, n_steps=7)
        short = run(workers, job(point, 0))
        assert (long.n_steps, short.n_steps) == (150, 7)
        assert_array_equal(long.observations[:7], short.observations)
        assert_array_equal(long.samples[:7], short.samples)
        assert_array_equal(long.rewards[:7], short.rewards)

    @pytest.mark.parametrize("env_class", [LengthFromSeedEnv, DictEnv])
    def test_planned_round_has_the_trajectories_of_the_simulator(self, make: Make, env_class: EnvFn) -> None:
        """Bit for bit: tickets do not depend on time, so not on who runs them and where."""
        env_fns, policy = [env_class] * 3, "MultiInputPolicy" if env_class is DictEnv else "MlpPolicy"
        rounds = []
        for env in (make(*env_fns), SimulatedVecEnv(env_fns)):
            model = _paper(policy, env, n_trajectories=7, horizon=9, seed=4, device="cpu")
            kept = _KeepRounds()
            model.learn(1, callback=kept)
            rounds.append(kept.rounds[0])
        here, simulator = rounds
        assert len(here) == 7
        assert here.keys() == simulator.keys()
        assert all(same(trajectory, simulator[key]) for key, trajectory in here.items())

    # Rounds

    def test_planned_training_is_that_of_the_simulator(self, make: Make) -> None:
        """Only the order of the sums may differ, by who has run which ticket."""
        results = []
        for env in (make(*[LengthFromSeedEnv] * 3), SimulatedVecEnv([LengthFromSeedEnv] * 3)):
            policy_kwargs = {"net_arch": [8]}
            model = _paper("MlpPolicy", env, learning_rate=0.1, n_trajectories=6, seed=1, policy_kwargs=policy_kwargs)
            while model.n_updates < 4:
                model.learn(1, reset_num_timesteps=False)
            results.append(flatten(model.policy))
        assert_allclose(results[0], results[1], rtol=2e-4, atol=2e-5)

    @pytest.mark.parametrize("schedule", ["planned", "pipelined"])
    def test_nothing_is_discarded_where_all_is_planned(self, make: Make, schedule: str) -> None:
        """Also steps that come in while a gradient is waited for belong to some round."""
        model = _paper("MlpPolicy", make(*[LengthFromSeedEnv] * 3), n_trajectories=7, schedule=schedule, seed=0)
        kept = _KeepRounds(20)
        model.learn(10**9, callback=kept)
        reports = kept.reports[:20]  # a round more, if all of it had come in before the callback could stop it
        assert [report.discarded_steps for report in reports] == [0] * 20
        assert [report.counts.sum() for report in reports] == [7] * 20
        staleness = {a.staleness for report in reports for a in report.arrivals}
        assert staleness == ({0, 1} if schedule == "pipelined" else {0})

    # Gradients

    def test_gradient_follows_the_point_of_the_same_key(self, make: Make) -> None:
        """A key that is sampled once more, at another point, gives the gradient of that point."""
        workers, here = self.prepared(make(FixedLengthEnv, FixedLengthEnv))
        there, weights = SamplingPoint(0, here.parameters * np.float32(1.5)), np.ones(2)
        first = workers.gradient(contributions(collect(workers, [job(there, 1)])), weights)
        for point, is_same in ((there, True), (here, False)):
            workers.forget(before_round=1)
            again = contributions(collect(workers, [job(point, 1)]))
            assert th.equal(workers.gradient(again, weights), first) == is_same

    # Interruption

    def test_an_interrupted_wait_goes_on_where_it_has_stopped(self, make: Make) -> None:
        """Where ``can_be_interrupted`` says so: the trajectory is that of a wait that was not interrupted."""
        workers = make(NeverEndingEnv)
        if not workers.can_be_interrupted:
            pytest.skip("these workers cannot be interrupted")
        workers, point = self.prepared(workers)
        expected, turns = run(workers, job(point, 0)), itertools.cycle([True, False])
        workers.interrupt = lambda: next(turns)
        workers, point = self.prepared(workers)
        workers.submit(job(point, 0))
        n_interrupted = 0
        while (arrived := workers.next_arrival()) is None:
            n_interrupted += 1
            assert workers.busy(0)
        assert n_interrupted > 0
        assert same(arrived[1], expected)

    # Stable-Baselines3's API

    def test_synchronous_api_before_and_after_trajectories(self, make: Make) -> None:
        """The numbers of a ``DummyVecEnv``."""
        env_fns = [partial(FixedLengthEnv, 3), partial(FixedLengthEnv, 4)]
        env, reference = make(*env_fns), DummyVecEnv(list(env_fns))
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
            _, point = self.prepared(env)
            env.submit(job(point, 0))

    def test_step_after_trajectories_starts_new_episodes(self, make: Make) -> None:
        """Of all environments, whichever has run a trajectory."""
        env, point = self.prepared(make(partial(FixedLengthEnv, 3), partial(FixedLengthEnv, 3)))
        env.reset()
        env.step(np.zeros((2, 1), dtype=np.float32))
        run(env, job(point, 0))
        _, _, dones, infos = env.step(np.zeros((2, 1), dtype=np.float32))
        assert [info["t"] for info in infos] == [1, 1]
        assert not dones.any()

    # What the workers are

    @pytest.mark.parametrize(("given", "expected"), [(None, (0, 1)), (["a", "a"], ("a", "a"))])
    def test_tasks_that_do_not_differ(self, make: Make, given: Any, expected: tuple[Any, ...]) -> None:
        """None given, or the same one twice."""
        env = make(FixedLengthEnv, FixedLengthEnv, task_ids=given)
        assert tuple(env.task_ids) == expected
        assert env.task_ids_given == (given is not None)
        assert not env.tasks_differ

    def test_tasks_that_differ(self, make: Make) -> None:
        """Each arrival names the task of its worker."""
        env, point = self.prepared(make(FixedLengthEnv, FixedLengthEnv, FixedLengthEnv, task_ids=["a", "b", "a"]))
        assert env.tasks_differ
        arrivals = [a for a, _ in collect(env, [job(point, worker) for worker in range(3)])]
        assert sorted((a.worker, a.task_id) for a in arrivals) == [(0, "a"), (1, "b"), (2, "a")]
        with pytest.raises(ValueError, match=r"task_ids has 1 entries for 2 workers"):
            make(FixedLengthEnv, FixedLengthEnv, task_ids=["a"])

    def test_spaces_must_agree(self, make: Make) -> None:
        """One policy acts everywhere."""
        with pytest.raises(ValueError, match=r"observation space of worker 1 is Dict.*worker 0 is Box"):
            make(FixedLengthEnv, DictEnv)
        with pytest.raises(ValueError, match="env_fns"):
            make()

    def test_speeds_have_one_entry_a_worker(self, make: Make) -> None:
        """Steps, messages, and whole trajectories."""
        env, _ = self.prepared(make(FixedLengthEnv, FixedLengthEnv))
        durations = env.predicted_durations(5.0)
        for times in (env.step_times, env.message_times, durations):
            assert np.shape(times) == (2,)
        assert (env.message_times >= 0).all()
        assert (durations > 0).all()
        assert env.time_per in ("step", "trajectory")


class _KeepRounds(BaseCallback):
    """
    Keeps reports and accepted trajectories of some rounds, then stops.

    :param n_rounds: how many
    """

    def __init__(self, n_rounds: int = 1) -> None:
        super().__init__()
        self.n_rounds = n_rounds
        self.reports: list[RoundReport] = []
        self.rounds: list[dict[TrajectoryKey, Trajectory]] = []

    def _on_rollout_end(self) -> None:
        model: Any = self.model
        self.reports.append(model.last_round)
        self.rounds.append({trajectory.key: trajectory for _, trajectory in model.accepted})

    def _on_step(self) -> bool:
        return len(self.reports) < self.n_rounds
