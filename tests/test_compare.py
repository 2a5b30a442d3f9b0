"""Comparing methods: real runs of a few hundred steps."""

import csv
import itertools
import json
import os
import re
import signal
import subprocess
import sys
from io import StringIO
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from envs import FixedLengthEnv, parameters
from fails_later import OddError
from gymnasium.envs.registration import EnvSpec
from paper import RennalaNIGT

from sb3_nigt.__main__ import main
from sb3_nigt.experiments import campaign, compare, results, training
from sb3_nigt.experiments.campaign import FailedRunsError, execute_all
from sb3_nigt.experiments.evaluation import Evaluator
from sb3_nigt.experiments.given import given_argument
from sb3_nigt.experiments.methods import BASELINES, check_method, make_model
from sb3_nigt.experiments.results import ALL_CURVES, Curve
from sb3_nigt.experiments.setting import Budget, Run, Setting, title
from sb3_nigt.methods import METHODS

CARTPOLE = Setting("CartPole-v1", (1.0, 2.0), (0.0, 5.0))
ALGORITHMS = {**{name: method.algorithm for name, method in METHODS.items()}, **BASELINES}
FEW = Budget(timesteps=400, points=4, episodes=2)
COMPARE = ["compare", "--env", "CartPole-v1", "--step-times", "1,2", "--points", "4", "--episodes", "2", "--processes", "1"]


def executed(run, directory):
    """Curve and configuration of a run."""
    training.execute(run, directory)
    curve, configuration = training.files_of(run, directory)
    return Curve.load(curve), json.loads(configuration.read_text())


# Names


@pytest.mark.parametrize("name", [*ALGORITHMS, "rennala:pipelined", "malenia:first_finished"])
def test_every_method_trains_and_is_measured(name, tmp_path):
    curve, record = executed(Run(name, 0, CARTPOLE, FEW), tmp_path)
    assert curve["seconds"][0] == curve["timesteps"][0] == curve["messages"][0] == 0
    assert 400 <= curve["timesteps"][-1] < 420 if name != "ars" else curve["timesteps"][-1] == 400
    for axis in ("seconds", "timesteps", "messages", "updates"):
        assert (np.diff(curve[axis]) >= 0).all()
    assert 1 <= curve["return"].min() <= curve["return"].max() <= 500
    assert record["algorithm"] == ALGORITHMS[name.partition(":")[0]].__name__
    assert record["arguments"]["seed"] == 0


def test_names_of_methods():
    workers = CARTPOLE.make_workers(0)
    assert make_model("rennala:first_finished", "CartPole-v1", workers, 0, {}).schedule == "first_finished"
    assert make_model("rennala", "CartPole-v1", workers, 0, {"eta": 0.5}).eta == 0.5
    assert check_method(" rennala:planned") == "rennala"
    assert check_method("rennala:pipelined") == "rennala:pipelined"
    for wrong, message in {
        "dqn": "give some of rennala, malenia, .*, ars",
        "ppo:planned": "ppo has no choice of schedule, write ppo",
        "rennala:fast": "write rennala:planned, rennala:pipelined, rennala:first_finished",
    }.items():
        with pytest.raises(ValueError, match=message):
            check_method(wrong)


def test_sizes_of_baselines():
    """As for one environment: PPO 32 batches of about 64 steps, TRPO 16 of about 128."""
    for n_workers, n_steps, batch_size in ((1, 2048, 64), (2, 1024, 64), (10, 192, 60), (100, 32, 100)):
        workers = Setting("CartPole-v1", (1.0,) * n_workers, (0.0,) * n_workers).make_workers(0)
        model = make_model("ppo", "CartPole-v1", workers, 0, {})
        assert (model.n_steps, model.batch_size) == (n_steps, batch_size)
    assert make_model("trpo", "CartPole-v1", CARTPOLE.make_workers(0), 0, {}).n_steps == 1024
    assert make_model("ars", "CartPole-v1", CARTPOLE.make_workers(0), 0, {}).n_eval_episodes == 2


# Clock, timesteps, messages, by hand

SHORT_ROUNDS = {"ppo": {"n_steps": 32, "n_epochs": 1}, "rennala": {"n_trajectories": 3}}


class Constant:
    """In place of the evaluation: returns the number of updates so far."""

    def __init__(self, *args):
        self.envs = {"return": None}

    def returns(self, model, number):
        return {"return": float(model._n_updates)}


