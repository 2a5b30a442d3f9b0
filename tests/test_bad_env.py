"""Environments, wrappers and policies that cannot work: a ValueError before a step is made; tasks that differ: a warning."""

import re
import warnings
from functools import partial

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from paper import MaleniaNIGT, RennalaNIGT, SyncNIGT
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3.common.distributions import Distribution, SquashedDiagGaussianDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecCheckNan,
    VecEnvWrapper,
    VecExtractDictObs,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
)
from stable_baselines3.dqn.policies import DQNPolicy
from two_steps import TwoStepEnv, says, workers

import sb3_nigt
from sb3_nigt import AFedPG, RennalaPG, SimulatedVecEnv, SyncPG, make_worker_vec_env
from sb3_nigt.policies import ActorPolicy

ALL = [RennalaNIGT, MaleniaNIGT, SyncNIGT, SyncPG, RennalaPG, AFedPG]


# Workers: spaces and wrappers


@pytest.mark.parametrize("kind", ["observation", "action"])
def test_spaces_that_differ(kind):
    other = spaces.Box(-1, 1, (7,))
    env_fns = [TwoStepEnv, TwoStepEnv, partial(TwoStepEnv, **{f"{kind}_space": other}), TwoStepEnv]
    first = getattr(TwoStepEnv(), f"{kind}_space")
    with pytest.raises(
        ValueError, match=says(f"the {kind} space of worker 2 is {other}, that of worker 0 is {first}. ") + ".*wrap"
    ):
        SimulatedVecEnv(env_fns)


@pytest.mark.parametrize("make", [workers, lambda **kwargs: DummyVecEnv([partial(TwoStepEnv, **kwargs)] * 2)])
@pytest.mark.parametrize(
    "spaces_",
    [
        {"action_space": spaces.Discrete(3, start=1)},
        {"action_space": spaces.MultiDiscrete([3, 2], start=[1, 0])},
        {"observation_space": spaces.Discrete(3, start=1)},
        {"observation_space": spaces.MultiDiscrete([3, 2], start=[1, 0])},
    ],
    ids=["Discrete-act", "MultiDiscrete-act", "Discrete-obs", "MultiDiscrete-obs"],
)
def test_spaces_that_do_not_start_at_zero(make, spaces_):
    kind, space = next(iter(spaces_.items()))
    wrapper = kind.replace("_space", "").capitalize() + "Wrapper"
    TwoStepEnv.steps = 0
    with pytest.raises(
        ValueError, match=says(f"the {kind.replace('_', ' ')} {space} does not start at 0") + f".*gymnasium.{wrapper}"
    ):
        RennalaNIGT("MlpPolicy", make(**spaces_))
    assert TwoStepEnv.steps == 0


class OwnWrapper(VecEnvWrapper):
    def reset(self):
        return self.venv.reset()

    def step_wait(self):
        return self.venv.step_wait()


