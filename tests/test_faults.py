"""
Faults injected into workers: each kind for Rennala and Malenia and both kinds of rounds, early, in the middle of an episode
and after a restart. What a run must have done then is in ``faults.py``.

``pytest --fault-table FILE`` keeps what happened, and ``python tests/fault_table.py FILE`` prints it as a table.
"""

import math
import os
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from envs import FixedLengthEnv, LengthFromSeedEnv, PointEnv, accepted, parameters, train_rounds
from faults import (
    FAULTS,
    RAISED,
    ROUNDS,
    FaultyEnv,
    NanOnce,
    OfSteps,
    OfTrajectories,
    algorithms,
    both_rounds,
    cases,
    check_faults,
    have_failed,
    in_usual_runs,
)
from paper import RennalaNIGT
from processes import FAILED, explode, hang, kill_myself, worker_processes
from stable_baselines3.common.torch_layers import FlattenExtractor
from test_faults_ranks import KINDS

import sb3_nigt
from sb3_nigt import ProcessVecEnv, SimulatedVecEnv, WorkerError
from sb3_nigt.algorithms.book import MAX_REJECTED_IN_A_ROW
from sb3_nigt.vec_env.pool import commands


@pytest.fixture
def make():
    with worker_processes() as make:
        yield make


@pytest.mark.parametrize(("kind", "rounds", "algorithm"), cases(FAULTS))
def test_a_fault_changes_nothing(make, note_fault, tmp_path, algorithm, rounds, kind):
    """Three of four workers have it, each at another moment; the one that has it after a restart fails twice."""
    check_faults(make, note_fault, "processes", tmp_path, algorithm, rounds, kind, ["start", "middle", "restart"])


@pytest.mark.one_in(6)
@algorithms
@both_rounds
@pytest.mark.parametrize("kind", ["step raises", "process killed in step", "sys.exit"])
def test_a_constructor_that_fails_after_a_restart(make, tmp_path, algorithm, rounds, kind):
    """The second process does not come up, the third does."""
    env = make(LengthFromSeedEnv, partial(FaultyEnv, kind, "construction", tmp_path / "diary"))
    run = ROUNDS[rounds](algorithm, env, tmp_path)
    with pytest.warns(UserWarning, match="failed") as caught:
        run.train_until(have_failed(env, [0, 2]))
    run.check([LengthFromSeedEnv] * 2)
    first, second = (str(warning.message) for warning in caught)
    assert re.match(r"Worker 1 \(task 1\) failed: .*exit code -9\. It is restarted, for the 1st time", first)
    assert re.match(r"Worker 1 \(task 1\) failed: .*for the 2nd time", second)
    assert re.search(FAULTS[kind][2], second)


class AlwaysDying(LengthFromSeedEnv):
    def step(self, action):
        kill_myself()


@pytest.mark.one_in(2)
@both_rounds
@pytest.mark.parametrize(
    ("limits", "said_last"),
    [
        ({"max_restarts": 2}, "It is lost (max_restarts=2)."),
        ({"max_restarts": 10**6, "max_restarts_per_minute": 2}, "It is lost (max_restarts_per_minute=2)."),
    ],
)
def test_who_fails_again_and_again_is_lost_and_the_others_go_on(make, tmp_path, rounds, limits, said_last):
    env = make(LengthFromSeedEnv, LengthFromSeedEnv, AlwaysDying, **limits)
    run = ROUNDS[rounds]("RennalaNIGT", env, tmp_path)
    with pytest.warns(UserWarning, match="failed") as caught:
        run.train_until(lambda: env.lost() == {2}, workers=[0, 1])
    run.train_until(lambda: True, workers=[0, 1])
    assert env._roster.slots[2].history.failures == 3
    assert [str(warning.message).split(". ")[-1] for warning in caught][-1] == said_last
    run.check_rounds()
    if rounds == "steps":  # which ticket is given up because of the lost worker depends on times
        run.check([LengthFromSeedEnv] * 3)
    assert run.model.last_round.counts[2] == 0