COLUMNS = ("seconds", "timesteps", "messages", "return")


def curve_of(method, setting, budget, monkeypatch, columns=COLUMNS, **arguments):
    """The lines of a run whose return is its number of updates."""
    monkeypatch.setattr(training, "Evaluator", Constant)
    workers, file = setting.make_workers(0), StringIO()
    run = Run(method, 0, setting, budget, arguments)
    writer = training.CurveWriter(run, workers, file)
    with pytest.raises(training.BudgetSpent):
        make_model(method, setting.env, workers, 0, arguments, paper=True).learn(10**9, callback=writer)
    rows = list(csv.DictReader(StringIO(file.getvalue())))
    return [tuple(float(row[name]) for name in columns) for row in rows]


def test_curve_of_ppo_by_hand(monkeypatch):
    """
    Covers: a step waits for the slowest, 2 s; a message a worker and rollout, max κ = 5 s; a return is that in force.

    A rollout of 3 steps of 2 workers takes 6 s, the message 5 s: updates (one epoch of one batch each) at 11, 22, 33 …
    seconds. Points every 10 s: at 10 θ_0, at 20 θ_1 (from 11 on), at 30 θ_2 (from 22 on), at 40 θ_3. θ_0 is that of the
    first line. Counts are those of the event that shows that the moment has passed: the end of the messages at 22, 33, 44.
    """
    budget = Budget(seconds=40.0, points=4, episodes=1)
    rows = curve_of("ppo", CARTPOLE, budget, monkeypatch, n_steps=3, batch_size=6, n_epochs=1)
    assert rows == [(0, 0, 0, 0), (20, 12, 4, 1), (30, 18, 6, 2), (40, 24, 8, 3)]


def test_curve_of_rennala_by_hand(monkeypatch):
    """
    Covers: rounds of a time per trajectory; a message of each worker that takes part; moments without a new policy.

    h = 2, 3 s a trajectory, κ = 1: with M = 3 the planned round is worker 0 at 2 and 4, worker 1 at 3, then a message until
    5. So θ_k is in force from 5 k on. Points every 4 s up to 16: θ_0 at 0; the first point at or after 5 is 8, after 10 it
    is 12, after 15 it is 16, the end.
    """
    setting = Setting("CartPole-v1", (2.0, 3.0), (1.0, 1.0), "trajectory")
    rows = curve_of("rennala", setting, Budget(seconds=16.0, points=4), monkeypatch, n_trajectories=3)
    assert [(seconds, messages, value) for seconds, _, messages, value in rows] == [
        (0, 0, 0),
        (8, 2, 1),
        (12, 4, 2),
        (16, 6, 3),
    ]


@pytest.mark.parametrize(("seconds", "n_updates"), [(14.9, 2), (15.0, 3), (15.1, 3)])
def test_an_update_at_the_end_of_the_budget_counts(seconds, n_updates, monkeypatch):
    """As above, the third one comes at 15; rounds of a barrier often end where a budget does."""
    setting = Setting("CartPole-v1", (2.0, 3.0), (1.0, 1.0), "trajectory")
    budget, columns = Budget(seconds=seconds, points=1), ("seconds", "updates", "return")
    *_, last = curve_of("rennala", setting, budget, monkeypatch, columns, n_trajectories=3)
    assert last == (seconds, n_updates, n_updates)


def test_the_end_of_the_budget_in_the_middle_of_a_round(monkeypatch):
    """A step of both ends at 8 s, and is the last one that counts although the run sees only with the next that it is over."""
    *_, last = curve_of("ppo", CARTPOLE, Budget(seconds=8.0, points=1), monkeypatch, **SHORT_ROUNDS["ppo"])
    assert last == (8, 8, 0, 0)


def test_messages_of_afedpg(monkeypatch):
    """One a trajectory, thus one an update."""
    rows = curve_of("afedpg", CARTPOLE, FEW, monkeypatch)
    assert [messages for _, _, messages, _ in rows] == [value for *_, value in rows]
    assert rows[-1][2] > 5


def test_timesteps_of_ars(monkeypatch):
    """ARS itself counts every step once for each worker; a step of two workers is two timesteps and takes two seconds."""
    rows = curve_of("ars", CARTPOLE, FEW, monkeypatch)
    assert rows[-1][:2] == (400, 400)


