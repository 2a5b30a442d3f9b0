"""Methods that are special cases of others, compared bit for bit; each with a neighbour that must differ."""

from functools import partial

import numpy as np
import pytest
import torch as th
from envs import LengthFromActionEnv, LengthFromSeedEnv, parameters, run_rounds, simulated
from paper import MaleniaNIGT, RennalaNIGT, SyncNIGT
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_nigt import AFedPG, RennalaPG, SyncPG

N_ROUNDS = 5

both_schedules = pytest.mark.parametrize("schedule", ["first_finished", "planned", "pipelined"])
random_lengths = (LengthFromSeedEnv,) * 3
action_lengths = (LengthFromActionEnv,) * 3
fixed_lengths = (4,) * 3


def make(algorithm, env_fns=random_lengths, step_times=1.0, per="step", task_ids=None, seed=3, **kwargs):
    env = simulated(env_fns, step_times, per=per, task_ids=task_ids)
    return algorithm("MlpPolicy", env, horizon=5, seed=seed, device="cpu", policy_kwargs={"net_arch": [4]}, **kwargs)


def trained(*args, **kwargs):
    model = make(*args, **kwargs)
    run_rounds(model, N_ROUNDS)
    return parameters(model)


def equal(first, second):
    start = parameters(make(RennalaNIGT))
    assert not np.array_equal(first, start), "nothing was learned, so equality says nothing"
    return np.array_equal(first, second)


# Rennala with equal speeds and M = n is the synchronous method

pairs = pytest.mark.parametrize(("rennala", "sync"), [(RennalaNIGT, SyncNIGT), (RennalaPG, SyncPG)])


@pairs
@pytest.mark.parametrize("env_fns", [random_lengths, action_lengths, fixed_lengths], ids=["seed", "action", "fixed"])
def test_planned_rennala_with_equal_speeds_is_synchronous(rennala, sync, env_fns):
    """One ticket each, also where lengths differ: no worker is predicted to be late."""
    assert equal(trained(rennala, env_fns, n_trajectories=3), trained(sync, env_fns, n_trajectories=3))


@pairs
@pytest.mark.parametrize(("env_fns", "per"), [(fixed_lengths, "step"), (random_lengths, "trajectory")])
def test_first_finished_rennala_with_equal_durations_is_synchronous(rennala, sync, env_fns, per):
    first = trained(rennala, env_fns, per=per, n_trajectories=3, schedule="first_finished")
    assert equal(first, trained(sync, env_fns, per=per, n_trajectories=3))


@pairs
@pytest.mark.parametrize(
    "unequal",
    [
        # a quick worker delivers two trajectories and the round does not wait for the slow one
        {"env_fns": fixed_lengths, "step_times": [1.0, 1.0, 10.0]},
        # lengths 1, 4, 4: worker 0 delivers at 1, 2 and 3
        {"env_fns": (1, 4, 4)},
    ],
    ids=["speeds", "lengths"],
)
def test_first_finished_rennala_with_unequal_durations_is_not_synchronous(rennala, sync, unequal):
    first = trained(rennala, n_trajectories=3, schedule="first_finished", **unequal)
    assert not equal(first, trained(sync, n_trajectories=3, **unequal))


@pairs
@both_schedules
def test_rennala_with_another_number_of_trajectories_is_not_synchronous(rennala, sync, schedule):
    assert not equal(trained(rennala, n_trajectories=4, schedule=schedule), trained(sync, n_trajectories=3))


def test_synchronous_does_not_depend_on_speeds():
    reference = trained(SyncNIGT, n_trajectories=5)
    assert equal(trained(SyncNIGT, step_times=[1.0, 7.0, 2.0], n_trajectories=5), reference)
    # ⌈5/3⌉ = ⌈6/3⌉ = 2
    assert equal(trained(SyncNIGT, n_trajectories=6), reference)
    assert not equal(trained(SyncNIGT, n_trajectories=7), reference)


