"""
NaN and infinity from an environment: such a trajectory enters no sum, is counted, and does not stop the others.

The proof that nothing else entered: the round's gradient, read off the parameters, equals ``policy_gradient`` of the accepted
trajectories alone, which are sampled again, from their keys, on an environment without faults.
"""

import re
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from envs import coefficients
from gymnasium import spaces
from paper import MaleniaNIGT, RennalaNIGT
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import sb3_nigt
from sb3_nigt import AFedPG, ProcessVecEnv, RennalaPG, SimulatedVecEnv
from sb3_nigt.algorithms.book import MAX_REJECTED_IN_A_ROW
from sb3_nigt.errors import NonFiniteError, WorkerError
from sb3_nigt.messages import SamplingPoint
from sb3_nigt.parameters import flatten
from sb3_nigt.replica.copying import copy_of
from sb3_nigt.replica.gradients import policy_gradient
from sb3_nigt.replica.replica import PolicyReplica
from sb3_nigt.sampling.heads import make_head
from sb3_nigt.sampling.sampler import FreshNoise, Sampler
from sb3_nigt.sampling.seeding import trajectory_seeds

NAN, INF = float("nan"), float("inf")
LENGTH, H, SEED = 5, 8, 3
FAULTS = {
    "reward nan": ("reward", 2, NAN),
    "reward inf": ("reward", 0, INF),
    "last reward -inf": ("reward", LENGTH - 1, -INF),
    "first observation": ("observation", -1, NAN),
    "observation nan": ("observation", 1, NAN),
    "observation inf": ("observation", 2, INF),
}


class LinearEnv(gym.Env):
    """
    A deterministic system with episodes of five steps, some of which go wrong at one step.

    :param fault: what goes wrong, after which step (-1: at reset), and the number given; None: nothing ever
    :param is_faulty: whether the worker's trajectory of that number goes wrong, counted from 0
    :param spare_resets: resets before the first trajectory
    """

    def __init__(self, fault=None, is_faulty=lambda episode: False, spare_resets=0, dict_space=False, discrete=False):
        box = spaces.Box(-INF, INF, (2,))
        self.observation_space = spaces.Dict(x=box, k=spaces.Discrete(2)) if dict_space else box
        self.action_space = spaces.Discrete(2) if discrete else spaces.Box(-1, 1, (2,))
        self.fault, self.is_faulty, self.dict_space = fault, is_faulty, dict_space
        self.episode = -1 - spare_resets

    def reset(self, *, seed=None, options=None):
        self.episode += 1
        self.x, self.t = np.array([1.0, -0.5]), 0
        return self._observation(-1), {}

    def step(self, action):
        self.x = 0.5 * self.x + 0.1 * np.asarray(action)
        self.t += 1
        reward = float(self.x.sum()) + 1.0
        if self._goes_wrong("reward", self.t - 1):
            reward = self.fault[2]
        return self._observation(self.t - 1), reward, self.t == LENGTH, False, {}

    def _observation(self, step):
        x = self.x.astype(np.float32)
        if self._goes_wrong("observation", step):
            x[1] = self.fault[2]
        return {"x": x, "k": np.int64(1)} if self.dict_space else x

    def _goes_wrong(self, what, step):
        return self.fault is not None and self.fault[:2] == (what, step) and self.episode >= 0 and self.is_faulty(self.episode)


def never(trajectory):
    return False


def always(trajectory):
    return True


def every_third(trajectory):
    return trajectory % 3 == 1


def make_env(kind, fault=None, is_faulty=never, env_class=LinearEnv, **kwargs):
    """Two workers, the second of which goes wrong."""
    if kind == "lock-step":  # the reset that opens ``learn`` is the start of the first trajectories
        return DummyVecEnv([partial(env_class, **kwargs), partial(env_class, fault, is_faulty, **kwargs)])
    return SimulatedVecEnv([partial(env_class, **kwargs), partial(env_class, fault, is_faulty, spare_resets=1, **kwargs)])


