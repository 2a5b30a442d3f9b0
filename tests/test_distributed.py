"""Ranks that train one model together, as processes of this machine: what counts, what is reduced, what is kept."""

import time

import numpy as np
import pytest
import torch as th
from copies import CHANGES, MIXED
from envs import LengthFromSeedEnv, collect, contributions, job, keep_outputs, parameters, prepared, run, run_rounds, simulated
from paper import MaleniaNIGT, RennalaNIGT, SyncNIGT
from ranks import N_WORKERS, SIZE, SlowEnv, checksum, make, on_ranks
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

from sb3_nigt import ProcessVecEnv
from sb3_nigt.distributed import AllReduceGroup, RoundCheckpoint, state
from sb3_nigt.distributed.ledger import Ledger
from sb3_nigt.distributed.ranks import Ranks
from sb3_nigt.messages import Job, SamplingPoint
from sb3_nigt.replica.copying import copy_of
from sb3_nigt.vec_env.base import RolloutSpec
from sb3_nigt.vec_env.wrappers import WrapperStack

N_ROUNDS = 3


# Agreement with each other and with one process

CASES = {
    "first finished": (RennalaNIGT, {"schedule": "first_finished"}),
    "planned": (RennalaNIGT, {"schedule": "planned"}),
    "Malenia, first finished": (MaleniaNIGT, {"schedule": "first_finished"}),
    "Malenia, planned": (MaleniaNIGT, {"schedule": "planned"}),
    "synchronous": (SyncNIGT, {}),
    "processes": (RennalaNIGT, {"schedule": "planned"}),
}


def workers_of(case):
    """The workers of one rank."""
    if case == "processes":
        return ProcessVecEnv([LengthFromSeedEnv] * N_WORKERS)
    return simulated([LengthFromSeedEnv] * N_WORKERS)


class KeepGradients(BaseCallback):
    """Keeps the reduced gradient of every round."""

    def _on_training_start(self):
        self.gradients = []
        keep_outputs(self.model.workers, "gradient", self.gradients)

    def _on_step(self):
        return True


def train_all(rank):
    """Train in all cases; return for each what all ranks must agree on, and what the rounds computed from what."""
    results = {}
    for case, (algorithm, kwargs) in CASES.items():
        env = workers_of(case)
        model = make(algorithm, env, **kwargs)
        points, kept = [], KeepGradients()
        keep_outputs(model, "_sampling_point", points)
        reports = run_rounds(model, N_ROUNDS, kept)
        common = (checksum(model), model.num_timesteps, model._n_updates, [public(report) for report in reports])
        # one point more, since it is run_rounds() that ends the last round
        rounds = [(r, p.parameters, g.numpy()) for r, p, g in zip(reports, points, kept.gradients, strict=False)]
        results[case] = (common, reports, rounds, parameters(model))
        env.close()
    return results


def public(report):
    """What a report says on all ranks alike: everything but the times, which are each rank's own."""
    arrivals = [(a.worker, a.key, a.n_steps, a.episode_return, a.task_id) for a in report.arrivals]
    return report.round, report.counts.tolist(), report.weights.tolist(), report.used_steps, report.discarded_steps, arrivals


@pytest.fixture(scope="module")
def trained():
    return on_ranks(SIZE, train_all)


@pytest.mark.parametrize("case", CASES)
def test_ranks_agree(trained, case):
    """Parameters after every update (the debug mode compares those), timesteps, counts, and who had which trajectory."""
    assert all(results[case][0] == trained[0][case][0] for results in trained)


@pytest.mark.parametrize("case", CASES)
def test_one_process_comes_to_the_same_gradients(trained, case):
    """
    The admitted trajectories, and no others, are in the sums, with weights 1/M or 1/(K M_k): sampled once more by one process
    at the same θ̃ they are the same ones, and give the same gradient. It adds them up in one sum, not in one per rank, so the
    last bits differ.
    """
    algorithm, kwargs = CASES[case]
    env = simulated([LengthFromSeedEnv] * (SIZE * N_WORKERS))
    model = make(algorithm, env, group=False, **kwargs)
    env.prepare(RolloutSpec(copy_of(model.policy, "cpu"), model.horizon, model.root_seed))
    for report, parameters_of_point, gradient in trained[0][case][2]:
        point = SamplingPoint(report.round, parameters_of_point)
        sampled = collect(env, [Job(arrival.worker, arrival.key, point) for arrival in report.arrivals])
        again = {(a.worker, a.key): (a.n_steps, a.episode_return) for a, _ in sampled}
        assert again == {(a.worker, a.key): (a.n_steps, a.episode_return) for a in report.arrivals}
        expected = env.gradient(contributions(sampled, model.gamma), report.weights).numpy()
        np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6 * np.abs(expected).max())