UNSUPPORTED = {
    "VecFrameStack": (
        lambda env: VecFrameStack(env, 2),
        "(make_worker_vec_env: wrapper_class; rl_zoo3: env_wrapper)",
    ),
    "VecMonitor": (VecMonitor, "make_worker_vec_env puts a Monitor around every worker"),
    "VecCheckNan": (VecCheckNan, "trajectories with non-finite numbers are rejected anyway"),
    "OwnWrapper": (OwnWrapper, "Put a gymnasium.Wrapper around each environment"),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
@pytest.mark.parametrize("below", [lambda env: env, VecNormalize], ids=["direct", "over VecNormalize"])
def test_wrappers_that_only_work_step_by_step(name, below):
    wrap, instead = UNSUPPORTED[name]
    message = f"env={name}(SimulatedVecEnv) is not allowed: workers step independently.*" + says(instead)
    message = message.replace("(SimulatedVecEnv)", r"\(SimulatedVecEnv\)")
    with pytest.raises(ValueError, match=message):
        RennalaNIGT("MlpPolicy", wrap(below(workers())))


def test_wrapper_in_set_env():
    model = RennalaNIGT("MlpPolicy", workers())
    with pytest.raises(ValueError, match=r"env=VecMonitor\(SimulatedVecEnv\) is not allowed"):
        model.set_env(VecMonitor(workers()))


def test_a_refused_env_changes_nothing():
    model = RennalaNIGT("MlpPolicy", workers())
    before = model.env
    with pytest.raises(ValueError, match="is not allowed"):
        model.set_env(VecMonitor(workers()))
    assert model.env is before
    model.learn(2)


def test_extracted_dict_observations():
    env = VecExtractDictObs(workers(observation_space=spaces.Dict(a=spaces.Box(-1, 1, (2,)))), "a")
    with pytest.raises(ValueError, match=r"env=VecExtractDictObs\(SimulatedVecEnv\).*gymnasium.ObservationWrapper around"):
        RennalaNIGT("MlpPolicy", env)


# Policies


class BatchNormExtractor(BaseFeaturesExtractor):
    def __init__(self, observation_space):
        super().__init__(observation_space, 3)
        self.net = th.nn.BatchNorm1d(3)

    def forward(self, observations):
        return self.net(observations)


class Bag(BaseFeaturesExtractor):
    """A layer that torch differentiates once only."""

    def __init__(self, observation_space):
        super().__init__(observation_space, 3)
        self.net = th.nn.EmbeddingBag(4, 3)

    def forward(self, observations):
        return self.net((observations > 0).long())


def test_no_second_derivative():
    kwargs = {"policy_kwargs": {"features_extractor_class": Bag}}
    model = sb3_nigt.RennalaNIGT("MlpPolicy", workers(), **kwargs)
    with pytest.raises(ValueError, match=r"geometry='natural' is not possible .*_embedding_bag.* geometry='euclidean' or"):
        model.learn(4)
    assert model.num_timesteps == 0
    sb3_nigt.RennalaNIGT("MlpPolicy", workers(), geometry="spectral", **kwargs).learn(4)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (
            RecurrentActorCriticPolicy,
            "RecurrentActorCriticPolicy is not supported: its get_distribution needs lstm_states, episode_",
        ),
        (MaskableActorCriticPolicy, "MaskableActorCriticPolicy is not supported: give a subclass of ActorCriticPolicy"),
        (DQNPolicy, "DQNPolicy is not supported: give a subclass of ActorCriticPolicy"),
        (th.nn.Linear(2, 2), "Linear.* is not supported: give a subclass of ActorCriticPolicy"),
        (
            "MlpLstmPolicy",
            "'MlpLstmPolicy' is not allowed: give one of 'MlpPolicy', 'CnnPolicy', 'MultiInputPolicy', or a sub",
        ),
    ],
)
def test_policies_of_other_algorithms(policy, message):
    with pytest.raises(ValueError, match=f"^policy={message}"):
        sb3_nigt.RennalaNIGT(policy, workers())


class NeedsMask(ActorCriticPolicy):
    def get_distribution(self, obs, *, mask):
        return super().get_distribution(obs)


def test_a_policy_that_needs_a_mask():
    with pytest.raises(ValueError, match="policy=NeedsMask is not supported: its get_distribution needs mask besides"):
        sb3_nigt.RennalaNIGT(NeedsMask, workers())


class OwnForward(ActorCriticPolicy):
    """Samples otherwise than its distribution says, in the method that PPO calls."""

    def forward(self, obs, deterministic=False):
        return super().forward(obs, True)


class OwnDistribution(OwnForward):
    def get_distribution(self, obs):
        return super().get_distribution(obs)


def test_a_policy_with_its_own_forward():
    with pytest.raises(ValueError, match="policy=OwnForward is not supported: it overrides forward, which training does not"):
        sb3_nigt.RennalaNIGT(OwnForward, workers())
    sb3_nigt.RennalaNIGT(OwnDistribution, workers())