class Rounds(BaseCallback):
    """Keeps the report of every round, and what was logged of it."""

    def _init_callback(self):
        self.reports, self.logged = [], []

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        self.reports.append(self.model.last_round)
        self.logged.append(self.logger.name_to_value["async/rejected"])


def oracle(model, report, parameters, env):
    """Σ_i w_i S_i over the arrivals of a report, sampled again from their keys."""
    replica = PolicyReplica(copy_of(model.policy, model.device))
    point = SamplingPoint(0, parameters)
    trajectories = []
    for arrival in report.arrivals:
        sampler = Sampler(env, make_head(replica.policy), model.horizon)
        seeds = trajectory_seeds(SEED, arrival.key)
        noise = FreshNoise(sampler.head, seeds.actions)
        sampler.begin(arrival.key, point, replica.network(point), seeds.env, noise)
        sampler.advance(model.horizon)
        assert sampler.n_done == arrival.n_steps
        trajectories.append(sampler.trajectory())
    with th.no_grad():
        th.nn.utils.vector_to_parameters(th.from_numpy(parameters), replica.policy.parameters())
    weights = [report.weights[arrival.worker] for arrival in report.arrivals]
    return policy_gradient(replica.policy, trajectories, coefficients(trajectories, weights, model.gamma)).numpy()


ALGORITHMS = [
    (RennalaNIGT, {"schedule": "planned"}),
    (RennalaNIGT, {"schedule": "first_finished"}),
    (MaleniaNIGT, {"schedule": "planned"}),
    (MaleniaNIGT, {"schedule": "first_finished"}),
]


@pytest.mark.one_in(4)
@pytest.mark.parametrize("kind", ["simulated", "lock-step"])
@pytest.mark.parametrize(("algorithm", "kwargs"), ALGORITHMS)
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("number", [0, 1])
def test_rejected_trajectory_enters_no_sum(kind, algorithm, kwargs, fault, number):
    """Worker 1 goes wrong in its first or second trajectory, M = 6: the gradient is that of the other six."""
    env = make_env(kind, fault, lambda trajectory: trajectory == number)
    model = algorithm("MlpPolicy", env, n_trajectories=6, horizon=H, seed=SEED, learning_rate=0.01, gamma=0.9, **kwargs)
    before = flatten(model.policy)
    rounds = Rounds()
    model.learn(1, callback=rounds)

    report = rounds.reports[0]
    assert [(a.worker, a.rejected) for a in report.rejected] == [(1, fault[0])]
    assert rounds.logged == [1]
    assert report.counts.sum() == len(report.arrivals) >= 6
    assert report.counts[1] > 0
    assert all(a.rejected is None and a.n_steps == LENGTH for a in report.arrivals)
    gradient = oracle(model, report, before, LinearEnv())
    np.testing.assert_allclose((flatten(model.policy) - before) / 0.01, gradient / np.linalg.norm(gradient), atol=1e-4)

    model.learn(200, callback=rounds, reset_num_timesteps=False)
    assert len(rounds.reports) > 2
    assert not any(later.rejected for later in rounds.reports[1:])
    assert np.isfinite(flatten(model.policy)).all()


@pytest.mark.parametrize("kind", ["simulated", "lock-step"])
@pytest.mark.parametrize("space", [{"dict_space": True}, {"discrete": True}], ids=["Dict", "Discrete"])
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_other_spaces(kind, space, fault):
    """Every third episode of worker 1 goes wrong, in a Dict observation, or where actions are categorical."""
    env = make_env(kind, fault, every_third, **space)
    policy = "MultiInputPolicy" if "dict_space" in space else "MlpPolicy"
    model = RennalaPG(policy, env, n_trajectories=6, horizon=H, seed=SEED)
    rounds = Rounds()
    model.learn(150, callback=rounds)
    rejected = [a for report in rounds.reports for a in report.rejected]
    assert rejected
    assert {(a.worker, a.rejected) for a in rejected} == {(1, fault[0])}
    assert all(a.n_steps == LENGTH for report in rounds.reports for a in report.arrivals)
    assert all(report.counts.sum() == 6 for report in rounds.reports)
    assert np.isfinite(flatten(model.policy)).all()


