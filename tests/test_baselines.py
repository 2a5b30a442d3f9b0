"""The baselines of a comparison: normalisation as ours, tuned values of rl_zoo3, arguments by ``--set``."""

import csv
import json
from io import StringIO
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from envs import simulated
from gymnasium import spaces
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.torch_layers import NatureCNN
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_nigt.__main__ import main
from sb3_nigt.experiments import training
from sb3_nigt.experiments.baselines import policy_for, tuned_values
from sb3_nigt.experiments.evaluation import Evaluator, normalized_as
from sb3_nigt.experiments.given import given_argument
from sb3_nigt.experiments.methods import check_method, make_model
from sb3_nigt.experiments.setting import FOREVER, ONE_TASK, Budget, Run, Setting
from sb3_nigt.policies import TanhGaussianDistribution

ROOT = Path(__file__).parents[1]

PENDULUM = Setting("Pendulum-v1", (1.0, 2.0), (0.0, 0.0))
CARTPOLE = Setting("CartPole-v1", (1.0, 1.0), (0.0, 0.0))
COMPARE = [
    "compare",
    "--env",
    "CartPole-v1",
    "--n-workers",
    "2",
    "--timesteps",
    "300",
    "--points",
    "2",
    "--episodes",
    "1",
    "--seeds",
    "1",
    "--processes",
    "1",
]


def model_of(method, setting=PENDULUM, paper=False, **arguments):
    return make_model(method, setting.env, setting.make_workers(0), 0, arguments, paper)


def test_baselines_are_normalised_as_ours_are():
    normalized = model_of("ppo", gamma=0.9).get_vec_normalize_env()
    assert normalized.norm_obs
    assert normalized.norm_reward
    assert normalized.gamma == 0.9
    assert model_of("trpo").get_vec_normalize_env() is not None
    assert model_of("rennala").get_vec_normalize_env() is None, "the policy normalises"
    assert model_of("ppo", paper=True).get_vec_normalize_env() is None, "the paper normalises nothing"


@pytest.mark.parametrize("method", ["rennala", "ppo", "ppo:tuned", "trpo", "a2c"])
def test_images_get_convolutions_and_are_not_normalised(monkeypatch, tmp_path, method):
    """The image task of the tables; its returns are 1 and -1."""
    if method == "ppo:tuned":
        pytest.importorskip("rl_zoo3")
    monkeypatch.syspath_prepend(ROOT / "docs" / "defaults")
    setting = Setting("catch:Catch-v0", (1.0, 2.0), (0.0, 0.0))
    model = model_of(method, setting)
    assert isinstance(model.policy.features_extractor, NatureCNN)
    normalized = model.get_vec_normalize_env()
    assert normalized is None or (normalized.norm_reward and not normalized.norm_obs)
    returns = Evaluator(setting, 10, 0).returns(model, 0)
    assert set(returns) == {ONE_TASK}
    assert -1 <= returns[ONE_TASK] <= 1


def test_entries_get_the_policy_for_several_inputs():
    assert policy_for(spaces.Dict({"a": spaces.Box(-1, 1)})) == "MultiInputPolicy"


@pytest.mark.parametrize("method", ["ppo", "trpo", "a2c", "ars"])
def test_rewards_are_normalised_where_observations_are_choices(method):
    """FrozenLake, whose observation is the number of a field."""
    setting = Setting("FrozenLake-v1", (1.0, 1.0), (0.0, 0.0))
    model = model_of(method, setting)
    normalized = model.get_vec_normalize_env()
    assert normalized.norm_reward
    assert not normalized.norm_obs
    assert 0 <= Evaluator(setting, 2, 0).returns(model, 0)[ONE_TASK] <= 1


class Parts(gym.Env):
    """Observes a vector far from 0, an image and a choice."""

    observation_space = spaces.Dict(
        vector=spaces.Box(90, 100, (2,)), image=spaces.Box(0, 255, (36, 36, 1), np.uint8), choice=spaces.Discrete(3)
    )
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 1.0, False, False, {}


def test_of_entries_the_vectors_are_normalised():
    """Covers: in training, and in the evaluation with the same statistics."""
    model = make_model("ppo", "Parts-v0", simulated([Parts] * 2), 0, {"n_steps": 8, "batch_size": 16, "n_epochs": 1})
    model.learn(16)
    training = model.get_vec_normalize_env()
    assert training.norm_reward
    assert training.norm_obs_keys == ["vector"]
    env = normalized_as(training, DummyVecEnv([Parts]))
    observation, original = env.reset(), env.get_original_obs()
    assert np.abs(observation["vector"]).max() <= 10 < original["vector"].min()
    for name in ("image", "choice"):
        np.testing.assert_array_equal(observation[name], original[name])


