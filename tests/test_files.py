"""Files, pickles and copies of models: what they hold, and what refuses them."""

import copy
import io
import pickle
import threading
import zipfile

import cloudpickle
import numpy as np
import pytest
import torch as th
from envs import LengthFromSeedEnv, parameters
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecCheckNan, VecEnvWrapper, VecNormalize

from sb3_nigt import (
    PAPER,
    AFedPG,
    FixedTimes,
    MaleniaNIGT,
    ProcessVecEnv,
    RennalaNIGT,
    RennalaPG,
    SimulatedVecEnv,
    SyncNIGT,
    make_worker_vec_env,
)


def workers():
    return SimulatedVecEnv([LengthFromSeedEnv] * 3, FixedTimes([1.0, 2.0, 5.0]))


def make(algorithm=RennalaNIGT, env=None, **kwargs):
    policy_kwargs = {**kwargs.pop("policy_kwargs", {}), "net_arch": [4]}
    return algorithm("MlpPolicy", env or workers(), seed=0, policy_kwargs=policy_kwargs, **kwargs)


# Files


def test_the_class_is_in_the_file(tmp_path):
    path = tmp_path / "model.zip"
    make().save(path)
    with pytest.raises(ValueError, match=f"^{path} contains a model of RennalaNIGT, not of AFedPG: use RennalaNIGT.load"):
        AFedPG.load(path)
    with pytest.raises(ValueError, match="not of SyncNIGT"):
        SyncNIGT.load(path.with_suffix(""), env=workers())  # the suffix is added
    assert RennalaNIGT.load(path).n_updates == 0


def test_open_files():
    file = io.BytesIO()
    file.write(b"something before ")
    start = file.tell()
    make().save(file)
    for _ in range(2):  # it stays where it is
        file.seek(start)
        with pytest.raises(ValueError, match=r"^The file contains a model of RennalaNIGT"):
            AFedPG.load(file)
        assert file.tell() == start
    assert RennalaNIGT.load(file).n_updates == 0


def test_subclasses():
    class Mine(RennalaNIGT):
        pass

    class Other(RennalaNIGT):
        pass

    mine, plain = io.BytesIO(), io.BytesIO()
    make(Mine).save(mine)
    make().save(plain)
    assert type(RennalaNIGT.load(mine)) is RennalaNIGT
    assert type(Mine.load(plain)) is Mine
    with pytest.raises(ValueError, match="contains a model of Mine, not of Other"):
        Other.load(mine)


def test_parameters_of_another_class(tmp_path):
    """What the message says to do."""
    first = make().learn(600)
    first.save(tmp_path / "model")
    second = make(SyncNIGT)
    second.set_parameters(tmp_path / "model")
    assert np.array_equal(parameters(second), parameters(first))
    second.learn(100)


@pytest.mark.parametrize("optimizer_class", [None, th.optim.Adam])
def test_parameters_of_a_class_with_another_optimizer(tmp_path, optimizer_class):
    """The optimizer keeps its own state, which the other one's would break."""
    first = make(**PAPER, n_trajectories=2).learn(100)
    first.save(tmp_path / "model")
    kwargs = {} if optimizer_class is None else {"policy_kwargs": {"optimizer_class": optimizer_class}}
    second = make(RennalaPG, n_trajectories=2, **kwargs).learn(50)
    second.set_parameters(tmp_path / "model")
    assert np.array_equal(parameters(second), parameters(first))
    second.learn(50)


def test_the_damping_stays_that_of_the_model(tmp_path):
    make().learn(100).save(tmp_path / "model")
    model = make(policy_kwargs={"optimizer_kwargs": {"damping": 0.7}})
    model.set_parameters(tmp_path / "model")
    assert model.policy.optimizer.param_groups[0]["damping"] == 0.7


