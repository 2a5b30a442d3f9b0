"""Settings that a run would not show as what they are: one warning, which says what to do."""

import warnings

import numpy as np
import pytest
import torch as th
from envs import FixedLengthEnv, NeverEndingEnv
from stable_baselines3.common.policies import ActorCriticPolicy
from two_steps import workers as two_steps

from sb3_nigt import PAPER, AFedPG, MaleniaNIGT, RennalaNIGT, SimulatedVecEnv, SyncNIGT

TRAJECTORIES = {**PAPER, "n_trajectories": 12, "horizon": 5}


def make(algorithm=RennalaNIGT, env=None, **kwargs):
    policy_kwargs = {**kwargs.pop("policy_kwargs", {}), "net_arch": kwargs.pop("net_arch", [4])}
    env = env or SimulatedVecEnv([FixedLengthEnv] * 3)
    return algorithm("MlpPolicy", env, seed=0, policy_kwargs=policy_kwargs, **kwargs)


def said(function):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        function()
    assert {warning.filename for warning in caught} <= {__file__}  # not a line of the package
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize(("algorithm", "kwargs"), [(RennalaNIGT, TRAJECTORIES), (AFedPG, {"horizon": 5})])
def test_all_trajectories_cut(algorithm, kwargs):
    model = make(algorithm, SimulatedVecEnv([NeverEndingEnv] * 3), **kwargs)
    (text,) = said(lambda: model.learn(200))
    assert text.startswith("All of the last 1")
    assert "were cut at horizon=5 before their episodes ended" in text
    assert 'rollout="steps"' in text
    assert said(lambda: model.learn(200)) == []


def test_what_is_left_over_from_a_script_for_ppo():
    (text,) = said(lambda: make(learning_rate=3e-4))
    assert text.startswith("learning_rate=0.0003 limits the KL divergence of an update to 4e-08: values of PPO do not carry")
    (text,) = said(lambda: RennalaNIGT(ActorCriticPolicy, "CartPole-v1"))
    assert 'its predict_values stays untrained: give "MlpPolicy", "CnnPolicy" or "MultiInputPolicy".' in text
    for kwargs in ({"learning_rate": 0.0}, {"learning_rate": 3e-4, "geometry": "euclidean"}, TRAJECTORIES):
        assert said(lambda kwargs=kwargs: make(**kwargs)) == []
    adam = {"optimizer_class": th.optim.Adam}
    assert said(lambda: make(learning_rate=3e-4, policy_kwargs=adam)) == []


def test_options_of_environments():
    env = SimulatedVecEnv([FixedLengthEnv] * 2)
    (text,) = said(lambda: env.set_options({"x": 0.1}))
    assert text.startswith("set_options({'x': 0.1}) has an effect on reset() only")
    assert said(lambda: env.set_options()) == []


def test_some_episodes_end():
    assert said(lambda: make(**TRAJECTORIES).learn(200)) == []  # after two steps


def test_rounds_of_steps_cut_nothing():
    assert said(lambda: make(env=SimulatedVecEnv([NeverEndingEnv] * 3), n_steps=5).learn(100)) == []


def test_few_trajectories_for_many_workers():
    env = SimulatedVecEnv([FixedLengthEnv] * 9)
    (text,) = said(lambda: make(env=env, **{**TRAJECTORIES, "n_trajectories": 4}).learn(100))
    assert text.startswith("n_trajectories=4 is far less than the 9 workers, so in each round at least 5 of them do nothing")
    for algorithm in (SyncNIGT, MaleniaNIGT):  # every worker has a trajectory in each round
        assert said(lambda a=algorithm: make(a, env, **{**TRAJECTORIES, "n_trajectories": 4}).learn(30)) == []
    assert said(lambda: make(AFedPG, env, horizon=5).learn(30)) == []
    assert said(lambda: make(env=env, **{**TRAJECTORIES, "n_trajectories": 5}).learn(30)) == []


def test_a_lookahead_that_is_longer_than_the_parameters():
    model = make(**{**TRAJECTORIES, "eta": 0.01, "learning_rate": 0.5})
    (text,) = said(lambda: model.learn(200))
    assert text.startswith("With eta=0.01 workers sample at a distance of 49.5 from the policy")  # 99 * 0.5
    assert said(lambda: make(**{**TRAJECTORIES, "eta": 0.5, "learning_rate": 0.01}).learn(200)) == []


def test_a_lookahead_is_not_compared_with_statistics_of_observations():
    class Large(FixedLengthEnv):
        def step(self, action):
            observation, *rest = super().step(action)
            return 1000.0 * self.np_random.normal(size=observation.shape).astype(np.float32), *rest

    (text,) = said(lambda: make(env=SimulatedVecEnv([Large] * 3), n_steps=5, eta=0.01).learn(30))
    assert text.startswith("With eta=0.01 workers sample at a distance of")


@pytest.mark.parametrize(("size", "n_messages"), [(1e18, 0), (1e30, 1)])
def test_observations_whose_variance_overflows(size, n_messages):
    class Far(FixedLengthEnv):
        def step(self, action):
            observation, *rest = super().step(action)
            return observation + np.float32(size), *rest

    model = make(env=SimulatedVecEnv([Far] * 3), n_steps=5)
    texts = said(lambda: model.learn(100))
    assert len(texts) == n_messages
    assert all("the variance of the observations exceeds 3.4e38, the largest float32" in text for text in texts)
    model.logger.dump = lambda step: None
    model.learn(15)
    assert np.isfinite(model.logger.name_to_value["train/extrapolation_norm"])


@pytest.mark.parametrize(
    ("kwargs", "name", "reason"),
    [
        ({**TRAJECTORIES, "net_arch": {"pi": [4], "vf": [4]}}, r"net_arch\['vf'\]", "there is no critic with gae_lambda=None"),
        ({"policy_kwargs": {"share_features_extractor": False}}, "share_features_extractor", "its own .*extractor"),
    ],
)
def test_arguments_of_the_policy(kwargs, name, reason):
    with pytest.warns(UserWarning, match=f"policy_kwargs: {name} has no effect, since .*{reason}"):
        make(**kwargs)


def test_initial_deviation_of_discrete_actions():
    with pytest.warns(UserWarning, match="policy_kwargs: log_std_init has no effect, since only Box actions"):
        RennalaNIGT("MlpPolicy", "CartPole-v1", policy_kwargs={"log_std_init": -1.0})


def test_arguments_of_the_policy_that_have_an_effect():
    kwargs = {"net_arch": {"pi": [4], "vf": [4]}, "log_std_init": -1.0}
    assert said(lambda: RennalaNIGT("MlpPolicy", two_steps(), policy_kwargs=kwargs)) == []