def test_the_budget_of_ars_ends_its_run():
    """Not what ARS counts itself: with three workers that was spent after a third of it."""
    setting = Setting("CartPole-v1", (1.0,) * 3, (0.0,) * 3)
    for budget in (Budget(timesteps=6000, points=2, episodes=1), Budget(seconds=2000.0, points=2, episodes=1)):
        file = StringIO()
        training.train_simulated(Run("ars", 0, setting, budget), file)
        *_, last = csv.DictReader(StringIO(file.getvalue()))
        assert (float(last["seconds"]), int(last["timesteps"])) == (2000.0, 6000)


def test_a_run_that_ends_by_itself_is_not_finished(monkeypatch, tmp_path):
    monkeypatch.setattr(training, "timesteps_of", lambda run, model: 10)
    run = Run("ppo", 0, CARTPOLE, Budget(timesteps=9000, points=1, episodes=1))
    with pytest.raises(RuntimeError, match="ppo-seed0 ended by itself before its budget was spent"):
        training.execute(run, tmp_path)
    assert not campaign.is_finished(run, tmp_path)


def test_no_more_than_twice_as_many_points_as_wanted(monkeypatch):
    """Episodes end long before their limit, on which the spacing is based: AFedPG passes a moment at every update."""
    setting = Setting("CartPole-v1", (1.0, 1.0), (0.0, 0.0), "trajectory")
    rows = curve_of("afedpg", setting, Budget(timesteps=2000, points=4), monkeypatch)
    assert rows[-1][-1] > 20
    assert 4 < len(rows) <= 2 * 4 + 2


@pytest.mark.parametrize("method", ["ppo", "rennala"])
def test_evaluation_leaves_training_alone(method):
    """The same parameters whether a run is evaluated often or hardly ever, also where actions come from torch's generator."""
    trained = []
    for points in (6, 1):
        workers = CARTPOLE.make_workers(3)
        run = Run(method, 3, CARTPOLE, Budget(seconds=1500.0, points=points, episodes=1), SHORT_ROUNDS[method])
        model = make_model(method, CARTPOLE.env, workers, 3, run.arguments, paper=True)
        with pytest.raises(training.BudgetSpent):
            model.learn(10**9, callback=training.CurveWriter(run, workers, StringIO()))
        assert model._n_updates > 5
        trained.append(parameters(model))
    assert np.array_equal(*trained)


def test_environments_without_a_limit_are_evaluated(monkeypatch):
    """Their episodes may never end."""
    monkeypatch.setitem(gym.registry, "Endless-v0", EnvSpec("Endless-v0", entry_point=lambda: FixedLengthEnv(10**9)))
    setting = Setting("Endless-v0", (1.0,), (0.0,))
    model = make_model("rennala", setting.env, setting.make_workers(0), 0, {"n_steps": 10})
    assert Evaluator(setting, 1, 0).returns(model, 0).keys() == {"return"}


def test_returns_are_of_the_iterate_on_episodes_of_its_own():
    """Seeded by run and number, whatever the training does."""
    evaluator = Evaluator(CARTPOLE, 3, seed=1)
    model = RennalaNIGT("MlpPolicy", CARTPOLE.make_workers(0), seed=0, device="cpu")
    assert evaluator.returns(model, 0) == evaluator.returns(model, 0)
    assert evaluator.returns(model, 0) != evaluator.returns(model, 1)
    assert evaluator.returns(model, 0) != Evaluator(CARTPOLE, 3, seed=2).returns(model, 0)


def test_actions_are_sampled():
    """Of two equally likely actions the more likely one is always the first: the pole falls within eleven steps."""
    model = RennalaNIGT("MlpPolicy", CARTPOLE.make_workers(0), seed=0, device="cpu")
    for parameter in model.policy.action_net.parameters():
        parameter.data.zero_()
    assert Evaluator(CARTPOLE, 10, seed=0).returns(model, 0)["return"] > 12


def test_tasks_are_columns_and_weigh_equally(tmp_path):
    setting = Setting("CartPole-v1", (1.0, 1.0), (0.0, 0.0), tasks="flipped", task_kwargs={"append_bit": False})
    curve, record = executed(Run("malenia", 0, setting, FEW), tmp_path)
    tasks = [name for name in curve.columns if name.startswith("flipped=")]
    assert tasks == ["flipped=False", "flipped=True"]
    assert np.allclose(curve["return"], np.mean([curve[task] for task in tasks], axis=0))
    assert record["run"]["setting"]["task_kwargs"] == {"append_bit": False}


# Files