def test_rennala_with_equal_speeds_is_synchronous_on_a_plain_vec_env():
    def on_plain(algorithm, m):
        env = DummyVecEnv([LengthFromSeedEnv] * 3)
        env.seed(0)
        model = algorithm("MlpPolicy", env, horizon=9, n_trajectories=m, seed=3, device="cpu", policy_kwargs={"net_arch": [4]})
        run_rounds(model, N_ROUNDS)
        return parameters(model)

    assert equal(on_plain(RennalaNIGT, 3), on_plain(SyncNIGT, 3))
    assert not equal(on_plain(RennalaNIGT, 4), on_plain(SyncNIGT, 3))


# Malenia with a single task is Rennala


@both_schedules
@pytest.mark.parametrize("step_times", [[1.0, 1.0, 1.0], [1.0, 2.5, 10.0]], ids=str)
def test_malenia_with_a_single_task_is_rennala(schedule, step_times):
    arguments = {"step_times": step_times, "n_trajectories": 7, "schedule": schedule}
    assert equal(trained(MaleniaNIGT, task_ids=["a"] * 3, **arguments), trained(RennalaNIGT, **arguments))


@both_schedules
def test_malenia_with_two_tasks_is_not_rennala(schedule):
    arguments = {"step_times": [1.0, 2.5, 10.0], "n_trajectories": 7, "schedule": schedule}
    assert not equal(trained(MaleniaNIGT, task_ids=list("aab"), **arguments), trained(RennalaNIGT, **arguments))
    # nor is the paper's one, where every worker is its own task
    assert not equal(trained(MaleniaNIGT, **arguments), trained(RennalaNIGT, **arguments))


@both_schedules
def test_malenia_with_equal_counts_has_the_mean_of_rennala(schedule):
    """Equal speeds and M = 2n: every worker has two trajectories, each of weight 1/(K · 2) = 1/M."""
    arguments = {"env_fns": fixed_lengths, "n_trajectories": 6, "schedule": schedule}
    assert equal(trained(MaleniaNIGT, **arguments), trained(RennalaNIGT, **arguments))
    unequal = {**arguments, "step_times": [1.0, 1.0, 3.0]}
    assert not equal(trained(MaleniaNIGT, **unequal), trained(RennalaNIGT, **unequal))


# AFedPG with one worker is sequential NIGT


@both_schedules
@pytest.mark.parametrize("eta", [0.1, 1.0])
def test_afedpg_with_one_worker_is_rennala_with_one_worker_and_one_trajectory(schedule, eta):
    one = {"env_fns": [LengthFromSeedEnv], "eta": eta}
    assert equal(trained(AFedPG, **one), trained(RennalaNIGT, n_trajectories=1, schedule=schedule, **one))


def test_afedpg_with_one_worker_and_a_first_mean():
    one = {"env_fns": [LengthFromSeedEnv], "n_initial_trajectories": 4}
    reference = trained(RennalaNIGT, n_trajectories=1, **one)
    assert equal(trained(AFedPG, **one), reference)
    assert not equal(trained(AFedPG, **{**one, "n_initial_trajectories": 3}), reference)


def test_afedpg_with_two_workers_is_something_else():
    two = {"env_fns": [LengthFromSeedEnv] * 2, "step_times": [1.0, 1.5]}
    assert not equal(trained(AFedPG, **two), trained(RennalaNIGT, n_trajectories=1, **two))


# NIGT with η = 1 is normalised ascent


def recorded_run(model, n_rounds):
    """Train; return the parameters before every update and the ascent direction that the optimizer was given."""
    thetas, gradients, step = [], [], model.policy.optimizer.step

    def recording_step(*args, **kwargs):
        thetas.append(parameters(model).astype(np.float64))
        gradients.append(-th.cat([p.grad.reshape(-1) for p in model.policy.parameters()]).double().numpy())
        return step(*args, **kwargs)

    model.policy.optimizer.step = recording_step
    run_rounds(model, n_rounds)
    return [*thetas, parameters(model).astype(np.float64)], gradients


