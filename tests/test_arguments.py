"""Arguments that a class does not have: refused with what takes their place, absent from its signature."""

import inspect

import numpy as np
import pytest
import torch as th
from two_steps import TwoStepEnv, workers

import sb3_nigt
from sb3_nigt import AFedPG, MaleniaNIGT, RennalaNIGT, RennalaPG, SyncNIGT, SyncPG

ALL = [RennalaNIGT, MaleniaNIGT, SyncNIGT, SyncPG, RennalaPG, AFedPG]
OF_PPO = {
    "batch_size": "one gradient step over the whole round",
    "n_epochs": "one gradient step over the whole round",
    "clip_range": "learning_rate says how far an update goes",
    "clip_range_vf": "the critic is fitted on its own",
    "target_kl": "learning_rate says how far an update goes",
    "max_grad_norm": "learning_rate says how far an update goes",
    "ent_coef": "no entropy bonus",
    "vf_coef": "the critic is fitted on its own",
    "normalize_advantage": "always standardised",
    "sde_sample_freq": "gSDE is not supported",
    "lr": "it is called learning_rate",
}


@pytest.fixture(autouse=True)
def count_steps():
    TwoStepEnv.steps = 0


def test_the_table_has_all_that_ppo_has_and_we_do_not():
    from stable_baselines3 import PPO

    missing = inspect.signature(PPO.__init__).parameters.keys() - inspect.signature(RennalaNIGT.__init__).parameters.keys()
    from sb3_nigt.algorithms.arguments import INSTEAD

    assert missing <= INSTEAD.keys()
    assert not INSTEAD.keys() & inspect.signature(RennalaNIGT.__init__).parameters.keys()


@pytest.mark.parametrize("algorithm", ALL)
@pytest.mark.parametrize(("name", "instead"), OF_PPO.items())
def test_arguments_of_ppo(algorithm, name, instead):
    with pytest.raises(TypeError, match=f"^{algorithm.__name__} has no argument {name}: .*{instead}"):
        algorithm("MlpPolicy", workers(), **{name: 1})
    assert TwoStepEnv.steps == 0


@pytest.mark.parametrize("algorithm", ALL)
def test_typos(algorithm):
    with pytest.raises(TypeError, match=f"^{algorithm.__name__} has no argument lerning_rate: did you mean learning_rate\\?$"):
        algorithm("MlpPolicy", workers(), lerning_rate=1)
    with pytest.raises(TypeError, match=r"no argument xyz: leave it out\..*no argument sed: did you mean seed"):
        algorithm("MlpPolicy", workers(), xyz=1, sed=2)


@pytest.mark.parametrize("algorithm", ALL)
def test_at_load(algorithm, tmp_path):
    """Where Stable-Baselines3 would keep it as an attribute that nothing reads."""
    algorithm("MlpPolicy", workers()).save(tmp_path / "model")
    for name, instead in OF_PPO.items():
        with pytest.raises(TypeError, match=f"^{algorithm.__name__} has no argument {name}: .*{instead}"):
            algorithm.load(tmp_path / "model", **{name: 1})
    with pytest.raises(TypeError, match=r"no argument lerning_rate: did you mean learning_rate\?$"):
        algorithm.load(tmp_path / "model", env=workers(), lerning_rate=1)
    loaded = algorithm.load(tmp_path / "model", env=workers(), force_reset=True, gamma=0.5, num_timesteps=7)
    assert (loaded.gamma, loaded.num_timesteps) == (0.5, 7)


def test_a_suggestion_is_never_an_argument_that_the_class_does_not_have():
    with pytest.raises(TypeError, match=r"no argument schedul: (?!did you mean schedule)"):
        SyncNIGT("MlpPolicy", workers(), schedul="planned")


def test_a_subclass_is_named_and_may_have_arguments_of_its_own():
    class Mine(RennalaNIGT):
        def __init__(self, policy, env, *, bonus=0.0, **kwargs):
            self.bonus = bonus
            super().__init__(policy, env, **kwargs)

    assert {"bonus", "n_steps", "seed"} <= inspect.signature(Mine).parameters.keys()
    assert not {"on_lost_task", "kwargs"} & inspect.signature(Mine).parameters.keys()
    assert Mine("MlpPolicy", workers(), bonus=2.0, n_steps=5).bonus == 2.0
    with pytest.raises(TypeError, match="Mine has no argument batch_size"):
        Mine("MlpPolicy", workers(), batch_size=5)


@pytest.mark.parametrize("algorithm", ALL)
def test_signatures_are_complete(algorithm):
    parent = inspect.signature(algorithm.__mro__[1].__init__).parameters
    names = inspect.signature(algorithm).parameters.keys()
    assert names == parent.keys() - {"self", *algorithm.fixed}
    assert all(p.kind is not p.VAR_KEYWORD for p in inspect.signature(algorithm).parameters.values())


@pytest.mark.parametrize("algorithm", ALL)
def test_what_a_class_does_not_have_is_refused_and_has_its_value(algorithm):
    model = algorithm("MlpPolicy", workers())
    for name, value in algorithm.fixed.items():
        assert getattr(model, name) == value
        with pytest.raises(ValueError, match=f"{algorithm.__name__} has no {name}, leave it out"):
            algorithm("MlpPolicy", workers(), **{name: value})


def test_by_position():
    with pytest.raises(ValueError, match="SyncNIGT has no schedule"):
        SyncNIGT("MlpPolicy", workers(), 0.1, 10, 0.9, 0.9, 0.5, "natural", "steps", 20, None, 1000, "pipelined")


def test_the_names_at_the_top_are_the_ones_tested():
    assert {a.__name__ for a in ALL} <= set(sb3_nigt.__all__)


def test_numbers_of_numpy_and_torch():
    """Those that the library takes, and η, which has no place there."""
    model = RennalaNIGT("MlpPolicy", "CartPole-v1", eta=np.float32(0.5), learning_rate=lambda _: th.tensor(0.1), n_steps=20)
    assert model.learn(20).eta_schedule(1.0) == 0.5
    assert RennalaNIGT("MlpPolicy", "CartPole-v1", eta=lambda _: th.tensor(0.5)).eta_schedule(1.0) == 0.5