class ListEnv(LinearEnv):
    """Stable-Baselines3 takes a list for an array."""

    def _observation(self, step):
        return super()._observation(step).tolist()


@pytest.mark.parametrize("kind", ["simulated", "lock-step"])
def test_observations_that_are_lists(kind):
    env = make_env(kind, FAULTS["observation nan"], every_third, ListEnv)
    model = RennalaPG("MlpPolicy", env, n_trajectories=6, horizon=H, seed=SEED)
    rounds = Rounds()
    model.learn(100, callback=rounds)
    assert {a.worker for report in rounds.reports for a in report.rejected} == {1}
    assert np.isfinite(flatten(model.policy)).all()


class LargeEnv(LinearEnv):
    """Finite observations whose squares leave the range of their type."""

    def __init__(self, value, dtype):
        super().__init__()
        self.observation_space, self.value = spaces.Box(-INF, INF, (2,), dtype), value

    def _observation(self, step):
        return np.full(2, self.value, dtype=self.observation_space.dtype)


@pytest.mark.parametrize("make", [SimulatedVecEnv, DummyVecEnv])
@pytest.mark.parametrize(("value", "dtype"), [(300.0, np.float16), (1e20, np.float32)])
def test_large_numbers_are_no_infinity(make, value, dtype):
    rounds = Rounds()
    model = RennalaNIGT("MlpPolicy", make([partial(LargeEnv, value, dtype)]), n_trajectories=2, horizon=H, seed=SEED)
    model.learn(20, callback=rounds)
    assert rounds.logged == [0, 0]
    assert np.isfinite(flatten(model.policy)).all()


@pytest.mark.parametrize("what", ["reward nan", "observation nan", "first observation"])
def test_statistics_of_vec_normalize_stay_finite(what):
    env = VecNormalize(make_env("simulated", FAULTS[what], every_third))
    model = RennalaNIGT("MlpPolicy", env, n_trajectories=4, horizon=H, seed=SEED)
    rounds = Rounds()
    model.learn(100, callback=rounds)
    assert any(report.rejected for report in rounds.reports)
    used = sum(report.used_steps for report in rounds.reports)
    assert np.isfinite(env.obs_rms.mean).all()
    assert np.isfinite(env.obs_rms.var).all()
    assert np.isfinite(env.ret_rms.var)
    # Stable-Baselines3's reset before the first round adds one observation a worker; RunningMeanStd starts at 1e-4
    assert env.obs_rms.count == pytest.approx(used + env.num_envs + 1e-4)
    assert env.ret_rms.count == pytest.approx(used + 1e-4)


def test_afedpg_goes_on():
    env = make_env("simulated", FAULTS["reward nan"], every_third)
    rounds = Rounds()
    model = AFedPG("MlpPolicy", env, horizon=H, seed=SEED).learn(100, callback=rounds)
    assert sum(rounds.logged) == sum(len(report.rejected) for report in rounds.reports) >= 3
    assert np.isfinite(flatten(model.policy)).all()


@pytest.mark.one_in(4)
@pytest.mark.parametrize("kind", ["simulated", "lock-step"])
@pytest.mark.parametrize(("algorithm", "kwargs"), [*ALGORITHMS, (AFedPG, {})])
@pytest.mark.parametrize("fault", ["reward nan", "observation nan", "first observation"])
def test_hopeless_worker_stops_the_run(kind, algorithm, kwargs, fault, tmp_path):
    env_fns = [LinearEnv, partial(LinearEnv, FAULTS[fault], always)]
    if kind == "simulated":
        env, task_id = SimulatedVecEnv(env_fns, task_ids=["left", "left"]), "left"
    else:
        env, task_id = DummyVecEnv(env_fns), 1
    model = algorithm("MlpPolicy", env, horizon=H, seed=SEED, **kwargs)
    rounds = Rounds()
    message = f"Worker 1 (task {task_id!r}): {MAX_REJECTED_IN_A_ROW} trajectories in a row ended with a non-finite "
    with pytest.raises(WorkerError, match=re.escape(message + FAULTS[fault][0]) + ".*check_env") as error:
        model.learn(10_000, callback=rounds)
    assert (error.value.worker, error.value.task_id) == (1, task_id)
    assert all(report.counts[1] == 0 for report in rounds.reports)

    parameters = flatten(model.policy)
    assert np.isfinite(parameters).all()
    model.save(tmp_path / "model.zip")
    good = make_env(kind)
    loaded = algorithm.load(tmp_path / "model.zip", env=good)
    np.testing.assert_array_equal(flatten(loaded.policy), parameters)
    loaded.learn(50)
    model.set_env(good)
    model.learn(50)
    for trained in (loaded, model):
        assert trained.last_round.counts.sum() >= 1
        assert np.isfinite(flatten(trained.policy)).all()
        assert not np.array_equal(flatten(trained.policy), parameters)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("n_steps", [50, 51])