def rounding(theta, n_updates):
    """What float32 additions may be off by: half a unit in the last place of θ and as much of the update, each time."""
    return 2 * n_updates * 2.0**-24 * max(1.0, np.abs(theta).max())


@both_schedules
def test_eta_one_is_normalised_ascent(schedule):
    def run_and_loop(eta):
        """Return the model's parameters after every update, and those of an independent loop over its gradients."""
        thetas, gradients = recorded_run(make(RennalaNIGT, n_trajectories=7, eta=eta, **arguments), N_ROUNDS)
        assert min(np.linalg.norm(gradient) for gradient in gradients) > 1e-3
        steps = [alpha * gradient / np.linalg.norm(gradient) for gradient in gradients]
        return thetas[1:], thetas[0] + np.cumsum(steps, axis=0)

    alpha = 2.0**-4
    arguments = {"learning_rate": alpha, "schedule": schedule, "step_times": [1.0, 2.0, 5.0]}
    thetas, looped = run_and_loop(eta=1.0)
    for n_updates, (theta, expected) in enumerate(zip(thetas, looped, strict=True), start=1):
        np.testing.assert_allclose(theta, expected, rtol=0, atol=rounding(theta, n_updates))
    thetas, looped = run_and_loop(eta=0.5)
    np.testing.assert_allclose(thetas[0], looped[0], rtol=0, atol=rounding(thetas[0], 1))  # d_0 = g_0 for every η
    assert np.abs(thetas[1] - looped[1]).max() > 100 * rounding(thetas[1], 2)


@pytest.mark.parametrize(("algorithm", "eta"), [(RennalaNIGT, 1.0), (RennalaNIGT, 0.25), (RennalaPG, None)])
def test_where_a_round_samples(algorithm, eta):
    """At θ_t for η = 1 and without momentum; at θ_t + 3 (θ_t - θ_{t-1}) for η = 1/4. The policy holds θ_t all the while."""
    model = make(algorithm, n_trajectories=5, learning_rate=2.0**-4, **({} if eta is None else {"eta": eta}))
    points, thetas, submit = {}, {}, model.env.submit

    def recording_submit(job):
        points[job.point.round], thetas[job.point.round] = job.point.parameters.astype(np.float64), parameters(model)
        submit(job)

    model.env.submit = recording_submit
    run_rounds(model, N_ROUNDS)
    assert list(points) == list(range(N_ROUNDS))
    for t in range(1, N_ROUNDS):
        now, before = thetas[t].astype(np.float64), thetas[t - 1].astype(np.float64)
        factor = 3 if eta == 0.25 else 0
        assert np.linalg.norm(now - before) > 1e-3
        np.testing.assert_allclose(points[t], now + factor * (now - before), rtol=0, atol=rounding(now, 1))


def test_plain_ascent_takes_the_same_first_direction():
    """With one gradient only the lengths of the steps differ: α/‖g‖ times the gradient is a step of length α."""
    alpha = 2.0**-4
    thetas, (gradient,) = recorded_run(make(RennalaNIGT, n_trajectories=7, learning_rate=alpha), 1)
    plain, _ = recorded_run(make(RennalaPG, n_trajectories=7, learning_rate=alpha / np.linalg.norm(gradient)), 1)
    assert np.linalg.norm(thetas[1] - thetas[0]) == pytest.approx(alpha, rel=1e-4)
    np.testing.assert_allclose(plain[1], thetas[1], rtol=0, atol=rounding(thetas[1], 1))


@pytest.mark.parametrize("algorithm", [partial(RennalaPG, schedule="planned"), SyncPG])
def test_plain_methods_add_the_gradient(algorithm):
    alpha = 2.0**-3
    thetas, gradients = recorded_run(make(algorithm, n_trajectories=6, learning_rate=alpha), N_ROUNDS)
    for before, after, gradient in zip(thetas[:-1], thetas[1:], gradients, strict=True):
        np.testing.assert_allclose(after, before + alpha * gradient, rtol=0, atol=rounding(after, 1))
