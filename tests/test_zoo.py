"""rl_zoo3 with our algorithms: real runs of its commands, the files with hyperparameters, what Optuna may try."""

import argparse
import gc
import inspect
import os
import re
import shlex
import subprocess
import sys
import warnings
from pathlib import Path
from typing import ClassVar

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_nigt import SimulatedVecEnv, make_worker_vec_env
from sb3_nigt.optimizers.geometry import GEOMETRIES
from sb3_nigt.parameters import actor_parameters
from sb3_nigt.zoo import ALGORITHMS, HYPERPARAMS, register, samplers
from sb3_nigt.zoo.__main__ import COMMANDS, PLOTS, WORKERS, main

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/guide/zoo.md").read_text(encoding="utf-8")
COMMAND = re.compile(r"^python -m (sb3_nigt\.zoo (\w+) .*)$", re.MULTILINE)
SHORT = {"train": "-n 300 --eval-freq 150 --eval-episodes 1 --n-trials 2 --no-optim-plots", "enjoy": "-n 1100"}
COMMANDS_ON_THE_PAGE = [shlex.split(f"{command} {SHORT[name]}") for command, name in COMMAND.findall(PAGE)]
OPTIMIZE = "--optimize-hyperparameters --n-trials 2 --n-evaluations 1 --no-optim-plots --seed 0"

needs_zoo = pytest.mark.usefixtures("rl_zoo3")
pytestmark = [
    pytest.mark.filterwarnings("ignore:Argument ``multivariate`` is an experimental feature"),  # of the zoo's sampler
    pytest.mark.filterwarnings("ignore:rich is experimental"),  # of the progress bar
]


class Witness(BaseCallback):
    """Keeps the model of each run; the zoo makes it from the name ``test_zoo.Witness``."""

    models: ClassVar[list] = []

    def _on_training_start(self):
        self.models.append(self.model)

    def _on_step(self):
        return True


WITNESS = "callback:'test_zoo.Witness'"


@pytest.fixture
def zoo(rl_zoo3, tmp_path, monkeypatch):
    """Run a command in an empty directory; return the model if there is one."""
    import optuna

    optuna.logging.disable_default_handler()  # it writes to the standard error of the test that came first
    monkeypatch.chdir(tmp_path)

    def run(command, *more):
        Witness.models.clear()
        main([*command.split(), *more])
        return Witness.models[-1] if Witness.models else None

    return run


def train(zoo, algo, options="", *params, env="CartPole-v1"):
    return zoo(
        f"train --algo {algo} --env {env} -n 300 --eval-freq 150 --eval-episodes 2 {options}", "-params", WITNESS, *params
    )


def saved(path, name="config.yml"):
    """What the zoo has written about a run."""
    import yaml

    return dict(yaml.load((Path("logs") / path / Path(path).name[:-2] / name).read_text(), Loader=yaml.UnsafeLoader))


# Runs


@pytest.mark.parametrize(
    "algo", [pytest.param(name, marks=() if name == "rennala_nigt" else pytest.mark.slow) for name in ALGORITHMS]
)
def test_train_enjoy_and_continue(zoo, algo, capsys):
    model = train(zoo, algo, "--save-freq 100 --seed 3")
    assert type(model) is ALGORITHMS[algo]
    assert isinstance(model.env, SimulatedVecEnv)
    assert model.n_envs == 10
    assert model.seed == 3
    assert model.num_timesteps >= 300
    folder = Path("logs", algo, "CartPole-v1_1")
    assert {"CartPole-v1.zip", "best_model.zip", "rl_model_100_steps.zip", "rl_model_300_steps.zip"} <= set(os.listdir(folder))
    assert np.load(folder / "evaluations.npz")["timesteps"].tolist()[:2] == [150, 300]
    assert len(list(folder.glob("*.monitor.csv"))) == 10

    for which in ("", "--load-best", "--load-checkpoint 100", "--load-last-checkpoint"):
        capsys.readouterr()
        zoo(f"enjoy --algo {algo} --env CartPole-v1 --no-render -n 1100 {which}")
        printed = capsys.readouterr().out
        assert f"Loading logs/{algo}/CartPole-v1_1/" in printed
        assert float(re.search(r"Mean reward: ([\d.]+)", printed)[1]) > 0

    again = train(zoo, algo, f"-i {folder}/CartPole-v1.zip", "learning_rate:0.25", "gamma:0.9")
    assert again._n_updates > model._n_updates
    assert again.gamma == 0.9
    assert again.policy.optimizer.param_groups[0]["lr"] == 0.25
    assert Path("logs", algo, "CartPole-v1_2", "CartPole-v1.zip").exists()