# Start-up


class BadFromTheStart(PointEnv):
    """Fails in the constructor or in the first reset, which is that of ``learn``."""

    def __init__(self, where, does):
        super().__init__()
        self.does = does
        if where == "constructor":
            does()

    def reset(self, *, seed=None, options=None):
        self.does()


ERRORS = [
    (explode, LookupError, "the physics exploded"),
    (kill_myself, WorkerError, r"Worker 1 \(task 'b'\): .*exit code -9"),
    (hang, WorkerError, r"Worker 1 \(task 'b'\): .*(no answer|no sign of life)"),
]


@pytest.mark.parametrize(("does", "error", "says"), ERRORS)
def test_a_constructor_that_fails_at_start_up_is_an_error_at_once(monkeypatch, does, error, says):
    if does is hang:
        monkeypatch.setattr(commands, "START_SECONDS", 3.0)
    with pytest.raises(error, match=says) as caught:
        ProcessVecEnv([PointEnv, partial(BadFromTheStart, "constructor", does)], task_ids=["a", "b"], timeout=3.0)
    if error is LookupError:
        assert re.search(r"in worker 1:\n(?s:.*)in explode", str(caught.value.__cause__))


@pytest.mark.one_in(2)
@pytest.mark.filterwarnings(FAILED)
@in_usual_runs
@both_rounds
@pytest.mark.parametrize(("does", "error", "says"), ERRORS)
def test_a_reset_that_fails_at_start_up_is_an_error_at_once(make, tmp_path, algorithm, rounds, does, error, says):
    env = make(PointEnv, partial(BadFromTheStart, "reset", does), task_ids=["a", "b"], timeout=2.0)
    env.tasks_differ = False
    with pytest.raises(error, match=says):
        ROUNDS[rounds](algorithm, env, tmp_path).model.learn(1)


class PolicyPart(FlattenExtractor):
    """Can be unpacked in the process of the test only."""

    def __init__(self, observation_space, pid):
        super().__init__(observation_space)
        self.pid = pid

    def __setstate__(self, state):
        super().__setstate__(state)
        if os.getpid() != self.pid:
            explode()


@pytest.mark.filterwarnings(FAILED)
@pytest.mark.parametrize("algorithm", [RennalaNIGT, sb3_nigt.RennalaNIGT], ids=list(ROUNDS))
def test_a_policy_that_no_worker_can_unpack_is_an_error_at_once(make, algorithm):
    kwargs = {"features_extractor_class": PolicyPart, "features_extractor_kwargs": {"pid": os.getpid()}}
    model = algorithm("MlpPolicy", make(PointEnv, PointEnv), policy_kwargs=kwargs)
    # where one worker is much slower than the other, the second failure of the latter comes first
    too_often = "every worker has failed before the first|it has raised the same exception 2 times in a row"
    with pytest.raises(WorkerError, match=f"({too_often})(?s:.*)the physics exploded"):
        model.learn(1)


# Numbers that are not finite


@pytest.mark.one_in(3)
@in_usual_runs
@both_rounds
@pytest.mark.parametrize("what", ["reward", "observation", "reset"])
@pytest.mark.parametrize("number", [0, 2])
def test_a_number_that_is_not_finite(make, note_fault, tmp_path, algorithm, rounds, what, number):
    """Another trajectory takes its place, or other steps do; no worker is restarted, and nothing warns."""
    # A step that is under way when a round ends counts for nothing, so it is not rejected either: another one must follow
    period = 7 if rounds == "steps" else math.inf
    env_fns = [partial(FixedLengthEnv, 3), partial(NanOnce, what, number, period)]
    env = make(*env_fns)
    run = ROUNDS[rounds](algorithm, env, tmp_path)
    run.train_until(lambda: run.seen.rejected)
    run.check_rounds()
    if rounds == "steps":  # which ticket the bad trajectory has depends on times
        run.check(env_fns)
    assert set(run.seen.rejected) == {(1, "observation" if what == "reset" else what)}
    assert rounds == "steps" or len(run.seen.rejected) == 1
    assert env.restarts == 0
    note_fault(f"{what} not finite", "processes", algorithm, rounds, "rejected")


