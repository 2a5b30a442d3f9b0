"""Ranks that train with the defaults: the same parameters on all of them, and those of one process with all the workers."""

from functools import partial

import numpy as np
import pytest
from envs import DictEnv, LengthFromSeedEnv, keep_outputs, parameters, run_rounds, simulated
from gymnasium import spaces
from ranks import N_WORKERS, SMALL, SlowEnv, make_steps, on_ranks, settings
from stable_baselines3.common.callbacks import BaseCallback

from sb3_nigt import MaleniaNIGT, ProcessVecEnv, RennalaNIGT, SyncNIGT
from sb3_nigt.algorithms.book import RoundResult
from sb3_nigt.algorithms.group import Alone
from sb3_nigt.distributed import RoundCheckpoint, newest_checkpoint
from sb3_nigt.distributed.observations import as_bytes, from_bytes
from sb3_nigt.estimators import WorkerMoments
from sb3_nigt.estimators.standardize import merged_task_moments, task_moments
from sb3_nigt.moments import Moments

N_ROUNDS = 4


CASES = {
    "defaults": (RennalaNIGT, [LengthFromSeedEnv], {}),
    "KL": (RennalaNIGT, [LengthFromSeedEnv], {"geometry": "euclidean_kl"}),
    "spectral": (RennalaNIGT, [LengthFromSeedEnv], {"geometry": "spectral"}),
    "euclidean": (RennalaNIGT, [LengthFromSeedEnv], {"geometry": "euclidean"}),
    "Dict observations": (RennalaNIGT, [DictEnv], {}),
    "Malenia": (MaleniaNIGT, [LengthFromSeedEnv, partial(LengthFromSeedEnv, 40)], {}),
    "synchronous": (SyncNIGT, [LengthFromSeedEnv], {}),
    "processes": (RennalaNIGT, [LengthFromSeedEnv], {}),
}


class KeepParameters(BaseCallback):
    """Keeps the parameters of the actor before each round."""

    def __init__(self):
        super().__init__()
        self.parameters = []

    def _on_rollout_start(self):
        actor = self.model.policy.actor_parameters()
        self.parameters.append(np.concatenate([p.detach().numpy().ravel() for p in actor]))

    def _on_step(self):
        return True


def keep_critics(model, critics):
    """Add the critic of each round to a list, from now on."""
    learn = model.estimator.learn

    def learn_and_keep(mean):
        learn(mean)
        critics.append(model.estimator.critic.vector())

    model.estimator.learn = learn_and_keep


class KeepCritics(BaseCallback):
    """Keeps the critic of each round, and what each round has cost the group."""

    def _on_training_start(self):
        self.critics, self.costs = [], []
        keep_critics(self.model, self.critics)
        keep_outputs(self.model._group.ranks, "take_statistics", self.costs)

    def _on_step(self):
        return True


def running_statistics(model):
    """Of observations and rewards, as one vector."""
    parts = [*model.policy.normalizer.moments(), model.estimator.scale.moments]
    return np.concatenate([moments.vector() for moments in parts])


def arrivals_of(reports):
    return [[(a.worker, a.key, a.n_steps, str(a.episode_return), a.task_id) for a in r.arrivals] for r in reports]


def train_all(rank):
    """Each rank has workers of one kind only, where there are two."""
    results = {}
    for case, (algorithm, env_fns, kwargs) in CASES.items():
        env_fn = env_fns[rank % len(env_fns)]
        env = ProcessVecEnv([env_fn] * N_WORKERS) if case == "processes" else simulated([env_fn] * N_WORKERS)
        model, kept, critics = make_steps(algorithm, env, **kwargs), KeepParameters(), KeepCritics()
        reports = run_rounds(model, N_ROUNDS, kept, critics)
        statistics = running_statistics(model)
        common = parameters(model).tobytes(), statistics.tobytes(), model.num_timesteps, arrivals_of(reports)
        sent = [costs["bytes"] for costs in critics.costs]
        results[case] = common, reports, kept.parameters, critics.critics, statistics, sent
        env.close()
    return results


@pytest.fixture(scope="module")
def trained():
    return on_ranks(2, train_all)


@pytest.mark.parametrize("case", CASES)
def test_ranks_agree_bit_by_bit(trained, case):
    """Actor and critic, normaliser, unit of rewards, timesteps, and who has made which piece."""
    first, other = (results[case][0] for results in trained)
    assert first == other