def test_continued_training_starts_from_the_trained_parameters(zoo):
    """A step of length 0 leaves them as they are."""
    model = train(zoo, "rennala_nigt")
    again = train(zoo, "rennala_nigt", "-i logs/rennala_nigt/CartPole-v1_1/CartPole-v1.zip", "learning_rate:0.0")
    for trained, continued in zip(actor_parameters(model.policy), actor_parameters(again.policy), strict=True):
        assert trained.equal(continued)  # the critic goes on learning


def test_normalization(zoo, capsys):
    model = train(zoo, "rennala_nigt", "", "normalize:dict(norm_obs=True,norm_reward=False)", "n_envs:2")
    assert isinstance(model.env, VecNormalize)
    assert isinstance(model.env.unwrapped, SimulatedVecEnv)
    assert model.env.obs_rms.count > 300
    folder = "logs/rennala_nigt/CartPole-v1_1"
    statistics = VecNormalize.load(f"{folder}/CartPole-v1/vecnormalize.pkl", DummyVecEnv([lambda: gym.make("CartPole-v1")]))
    assert np.array_equal(statistics.obs_rms.mean, model.env.obs_rms.mean)
    for which in ("", "--load-best"):
        zoo(f"enjoy --algo rennala_nigt --env CartPole-v1 --no-render -n 1100 {which}")
        assert "Mean reward" in capsys.readouterr().out
    again = train(zoo, "rennala_nigt", f"-i {folder}/CartPole-v1.zip", "normalize:True", "n_envs:2")
    assert again.env.obs_rms.count > model.env.obs_rms.count


def test_options_and_schedules(zoo):
    """Abbreviations, a linear schedule, arguments of ours that the zoo does not know, TensorBoard, no log, progress."""
    model = train(
        zoo, "malenia_nigt", "--vec dummy -tb tb --log-interval -2 -P --n-eval-envs 2", "learning_rate:'lin_0.5'", "n_envs:3",
        "rollout:'trajectories'", "schedule:'pipelined'", "on_lost_task:'drop'", "eta:1.0", "policy_kwargs:dict(net_arch=[8])",
    )  # fmt: skip
    assert [model.lr_schedule(progress) for progress in (1.0, 0.5, 0.0)] == [0.5, 0.25, 0.0]
    assert (model.n_envs, model.schedule, model.on_lost_task, model.eta) == (3, "pipelined", "drop", 1.0)
    assert [layer.out_features for layer in model.policy.mlp_extractor.policy_net if hasattr(layer, "out_features")] == [8]
    assert len(list(Path("tb").rglob("events*"))) == 1


@pytest.mark.slow
def test_processes(rl_zoo3, tmp_path):
    """As a program, since worker processes import what is the main module."""
    (command,) = (command for command in COMMANDS_ON_THE_PAGE if "subproc" in command)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-m", *command], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "|    restarts           | 0  " in done.stdout  # logged on processes only
    assert len(list(tmp_path.rglob("*.monitor.csv"))) == 4
    assert len(list(tmp_path.rglob("best_model.zip"))) == 1


def test_own_algorithms_of_the_zoo_are_as_they_were(zoo):
    from rl_zoo3.exp_manager import ExperimentManager
    from stable_baselines3 import PPO

    arguments = sys.argv
    model = zoo("train --algo ppo --env CartPole-v1 -n 64 --eval-freq -1", "-params", "n_steps:8", "batch_size:8", WITNESS)
    assert type(model) is PPO
    assert type(model.env.unwrapped) is DummyVecEnv
    train(zoo, "sync_pg")
    assert ExperimentManager.default_vec_env_cls is None
    assert sys.argv is arguments


# Hyperparameters


@pytest.mark.parametrize("option", ["-conf {}", "--conf-file {}", "--conf-file={}", "--conf {}"])
def test_file_of_the_user_counts(zoo, option):
    Path("own.yml").write_text("default: {policy: MlpPolicy, n_envs: 2, n_timesteps: 20, n_steps: 3, eta: 0.7}")
    model = zoo(f"train --algo rennala_nigt --eval-freq -1 {option.format('own.yml')}", "-params", WITNESS)
    assert (model.n_envs, model.n_steps, model.eta) == (2, 3, 0.7)
    assert saved("rennala_nigt/CartPole-v1_1")["eta"] == 0.7
    assert saved("rennala_nigt/CartPole-v1_1", "args.yml")["conf_file"] == "own.yml"


def entries(algo):
    """The file of an algorithm: hyperparameters by environment."""
    import yaml

    return yaml.safe_load((HYPERPARAMS / f"{algo}.yml").read_text(encoding="utf-8"))