class HugeRewards(FixedLengthEnv):
    """Rewards of some trajectories are finite, but their sum is beyond float32, so that the gradient is not."""

    def __init__(self, is_huge):
        super().__init__(3)
        self.is_huge, self.n_resets = is_huge, -1

    def reset(self, *, seed=None, options=None):
        self.n_resets += 1
        return super().reset(seed=seed, options=options)

    def step(self, action):
        observation, reward, *rest = super().step(action)
        return observation, 3e38 if self.is_huge(self.n_resets - 1) else reward, *rest


def second(trajectory):
    return trajectory == 1


def always(trajectory):
    return True


@algorithms
def test_a_gradient_that_is_not_finite_never_reaches_the_parameters(make, tmp_path, algorithm):
    """The round that has it moves nothing, the others do."""
    run, huge = OfTrajectories(algorithm, make(PointEnv, partial(HugeRewards, second)), tmp_path, horizon=3), []
    model = run.model
    while not any(huge[:-1]):
        assert model.n_updates < 300
        before = parameters(model)
        train_rounds(model, model.n_updates + 1)
        huge.append(any((trajectory.rewards > 1e38).any() for trajectory in accepted(model)))
        assert np.isfinite(parameters(model)).all()
        assert np.array_equal(parameters(model), before) == huge[-1]
    assert sum(huge) == 1
    assert model.env.restarts == 0


@algorithms
def test_gradients_that_are_never_finite_stop_the_run(make, tmp_path, algorithm):
    model = OfTrajectories(algorithm, make(PointEnv, partial(HugeRewards, always)), tmp_path, horizon=3).model
    before = parameters(model)
    with pytest.raises(RuntimeError, match=f"{MAX_REJECTED_IN_A_ROW} rounds in a row were not finite"):
        model.learn(10**6)
    assert np.array_equal(parameters(model), before)


@algorithms
def test_a_critic_takes_huge_rewards(make, tmp_path, algorithm):
    """Their unit is the critic's, so all gradients of steps are finite."""
    env_fns, was_huge = [PointEnv, partial(HugeRewards, second)], []
    run = OfSteps(algorithm, make(*env_fns), tmp_path)

    def is_over():
        was_huge.append(any((trajectory.rewards > 1e38).any() for trajectory in accepted(run.model)))
        return any(was_huge[:-2])

    run.train_until(is_over)
    run.check(env_fns)


# In this process


@algorithms
@both_rounds
@pytest.mark.parametrize("kind", RAISED)
def test_a_fault_in_the_simulator_is_raised(note_fault, tmp_path, algorithm, rounds, kind):
    """There is no process to lose; the parameters are those of the last complete round, and training may go on."""
    env = SimulatedVecEnv([LengthFromSeedEnv, partial(FaultyEnv, kind, "middle", tmp_path / "diary")])
    run = ROUNDS[rounds](algorithm, env, tmp_path)
    with pytest.raises(RAISED[kind], match=None if RAISED[kind] is LookupError else FAULTS[kind][2]):
        run.train_until(lambda: False)
    assert run.model.n_updates == len(run.seen.reports)
    assert np.isfinite(parameters(run.model)).all()
    run.model.learn(1, reset_num_timesteps=False)
    note_fault(kind, "simulated", algorithm, rounds, "raised")


def test_every_fault_is_in_the_table_that_is_kept():
    text = (Path(__file__).parents[1] / "docs/results/faults.txt").read_text(encoding="utf-8")
    for where, kinds in (("processes", FAULTS), ("simulated", RAISED), ("Ray", KINDS)):
        for kind in kinds:
            (row,) = re.findall(rf"^{re.escape(kind)} +{where} .*", text, re.MULTILINE)
            assert len(re.findall(r"restarted|raised", row)) == 4  # both algorithms, both kinds of rounds