def test_a_lock_step_worker_is_hopeless_wherever_the_round_ends(n_steps):
    """50 steps are ten episodes; after 51 another one has begun, and has nothing bad yet."""
    env = DummyVecEnv([partial(LinearEnv, FAULTS["observation inf"], always)])
    model = sb3_nigt.RennalaNIGT("MlpPolicy", env, n_steps=n_steps, seed=SEED)
    with pytest.raises(WorkerError, match="in a row ended with a non-finite"):
        model.learn(200)


class GoesOnEnv(LinearEnv):
    """An episode that goes on for five steps after one with a fault."""

    def step(self, action):
        *others, _, truncated, info = super().step(action)
        return *others, self.t == 2 * LENGTH, truncated, info


@pytest.mark.timeout(60)
@pytest.mark.parametrize("n_steps", [20, 50])
def test_a_lock_step_worker_is_hopeless_although_its_episodes_go_on(n_steps):
    """What comes after the fault is usable, and would be the only half of each episode that counts."""
    env_fns = [partial(GoesOnEnv, FAULTS["reward nan"], always), LinearEnv]
    model = sb3_nigt.RennalaNIGT("MlpPolicy", DummyVecEnv(env_fns), n_steps=n_steps, seed=SEED)
    with pytest.raises(WorkerError, match="in a row ended with a non-finite reward"):
        model.learn(1000)


def test_a_success_in_between_is_forgiven():
    """Four failures, one success, again and again, over many rounds."""

    def often(trajectory):
        return trajectory % MAX_REJECTED_IN_A_ROW != 0

    env = SimulatedVecEnv(
        [partial(LinearEnv, FAULTS["reward nan"], lambda trajectory: trajectory % MAX_REJECTED_IN_A_ROW != 0)]
    )
    rounds = Rounds()
    RennalaNIGT("MlpPolicy", env, n_trajectories=3, horizon=H).learn(400, callback=rounds)
    assert len(rounds.reports) > 3
    assert sum(rounds.logged) >= 3 * (MAX_REJECTED_IN_A_ROW - 1) * len(rounds.reports) - MAX_REJECTED_IN_A_ROW


class HugeRewardEnv(gym.Env):
    """One-step episodes; the reward of the first ``n_huge`` is so large that the gradient leaves the range of float32."""

    def __init__(self, n_huge):
        self.observation_space, self.action_space = spaces.Box(-1, 1, (2,)), spaces.Box(-1, 1, (32,))
        self.n_huge, self.episode = n_huge, 0

    def reset(self, *, seed=None, options=None):
        return np.array([1.0, -0.5], dtype=np.float32), {}

    def step(self, action):
        self.episode += 1
        return np.zeros(2, dtype=np.float32), 3e38 if self.episode <= self.n_huge else 1.0, True, False, {}


