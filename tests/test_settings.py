"""Arguments that are set as attributes of a model that exists: they take effect with the next round, or raise."""

import functools

import numpy as np
import pytest
import torch as th
from envs import LengthFromSeedEnv, parameters
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import set_random_seed

from sb3_nigt import PAPER, AFedPG, FixedTimes, MaleniaNIGT, RennalaNIGT, RennalaPG, SimulatedVecEnv, SyncNIGT, SyncPG

STEPS = {"n_steps": 8}
TRAJECTORIES = {**PAPER, "n_trajectories": 4, "horizon": 20}


def workers():
    return SimulatedVecEnv([LengthFromSeedEnv] * 3, FixedTimes([1.0, 2.0, 5.0]))


def make(algorithm=RennalaNIGT, **kwargs):
    policy_kwargs = {**kwargs.pop("policy_kwargs", {}), "net_arch": [4]}
    return algorithm("MlpPolicy", workers(), seed=0, policy_kwargs=policy_kwargs, **(kwargs or STEPS))


class SetLater(BaseCallback):
    """Sets attributes when a given round has ended."""

    def __init__(self, round_, **values):
        super().__init__()
        self.round, self.values = round_, values

    def _on_rollout_end(self):
        if self.model.last_round.round == self.round:
            vars(self.model).update(self.values)

    def _on_step(self):
        return True


# A model that has a value set before its first round does what one does that was made with it.
FROM_THE_START = [
    (STEPS, {"learning_rate": 0.5}),
    (STEPS, {"learning_rate": lambda progress: 0.3 * progress}),
    (STEPS, {"eta": 0.25}),
    (STEPS, {"gamma": 0.5}),
    (STEPS, {"gae_lambda": 0.5}),
    (STEPS, {"n_steps": 11}),
    (STEPS, {"fisher_samples": 5}),
    (STEPS, {"fisher_rounds": 1}),
    (STEPS, {"geometry": "spectral"}),
    (STEPS, {"geometry": "euclidean"}),
    (STEPS, {"rollout": "trajectories", "n_steps": None, "horizon": 7}),
    (TRAJECTORIES, {"gamma": 0.5}),
    (TRAJECTORIES, {"n_trajectories": 7}),
    (TRAJECTORIES, {"n_initial_trajectories": 2}),
    (TRAJECTORIES, {"horizon": 3}),
    (TRAJECTORIES, {"schedule": "first_finished"}),
    (TRAJECTORIES, {"schedule": "pipelined"}),
    (TRAJECTORIES, {"geometry": "natural"}),
]


@functools.cache
def unchanged(steps):
    return parameters(make(**(STEPS if steps else TRAJECTORIES)).learn(80))


@pytest.mark.one_in(2)
@pytest.mark.parametrize(("given", "values"), FROM_THE_START, ids=lambda values: ",".join(values)[:40])
def test_before_the_first_round(given, values):
    start = {**given, **values}
    if "geometry" in values and given is TRAJECTORIES:
        start["learning_rate"] = PAPER["learning_rate"]  # the user has given it, so it stays
    model = make(**given)
    for name, value in values.items():
        setattr(model, name, value)
    other = make(**start)
    assert np.array_equal(parameters(model.learn(80)), parameters(other.learn(80)))
    assert model.last_round.round >= 1
    assert not np.array_equal(parameters(model), unchanged(given is STEPS))


def test_between_two_rounds_of_steps():
    model = make()
    model.learn(150, callback=SetLater(1, eta=0.7, learning_rate=0.01, n_steps=20))
    group = model.policy.optimizer.param_groups[0]
    assert (group["eta"], group["lr"]) == (0.7, 0.01)
    assert model.last_round.counts.sum() >= 60


def test_between_two_rounds_of_trajectories():
    model = make(**TRAJECTORIES, schedule="pipelined")
    model.learn(250, callback=SetLater(1, schedule="first_finished", n_trajectories=9, horizon=5))
    assert model.last_round.counts.sum() == 9
    assert max(arrival.n_steps for arrival in model.last_round.arrivals) <= 5
    assert model.last_round.discarded
    assert all(arrival.staleness == 0 for arrival in model.last_round.arrivals)


def test_the_critic_keeps_what_it_has_learned():
    model = make().learn(200)
    before = model._estimator.critic.network
    pool = len(model._estimator.critic.pool.rounds)
    model.gamma, model.gae_lambda = 0.5, 0.7
    model.learn(1, reset_num_timesteps=False)
    estimator = model._estimator
    assert (estimator.gamma, estimator.gae_lambda, estimator.scale.gamma) == (0.5, 0.7, 0.5)
    assert estimator.critic.network is before
    assert len(estimator.critic.pool.rounds) == pool


def test_the_fisher_sample_keeps_its_newest_rounds():
    model = make(fisher_rounds=3, **STEPS).learn(100)
    newest = model._fisher.rounds[-1]
    model.fisher_rounds, model.fisher_samples = 2, 5
    model.learn(1, reset_num_timesteps=False)
    assert [len(rounds) for rounds in model._fisher.rounds] == [len(newest), 5]
    assert model._fisher.rounds[0] is newest


def test_the_default_of_the_learning_rate_follows_the_geometry():
    model = make()
    assert model.learning_rate == 0.2
    model.geometry = "euclidean"
    model.learn(1)
    assert model.policy.optimizer.param_groups[0]["lr"] == model.learning_rate == 2**-6
    model.geometry, model.learning_rate = "spectral", 0.3
    model.learn(1)
    assert model.policy.optimizer.param_groups[0]["lr"] == 0.3


