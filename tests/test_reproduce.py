"""The experiments of the paper as data, against the text of the paper, and one of them for real."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from sb3_nigt.__main__ import main
from sb3_nigt.experiments.command_line import COMMANDS
from sb3_nigt.experiments.curve_file import COLUMNS
from sb3_nigt.experiments.figures import FIGURES, TRAJECTORY_STEPS, Experiment, number_of_parameters
from sb3_nigt.experiments.methods import check_method
from sb3_nigt.experiments.setting import Budget, Setting
from sb3_nigt.experiments.tuned import load

PAGE = (Path(__file__).parents[1] / "docs/guide/reproduce.md").read_text(encoding="utf-8")


def test_experiments_of_the_paper():
    assert {figure.partition("-")[0] for figure in FIGURES} == {"humanoid", "reacher", "walker2d", "hopper", "malenia"}
    equal, root = (FIGURES[f"hopper-{name}"].setting("step") for name in ("equal", "sqrt"))
    assert (equal.step_times, equal.message_times) == ((1.0,) * 10, (0.0,) * 10)
    assert root.step_times == root.message_times == tuple(np.sqrt(np.arange(1, 11)))
    assert FIGURES["reacher-sqrt-n100"].setting("trajectory").n_workers == 100


@pytest.mark.slow
def test_speeds_that_change():
    """From √i to √i/10, and to √(n+1-i): half of the way, in equal factors, they are the geometric means."""
    roots = np.sqrt(np.arange(1, 11))
    for name, final in (("faster", roots / 10), ("reversed", roots[::-1])):
        experiment = FIGURES[f"humanoid-{name}"]
        workers, seconds = experiment.setting("step", scale=0.5).make_workers(0), 0.5 * experiment.seconds("step")
        for moment, times in ((0.0, roots), (0.5 * seconds, np.sqrt(roots * final)), (seconds, final), (9 * seconds, final)):
            assert workers.time_model.step_times(moment) == pytest.approx(times)


@pytest.mark.parametrize("final", [None, (10.0, 1.0), (1.0, 1.0), (1.0, 40.0)])
def test_timesteps_of_a_baseline_last_for_all_seconds(final):
    """Who is slowest may change, and be faster in between than at both ends."""
    setting = Setting("CartPole-v1", (1.0, 10.0), (0.0, 0.0), final_step_times=final, change_seconds=1000.0)
    workers, n_steps = setting.make_workers(0), 0
    workers.reset()
    while workers.clock.now() < 1000.0:
        workers.step(np.zeros(2, dtype=np.int64))
        n_steps += 2
    assert n_steps <= setting.lockstep_timesteps(1000.0) <= n_steps + 8


@pytest.mark.parametrize("final", [(10.0, 1.0), (1.0, 1.0), (1.0, 40.0)])
def test_timesteps_of_a_baseline_with_messages_last_for_all_seconds(final):
    """A run that makes more would end early; without messages it would make more."""
    setting = Setting("CartPole-v1", (1.0, 10.0), (300.0, 0.0), final_step_times=final, change_seconds=9000.0)
    n_steps = setting.lockstep_timesteps(9000.0, rollout=20)
    workers = setting.make_workers(0)
    workers.reset()
    for number in range(n_steps // 2):
        workers.step(np.zeros(2, dtype=np.int64))
        if number % 20 == 19:
            workers.aggregate_messages([0, 1])
    assert workers.clock.now() >= 9000.0
    assert n_steps < setting.lockstep_timesteps(9000.0)


@pytest.mark.parametrize(("time_per", "seconds"), [("step", 200_000.0), ("trajectory", 4_000.0)])
def test_length_of_a_run(time_per, seconds):
    """h = 1 for ten workers, 50 steps an episode: a round of 20 makes 1000 of 2 million steps and takes 100 seconds, or 2."""
    assert FIGURES["reacher-equal"].seconds(time_per) == pytest.approx(seconds)


def test_messages_by_the_number_of_parameters():
    """Reacher-v4: 11 observations, two layers of 64, two heads of 2: 12·64 + 65·64 + 65·4 = 5188."""
    assert number_of_parameters("Reacher-v4") == 5188
    setting = FIGURES["reacher-communication"].setting("step")
    assert setting.message_times == pytest.approx(np.sqrt(np.arange(1, 11)) * 5188**0.25)
    assert setting.step_times == pytest.approx(np.sqrt(np.arange(1, 11)))


@pytest.mark.parametrize(
    ("figure", "tasks", "size"),
    [
        ("malenia-bit", ["flipped=False", "flipped=True"], 1),
        ("malenia-no-bit", ["flipped=False", "flipped=True"], 0),
        ("malenia-velocity", ["velocity=0.5", "velocity=2.0"], 0),
        ("malenia-direction", ["direction=0", "direction=90"], 0),
        ("malenia-gravity", ["gravity=0.5", "gravity=1.5"], 0),
        ("malenia-friction", ["friction=0.5", "friction=1.5"], 0),
    ],
)
def test_two_tasks(figure, tasks, size):
    """Humanoid-v4 has 376 observations; the bit is one more."""
    setting = FIGURES[figure].setting("step")
    assert (setting.step_times, setting.message_times) == ((1.0, 10.0), (0.0, 0.0))
    evaluated = setting.make_evaluation_envs(1)
    assert list(evaluated) == tasks
    assert {env.observation_space.shape for env in evaluated.values()} == {(376 + size,)}


@pytest.mark.parametrize("figure", FIGURES)
def test_methods_of_figures(figure):
    for method in FIGURES[figure].methods:
        assert check_method(method) == method


def test_timesteps_a_second_of_both_readings():
    """h = 1, √2, …, per step Σ 1/h; per trajectory of at most 50 steps of Reacher 50 times that."""
    rate = np.sum(1 / np.sqrt(np.arange(1, 11)))
    assert FIGURES["reacher-sqrt"].setting("step").timesteps_a_second() == pytest.approx(rate)
    assert FIGURES["reacher-sqrt"].setting("trajectory").timesteps_a_second() == pytest.approx(50 * rate)


def test_a_budget_is_spent_in_its_own_unit():
    assert Budget(timesteps=200).spent(50, 9.0) == 0.25
    assert Budget(seconds=18.0).spent(50, 9.0) == 0.5


@pytest.mark.parametrize("time_per", [pytest.param("step", marks=pytest.mark.slow), "trajectory"])
def test_reproduce(time_per, runs_in_this_process, tmp_path, monkeypatch, capsys):
    """A figure of its own with CartPole, tuned: 1500 timesteps at two a second, or at two episodes of 10 steps a second."""
    monkeypatch.setitem(TRAJECTORY_STEPS, "CartPole-v1", 10)
    monkeypatch.setitem(FIGURES, "small", Experiment("CartPole-v1", "1", "0", 2, ("rennala", "sync", "ppo"), timesteps=15_000))
    output = ["--output", str(tmp_path), "--points", "3", "--episodes", "2", "--seeds", "1"]
    main(["reproduce", "small", "--scale", "0.1", "--tune", "2", "--time-per", time_per, *output])
    directory, seconds = tmp_path / f"small-per-{time_per}", {"step": 750.0, "trajectory": 75.0}[time_per]
    rennala, sync = load(directory / "tuned.json")
    assert rennala.budget.seconds == sync.budget.seconds == seconds
    baseline = {"ppo": {}} if time_per == "step" else {}
    assert {path.name.partition("-")[0] for path in directory.glob("*-seed0.json")} == {"rennala", "sync", *baseline}
    for name, arguments in {"rennala": rennala.arguments, "sync": sync.arguments, **baseline}.items():
        run = json.loads((directory / f"{name}-seed0.json").read_text())["run"]
        assert run["arguments"] == arguments
        assert run["budget"]["seconds"] == seconds
        assert run["setting"]["time_per"] == time_per
    assert (directory / "curves.png").exists()
    assert "sync" in capsys.readouterr().out


# The page


def test_commands_on_the_page_can_be_typed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("tune").mkdir()
    Path("tune/tuned.json").write_text('{"tuned": []}')
    typed = []
    Path("reacher").mkdir()
    Path("reacher/curves.csv").write_text("method,seed,seconds,return\nrennala,0,0,1\n")
    for name in ("compare", "summary", "table", "verdicts", "tune", "reproduce"):
        monkeypatch.setattr(COMMANDS[name], "run", typed.append)
    commands = re.findall(r"^sb3-nigt (.+)$", PAGE, re.MULTILINE)
    for command in commands:
        main(command.split())
    assert len(typed) == len(commands) == 11


def step_times_of(experiment):
    final = experiment.final_step_times
    return experiment.step_times if final is None else f"{experiment.step_times}, later {final}"


def test_tables_on_the_page():
    """Columns, figures with their laws, and the options of compare with their defaults."""
    columns = PAGE.split("Columns of a curve:")[1].split("### ")[0]
    assert re.findall(r"^\| `(\w+)` \|", columns, re.MULTILINE) == list(COLUMNS)
    rows = re.findall(r"^\| (`.*`) \| ([^|]*) \| (\d+) \| ([^|]*) \| ([^|]*) \|$", PAGE.split("## Reproduce")[1], re.MULTILINE)
    found = {}
    for names, text, n_workers, step_times, message_times in rows:
        link = "serial" if "serial link" in text else "parallel"
        for name in re.findall(r"`([\w-]+)`", names):
            found[name] = (int(n_workers), step_times, message_times.partition(", d ")[0], link)
    assert found == {name: (e.n_workers, step_times_of(e), e.message_times, e.link) for name, e in FIGURES.items()}


def test_options_on_the_page(capsys):
    with pytest.raises(SystemExit):
        main(["compare", "--help"])
    options = re.findall(r"^\| `(--[\w-]+)` \|", PAGE, re.MULTILINE)
    assert set(options) == set(re.findall(r"^  (--[\w-]+)", capsys.readouterr().out, re.MULTILINE))