@pytest.mark.parametrize(("of", "to"), [(MaleniaNIGT, RennalaNIGT), (RennalaNIGT, MaleniaNIGT)])
def test_a_critic_of_other_tasks_is_left_out(tmp_path, of, to):
    first, second = (make(algorithm) for algorithm in (of, to))  # by default each worker is a task of MaleniaNIGT
    first.learn(600)
    first.save(tmp_path / "model")
    critic = [p.clone() for p in second.policy.value_network.parameters()]
    with pytest.warns(UserWarning, match="this model's critic stays as it is"):
        second.set_parameters(tmp_path / "model")
    assert all(th.equal(p, q) for p, q in zip(second.policy.value_network.parameters(), critic, strict=True))
    for name, tensor in first.policy.state_dict().items():
        assert name.startswith("value_network") or th.equal(second.policy.state_dict()[name], tensor)
    second.learn(100)


def test_a_file_of_a_gpu(tmp_path, monkeypatch):
    """What the critic has learned is not bound to the device; the file says of each tensor that it was on a GPU."""
    first = make(n_steps=50).learn(600)
    with monkeypatch.context() as patch:
        patch.setattr(th.serialization, "location_tag", lambda storage: "cuda:0")
        first.save(tmp_path / "model")
    second = RennalaNIGT.load(tmp_path / "model", env=first.env, device="cpu")
    one, other = (model.estimator.state_dict() for model in (first, second))
    assert one["critic"]["adam"][0] == other["critic"]["adam"][0] > 0
    assert len(other["critic"]["pool"]) == len(one["critic"]["pool"]) > 0


def test_a_file_of_another_library(tmp_path):
    PPO("MlpPolicy", make_vec_env("CartPole-v1"), n_steps=64, device="cpu").save(tmp_path / "ppo")
    with pytest.raises(ValueError, match=r"ppo was not saved by a class of sb3_nigt: load it with the class that saved"):
        RennalaNIGT.load(tmp_path / "ppo")


def test_a_file_of_version_0_1_0(tmp_path):
    make(**PAPER).save(tmp_path / "model.zip")
    with zipfile.ZipFile(tmp_path / "model.zip") as new, zipfile.ZipFile(tmp_path / "old.zip", "w") as old:
        for name in new.namelist():
            content = new.read(name)
            if name == "data":  # what those files did not have
                content = content.replace(b'"saved_classes"', b'"_unknown"').replace(b'"rollout"', b'"_unknown_too"')
            old.writestr(name, content)
    with pytest.raises(ValueError, match=r"old.zip was saved by sb3_nigt 0\.1\.0, whose policies have other parameters"):
        RennalaNIGT.load(tmp_path / "old.zip")


def test_what_is_no_model(tmp_path):
    with pytest.raises(FileNotFoundError):
        RennalaNIGT.load(tmp_path / "nothing")
    (tmp_path / "text.zip").write_text("text")
    with pytest.raises(ValueError, match="wasn't a zip-file"):
        RennalaNIGT.load(tmp_path / "text.zip")


def test_without_a_seed_the_random_numbers_go_on(tmp_path):
    model = RennalaNIGT("MlpPolicy", workers())
    model.save(tmp_path / "model")
    assert RennalaNIGT.load(tmp_path / "model").root_seed == model.root_seed
    assert RennalaNIGT.load(tmp_path / "model", seed=5).root_seed == 5
    model.set_random_seed(None)
    assert RennalaNIGT.load(tmp_path / "model").root_seed != model.root_seed


def test_a_seed_that_was_set_later_is_in_the_file(tmp_path):
    model = RennalaNIGT("MlpPolicy", workers(), seed=0)
    model.set_random_seed(7)
    model.learn(1).save(tmp_path / "model")
    assert RennalaNIGT.load(tmp_path / "model").root_seed == 7
    assert RennalaNIGT.load(tmp_path / "model", seed=5).root_seed == 5


# Pickles and copies