def test_configuration_is_complete(tmp_path):
    run = Run("rennala:first_finished", 3, CARTPOLE, FEW, {"eta": 0.5}, paper=True)
    _, record = executed(run, tmp_path)
    assert record["run"] == run.as_json()
    expected = {
        "schedule": "first_finished",
        "eta": 0.5,
        "learning_rate": 2**-6,
        "n_trajectories": 20,
        "gamma": 0.99,
        "seed": 3,
    }
    assert record["arguments"].items() >= expected.items()
    assert {"sb3_nigt", "torch", "python", "stable-baselines3"} <= set(record["versions"])
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["rennala-first_finished-seed3.csv", "rennala-first_finished-seed3.json"]


def files_in(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir() if "-seed" in path.name}


KILLING_ENV = """
import os, signal
from pathlib import Path
import gymnasium as gym
from gymnasium.envs.classic_control import CartPoleEnv

class Killing(CartPoleEnv):
    n_steps = 0  # of all environments of a process together

    def step(self, action):
        Killing.n_steps += 1
        if Killing.n_steps == 2500 and not Path({flag!r}).exists():
            Path({flag!r}).touch()
            os.kill(os.getppid(), signal.SIGKILL)
        return super().step(action)

gym.register("Killing-v0", Killing, max_episode_steps=500)
"""


@pytest.mark.slow
def test_killed_command_goes_on_and_leaves_the_same_files(tmp_path, capfd, monkeypatch):
    """The program is killed in the middle of a run; nothing writes any more, and the same command completes the files."""
    (tmp_path / "killing.py").write_text(KILLING_ENV.format(flag=str(tmp_path / "killed_once")))
    monkeypatch.syspath_prepend(tmp_path)
    arguments = [*COMPARE, "--algos", "rennala,afedpg", "--seeds", "2", "--timesteps", "1500"]
    arguments += ["--set", "rennala.n_steps=250", "--output"]  # three rounds
    arguments[arguments.index("CartPole-v1")] = "killing:Killing-v0"
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    command = [sys.executable, "-m", "sb3_nigt", *arguments, killed]
    process = subprocess.run(
        command, stderr=subprocess.PIPE, timeout=250, env={**os.environ, "PYTHONPATH": f"{tmp_path}:{os.getcwd()}"}
    )  # its stderr ends when no process is left that could write
    assert process.returncode == -signal.SIGKILL
    assert any(path.stat().st_size > 150 for path in killed.glob("*.csv"))  # the curve of the run has begun
    finished = {path: path.stat().st_mtime_ns for path in killed.glob("*.json")}
    assert len(finished) < 4
    main([*arguments, str(killed)])
    assert all(path.stat().st_mtime_ns == before for path, before in finished.items())
    whole.mkdir()
    for method in ("rennala", "afedpg"):
        for seed in range(2):
            budget = Budget(timesteps=1500, points=4, episodes=2)
            given = {"n_steps": 250} if method == "rennala" else {}
            training.execute(Run(method, seed, Setting("killing:Killing-v0", (1.0, 2.0), (0.0, 0.0)), budget, given), whole)
    assert files_in(killed) == files_in(whole)
    one_by_one = [path.read_text().splitlines()[1:] for path in sorted(killed.glob("*-seed*.csv"))]
    assert sorted((killed / ALL_CURVES).read_text().splitlines()[1:]) == sorted(itertools.chain(*one_by_one))
    assert (killed / "curves.png").read_bytes().startswith(b"\x89PNG")
    table_text = (killed / "table.txt").read_text()
    assert table_text in capfd.readouterr().out
    assert re.search(r"^rennala .* 1,50\d ", table_text, re.MULTILINE)


def test_finished_runs_are_not_run_again(tmp_path, monkeypatch):
    runs = [Run("rennala", seed, CARTPOLE, FEW) for seed in range(2)]
    for run in runs:
        training.execute(run, tmp_path)
    monkeypatch.setattr(campaign, "_attempt", lambda *args: pytest.fail("there is nothing to do"))
    execute_all(runs, tmp_path, 1)


def test_a_curve_that_is_made_again_is_not_finished_before_its_end(tmp_path, monkeypatch):
    """Its configuration is still there from the first time."""
    run = Run("rennala", 0, CARTPOLE, FEW)
    training.execute(run, tmp_path)
    (tmp_path / "rennala-seed0.csv").unlink()
    monkeypatch.setattr(training, "updates_made", lambda model: pytest.fail("interrupted"))
    with pytest.raises(pytest.fail.Exception):
        training.execute(run, tmp_path)
    assert not campaign.is_finished(run, tmp_path)


