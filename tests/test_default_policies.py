"""Policies that are not plain, with the default arguments: critic, normaliser and metric leave the actor to its optimizer."""

import copy

import numpy as np
import pytest
import torch as th
from envs import parameters
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor
from torch import nn

from sb3_nigt import MaleniaNIGT, RennalaNIGT, make_worker_vec_env
from sb3_nigt.algorithms import update
from sb3_nigt.algorithms.policy_defaults import damping_unit
from sb3_nigt.messages import SamplingPoint
from sb3_nigt.parameters import flatten
from sb3_nigt.policies import ActorPolicy


class Given(BaseFeaturesExtractor):
    """Takes a module that lives elsewhere."""

    def __init__(self, space, encoder):
        super().__init__(space, 3)
        self.encoder = encoder

    def forward(self, x):
        return self.encoder(x)


class Copied(Given):
    def __init__(self, space, encoder):
        super().__init__(space, copy.deepcopy(encoder))


class Reversed(BaseFeaturesExtractor):
    def __init__(self, space):
        super().__init__(space, 4)
        self.register_buffer("order", th.tensor([3, 2, 1, 0]))

    def forward(self, x):
        return x[:, self.order]


def train(extractor, **kwargs):
    env = make_worker_vec_env("CartPole-v1", 2, seed=0)
    policy_kwargs = {"net_arch": [4], "features_extractor_class": extractor, "features_extractor_kwargs": kwargs}
    return RennalaNIGT("MlpPolicy", env, n_steps=20, seed=0, device="cpu", policy_kwargs=policy_kwargs).learn(120)


def test_a_module_that_is_given_is_not_shared_with_the_critic():
    """A copy for each of the two, made by the user, comes to the same parameters."""
    th.manual_seed(0)
    encoder = nn.Linear(4, 3)
    shared, copied = (train(cls, encoder=copy.deepcopy(encoder)) for cls in (Given, Copied))
    assert np.array_equal(parameters(shared), parameters(copied))
    moved = shared.policy.features_extractor.encoder.weight - encoder.weight
    assert float(moved.detach().norm()) > 0


OBSERVATIONS = np.linspace(-1, 1, 20, dtype=np.float32).reshape(5, 4)


def check_workers_see_the_same(model):
    network = model.workers._replica.network(SamplingPoint(0, flatten(model.policy)))
    with th.no_grad():
        expected = model.policy.get_distribution(th.as_tensor(OBSERVATIONS)).distribution.logits.numpy()
    for observation, logits in zip(OBSERVATIONS, expected, strict=True):
        found = network(observation)
        np.testing.assert_allclose(found - np.logaddexp.reduce(found), logits, atol=1e-6)


@pytest.mark.parametrize("path", ["numpy", "torch"])
def test_workers_see_what_the_policy_sees(path):
    """The vector of parameters holds the statistics of the normaliser, as far as the networks read them."""
    model = train(Reversed) if path == "torch" else train(FlattenExtractor)
    assert abs(model.policy.normalizer.norms[0].var - 1).max() > 0.1
    check_workers_see_the_same(model)


class Blind(ActorPolicy):
    """Hides the velocities."""

    def normalized(self, obs):
        return super().normalized(obs) * th.tensor([1.0, 0.0, 1.0, 0.0])


def test_a_policy_that_normalises_in_its_own_way():
    """Workers, critic and ``predict`` see the same."""
    env = make_worker_vec_env("CartPole-v1", 2, seed=0)
    model = RennalaNIGT(Blind, env, n_steps=20, seed=0, device="cpu", policy_kwargs={"net_arch": [4]}).learn(120)
    seen = update.as_seen(model.policy, OBSERVATIONS)
    assert not seen[:, [1, 3]].any()
    assert seen[:, [0, 2]].all()
    check_workers_see_the_same(model)


def compiled(policy):
    return th.compile(policy, backend="eager")


def another(policy):
    """Such as one that was cloned, or loaded from a file; equal, so that the run must be the same."""
    return copy.deepcopy(policy)


@pytest.mark.parametrize("replace", [compiled, another])
@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_a_policy_that_is_put_in_the_place_of_the_first_one(env_id, replace):
    """Everything follows it: statistics, damping, metric, and the critic, which is the policy's own."""
    kwargs = {"n_steps": 20, "seed": 0, "device": "cpu", "policy_kwargs": {"net_arch": [4]}}
    usual, replaced = (RennalaNIGT("MlpPolicy", make_worker_vec_env(env_id, 2, seed=0), **kwargs) for _ in range(2))
    replaced.policy = replace(replaced.policy)
    for model in (usual, replaced):
        model.learn(120)
        model.learn(80, reset_num_timesteps=False)
    assert np.array_equal(flatten(usual.policy), flatten(replaced.policy))
    assert replaced.estimator.critic.network is replaced.policy.value_network
    assert np.array_equal(usual.estimator.critic.vector(), replaced.estimator.critic.vector())
    assert float(replaced.policy.normalizer.moments()[0].weight) > 100


def test_a_policy_whose_critic_has_no_tasks_gets_one_that_has():
    tasks = MaleniaNIGT("MlpPolicy", make_worker_vec_env("CartPole-v1", 2, task_ids=["a", "b"]), n_steps=20, device="cpu")
    none = RennalaNIGT("MlpPolicy", make_worker_vec_env("CartPole-v1", 2), device="cpu")
    tasks.policy = none.policy
    tasks.learn(80)
    assert tasks.policy.value_network.n_tasks == tasks.estimator.critic.network.n_tasks == 2