@needs_zoo
def test_one_file_an_algorithm():
    assert {path.stem for path in HYPERPARAMS.iterdir()} == set(ALGORITHMS)
    environments = set(entries("rennala_nigt"))
    assert {"default", "CartPole-v1", "Hopper-v5", "Humanoid-v4"} <= environments
    assert environments - {"default"} <= set(gym.registry)
    assert all(set(entries(algo)) == environments for algo in ALGORITHMS)


@needs_zoo
@pytest.mark.parametrize("algo", ALGORITHMS)
def test_entries_are_arguments_of_the_algorithm(algo, tmp_path):
    """As the zoo reads them. All values are the package's defaults, also that of a learning rate that is left out."""
    from rl_zoo3.exp_manager import ExperimentManager

    defaults = {name: p.default for name, p in inspect.signature(ALGORITHMS[algo]).parameters.items()}
    env = make_worker_vec_env("CartPole-v1", 2)
    for environment in set(entries(algo)) - {"default"} | {"Pendulum-v1"}:
        manager = ExperimentManager(None, algo, environment, str(tmp_path), config=str(HYPERPARAMS / f"{algo}.yml"), verbose=0)
        read, _ = manager.read_hyperparameters()
        arguments, *_ = manager._preprocess_hyperparams(read)
        assert manager.n_envs == 10
        assert manager.n_timesteps >= 1e5
        model = ALGORITHMS[algo](env=env, **arguments)
        assert model.lr_schedule(1.0) == (defaults["learning_rate"] or GEOMETRIES["natural"].learning_rate)
        assert arguments.pop("policy") == "MlpPolicy"
        arguments.pop("learning_rate", None)  # where there is one, a function by now
        assert arguments.items() <= defaults.items()


# Optuna


@pytest.mark.slow
def test_search(zoo, capsys):
    """Two trials, and then a run with the arguments of one of them."""
    import optuna

    zoo(f"train --algo rennala_nigt --env CartPole-v1 -n 300 --storage study.log --study-name s {OPTIMIZE}")
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend("study.log"))
    trials = optuna.load_study(storage=storage, study_name="s").trials
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 2
    assert all(trial.value > 0 for trial in trials)
    assert list(Path("logs/rennala_nigt").glob("report_*.csv"))
    model = train(zoo, "rennala_nigt", "--storage study.log --study-name s --trial-id 1", "learning_rate:0.125")
    params = trials[1].params
    assert (model.n_steps, model.eta) == (params["n_steps"], params["eta"])
    assert model.gamma == 1 - params["one_minus_gamma"] == trials[1].user_attrs["gamma"]
    assert model.policy_kwargs["activation_fn"] is samplers.ACTIVATIONS[params["activation_fn"]]
    assert model.lr_schedule(1.0) == 0.125  # the user's own counts more


class EndlessGain(gym.Env):
    """Its returns have no finite sum."""

    observation_space = spaces.Box(-1.0, 1.0, (1,))
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._t = 0
        return np.ones(1, np.float32), {}

    def step(self, action):
        self._t += 1
        return np.ones(1, np.float32), 1e308, self._t == 3, False, {}


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_trial_that_breaks_down_does_not_end_the_search(zoo, monkeypatch, capsys):
    monkeypatch.setitem(gym.registry, "EndlessGain-v0", EnvSpec("EndlessGain-v0", EndlessGain))
    with pytest.raises(ValueError, match="No trials are completed yet"):  # what Optuna says of a study without a best trial
        zoo(f"train --algo rennala_pg --env EndlessGain-v0 -n 10000 {OPTIMIZE}")
    assert capsys.readouterr().out.count("rounds in a row were not finite") == 2


@needs_zoo
@pytest.mark.parametrize("algo", ALGORITHMS)
def test_whole_search_space(algo):
    """Every choice and both ends of every interval, one at a time since they do not depend on each other."""
    import optuna
    from optuna.distributions import CategoricalDistribution
    from optuna.trial import FixedTrial
    from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER

    register()
    trial = optuna.create_study().ask()
    HYPERPARAMS_SAMPLER[algo](trial, 1, 10, {})
    space = {
        name: d.choices if isinstance(d, CategoricalDistribution) else (d.low, d.high)
        for name, d in trial.distributions.items()
    }
    assert {0.001, 0.01, 0.1} <= set(space.get("eta", [])) or algo.endswith("_pg")
    assert ("eta" in space) != algo.endswith("_pg")
    sizes = {"afedpg": "n_initial_trajectories", "sync_pg": "n_trajectories", "rennala_pg": "n_trajectories"}
    assert set(space[sizes.get(algo, "n_steps")]) == ({20, 30, 50} if algo in sizes else {20, 50, 100, 200})
    assert "eta" not in space or space["learning_rate"] == (2**-10, 2**-1)
    env = make_worker_vec_env("CartPole-v1")
    for name, values in space.items():
        for value in values:
            drawn = {**trial.params, name: value}
            arguments = HYPERPARAMS_SAMPLER[algo](FixedTrial(drawn), 1, 10, {})
            assert HYPERPARAMS_CONVERTER[algo](drawn) == arguments
            assert arguments.keys() <= inspect.signature(ALGORITHMS[algo]).parameters.keys() | {"policy_kwargs"}
            ALGORITHMS[algo]("MlpPolicy", env, **arguments)