def test_the_first_method_stays_the_first_where_its_first_run_has_failed(tmp_path, monkeypatch):
    runs = [Run(method, seed, CARTPOLE, FEW) for seed in range(2) for method in ("rennala", "sync")]
    for run in runs[1:]:
        training.execute(run, tmp_path)

    def fail(*args):
        raise FailedRunsError

    monkeypatch.setattr(compare, "execute_all", fail)
    with pytest.raises(FailedRunsError):
        compare.compare(runs, tmp_path, 1)
    assert list(results.load_all(tmp_path / "curves.csv")) == ["rennala", "sync"]


def test_the_files_have_the_runs_that_have_not_failed(tmp_path, monkeypatch):
    runs = [Run("rennala", seed, CARTPOLE, FEW) for seed in range(2)]
    training.execute(runs[1], tmp_path)

    def fail(*args):
        raise FailedRunsError

    monkeypatch.setattr(compare, "execute_all", fail)
    with pytest.raises(FailedRunsError):
        compare.compare(runs, tmp_path, 1)
    assert {line.split(",")[1] for line in (tmp_path / "curves.csv").read_text().splitlines()} == {"seed", "1"}
    assert (tmp_path / "table.txt").exists()


@pytest.mark.parametrize(("n_lines", "last"), [(30, "29"), (31, "…")])
def test_a_long_error_is_cut(tmp_path, monkeypatch, n_lines, last):
    def fail(*args):
        raise ValueError("\n".join(map(str, range(n_lines))))

    monkeypatch.setattr(campaign, "execute", fail)
    assert campaign._error_of(Run("rennala", 0, CARTPOLE, FEW), tmp_path).splitlines()[-1] == last


@pytest.mark.slow
def test_a_run_that_fails_stops_no_other(tmp_path):
    good, bad = Run("rennala", 0, CARTPOLE, FEW), Run("rennala", 1, CARTPOLE, FEW, {"eta": 2.0})
    with pytest.raises(FailedRunsError, match=r"1 of 2 runs failed.*\n  rennala-seed1: ValueError: eta=2.0 is not allowed"):
        execute_all([bad, good], tmp_path, 1)
    assert campaign.is_finished(good, tmp_path)
    assert not campaign.is_finished(bad, tmp_path)


@pytest.mark.slow
def test_a_run_whose_error_cannot_be_unpickled_stops_no_other(tmp_path):
    odd = Run("ppo", 0, Setting("fails_later:FailsOddly-v0", (1.0,), (0.0,)), FEW)
    good = Run("rennala", 0, CARTPOLE, FEW)
    with pytest.raises(FailedRunsError, match=r"1 of 2 runs failed.*\n  ppo-seed0: OddError: no licence \(code 17\)$"):
        execute_all([odd, good], tmp_path, 1)
    assert campaign.is_finished(good, tmp_path)