class Repeat:
    """Settings of a group of one process that makes the steps that ranks have made; its critic learns what theirs has."""

    def __init__(self, reports, critics):
        self.reports, self.critics = list(reports), list(critics)

    def check(self, model):
        pass

    def join(self, model, workers, stack):
        model.estimator.learn = lambda mean: model.estimator.critic.set_vector(self.critics.pop(0))
        return Repeated(self, workers, stack)


class Repeated(Alone):
    def __init__(self, repeat, workers, stack):
        super().__init__(workers, stack)
        self.repeat = repeat

    def run_round(self, plan):
        plan.meanwhile()
        report = self.repeat.reports.pop(0)
        return RoundResult(report, self.workers.repeat_segments(plan.point, report.segments).pieces)


@pytest.mark.parametrize("case", CASES)
def test_one_process_comes_to_the_same_parameters(trained, case):
    """
    With the workers of all ranks and their random numbers it makes the same steps, as many as the reports say. It adds up in
    another order, so the last bits differ: of advantages, gradient, metric, normaliser and unit of rewards.
    """
    algorithm, env_fns, kwargs = CASES[case]
    _, reports, expected, critics, statistics, _ = trained[0][case]
    env = simulated([env_fn for rank in range(2) for env_fn in [env_fns[rank % len(env_fns)]] * N_WORKERS])
    model, kept = make_steps(algorithm, env, Repeat(reports, critics), **kwargs), KeepParameters()
    run_rounds(model, N_ROUNDS, kept)
    for number in range(1, N_ROUNDS):
        step = np.linalg.norm(expected[number] - expected[number - 1])
        assert np.linalg.norm(kept.parameters[number] - expected[number]) < 1e-3 * step, number
    np.testing.assert_allclose(running_statistics(model), statistics, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_a_round_is_complete_by_the_rule(trained, case):
    """M = n_steps · n over the workers of all ranks; all of them have a weight where they have steps."""
    n = 2 * N_WORKERS
    for report in trained[0][case][1]:
        counts = report.counts
        assert counts.sum() == sum(arrival.n_steps for arrival in report.arrivals)
        if case == "Malenia":  # without task ids each worker is a task
            assert n / (1.0 / counts).sum() >= SMALL["n_steps"]
            np.testing.assert_allclose(report.weights, 1.0 / (n * counts))
        else:
            assert counts.sum() >= n * SMALL["n_steps"]
            np.testing.assert_allclose(report.weights, (counts > 0) / counts.sum())
        if case == "synchronous":
            assert counts.min() >= SMALL["n_steps"]


@pytest.mark.parametrize(("case", "copies_of_step"), [("defaults", 2), ("KL", 2), ("spectral", 2), ("euclidean", 0)])
def test_a_round_sends_what_the_table_on_the_page_says(trained, case, copies_of_step):
    """Rank 0 of two, with debug=True: a gather of one number more. Once the critic is fitted in every round."""
    _, reports, parameters, critics, _, sent = trained[0][case]
    d, v, o = len(parameters[0]), (len(critics[0]) - 1) // 3, 2  # what is kept of a critic has Adam's moments and its count
    for report, n_bytes in list(zip(reports, sent, strict=True))[2:]:
        of_ranks = [arrival.worker // N_WORKERS for arrival in (*report.arrivals, *report.rejected)]
        p = max(of_ranks.count(0), of_ranks.count(1))
        critic = 4 * (3 * v + 2)
        assert n_bytes == 8 * (11 + 11 * N_WORKERS + 2 * o) + 64 * p + 4 * d + copies_of_step * 4 * d + critic + 8


# Parts


OBSERVATIONS = {
    "vector": (spaces.Box(-1, 1, (3,), np.float64), np.arange(6.0).reshape(2, 3)),
    "image": (spaces.Box(0, 255, (2, 2, 1), np.uint8), np.arange(8, dtype=np.uint8).reshape(2, 2, 2, 1)),
    "number": (spaces.Discrete(5), np.array([3, 4])),
}


@pytest.mark.parametrize("names", [["vector"], ["image"], ["number"], ["vector", "image", "number"]])
def test_observations_become_bytes_and_come_back(names):
    space, rows = (({name: OBSERVATIONS[name][i] for name in names}) for i in range(2))
    if len(names) == 1:
        space, rows = OBSERVATIONS[names[0]]
    else:
        space = spaces.Dict(space)
    packed = as_bytes(space, rows)
    back = from_bytes(space, packed)
    for name in names:
        one, other = (rows, back) if len(names) == 1 else (rows[name], back[name])
        np.testing.assert_array_equal(one, other)
        assert other.dtype == (np.float32 if name == "vector" else one.dtype)
    assert as_bytes(space, None).shape == (0, packed.shape[1])


def test_moments_of_workers_merge_to_those_of_all_steps():
    """Weights differ by worker, also within a task, and one task has no steps."""
    rng = np.random.default_rng(0)
    advantages, workers = rng.standard_normal(50), np.sort(rng.integers(0, 4, 50))
    of_task, weights = np.array([0, 2, 2, 0]), np.array([0.5, 1.0, 2.0, 0.0])
    of_workers = {
        worker: WorkerMoments(int(of_task[worker]), Moments.of(advantages[workers == worker])) for worker in range(4)
    }
    expected = task_moments(advantages, of_task[workers], weights[workers], 3)
    merged = merged_task_moments(of_workers, weights, 3)
    for name in ("weight", "mean", "m2"):
        np.testing.assert_allclose(getattr(merged, name), getattr(expected, name), rtol=1e-12, atol=1e-12)


# Going on


def start_of(model):
    """What a run begins with, as far as ranks share it."""
    critic = model.estimator.critic.vector().tobytes()
    return model.n_updates, parameters(model).tobytes(), running_statistics(model).tobytes(), critic


class KeepStart(BaseCallback):
    def _on_training_start(self):
        self.start, self.sample = start_of(self.model), list(self.model.fisher_sample.rounds)

    def _on_step(self):
        return True


def go_on(rank, folder):
    """Hosts share no disk: rank 1 alone has files, of three and four rounds, and rank 0 begins with a new model."""
    own, env, kept = folder / str(rank), simulated([LengthFromSeedEnv] * N_WORKERS), KeepStart()
    if rank == 1:
        make_steps(RennalaNIGT, simulated([LengthFromSeedEnv] * 2 * N_WORKERS), group=False).learn(320, RoundCheckpoint(own))
    path = newest_checkpoint(own)
    model = make_steps(RennalaNIGT, env, seed=5) if path is None else RennalaNIGT.load(path, env=env, group=settings())
    loaded = start_of(model) if rank == 1 else None
    reports = run_rounds(model, 3, kept, RoundCheckpoint(own))
    files = sorted(path.name for path in own.glob("*.zip"))
    return loaded, kept.start, kept.sample, [report.round for report in reports], parameters(model).tobytes(), files


def test_ranks_go_on_from_the_one_that_has_a_file(tmp_path):
    """Policy, normaliser, unit of rewards and critic are those of the file, and the Fisher sample is at rank 0."""
    first, other = on_ranks(2, go_on, tmp_path)
    _, start, sample, rounds, end, files = first
    loaded, other_start, other_sample, _, other_end, _ = other
    assert start == other_start == loaded
    assert start[0] == rounds[0] == 3
    assert len(sample) == 3
    assert all(map(np.array_equal, sample, other_sample))
    assert end == other_end
    assert files == ["round_5.zip", "round_6.zip"]  # rank 0 writes from now on


def go_on_with_tasks(rank, folder):
    """Two tasks, which change places between the ranks: first all of them, then the first model alone goes on."""

    def workers(*tasks):
        return simulated([LengthFromSeedEnv] * len(tasks), task_ids=tasks)

    first, then = [("good", "bad"), ("bad", "good")][rank], [("bad", "bad"), ("new", "good")][rank]
    model = make_steps(MaleniaNIGT, workers(*first))
    run_rounds(model, 2)
    before = dict(model.estimator.task_numbers)
    model.save(folder / str(rank))
    loaded = MaleniaNIGT.load(folder / str(rank), env=workers(*then), group=settings())
    run_rounds(loaded, 2)
    return before, dict(loaded.estimator.task_numbers)


def test_ranks_know_tasks_by_the_numbers_that_their_critic_has_learned(tmp_path):
    (before, after), other = on_ranks(2, go_on_with_tasks, tmp_path)
    assert (before, after) == other
    assert before == {"good": 0, "bad": 1}
    assert {task: after[task] for task in ("good", "bad")} == before


# Ranks that are slow


def train_with_a_slow_rank(rank):
    env = simulated([partial(SlowEnv, 1000) if rank == 1 else LengthFromSeedEnv] * N_WORKERS)
    model = make_steps(RennalaNIGT, env)
    reports = run_rounds(model, 3)
    return [report.counts.tolist() for report in reports], parameters(model).tobytes()


def test_a_slow_rank_is_not_waited_for():
    """One of its steps takes 50 ms, so it makes a few while the other rank makes its share; all of them count."""
    first, other = on_ranks(2, train_with_a_slow_rank)
    assert first == other
    assert all(sum(counts[N_WORKERS:]) < N_WORKERS * SMALL["n_steps"] for counts in first[0])