def test_a_function_that_makes_the_policy():
    def make(*args, **kwargs):
        return sb3_nigt.policies.ActorPolicy(*args, net_arch=[8], **kwargs)

    sb3_nigt.RennalaNIGT(make, workers(), **{**sb3_nigt.PAPER, "n_trajectories": 2}).learn(4)
    with pytest.raises(ValueError, match="policy=make is not supported: give a subclass of ActorCriticPolicy"):
        sb3_nigt.RennalaNIGT(make, workers())


@pytest.mark.parametrize("value", ["x", [64, 64]])
def test_arguments_of_the_policy_that_are_no_dict(value):
    with pytest.raises(ValueError, match=r"^policy_kwargs=.* is not allowed: give a dict, such as dict\(net_arch="):
        sb3_nigt.RennalaNIGT("MlpPolicy", workers(), policy_kwargs=value)


def test_an_action_space_of_two_dimensions():
    with pytest.raises(ValueError, match=r"(?s)^env: the action space MultiDiscrete.* its nvec has 2 dimensions: flatten it"):
        sb3_nigt.RennalaNIGT("MlpPolicy", workers(action_space=spaces.MultiDiscrete([[2, 3], [2, 2]])))


@pytest.mark.parametrize(("name", "argument"), [("lr", "learning_rate"), ("eta", "eta"), ("geometry", "geometry")])
def test_the_optimizer_gets_these_from_the_algorithm(name, argument):
    with pytest.raises(ValueError, match=f"the algorithm sets {name}: leave it out, and give {argument} to the algorithm"):
        sb3_nigt.RennalaNIGT("MlpPolicy", workers(), policy_kwargs={"optimizer_kwargs": {name: 0.1}})


def test_the_optimizer_gets_them_also_if_it_is_named():
    kwargs = {"optimizer_class": sb3_nigt.NIGT, "optimizer_kwargs": {"geometry": "euclidean"}}
    with pytest.raises(ValueError, match="the algorithm sets geometry"):
        sb3_nigt.RennalaNIGT("MlpPolicy", workers(), policy_kwargs=kwargs)


def test_the_optimizer_has_no_such_argument():
    with pytest.raises(ValueError, match="NIGT has no eps: give damping, n_products, or an optimizer_class that has it"):
        sb3_nigt.RennalaNIGT("MlpPolicy", workers(), policy_kwargs={"optimizer_kwargs": {"eps": 1e-5}})


@pytest.mark.parametrize(("policy", "name"), [("MlpPolicy", "use_expln"), (ActorCriticPolicy, "net_architecture")])
def test_the_policy_has_no_such_argument(policy, name):
    with pytest.raises(
        ValueError, match=rf"^policy_kwargs: {name}=True is not allowed, Actor\w+ has no {name}: .* net_arch, "
    ):
        sb3_nigt.RennalaNIGT(policy, workers(), policy_kwargs={name: True})


def test_a_policy_that_hands_its_arguments_on():
    class Own(ActorPolicy):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)

    sb3_nigt.RennalaNIGT(Own, workers(), policy_kwargs={"head": "tanh_gaussian"})


def test_nothing_is_trained():
    model = sb3_nigt.RennalaNIGT("MlpPolicy", workers())
    model.policy.requires_grad_(False)
    with pytest.raises(ValueError, match="policy=ActorPolicy: all its parameters are frozen"):
        model.learn(4)


def test_batch_norm():
    kwargs = {"policy_kwargs": {"features_extractor_class": BatchNormExtractor}}
    with pytest.raises(ValueError, match=r"policy=ActorPolicy has BatchNorm layers.*use LayerNorm, or a DummyVecEnv"):
        RennalaNIGT("MlpPolicy", workers(), **kwargs)
    RennalaNIGT("MlpPolicy", DummyVecEnv([TwoStepEnv] * 2), n_trajectories=2, **kwargs).learn(4)
    for algorithm in (RennalaNIGT, sb3_nigt.RennalaNIGT):
        model = algorithm("MlpPolicy", workers(), policy_kwargs={"net_arch": [4]})
        model.policy.mlp_extractor.policy_net.append(th.nn.BatchNorm1d(4))  # after it was made
        with pytest.raises(ValueError, match="policy=ActorPolicy has BatchNorm layers"):
            model.learn(4)