@pytest.mark.parametrize("kind", ["simulated", "lock-step"])
@pytest.mark.parametrize("algorithm", [RennalaNIGT, MaleniaNIGT, RennalaPG, AFedPG])
class TestGradientThatIsNotFinite:
    def make_env(self, kind, n_huge):
        return {"simulated": SimulatedVecEnv, "lock-step": DummyVecEnv}[kind]([partial(HugeRewardEnv, n_huge)])

    def make(self, algorithm, kind, n_huge):
        kwargs = {} if algorithm is AFedPG else {"n_trajectories": 1}
        return algorithm("MlpPolicy", self.make_env(kind, n_huge), seed=SEED, **kwargs)

    def test_update_is_skipped(self, algorithm, kind):
        model = self.make(algorithm, kind, MAX_REJECTED_IN_A_ROW - 1)
        before = flatten(model.policy)
        model.learn(MAX_REJECTED_IN_A_ROW - 1)
        np.testing.assert_array_equal(flatten(model.policy), before)
        assert not model.policy.optimizer.state
        model.learn(3, reset_num_timesteps=False)
        assert not np.array_equal(flatten(model.policy), before)
        assert np.isfinite(flatten(model.policy)).all()

    def test_run_stops_after_several(self, algorithm, kind, tmp_path):
        model = self.make(algorithm, kind, 1000)
        before = flatten(model.policy)
        with pytest.raises(
            RuntimeError, match=rf"{MAX_REJECTED_IN_A_ROW} rounds in a row .* smaller learning_rate"
        ) as stopped:
            model.learn(1000)
        assert isinstance(stopped.value, ValueError)  # which a search for hyperparameters takes for a bad choice
        assert model.num_timesteps == MAX_REJECTED_IN_A_ROW
        np.testing.assert_array_equal(flatten(model.policy), before)
        model.save(tmp_path / "model.zip")
        loaded = algorithm.load(tmp_path / "model.zip", env=self.make_env(kind, 0))
        loaded.learn(3)
        assert np.isfinite(flatten(loaded.policy)).all()


# A policy that has diverged


class PickyEnv(LinearEnv):
    """Takes no action that is not finite, or returns what follows from it."""

    def __init__(self, raises):
        super().__init__()
        self.raises = raises

    def step(self, action):
        if self.raises and not np.isfinite(action).all():
            raise ValueError("the action must be a number")
        return super().step(action)


class Diverge(BaseCallback):
    """After two updates the policy's parameters are no longer finite."""

    def _on_rollout_start(self):
        if self.model.n_updates == 2:
            for p in self.model.policy.parameters():
                p.data.fill_(NAN)

    def _on_step(self):
        return True


DIVERGED = r"after update \d+ the policy's output is no longer finite. Try a smaller learning_rate"


@pytest.mark.one_in(3)
@pytest.mark.filterwarnings("ignore:Worker 0 .*failed:UserWarning")
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("kind", ["simulated", "lock-step", "processes"])
@pytest.mark.parametrize("raises", [True, False])
@pytest.mark.parametrize("algorithm", [RennalaNIGT, sb3_nigt.RennalaNIGT], ids=["trajectories", "steps"])
def test_the_environment_is_not_blamed_for_actions_that_are_not_finite(kind, raises, algorithm):
    make = {"simulated": SimulatedVecEnv, "lock-step": DummyVecEnv, "processes": ProcessVecEnv}[kind]
    env = make([partial(PickyEnv, raises)])
    with pytest.raises(NonFiniteError, match=DIVERGED) as raised:
        algorithm("MlpPolicy", env, geometry="euclidean", seed=SEED, device="cpu").learn(10**5, callback=Diverge())
    env.close()
    if raises and "an action that is not finite" in str(raised.value):
        error = raised.value
        assert "the action must be a number" in str(error.__cause__ if kind == "processes" else error.__context__)


def test_a_step_that_cannot_be_measured():
    model = sb3_nigt.RennalaNIGT("MlpPolicy", SimulatedVecEnv([partial(PickyEnv, False)]), seed=SEED, device="cpu")
    with pytest.raises(NonFiniteError, match=DIVERGED):
        model.learn(10**5, callback=Diverge())


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_steps_that_are_too_large():
    env = SimulatedVecEnv([partial(PickyEnv, True)])
    with pytest.raises(NonFiniteError, match=DIVERGED):
        RennalaPG("MlpPolicy", env, learning_rate=1e38, n_trajectories=4, horizon=H, seed=SEED).learn(10**4)