def test_what_went_wrong_comes_as_text_from_the_process_of_a_run(monkeypatch, tmp_path):
    def execute(*args):
        raise OddError(17, "no licence")

    monkeypatch.setattr(campaign, "execute", execute)
    assert campaign._error_of(Run("ppo", 0, CARTPOLE, FEW), tmp_path) == "OddError: no licence (code 17)"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "--env"),
        ("--env CartPole-v1", "--timesteps --seconds is required"),
        ("--env Nothing-v0 --timesteps 9", "Give an id that gymnasium knows"),
        ("--env :CartPole-v1 --timesteps 9", "':CartPole-v1' is not allowed: write a module in front of the colon"),
        ("--env CartPole-v1 --timesteps 9 --step-times 1,2 --message-times 1e300", "a message would last longer than"),
        ("--env CartPole-v1 --timesteps 9 --algos rennala,dqn", "'dqn' is not a method: give some of rennala"),
        ("--env CartPole-v1 --timesteps 9 --algos sync:planned", "sync has no choice of schedule"),
        ("--env CartPole-v1 --timesteps 9 --seconds 9", "not allowed with argument"),
        ("--env CartPole-v1 --seconds -1", "give a number greater than 0"),
        ("--env CartPole-v1 --timesteps 9 --first-seed -1", "'-1' is not allowed: give an integer of at least 0"),
        ("--env CartPole-v1 --timesteps 9", "for example --n-workers 10"),
        ("--env CartPole-v1 --timesteps 9 --step-times 1 --first-seed 4294967290 --seeds 10", "seeds go up to 4,294,967,295"),
        ("--env CartPole-v1 --timesteps 9 --step-times 1,2 --message-times 1,2,3", "--message-times has 3 values for 2"),
        ("--env CartPole-v1 --timesteps 9 --step-times 1,2 --final-step-times 2,1", "--final-step-times needs --seconds"),
        ("--env CartPole-v1 --seconds 9 --step-times 1,2 --final-step-times 2,1,3", "--final-step-times has 3 values for 2"),
        ("--env CartPole-v1 --timesteps 9 --step-times 1,2 --output taken", "is a file, give the name of a directory"),
        ("--env CartPole-v1 --timesteps 9 --step-times 1,2 --algos ppo --seeds 1 --output other", "with another method"),
        ("--env CartPole-v1 --timesteps 9 --step-times 1,2 --algos a2c --seeds 1 --output other", "is damaged: remove it"),
        ("--env CartPole-v1 --timesteps 9 --step-times 1e-320,1e-320", "give seconds from 1e-100 to 1e+100"),
        (
            "--env CartPole-v1 --timesteps 9 --step-times 1 --algos ppo --set ppo.policy_kwargs=dict(net_arch=[64])",
            "write a dict as {'net_arch': [64]}",
        ),
        (
            "--env CartPole-v1 --timesteps 9 --step-times 1,2 --output /proc/none",
            "/proc/none: No such file or directory. Give",
        ),
        ("--env CartPole-v1 --timesteps 9 --step-times 1,2 --target-return nan", "'nan' is not allowed: give a number"),
    ],
)
def test_wrong_arguments_cost_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("taken").write_text("")
    Path("other").mkdir()
    Path("other/ppo-seed0.csv").write_text("")
    Path("other/ppo-seed0.json").write_text(json.dumps({"run": {}}))
    Path("other/a2c-seed0.csv").write_text("")
    Path("other/a2c-seed0.json").write_text('{"run')
    with pytest.raises(SystemExit) as stopped:
        main(["compare", *arguments.split()])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("sb3-nigt compare: ")
    assert error.count("\n") == 1
    assert message in error


def test_speeds_that_change(monkeypatch, tmp_path):
    """Both workers pass √(1·4) = 2 seconds a step in the middle of the run."""
    asked = []
    monkeypatch.setattr(compare, "compare", lambda runs, *_: asked.extend(runs))
    words = "--env CartPole-v1 --seconds 100 --step-times 1,4 --final-step-times 4,1 --algos rennala --seeds 1"
    main(["compare", *words.split(), "--output", str(tmp_path)])
    setting = asked[0].setting
    assert title(setting) == "CartPole-v1, 2 workers, 1 to 4 s a step (at the end 4, 1 s), messages take no time"
    times = setting.make_workers(0).time_model.step_times
    assert [times(now).tolist() for now in (0.0, 50.0, 100.0, 200.0)] == [[1, 4], [2, 2], [4, 1], [4, 1]]


@pytest.mark.slow
def test_baselines_are_favoured_when_only_trajectories_take_time(tmp_path, capsys):
    arguments = "--env CartPole-v1 --algos rennala,ppo --step-times 1,2 --time-per trajectory --seconds 1 --seeds 1 --points 2"
    main(["compare", *arguments.split(), "--episodes", "1", "--output", str(tmp_path)])
    assert capsys.readouterr().out.startswith("ppo: with --time-per trajectory a step of all workers costs h over max_episode")


def test_values_that_an_algorithm_refuses_are_refused_before_the_first_run(tmp_path, capsys):
    arguments = [*COMPARE, "--algos", "ppo,rennala", "--seeds", "1", "--timesteps", "100", "--output", str(tmp_path)]
    with pytest.raises(SystemExit):
        main([*arguments, "--set", "rennala.eta=3"])
    assert "--set rennala: eta=3 is not allowed: give a finite number in (0, 1]" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*arguments, "--set", "rennala.policy_kwargs={'optimizer_kwargs': 3}"])
    assert "--set rennala: " in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_values_are_not_blamed_for_the_environment():
    run = Run("ppo", 0, Setting("Blackjack-v1", (1.0,), (0.0,)), FEW, {"gamma": 0.3})
    compare.check_values([run], [given_argument("ppo.gamma=0.3")])
