"""Optimizers other than the default one, and their arguments."""

import numpy as np
import pytest
import torch as th
from envs import PointEnv, parameters, simulated
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_nigt import NIGT, AFedPG, RennalaNIGT, RennalaPG, SyncPG


class OtherNIGT(NIGT):
    pass


class OtherPolicy(ActorCriticPolicy):
    pass


def make(algorithm=RennalaNIGT, policy="MlpPolicy", **kwargs):
    policy_kwargs = {"net_arch": [4], **kwargs.pop("policy_kwargs", {})}
    return algorithm(policy, simulated([PointEnv] * 2), seed=0, device="cpu", policy_kwargs=policy_kwargs, **kwargs)


def head_of(model):
    return "gaussian" if hasattr(model.policy, "log_std") else "tanh_gaussian"


@pytest.mark.parametrize("cls", [NIGT, OtherNIGT])
def test_the_default_optimizer_by_name_is_the_default(cls):
    named, default = (make(n_steps=20, policy_kwargs=kwargs).learn(60) for kwargs in ({"optimizer_class": cls}, {}))
    assert type(named.policy.optimizer) is cls
    assert named.policy.optimizer.param_groups[0]["geometry"] == named.geometry == "natural"
    assert np.array_equal(parameters(named), parameters(default))


def test_an_optimizer_that_replaces_another_one_measures_as_the_model_says():
    model, default = make(n_steps=20), make(n_steps=20)
    model.policy.optimizer = NIGT(model.policy.actor_parameters(), lr=0.2)
    for one in (model, default):
        one.learn(60)
    assert np.array_equal(parameters(model), parameters(default))


def test_arguments_are_those_of_the_algorithms_optimizer():
    """The policy is made with another one, which has no such argument."""
    model = make(RennalaPG, policy_kwargs={"optimizer_kwargs": {"momentum": 0.9}})
    assert isinstance(model.policy.optimizer, th.optim.SGD)
    assert model.policy.optimizer.param_groups[0]["momentum"] == 0.9
    model = make(policy=OtherPolicy, policy_kwargs={"optimizer_kwargs": {"damping": 0.05}})
    assert model.policy.optimizer.param_groups[0]["damping"] == 0.05


@pytest.mark.parametrize("algorithm", [SyncPG, RennalaPG, AFedPG])
class TestPublishedMethods:
    """Their policies are the paper's where nothing else is said."""

    def test_the_head_is_the_papers(self, algorithm):
        assert head_of(make(algorithm)) == "tanh_gaussian"
        assert head_of(make(algorithm, policy_kwargs={"head": "gaussian"})) == "gaussian"

    def test_policies_of_the_library_have_no_head(self, algorithm):
        make(algorithm, ActorCriticPolicy, horizon=5).learn(10)

    def test_a_file_is_loaded_with_the_arguments_that_were_given(self, algorithm, tmp_path):
        model = make(algorithm)
        model.save(tmp_path / "model")
        loaded = algorithm.load(tmp_path / "model", policy_kwargs=model.policy_kwargs)
        assert loaded.policy_kwargs == {"net_arch": [4]}
        assert head_of(loaded) == "tanh_gaussian"

    def test_arguments_that_are_no_dict(self, algorithm):
        with pytest.raises(ValueError, match=r"policy_kwargs=\[64\] is not allowed: give a dict"):
            algorithm("MlpPolicy", simulated([PointEnv]), policy_kwargs=[64])
