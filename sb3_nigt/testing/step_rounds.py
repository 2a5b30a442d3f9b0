"""What workers must do in rounds of steps: a suite that workers of your own inherit."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch as th
from numpy.testing import assert_array_equal
from stable_baselines3.common.callbacks import BaseCallback

from sb3_nigt.aggregators import Aggregator, Malenia, Rennala, Synchronous
from sb3_nigt.algorithms.book import MAX_REJECTED_IN_A_ROW
from sb3_nigt.algorithms.malenia_nigt import MaleniaNIGT
from sb3_nigt.algorithms.rennala_nigt import RennalaNIGT
from sb3_nigt.algorithms.sync_nigt import SyncNIGT
from sb3_nigt.messages import Contribution, RoundReport, SamplingPoint
from sb3_nigt.parameters import flatten
from sb3_nigt.policies import MultiInputPolicy
from sb3_nigt.sampling.trajectory import Trajectory
from sb3_nigt.testing.environments import DictEnv, FixedLengthEnv, LengthFromSeedEnv, NeverEndingEnv, PointEnv
from sb3_nigt.testing.jobs import leaves, prepared, same
from sb3_nigt.testing.workers import Make, TrajectoryWorkersTests
from sb3_nigt.vec_env.base import Segments
from sb3_nigt.vec_env.simulated import SimulatedVecEnv

Rule = Callable[[int], Aggregator]
RULES: list[Rule] = [Rennala, lambda m: Malenia.of(m, "ab"), Synchronous]
all_rules = pytest.mark.parametrize("rule", RULES, ids=["rennala", "malenia", "synchronous"])


class AlwaysNanEnv(PointEnv):
    """No reward is a number."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """See ``gymnasium.Env``."""
        observation, _, *rest = super().step(action)
        return observation, float("nan"), *rest


class SometimesNanEnv(FixedLengthEnv):
    """Four steps an episode; the second reward of every third episode is no number."""

    def __init__(self) -> None:
        super().__init__(4)
        self._episode = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """See ``gymnasium.Env``."""
        self._episode += 1
        return super().reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """See ``gymnasium.Env``."""
        observation, reward, *rest = super().step(action)
        is_bad = self._episode % 3 == 0 and self._t == 2
        return observation, float("nan") if is_bad else reward, *rest


def assert_same_pieces(ours: Segments, others: Segments) -> None:
    """
    Compare what counts in two rounds bit for bit.

    :param ours: one of them
    :param others: the other
    """
    assert ours.counts.tolist() == others.counts.tolist()
    first, second = ([p for _, p in segments.pieces if p.rejected is None] for segments in (ours, others))
    assert [(piece.key, piece.age) for piece in first] == [(piece.key, piece.age) for piece in second]
    for one, other in zip(first, second, strict=True):
        assert same(one, other)
        if one.terminated or one.truncated:
            assert one.infos[-1]["episode"] == other.infos[-1]["episode"]


class StepRoundsTests(TrajectoryWorkersTests):
    """
    The contract of ``run_segments``: episodes continue across rounds, and what counts is a round of complete steps.

    ``make_workers`` as for the parent.
    """

    def rounds(
        self, workers: Any, n_rounds: int, is_complete: Callable[[npt.NDArray[np.int64]], bool], **kwargs: Any
    ) -> list[Segments]:
        """
        Run some rounds of about 40 steps, each at its own point.

        :param workers: the result of ``make_workers``
        :param n_rounds: how many
        :param is_complete: of the steps of each worker
        :param kwargs: for ``prepared``
        """
        workers, point = self.prepared(workers, round_steps=40, **kwargs)
        self.start_episodes(workers)
        results = list[Segments]()
        for number in range(n_rounds):
            here = SamplingPoint(number, point.parameters * np.float32(1 + number / 10))
            segments = workers.run_segments(here, is_complete, lambda: None)
            assert segments is not None
            results.append(segments)
        return results

    def start_episodes(self, workers: Any) -> None:
        """
        Do what ``learn`` does before the first round; nothing for workers that reset their environments by themselves.

        :param workers: prepared
        """

    def test_a_round_of_steps_runs_what_is_to_be_done_meanwhile_once(self, make: Make) -> None:
        """Whatever it is."""
        workers, point = self.prepared(make(PointEnv, PointEnv), round_steps=40)
        self.start_episodes(workers)
        called: list[int] = []
        workers.run_segments(point, Rennala(10).is_complete, lambda: called.append(1))
        assert called == [1]

    @all_rules
    def test_counts_of_steps_are_complete_and_those_of_the_pieces(self, make: Make, rule: Rule) -> None:
        """In worker order, each piece with a name of its own; every step that was made counts or is discarded."""
        workers, wanted = make(LengthFromSeedEnv, LengthFromSeedEnv), rule(40)
        results = self.rounds(workers, 5, wanted.is_complete)
        for number, segments in enumerate(results):
            assert wanted.is_complete(segments.counts)
            counts = np.zeros(2, dtype=np.int64)
            for arrival, piece in segments.pieces:
                counts[arrival.worker] += piece.n_steps
                assert arrival.key == piece.key
                assert arrival.key.round == piece.point.round == number
                assert arrival.task_id == workers.task_ids[arrival.worker]
                assert arrival.n_steps == piece.n_steps > 0
                assert arrival.started_at <= arrival.finished_at
            assert_array_equal(segments.counts, counts)
            names = [(arrival.worker, arrival.key.number) for arrival, _ in segments.pieces]
            assert names == sorted(set(names))

    def test_environments_live_on_between_rounds_of_steps(self, make: Make) -> None:
        """An episode continues where the last round left it, or after steps that were in flight then."""
        left: Trajectory | None = None
        for segments in self.rounds(make(partial(FixedLengthEnv, 7), NeverEndingEnv), 5, Synchronous(40).is_complete):
            for arrival, piece in segments.pieces:
                if arrival.worker == 0:
                    assert piece.terminated == (piece.age + piece.n_steps == 7)
                    continue
                gone_by = piece.age - (0 if left is None else left.age + left.n_steps)
                assert gone_by >= 0
                if left is not None and gone_by == 0:
                    assert_array_equal(piece.observations[0], left.final_observation)
                left = piece
        assert left is not None
        assert left.age >= 80

    def test_pieces_have_one_row_a_step_and_the_state_after_the_last(self, make: Make) -> None:
        """The reward of ``PointEnv`` is 1 - |s_{t+1}|² + 0.1 a_t, within a piece and after it."""
        for segments in self.rounds(make(LengthFromSeedEnv, LengthFromSeedEnv), 3, Rennala(40).is_complete):
            for _, piece in segments.pieces:
                after = np.vstack([piece.observations[1:], piece.final_observation])
                expected = 1 - np.sum(after.astype(np.float64) ** 2, axis=1) + 0.1 * piece.actions[:, 0]
                np.testing.assert_allclose(piece.rewards, expected, atol=1e-6)
                assert len(piece.samples) == len(piece.infos) == piece.n_steps

    def test_steps_of_dict_observations(self, make: Make) -> None:
        """Each part of a Dict has its own rows."""
        (segments,) = self.rounds(make(DictEnv, DictEnv), 1, Rennala(40).is_complete, policy_class=MultiInputPolicy)
        for _, piece in segments.pieces:
            assert [len(array) for array in leaves(piece.observations)] == [piece.n_steps] * 2

    @all_rules
    def test_other_steps_take_the_place_of_those_that_are_not_finite(self, make: Make, rule: Rule) -> None:
        """So a round is complete without them."""
        wanted, n_rejected = rule(40), 0
        for segments in self.rounds(make(SometimesNanEnv, SometimesNanEnv), 5, wanted.is_complete):
            assert wanted.is_complete(segments.counts)
            counted = [piece.n_steps for arrival, piece in segments.pieces if arrival.rejected is None]
            assert sum(counted) == segments.counts.sum()
            assert all(np.isfinite(piece.rewards).all() for _, piece in segments.pieces if piece.rejected is None)
            n_rejected += sum(arrival.rejected == piece.rejected == "reward" for arrival, piece in segments.pieces)
        assert n_rejected > 0

    def test_a_round_of_steps_ends_where_nothing_is_finite(self, make: Make) -> None:
        """It is not complete then; the algorithm stops the run, because so many pieces in a row were rejected."""
        (segments,) = self.rounds(make(AlwaysNanEnv, NeverEndingEnv), 1, Malenia.of(40, "ab").is_complete)
        rejected = [arrival.rejected for arrival, _ in segments.pieces if arrival.worker == 0]
        assert rejected == ["reward"] * len(rejected)
        assert len(rejected) >= MAX_REJECTED_IN_A_ROW
        assert segments.counts[0] == 0

    def test_gradient_of_the_steps_of_a_round(self, make: Make) -> None:
        """Against autograd, each piece at the point of its round."""
        workers = make(LengthFromSeedEnv, LengthFromSeedEnv)
        (segments,) = self.rounds(workers, 1, Rennala(40).is_complete)
        rng, weights = np.random.default_rng(3), np.array([2.0, 0.5])
        own = [rng.normal(size=arrival.n_steps) for arrival, _ in segments.pieces]
        scored = [Contribution(a.worker, a.key, c) for (a, _), c in zip(segments.pieces, own, strict=True)]
        weighted = [weights[a.worker] * c for (a, _), c in zip(segments.pieces, own, strict=True)]
        expected = self.reference(workers, segments.pieces, weighted)
        gradient = workers.gradient(scored, weights)
        assert float(gradient.norm()) > 0.01
        th.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5)

    def test_steps_are_those_of_the_simulator(self, make: Make) -> None:
        """Bit for bit, by the numbers of steps that were made in each round; and again after another ``prepare``."""
        if self.steps_together:
            pytest.skip("environments that step together have random numbers of their own")
        workers, simulated = make(LengthFromSeedEnv, PointEnv), SimulatedVecEnv([LengthFromSeedEnv, PointEnv])
        for rule in RULES:
            results = self.rounds(workers, 4, rule(40).is_complete)
            prepared(simulated, n_steps=20, round_steps=40)
            for segments in results:
                point = segments.pieces[0][1].point
                assert_same_pieces(segments, simulated.repeat_segments(point, segments.segments))

    @pytest.mark.parametrize("algorithm", [RennalaNIGT, MaleniaNIGT, SyncNIGT])
    def test_the_defaults_train(self, make: Make, algorithm: type[RennalaNIGT]) -> None:
        """A few rounds: complete counts, weights of a mean, numbers that are finite, parameters that have moved."""
        workers = make(LengthFromSeedEnv, partial(FixedLengthEnv, 5))
        kept, policy_kwargs = _KeepReports(4), {"net_arch": [8]}
        model = algorithm("MlpPolicy", self.env_of(workers), n_steps=20, seed=0, device="cpu", policy_kwargs=policy_kwargs)
        before = flatten(model.policy)
        model.learn(10**9, callback=kept)
        rule = model.make_aggregator(40)
        assert [report.round for report in kept.reports] == list(range(4))
        for report in kept.reports:
            assert rule.is_complete(report.counts)
            assert report.counts.sum() == report.used_steps == sum(arrival.n_steps for arrival in report.arrivals)
            assert abs(report.weights @ report.counts - 1) < 1e-12
            assert report.discarded_steps >= 0
        after = flatten(model.policy)
        assert np.isfinite(after).all()
        assert not np.array_equal(before, after)


class _KeepReports(BaseCallback):
    """
    Keeps the reports of some rounds, then stops.

    :param n_rounds: how many
    """

    def __init__(self, n_rounds: int) -> None:
        super().__init__()
        self.n_rounds = n_rounds
        self.reports: list[RoundReport] = []

    def _on_rollout_end(self) -> None:
        model: Any = self.model
        self.reports.append(model.last_round)

    def _on_step(self) -> bool:
        return len(self.reports) < self.n_rounds