WAYS = {
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "cloudpickle": lambda model: pickle.loads(cloudpickle.dumps(model)),
    "deepcopy": copy.deepcopy,
}
ENVS = {
    "workers": workers,
    "plain": lambda: make_vec_env(LengthFromSeedEnv, 2),
    "normalised workers": lambda: VecNormalize(workers()),
    "normalised": lambda: VecCheckNan(VecNormalize(make_vec_env(LengthFromSeedEnv, 2))),
}
ARGUMENTS = {"steps": {"n_steps": 8}, "paper": {**PAPER, "n_trajectories": 4, "horizon": 20}}


def chain_of(env):
    """An environment and all that it wraps."""
    return [env, *chain_of(env.venv)] if isinstance(env, VecEnvWrapper) else [env]


@pytest.mark.one_in(3)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("env", ENVS)
@pytest.mark.parametrize("arguments", ARGUMENTS)
def test_copies(way, env, arguments, capsys):
    model = make(env=ENVS[env](), verbose=1, **ARGUMENTS[arguments])
    for _ in range(2):  # before and after training
        copied = WAYS[way](model)
        assert [type(each) for each in chain_of(copied.env)] == [type(each) for each in chain_of(model.env)]
        before = parameters(model)
        assert np.array_equal(parameters(copied), before)
        assert (copied.n_updates, copied.num_timesteps) == (model.n_updates, model.num_timesteps)
        copied.learn(60, reset_num_timesteps=False)
        assert np.array_equal(parameters(model), before), "the copy shares memory with the model"
        assert not np.array_equal(parameters(copied), before)
        model.learn(60, reset_num_timesteps=False)


def test_copies_of_running_statistics_stay_apart():
    model = make(env=VecNormalize(workers()), n_steps=8).learn(60)
    copied = copy.deepcopy(model)
    (one, other) = (each.get_vec_normalize_env() for each in (model, copied))
    before = one.obs_rms.mean.copy()
    assert np.array_equal(other.obs_rms.mean, before)
    assert other.venv is not one.venv
    copied.learn(60, reset_num_timesteps=False)
    assert np.array_equal(one.obs_rms.mean, before)
    assert not np.array_equal(other.obs_rms.mean, before)


class Locked(VecEnvWrapper):
    """Says itself how it is pickled."""

    def __init__(self, venv):
        super().__init__(venv)
        self.lock = threading.Lock()

    def reset(self):
        return self.venv.reset()

    def step_wait(self):
        with self.lock:
            return self.venv.step_wait()

    def __getstate__(self):
        return {name: value for name, value in vars(self).items() if name not in ("lock", "class_attributes")}

    def __setstate__(self, state):
        vars(self).update(state, lock=threading.Lock(), class_attributes={})


class Looks(VecCheckNan):
    """Knows the normaliser that it wraps by another name as well."""

    def __init__(self, venv):
        super().__init__(venv)
        self.normalizer = venv


@pytest.mark.parametrize("way", WAYS)
def test_copies_with_wrappers_of_the_users_own(way):
    env = Locked(VecNormalize(make_vec_env(LengthFromSeedEnv, 2)))
    copied = WAYS[way](make(env=env, n_steps=8)).learn(60)
    assert [type(each).__name__ for each in chain_of(copied.env)] == ["Locked", "VecNormalize", "DummyVecEnv"]
    copied = WAYS[way](make(env=Looks(VecNormalize(make_vec_env(LengthFromSeedEnv, 2))), n_steps=8)).learn(60)
    assert copied.env.normalizer is copied.env.venv is copied.get_vec_normalize_env()
    assert copied.env.venv.obs_rms.count > 60


@pytest.mark.parametrize("way", WAYS)
def test_models_on_processes_say_why_not(way):
    env = make_worker_vec_env("CartPole-v1", 1, vec_env_cls=ProcessVecEnv)
    model = make(env=env)
    try:
        with pytest.raises(TypeError, match=r"A ProcessVecEnv cannot be pickled or copied.*save"):
            WAYS[way](model)
    finally:
        env.close()