# What a wrong argument costs


def message(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments.split())
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("python -m sb3_nigt.zoo")
    return stopped.value.code, error


@pytest.mark.parametrize("arguments", ["", "trian", "--algo rennala_nigt"])
def test_wrong_commands(arguments, capsys):
    code, error = message(arguments, capsys)
    assert code == 2
    assert "command" in error


@pytest.mark.parametrize("command", COMMANDS)
def test_zoo_is_not_installed(command, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "rl_zoo3", None)
    code, error = message(f"{command} --algo rennala_nigt", capsys)
    assert code == 1
    assert error.endswith("rl_zoo3 is not installed, type: pip install 'sb3_nigt[zoo]'\n")


@pytest.mark.one_in(3)
@needs_zoo
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("train --algo nope", "invalid choice: 'nope'"),
        ("enjoy --algo nope", "invalid choice: 'nope'"),
        ("record_video --algo nope", "invalid choice: 'nope'"),
        ("train --algo rennala_nigt --vec-env ray", "invalid choice: 'ray'"),
        ("train --algo rennala_nigt --nope 3", "unrecognized arguments: --nope 3"),
        ("train --algo rennala_nigt --env CartPole-v1 -params n_epochs:4", "RennalaNIGT has no argument n_epochs"),
        ("train --algo rennala_nigt --env Hoper-v5", "Hoper-v5 not found in gym registry, you maybe meant Hopper-v5?"),
        ("enjoy --algo rennala_nigt --env CartPole-v1 -f nowhere", "nowhere/rennala_nigt folder was not found"),
        ("enjoy --algo rennala_nigt --env CartPole-v1 --exp-id 7 -f .", "CartPole-v1_7 folder was not found"),
    ],
)
def test_what_the_commands_of_the_zoo_refuse(arguments, text, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    error_of_a_parser = argparse.ArgumentParser.error
    code, error = message(arguments, capsys)
    assert code == 2
    assert text in error
    assert argparse.ArgumentParser.error is error_of_a_parser
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()  # the environments that rl_zoo3 had made by then, with their open files


@needs_zoo
@pytest.mark.parametrize("command", PLOTS)
def test_plots_need_more(command, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "seaborn", None)
    code, error = message(f"{command} -a rennala_nigt", capsys)
    assert code == 1
    assert error.endswith("seaborn is not installed, type: pip install 'rl_zoo3[plots]'\n")


@needs_zoo
@pytest.mark.parametrize("command", ["train", "enjoy", "record_video"])
def test_help_is_that_of_the_zoo(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"usage: python -m sb3_nigt.zoo {command}")
    assert all(algo in printed for algo in [*ALGORITHMS, "ppo", "tqc"])


# The page


@pytest.mark.slow
def test_commands_on_the_page(zoo, capsys):
    """In their order and shortened; that with processes is run by ``test_processes``."""
    Path("own.yml").write_text(re.search(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)[1])
    runs = [command[1:] for command in COMMANDS_ON_THE_PAGE if "subproc" not in command]
    assert len(runs) == 9
    for arguments in runs:
        main(arguments)
    assert sorted(os.listdir("logs/rennala_nigt"))[:3] == [f"CartPole-v1_{number}" for number in (1, 2, 3)]
    assert saved("rennala_nigt/CartPole-v1_2")["learning_rate"] == "lin_0.2"
    assert capsys.readouterr().out.count("Mean reward") == 2


def first_column(heading):
    """Names in the first column of the table with this heading."""
    table = PAGE.split(f"| {heading} |")[1].split("\n\n")[0]
    return [name for cell in re.findall(r"^\| ([^|]*) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", cell)]


def test_tables_on_the_page():
    assert first_column("Command") == list(COMMANDS)
    assert first_column("`--algo`") == list(ALGORITHMS)
    assert first_column("`--vec-env`") == list(WORKERS)
    for name, algorithm in ALGORITHMS.items():
        assert f"| `{name}` | [`{algorithm.__name__}`](../modules/{name}.md) |" in PAGE


@needs_zoo
def test_search_space_on_the_page():
    import optuna

    study = optuna.create_study()
    drawn = [samplers.sample(algorithm, study.ask(), 1, 10, {}) for algorithm in ALGORITHMS.values()]
    assert set(first_column("Argument")) == set().union(*drawn)