def test_evaluation_normalises_with_the_statistics_of_training():
    """Covers: the statistics are copied, and do not move in the evaluation."""
    trained = VecNormalize(PENDULUM.make_workers(0))
    trained.obs_rms.mean, trained.obs_rms.var = np.full(3, 2.0), np.full(3, 4.0)
    env = normalized_as(trained, DummyVecEnv([lambda: Monitor(gym.make("Pendulum-v1"))]))
    observation = env.reset()
    np.testing.assert_allclose(observation * np.sqrt(4.0 + 1e-8) + 2.0, env.get_original_obs(), rtol=1e-5)
    _, reward, _, _ = env.step(np.zeros((1, 1)))
    assert (env.obs_rms.mean == 2.0).all()
    assert reward == env.get_original_reward()


def test_tuned_values_are_those_of_rl_zoo3():
    """Covers: any version of the environment; a schedule; Python in text; a rollout as large as with the tuned n_envs."""
    pytest.importorskip("rl_zoo3")
    values = tuned_values("ppo", "CartPole-v1")
    ppo = model_of("ppo:tuned", CARTPOLE)
    assert ppo.gae_lambda == values["gae_lambda"] != 0.95
    assert ppo.n_steps * 2 == values["n_steps"] * values["n_envs"]
    assert ppo.lr_schedule(0.5) == pytest.approx(0.5 * ppo.lr_schedule(1.0))
    assert ppo.get_vec_normalize_env() is None, "tuned without normalisation"
    hopper = Setting("Hopper-v5", (1.0,), (0.0,))
    assert tuned_values("ppo", "Hopper-v5") == tuned_values("ppo", "Hopper-v4")
    ppo = model_of("ppo:tuned", hopper)
    assert ppo.get_vec_normalize_env() is not None
    assert ppo.policy.net_arch == {"pi": [256, 256], "vf": [256, 256]}
    assert model_of("ppo:tuned", hopper, gamma=0.5).gamma == 0.5, "what is given comes first"


def test_schedules_of_a_baseline_reach_their_end(tmp_path):
    """A linear schedule is at about 0 when the budget is spent, in timesteps or in seconds."""
    pytest.importorskip("rl_zoo3")
    for budget in (Budget(timesteps=1024, points=2, episodes=1), Budget(seconds=512.0, points=2, episodes=1)):
        run, model = Run("ppo:tuned", 0, CARTPOLE, budget), model_of("ppo:tuned", CARTPOLE)
        assert 1024 <= training.timesteps_of(run, model) <= 1024 + 2 * model.n_envs
    rennala = model_of("rennala", CARTPOLE)
    assert training.timesteps_of(Run("rennala", 0, CARTPOLE, Budget(seconds=1.0)), rennala) == FOREVER


@pytest.mark.parametrize(
    ("link", "aggregation", "seconds", "steps"),
    [
        ("parallel", "all_reduce", 1000.0, 3 * 100 + 5),  # three times 100 steps of 2 seconds and a message of 130
        ("parallel", "all_reduce", 1250.0, 4 * 100),  # within the fourth message
        ("serial", "server", 1000.0, 2 * 100 + 70),  # messages of 230
    ],
)
def test_messages_leave_less_time_for_steps(link, aggregation, seconds, steps):
    setting = Setting("CartPole-v1", (1.0, 2.0), (130.0, 100.0), link=link, aggregation=aggregation)
    workers = setting.make_workers(0)
    model = make_model("ppo", "CartPole-v1", workers, 0, {"n_steps": 100, "batch_size": 200, "n_epochs": 1})
    run = Run("ppo", 0, setting, Budget(seconds=seconds, points=1, episodes=1))
    assert training.timesteps_of(run, model) == 2 * (steps + 1)
    file = StringIO()
    with pytest.raises(training.BudgetSpent):
        model.learn(training.timesteps_of(run, model), callback=training.CurveWriter(run, workers, file))
    *_, last = csv.DictReader(StringIO(file.getvalue()))
    assert int(last["timesteps"]) == 2 * steps


def test_names_of_variants_and_of_tuned_methods():
    pytest.importorskip("rl_zoo3")
    for name in ("rennala@plain", "ppo:tuned@wide", "a2c:tuned"):
        assert check_method(name) == name
    assert check_method("rennala:planned@plain") == "rennala@plain"
    for wrong, message in {
        "rennala@": "write a word after @",
        "ars:tuned": "write ppo:tuned",
        "ppo:best": "ppo:tuned",
    }.items():
        with pytest.raises(ValueError, match=message):
            check_method(wrong)