def test_the_type_of_new_tensors_may_be_double():
    """As another library sets it after the model was made."""
    model = RennalaNIGT("MlpPolicy", make_worker_vec_env("Pendulum-v1", 2), n_steps=20, device="cpu")
    before = parameters(model)
    th.set_default_dtype(th.float64)
    try:
        model.learn(80)
    finally:
        th.set_default_dtype(th.float32)
    assert parameters(model).dtype == np.float32
    assert not np.array_equal(parameters(model), before)


def test_a_replaced_extractor_with_the_old_optimizer_stays_as_it_is():
    model = train(Given, encoder=nn.Linear(4, 3))
    model.policy.features_extractor = Given(model.observation_space, nn.Linear(4, 3))
    before = model.policy.features_extractor.encoder.weight.detach().clone()
    with pytest.warns(UserWarning, match="optimizer does not hold"):
        model.learn(120)
    assert th.equal(model.policy.features_extractor.encoder.weight, before)


def test_the_damping_of_the_optimizer_is_the_users(monkeypatch):
    """So large that λI outweighs F, next to nothing of a step's length is KL; without damping all of it is."""
    monkeypatch.setattr(update, "LARGEST_KL", np.inf)  # without damping steps are so long that they would be halved
    shares = []
    for damping in (1e6, 0.1, 0.0):
        env = make_worker_vec_env("Pendulum-v1", 2, seed=0)
        policy_kwargs = {"net_arch": [4], "optimizer_kwargs": {"damping": damping}}
        model = RennalaNIGT("MlpPolicy", env, n_steps=20, seed=0, device="cpu", policy_kwargs=policy_kwargs).learn(120)
        shares.append(model.policy.optimizer.predicted_kl / 0.02)  # α²/2
    assert pytest.approx(0.0, abs=1e-3) == shares[0] < shares[1] < shares[2] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("env_id", "policy_kwargs", "unit"),
    [("Pendulum-v1", {}, 4.0), ("Pendulum-v1", {"head": "tanh_gaussian"}, 1.0), ("CartPole-v1", {}, 30.0)],
)
def test_the_unit_of_the_damping(env_id, policy_kwargs, unit):
    """1/σ² with σ = 0.5; a head that computes σ has no single one; discrete actions have thirty times as much."""
    model = RennalaNIGT(
        "MlpPolicy", env_id, n_steps=20, seed=0, device="cpu", policy_kwargs={"net_arch": [4], **policy_kwargs}
    )
    assert damping_unit(model.policy) == pytest.approx(unit)
    model.learn(20)
    assert model.policy.optimizer.damping_unit == pytest.approx(unit)
    assert model.policy.optimizer.scaled_damping == pytest.approx(0.1 * unit)


def test_the_unit_of_the_damping_where_features_are_learned():
    policy = train(Given, encoder=nn.Linear(4, 3)).policy
    assert damping_unit(policy) == 1.0
    policy.features_extractor.requires_grad_(False)
    assert damping_unit(policy) == 30.0


def learning_features(**kwargs):
    policy_kwargs = {
        **{"net_arch": [4], "features_extractor_class": Given},
        "features_extractor_kwargs": {"encoder": nn.Linear(4, 3)},
    }
    return RennalaNIGT("MlpPolicy", "CartPole-v1", n_steps=300, seed=0, device="cpu", policy_kwargs=policy_kwargs, **kwargs)


def test_steps_are_half_as_long_where_features_are_learned(tmp_path):
    """Also after loading, and with another geometry; what the user gives is as it is."""
    model = learning_features()
    model.save(tmp_path / "model")
    for made in (model, RennalaNIGT.load(tmp_path / "model", device="cpu")):
        assert made.learning_rate == made.lr_schedule(1.0) == made.policy.optimizer.param_groups[0]["lr"] == 0.1
    assert [learning_features(geometry=name).learning_rate for name in ("euclidean_kl", "spectral")] == [0.1, 0.02]
    assert learning_features(learning_rate=0.2).lr_schedule(1.0) == 0.2
    model.geometry = "euclidean"
    model.learn(300)
    assert model.learning_rate == 2**-6


@pytest.mark.parametrize(("kwargs", "n"), [({}, 50), ({"fisher_samples": 70}, 70)])
def test_the_fisher_sample_where_features_are_learned(kwargs, n):
    assert [len(drawn) for drawn in learning_features(**kwargs).learn(600).fisher_sample.rounds] == [n, n]


def test_the_critic_is_fitted_for_one_epoch_where_features_are_learned():
    assert learning_features().estimator.critic.n_epochs == 1
    assert RennalaNIGT("MlpPolicy", "Pendulum-v1", device="cpu").estimator.critic.n_epochs == 4


@pytest.mark.parametrize(("given", "std"), [({}, 0.5), ({"log_std_init": 0.0}, 1.0), ({"log_std_init": -1.0}, 0.368)])
def test_initial_standard_deviation(given, std):
    """In units of half the action range; a logarithm of 0 is not taken for none."""
    policy = RennalaNIGT("MlpPolicy", "Pendulum-v1", policy_kwargs=given).policy
    assert policy.log_std.exp().tolist() == pytest.approx([std], abs=1e-3)


def test_updates_that_go_too_far_are_halved():
    """Not damped, they leave the region in which F says how far they go; what is left changes the policy by 5 α²/2 at most."""
    env = make_worker_vec_env("Pendulum-v1", 2, seed=0)
    policy_kwargs = {"net_arch": [4], "optimizer_kwargs": {"damping": 0.0}}
    model = RennalaNIGT("MlpPolicy", env, n_steps=20, seed=0, device="cpu", policy_kwargs=policy_kwargs).learn(120)
    assert model.logger.name_to_value["train/halvings"] == model.policy.optimizer.n_halvings > 0
    assert 0 < model.logger.name_to_value["train/kl"] <= 0.1