def test_a_learning_rate_that_is_given_is_no_default(tmp_path):
    """Also where it is the one that the model has had as a default."""
    make().save(tmp_path / "model")
    assert RennalaNIGT.load(tmp_path / "model", learning_rate=0.2, geometry="spectral").learning_rate == 0.2
    assert RennalaNIGT.load(tmp_path / "model", geometry="spectral").learning_rate == 0.02
    model = make(geometry="spectral", **STEPS)
    model.learn(72, SetLater(0, learning_rate=0.2, geometry="natural"))
    model.learn(72, SetLater(4, geometry="spectral"), reset_num_timesteps=False)
    assert model.learning_rate == 0.2


def test_the_default_of_the_learning_rate_is_that_of_ppo_for_another_optimizer():
    model = RennalaNIGT("MlpPolicy", "CartPole-v1", policy_kwargs={"optimizer_class": th.optim.Adam})
    assert model.learning_rate == 3e-4
    assert model.policy.optimizer.param_groups[0]["lr"] == 3e-4


def test_a_schedule_of_the_user_stays_until_its_argument_is_set():
    model = make()
    model.lr_schedule = lambda _: 0.011
    model.eta = 0.6
    model.learn(100)
    assert model.policy.optimizer.param_groups[0]["lr"] == 0.011
    model.learning_rate = 0.02
    model.learn(100)
    assert model.policy.optimizer.param_groups[0]["lr"] == 0.02


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("eta", 1.5, r"eta=1.5 is not allowed"),
        ("n_steps", 0, "n_steps=0 is not allowed"),
        ("schedule", "fastest", "schedule='fastest' is not allowed"),
        ("gae_lambda", None, "gae_lambda=None"),
        ("ent_coef", 0.01, "ent_coef=0.01 cannot be changed on an existing model: there is no entropy bonus"),
        ("seed", 7, r"seed=7 cannot be changed on an existing model: call model.set_random_seed\(seed\)"),
        ("policy_kwargs", {"net_arch": [8]}, "policy_kwargs=.* cannot be changed on an existing model.*make a new model"),
        ("use_sde", True, "use_sde=True"),
        ("on_lost_task", "drop", "RennalaNIGT has no on_lost_task, leave it as it is"),
    ],
)
def test_what_is_refused(name, value, message):
    model = make()
    before = parameters(model)
    setattr(model, name, value)
    with pytest.raises(ValueError, match=message):
        model.learn(100)
    assert np.array_equal(parameters(model), before)
    assert model.env.clock.now() == 0


def test_what_is_refused_in_the_middle_of_a_run():
    model = make()
    with pytest.raises(ValueError, match="eta=3 is not allowed"):
        model.learn(150, callback=SetLater(1, eta=3))
    assert model.n_updates == 2
    model = RennalaNIGT("MlpPolicy", SimulatedVecEnv([LengthFromSeedEnv]), seed=0, **STEPS)
    with pytest.raises(ValueError, match="n_steps=1 is not allowed with 1 workers"):  # its advantages would be zero
        model.learn(150, callback=SetLater(1, n_steps=1))


@pytest.mark.parametrize("algorithm", [MaleniaNIGT, SyncNIGT, SyncPG, RennalaPG, AFedPG])
def test_what_a_class_does_not_have(algorithm):
    for name in algorithm.fixed:
        model = make(algorithm, horizon=20)
        setattr(model, name, "pipelined" if name == "schedule" else 0.25)
        with pytest.raises(ValueError, match=f"{algorithm.__name__} has no {name}, leave it as it is"):
            model.learn(10)


def test_a_critic_cannot_be_taken_away_or_added():
    model = make()
    model.rollout, model.gae_lambda = "trajectories", None
    with pytest.raises(ValueError, match="gae_lambda=None is not allowed: the model was made with a critic"):
        model.learn(10)
    model = make(**TRAJECTORIES)
    model.gae_lambda = 0.9
    with pytest.raises(ValueError, match=r"gae_lambda=0.9 is not allowed: the model was made without a critic"):
        model.learn(10)


def test_the_same_at_load(tmp_path):
    make().learn(100).save(tmp_path / "model")
    with pytest.raises(ValueError, match="gae_lambda=None is not allowed: the model was made with a critic"):
        RennalaNIGT.load(tmp_path / "model", gae_lambda=None, rollout="trajectories")
    loaded = RennalaNIGT.load(tmp_path / "model", env=workers(), geometry="spectral", eta=0.3)
    loaded.learn(1)
    group = loaded.policy.optimizer.param_groups[0]
    assert (group["geometry"], group["lr"], group["eta"]) == ("spectral", 0.02, 0.3)


def test_parameters_of_another_geometry_leave_the_geometry_alone(tmp_path):
    make().learn(100).save(tmp_path / "model")
    model = make(geometry="euclidean", **STEPS)
    model.set_parameters(tmp_path / "model")
    assert model.policy.optimizer.param_groups[0]["geometry"] == "euclidean"


def test_without_a_seed_the_random_numbers_of_the_user_decide():
    """As in PPO: ``set_random_seed`` before a model that gets no seed makes its run the same again."""

    def learned(seed):
        set_random_seed(seed)
        env = SimulatedVecEnv([LengthFromSeedEnv] * 2)
        return parameters(RennalaNIGT("MlpPolicy", env, n_steps=20, device="cpu").learn(100))

    assert np.array_equal(learned(42), learned(42))
    assert not np.array_equal(learned(42), learned(43))
