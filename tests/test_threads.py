"""Torch's threads: one for the learner's work on small networks, all of the user's for the rest and afterwards."""

import gymnasium as gym
import pytest
import torch as th

from sb3_nigt import RennalaNIGT
from sb3_nigt.algorithms import update
from sb3_nigt.estimators import GeneralizedAdvantage
from sb3_nigt.replica.network import threads_for


@pytest.fixture(autouse=True)
def three_threads():
    before = th.get_num_threads()
    th.set_num_threads(3)
    yield
    th.set_num_threads(before)


def test_the_learner_keeps_to_one_thread(monkeypatch):
    """While the gradient becomes a step, and while the critic assesses a round; workers need the other cores."""
    found = {}
    for owner, name in ((update, "descend"), (update, "log_kl"), (GeneralizedAdvantage, "assess")):
        whole = getattr(owner, name)

        def spied(*args, whole=whole, name=name, **kwargs):
            found[name] = th.get_num_threads()
            return whole(*args, **kwargs)

        monkeypatch.setattr(owner, name, spied)
    model = RennalaNIGT("MlpPolicy", gym.make("CartPole-v1"), n_steps=50, device="cpu")
    model.learn(100)
    assert found == {"descend": 1, "log_kl": 1, "assess": 1}
    assert th.get_num_threads() == 3


def test_other_networks_have_all_threads():
    policy = RennalaNIGT("MlpPolicy", gym.make("CartPole-v1"), device="cpu", policy_kwargs={"activation_fn": th.nn.ELU}).policy
    with threads_for(policy):
        assert th.get_num_threads() == 3