def test_planned_rounds_are_those_of_one_process(trained):
    """Tickets have their own random numbers, so who runs them, and where, changes nothing: no recording is needed."""
    alone = make(RennalaNIGT, simulated([LengthFromSeedEnv] * (SIZE * N_WORKERS)), group=False)
    alone_reports = run_rounds(alone, N_ROUNDS)
    for case in ("planned", "processes"):
        _, reports, _, expected = trained[0][case]
        keys = [sorted(a.key for a in report.arrivals) for report in reports]
        assert keys == [sorted(a.key for a in report.arrivals) for report in alone_reports]
        np.testing.assert_allclose(parameters(alone), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", ["first finished", "planned", "processes"])
def test_rennala_takes_exactly_m(trained, case):
    for report in trained[0][case][1]:
        assert report.counts.sum() == len(report.arrivals) == 7
        assert set(report.weights) <= {0.0, 1 / 7}


def test_malenia_counts_tasks(trained):
    for report in trained[0]["Malenia, first finished"][1]:
        n, counts = SIZE * N_WORKERS, report.counts
        assert n / (1.0 / counts).sum() >= 7 / n  # harmonic mean of the counts, one task a worker
        np.testing.assert_allclose(report.weights, 1.0 / (n * counts))
        last = report.arrivals[-1].worker  # without it the round was not complete
        less = np.array([c - (w == last) for w, c in enumerate(counts)])
        assert not less.all() or n / (1.0 / less).sum() < 7 / n


# Speeds


def train_with_a_slow_rank(rank, schedule):
    env = simulated([SlowEnv if rank == 1 else LengthFromSeedEnv] * N_WORKERS)
    model = make(RennalaNIGT, env, schedule=schedule)
    over, ended = [], Ledger._read

    def note_when_over(ledger, new):
        ended(ledger, new)
        if ledger._rule.complete:
            over.append((ledger._round, time.monotonic()))

    Ledger._read = note_when_over
    reports = run_rounds(model, N_ROUNDS)
    began = sorted(t for slow in env.envs if rank == 1 for t in slow.began)
    return began, dict(reversed(over)), [len(report.discarded) for report in reports], model.last_round.counts


@pytest.mark.parametrize("schedule", ["first_finished", "planned"])
def test_a_slow_rank_delays_a_round_by_one_of_its_steps(schedule):
    """It begins at most the one step that it was about to begin when the round was complete. Its trajectories have 1000 steps
    and would take 50 seconds."""
    results = on_ranks(2, train_with_a_slow_rank, schedule)
    (_, over, _, counts), (began, noticed, _, _) = results
    assert counts[N_WORKERS:].sum() == 0
    assert began
    for round_ in range(N_ROUNDS):  # the clock is the same one for all processes of a machine
        assert sum(over[round_] < t < noticed[round_] for t in began) <= 1


# Numbers that are not finite, callbacks that say stop


def train_with_nan(rank):
    """What rank 1 gives to the reduction of round 1 is not finite."""
    model = make(RennalaNIGT, simulated([LengthFromSeedEnv] * N_WORKERS))
    checksums, train, reduce = [], model.train, Ranks.reduce

    def reduce_nan(ranks, key, vector):
        return reduce(ranks, key, vector.fill_(np.nan) if rank == 1 and model._n_updates == 1 else vector)

    def train_and_look():
        train()
        checksums.append(checksum(model))

    model.train, Ranks.reduce = train_and_look, reduce_nan
    run_rounds(model, 3)
    return checksums, model._bad_gradients


def test_nan_on_one_rank_skips_the_update_on_all():
    results = on_ranks(2, train_with_nan)
    assert results[0] == results[1]
    (first, second, third), bad = results[0]
    assert first == second != third
    assert bad == 0


class StopOne(BaseCallback):
    """Says stop on rank 1 after some calls; evaluates for longer than the timeout on rank 0 before that."""

    def __init__(self, rank):
        super().__init__()
        self.rank = rank

    def _on_step(self):
        if self.rank == 0 and self.n_calls == 3:
            evaluate_policy(self.model, SlowEnv(50), n_eval_episodes=1, warn=False)  # more than two timeouts
        return not (self.rank == 1 and self.n_calls == 40)


def stop_on_one(rank):
    model = make(RennalaNIGT, simulated([LengthFromSeedEnv] * N_WORKERS), timeout=1.0)
    model.learn(10**9, callback=StopOne(rank))
    first = model._n_updates, model.num_timesteps, checksum(model)
    model.learn(100, callback=None, reset_num_timesteps=False)  # and they can go on
    return first, (model._n_updates, model.num_timesteps, checksum(model))


def test_a_callback_on_one_rank_stops_all_and_a_long_one_is_waited_for():
    results = on_ranks(2, stop_on_one)
    assert results[0] == results[1]
    first, second = results[0]
    assert second[0] > first[0] > 0
    assert second[1] >= first[1] + 100


# State


def long_run(rank):
    model = make(MaleniaNIGT, simulated([LengthFromSeedEnv] * N_WORKERS), schedule="first_finished")
    n_keys = []

    class Look(BaseCallback):
        def _on_rollout_start(self):
            if self.model._n_updates in (5, 30):
                n_keys.append(self.model._group.ranks.line.call(lambda store: store.num_keys()))

        def _on_step(self):
            return self.model._n_updates < 31

    model.learn(10**9, callback=Look())
    return n_keys


def test_keys_of_old_rounds_are_deleted():
    first, last = on_ranks(2, long_run)[0]
    assert last <= first + 4  # a rank may be some requests ahead of the other


def normalized(rank):
    env = VecNormalize(simulated([LengthFromSeedEnv] * N_WORKERS))
    model = make(RennalaNIGT, env)
    run_rounds(model, N_ROUNDS)
    moments = [(rms.mean.tolist(), np.asarray(rms.var).tolist(), rms.count) for rms in (env.obs_rms, env.ret_rms)]
    return moments, checksum(model), sum(arrival.n_steps for arrival in model.last_round.arrivals)


def test_statistics_of_normalisation_are_the_same_everywhere():
    results = on_ranks(2, normalized)
    assert results[0] == results[1]


def test_moments_merge_to_those_of_all_trajectories():
    """Two halves, merged, are what one process would have taken in; up to rounding, since it takes one after the other."""
    stacks = [WrapperStack.around(VecNormalize(simulated([LengthFromSeedEnv]))) for _ in range(2)]
    alone, merged = stacks
    env, point = prepared(simulated([LengthFromSeedEnv]))
    trajectories = [run(env, job(point, 0, number)) for number in range(6)]
    alone.update(trajectories)
    merged.merge(np.stack([merged.moments(part) for part in (trajectories[:2], trajectories[2:], [])]))
    for one, other in zip(alone.state(), merged.state(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-9)
    merged.set_state(np.concatenate([np.ravel(part) for part in alone.state()]))
    assert all((one == other).all() for one, other in zip(alone.state(), merged.state(), strict=True))


def test_the_start_has_all_buffers_of_the_policy():
    """Also integers, and doubles that float32 cannot hold."""
    first, other = (
        RennalaNIGT("MlpPolicy", simulated([2]), policy_kwargs={"net_arch": [4], **MIXED}, seed=seed) for seed in (0, 1)
    )
    for name in ("integer buffer", "float64 buffer"):
        CHANGES[name][0](first.policy)
    for model in (first, other):
        run_rounds(model, 1 + (model is first))  # the optimizers have a state
    state.unpack(other, WrapperStack(), state.pack(first, WrapperStack()))
    for name, tensor in first.policy.state_dict().items():
        assert th.equal(tensor, other.policy.state_dict()[name]), name
    assert first.policy.optimizer.direction_norm() == other.policy.optimizer.direction_norm()


def resume(rank, path, owner):
    """One rank has the newest file, as where hosts share no disk; the other one an older file, or none if it is not rank 0."""
    env = simulated([LengthFromSeedEnv] * N_WORKERS)
    model = make(RennalaNIGT, env)
    model.learn(20)
    model.save(path / f"older{rank}")
    model.learn(30, reset_num_timesteps=False)
    before = (model._n_updates, model.num_timesteps)
    model.save(path / f"newest{rank}")
    group = AllReduceGroup(debug=True)
    if rank == 0 or rank == owner:
        model = RennalaNIGT.load(path / f"{'newest' if rank == owner else 'older'}{rank}", env=env, group=group)
    else:
        model = RennalaNIGT("MlpPolicy", env, n_trajectories=7, policy_kwargs={"net_arch": [4]}, seed=5, group=group)
    at_start = []

    class Look(BaseCallback):
        def _on_training_start(self):
            at_start.append((self.model._n_updates, self.model.num_timesteps))

        def _on_step(self):
            return True

    model.learn(60, callback=Look(), reset_num_timesteps=rank == 1 != owner)
    return before, at_start[0], checksum(model), model.num_timesteps, model.policy.optimizer.direction_norm()


@pytest.mark.parametrize("owner", [0, 1])
def test_all_ranks_resume_from_the_newest_file(owner, tmp_path):
    results = on_ranks(2, resume, tmp_path, owner)
    assert results[0] == results[1]
    before, at_start, _, num_timesteps, _ = results[0]
    assert at_start == before
    assert num_timesteps >= before[1] + 60


def start_anew(rank, folder):
    """Only rank 1 has a file, and no rank loads it."""
    own = folder / str(rank)
    if rank == 1:
        alone = make(RennalaNIGT, simulated([LengthFromSeedEnv]), group=False)
        run_rounds(alone, 3, RoundCheckpoint(own))
    with pytest.raises(ValueError) as raised:  # noqa: PT011  the test looks at what it says
        make(RennalaNIGT, simulated([LengthFromSeedEnv])).learn(10, callback=RoundCheckpoint(own))
    return str(raised.value)


def test_files_that_are_not_loaded_are_named_on_all_ranks(tmp_path):
    said = on_ranks(2, start_anew, tmp_path)
    assert said[0] == said[1]
    assert "training would begin after 0 updates, while there is" in said[0]
    assert "round_3.zip of rank 1" in said[0]