class Unscored(Distribution):
    """A distribution of the user's own."""

    proba_distribution_net = proba_distribution = log_prob = entropy = sample = mode = None
    actions_from_params = log_prob_from_params = None


class UnscoredPolicy(ActorCriticPolicy):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.action_dist = Unscored()


class SquashedPolicy(ActorCriticPolicy):
    """Its distribution is a subclass of the diagonal Gaussian, but its log_prob takes squashed actions."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.action_dist = SquashedDiagGaussianDistribution(2)


@pytest.mark.parametrize("env", [workers, lambda: DummyVecEnv([TwoStepEnv])], ids=["workers", "lock-step"])
@pytest.mark.parametrize(
    ("policy", "name"), [(UnscoredPolicy, "Unscored"), (SquashedPolicy, "SquashedDiagGaussianDistribution")]
)
def test_distribution_without_a_score(env, policy, name):
    with pytest.raises(
        ValueError, match=rf"policy={policy.__name__} uses {name}, which has no score.*use a Gaussian, categorical"
    ):
        RennalaNIGT(policy, env())


# The warning about tasks

DIFFERENT = {
    "task_ids": lambda: workers(3, task_ids=["a", "b", "a"]),
    "wrapped": lambda: VecNormalize(workers(2, task_ids=["a", "b"])),
    "env_kwargs": lambda: make_worker_vec_env(TwoStepEnv, 2, env_kwargs=[{"goal": 1}, {"goal": 2}]),
    "arrays": lambda: make_worker_vec_env(TwoStepEnv, 2, env_kwargs=[{"goal": np.zeros(2)}, {"goal": np.ones(2)}]),
}
SAME = {
    "unspecified": lambda: workers(3),
    "one id": lambda: workers(3, task_ids=["a"] * 3),
    "one dict": lambda: make_worker_vec_env(TwoStepEnv, 2, env_kwargs={"goal": 1}),
    "equal dicts": lambda: make_worker_vec_env(TwoStepEnv, 2, env_kwargs=[{"goal": 1}, {"goal": 1}]),
    "equal arrays": lambda: make_worker_vec_env(TwoStepEnv, 2, env_kwargs=[{"goal": np.ones(2)}, {"goal": np.ones(2)}]),
    "lock-step": lambda: DummyVecEnv([TwoStepEnv] * 2),
}


def task_warnings(algorithm, env):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = algorithm("MlpPolicy", env)
        model.learn(20)
        model.learn(20, reset_num_timesteps=False)
    return [str(w.message) for w in caught]


@pytest.mark.one_in(2)
@pytest.mark.parametrize("env", DIFFERENT)
@pytest.mark.parametrize("algorithm", [a for a in ALL if a is not MaleniaNIGT])
def test_different_tasks_warn_once(algorithm, env):
    (message,) = task_warnings(algorithm, DIFFERENT[env]())
    said = rf"hold different tasks, and {algorithm.__name__} weights each task.* speed and number.* MaleniaNIGT weights"
    assert re.search(said, message)


@pytest.mark.one_in(4)
@pytest.mark.parametrize("env", [*DIFFERENT, *SAME])
def test_malenia_never_warns(env):
    assert task_warnings(MaleniaNIGT, {**DIFFERENT, **SAME}[env]()) == []


@pytest.mark.one_in(4)
@pytest.mark.parametrize("env", SAME)
@pytest.mark.parametrize("algorithm", ALL)
def test_same_task_never_warns(algorithm, env):
    assert task_warnings(algorithm, SAME[env]()) == []


def test_load_warns_once(tmp_path):
    SyncNIGT("MlpPolicy", workers(2)).save(tmp_path / "model.zip")
    with pytest.warns(UserWarning, match="hold different tasks") as caught:
        SyncNIGT.load(tmp_path / "model.zip", env=workers(2, task_ids=["a", "b"])).learn(10)
    assert len(caught) == 1