@pytest.mark.slow
def test_set_gives_arguments_to_one_method(tmp_path):
    """Covers: numbers, words, dicts; two variants of one method next to each other."""
    given = ["rennala@plain.geometry=euclidean", "rennala@plain.policy_kwargs={'net_arch': [8]}", "ppo.gamma=0.9"]
    options = [part for text in given for part in ("--set", text)]
    main([*COMPARE, "--algos", "rennala,rennala@plain,ppo", "--output", str(tmp_path), *options, "--first-seed", "7"])
    used = {
        name: json.loads((tmp_path / f"{name}-seed7.json").read_text())["arguments"]
        for name in ("rennala", "rennala@plain", "ppo")
    }
    assert used["rennala"]["geometry"] == "natural"
    assert used["rennala@plain"]["geometry"] == "euclidean"
    assert used["rennala@plain"]["policy_kwargs"] == {"net_arch": [8]}
    assert used["ppo"]["gamma"] == 0.9
    assert "rennala@plain: geometry=euclidean, policy_kwargs={'net_arch': [8]}" in (tmp_path / "table.txt").read_text()


@pytest.mark.parametrize("method", ["rennala", "ppo"])
def test_a_learning_rate_that_falls_is_at_0_at_the_end(method, monkeypatch):
    """Linearly, in the notation of rl_zoo3; a run of 1,000 timesteps may end some steps earlier or later."""
    seen = []
    budget = Budget(timesteps=1000, points=2, episodes=1)
    run = Run(method, 0, CARTPOLE, budget, {"learning_rate": "lin_0.5", "n_steps": 32})
    original = training.make_model

    def make(*args):
        model = original(*args)
        update = model._update_current_progress_remaining
        model._update_current_progress_remaining = lambda *progress: (
            update(*progress),
            seen.append((model.num_timesteps, model.lr_schedule(model._current_progress_remaining))),
        )
        return model

    monkeypatch.setattr(training, "make_model", make)
    training.train_simulated(run, StringIO())
    assert len(seen) > 5
    for timesteps, rate in seen:
        assert rate == pytest.approx(0.5 * (1 - timesteps / 1000), abs=0.01)


def test_a_learning_rate_that_falls_needs_timesteps(capsys):
    with pytest.raises(SystemExit):
        main(
            [
                "compare",
                "--env",
                "CartPole-v1",
                "--n-workers",
                "2",
                "--seconds",
                "9",
                "--algos",
                "rennala",
                "--set",
                "rennala.eta=lin_1",
            ]
        )
    assert "give --timesteps in place of --seconds, or a number" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["rennala", "malenia", "sync", "afedpg", "syncpg", "rennalapg"])
def test_the_papers_policy_keeps_what_is_not_given(method):
    """Covers: arguments that a class hands on can be set."""
    given = given_argument(f"{method}.policy_kwargs={{'net_arch': [8]}}")
    policy = model_of(method, paper=True, **{given.argument: given.value}).policy
    assert policy.net_arch == [8]
    assert isinstance(policy.action_dist, TanhGaussianDistribution)
    assert policy.normalizer is None


def test_values_that_are_written_as_in_python():
    for text, value in {"False": False, "None": None, "0.5": 0.5, "natural": "natural"}.items():
        assert given_argument(f"rennala.geometry={text}").value == value


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("rennala", "write METHOD.ARGUMENT=VALUE, for example rennala.eta=0.3"),
        ("rennala.etta=1", "'etta' is not an argument of RennalaNIGT"),
        ("rennala.kwargs=1", "'kwargs' is not an argument of RennalaNIGT"),
        ("afedpg.schedule=planned", "'schedule' is not an argument of AFedPG: give one of learning_rate"),
        ("rennala.seed=3", "'seed' would be the seed of all runs of the method: give --first-seed, or --seeds"),
        ("ppo.seed=3", "'seed' would be the seed of all runs"),
        ("ppo.normalize_advantage=false", "'ppo.normalize_advantage=false' is not allowed: write True, False or None"),
        ("ppo.normalize_advantage=TRUE", "write True, False or None"),
        ("ppo.target_kl=null", "write True, False or None"),
        ("dqn.gamma=1", "'dqn' is not a method"),
        ("rennala.learning_rate=lin_", "'lin_' is not allowed: write lin_ and the first value, for example lin_0.2"),
        ("a2c.gamma=0.9", "a2c is not one of --algos rennala,ppo"),
    ],
)
def test_set_says_what_is_wrong(option, message, capsys):
    with pytest.raises(SystemExit):
        main([*COMPARE, "--algos", "rennala,ppo", "--set", option])
    assert message in capsys.readouterr().err
