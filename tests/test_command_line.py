"""The commands: what they print and draw, and the one line that a wrong argument costs."""

import dataclasses
import re
import shutil
import subprocess
import sys
from argparse import ArgumentParser
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from envs import run_rounds, simulated
from matplotlib.figure import Figure
from paper import RennalaNIGT

from sb3_nigt import Recording, RunRecorder
from sb3_nigt.__main__ import main
from sb3_nigt.experiments import plan
from sb3_nigt.experiments.arguments import UsageError, parse_times
from sb3_nigt.experiments.benchmark.command import PARTS
from sb3_nigt.experiments.command_line import COMMANDS
from sb3_nigt.experiments.commands import benchmark
from sb3_nigt.experiments.plots import draw_timeline
from sb3_nigt.methods import METHODS
from sb3_nigt.planning import measure

ROOT = Path(__file__).parents[1]
PLAN = ["plan", "--step-times", "1,3", "--n-trajectories", "3", "--trajectory-steps", "1"]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A recorded run of three workers, the last of which never makes a step."""
    path = tmp_path_factory.mktemp("recorded") / "run.jsonl"
    env = simulated([2, 2, 2], [1.0, 3.0, 1000.0], 0.5)
    model = RennalaNIGT("MlpPolicy", env, n_trajectories=4, horizon=9, device="cpu", seed=0, policy_kwargs={"net_arch": [2]})
    model.learn(60, callback=RunRecorder(path))
    assert model._n_updates >= 7
    return path


@pytest.fixture
def run_file(recorded, tmp_path):
    """The recorded run, in a folder of the test."""
    return Path(shutil.copy(recorded, tmp_path))


# Lists of times


@pytest.mark.parametrize(
    ("text", "n_workers", "times"),
    [
        ("1,1.4,2", None, [1, 1.4, 2]),
        ("1,1.4,2", 3, [1, 1.4, 2]),
        ("1e-3, 2", None, [0.001, 2]),
        ("2.5", None, [2.5]),
        ("2.5", 3, [2.5, 2.5, 2.5]),
        ("equal", 3, [1, 1, 1]),
        ("linear", 3, [1, 2, 3]),
        ("sqrt", 3, [1, 2**0.5, 3**0.5]),
    ],
)
def test_times(text, n_workers, times):
    assert parse_times(text, n_workers).tolist() == times


def test_zero_is_a_time_of_a_message():
    assert parse_times("0,1", None, positive=False).tolist() == [0, 1]
    with pytest.raises(
        UsageError, match=r"--step-times\[0\]=0.0 is not allowed: every value must be finite and greater than 0"
    ):
        parse_times("0,1", None)


@pytest.mark.parametrize(
    ("text", "n_workers", "message"),
    [
        ("sqrt", None, "--message-times sqrt: say for how many workers, for example --n-workers 10"),
        ("1,two", None, "'1,two': give seconds as in --message-times 1,1.4,2, or one of the words equal, sqrt, linear"),
        ("", None, "give seconds"),
        ("1,,2", None, "give seconds"),
        ("cubic", 3, "give seconds"),
        ("1,2", 3, "--message-times has 2 values for 3 workers"),
        ("1,nan", None, r"--message-times\[1\]=nan is not allowed"),
        ("1,inf", None, r"--message-times\[1\]=inf is not allowed"),
        ("-1", 2, r"--message-times=-1.0 is not allowed"),
    ],
)
def test_texts_that_are_no_times(text, n_workers, message):
    with pytest.raises(UsageError, match=message):
        parse_times(text, n_workers, name="--message-times", positive=False)


# Wrong arguments


WRONG = {
    "": "command",
    "train": r"invalid choice: 'train' \(choose from .*plan.*timeline",
    "plan": "--step-times --from is required",
    "plan --step-times 1,x": "give seconds as in --step-times 1,1.4,2",
    "plan --step-times sqrt": "for example --n-workers 10",
    "plan --step-times 1,10001": "more than 10,000 steps while the slowest makes one",
    "plan --step-times 1e-300,1 --rollout steps": "more than 1,000,000 steps while the slowest makes one",
    "plan --step-times 1,2 --message-times 1e300": "a message would last longer than 1,000,000,000 of the shortest steps",
    "plan --step-times 1,2 --message-times 1e17 --rollout steps": "--message-times: a message would last longer",
    "plan --from run.jsonl --message-times 1e17": "a message would last longer than 1,000,000,000 of the shortest steps",
    "plan --step-times 1,2 --n-workers 3": "--step-times has 2 values for 3 workers",
    "plan --step-times 1,2 --message-times 1,2,3": "--message-times has 3 values for 2 workers",
    "plan --step-times 1,2 --n-trajectories 0": "--n-trajectories: '0' is not allowed: give an integer of at least 1",
    "plan --step-times 1,2 --n-trajectories 2.5": "'2.5' is not allowed: give an integer of at least 1",
    "plan --step-times 1,2 --n-steps 5": "--n-steps goes with --rollout steps",
    "plan --step-times 1,2 --rollout steps --n-trajectories 5": "--n-trajectories goes with --rollout trajectories",
    "plan --step-times 1,2 --rollout steps --trajectory-steps 5": "--trajectory-steps goes with --rollout trajectories",
    "plan --step-times 1,2 --rollout steps --output x.png": "--output goes with --rollout trajectories",
    "plan --step-times 1e308,1e308": r"--step-times 1e308,1e308: give seconds from 1e-100 to 1e\+100",
    "plan --step-times 1,2 --n-trajectories 1000000000": "give at most 100000, each of them is simulated",
    "verdicts good": "there is one method only: give comparisons of two or more",
    "summary cut": r"'cut' has no curves.csv with runs \(a line is cut off\)",
    "plan --step-times 1,2 --trajectory-steps -3": "--trajectory-steps: '-3' is not allowed",
    "plan --step-times 1,2 --output plan.txt": "'plan.txt' is not allowed: give a name that ends in .png, .pdf, .svg",
    "plan --step-times 1,2 --output none/plan.png": "there is no directory 'none', make it first",
    "plan --step-times 1,2 --from run.jsonl": "not allowed with argument",
    "plan --from none.jsonl": "none.jsonl: No such file or directory. Give a file written by RunRecorder",
    "plan --from other.txt": "'other.txt' is not a recorded run: give a file written by RunRecorder",
    "plan --from picture.png": "picture.png.* is not a recorded run: give a file written by RunRecorder",
    "plan --from short.jsonl": "short.jsonl has no complete round: give the file of a longer run",
    "plan --from run.jsonl --n-workers 3": "--n-workers goes with --step-times: leave it out",
    "plan --from run.jsonl --message-times 1,2,3": "--message-times has 3 values for 2 workers",
    "table good --output none/table.md": "'none/table.md' is not allowed: there is no directory 'none', make it first",
    "table good --output foreign": "'foreign' is not allowed: it is a directory, give the name of a file",
    "verdicts good --output none/verdicts.md": "there is no directory 'none', make it first",
    "summary": "arguments are required: DIR",
    "summary nowhere": r"'nowhere' has no curves.csv with runs \(No such file or directory\): give a directory written by",
    "summary empty": "'empty' has no curves.csv with runs",
    "summary foreign": "'foreign' has no curves.csv with runs",
    "plan --step-times 1,2 --n-trajectories 99999999999": "--n-trajectories 99999999999: give at most 100000",
    "tune --env CartPole-v1 --step-times 1,2 --timesteps 9 --output foreign": "'foreign/tuned.json' has no tuned values: give",
    "timeline": "arguments are required: RUN",
    "timeline none.jsonl": "none.jsonl: No such file or directory",
    "timeline run.jsonl --rounds 3": "'3' is not allowed: give two numbers with a colon between them, as in 0:5",
    "timeline run.jsonl --rounds 900:": r"the run has \d+ rounds, give two numbers within 0:\d+",
    "timeline run.jsonl --output .": "give a name that ends in",
    "benchmark --env Nothing-v0": "Give an id that gymnasium knows, for example CartPole-v1",
    "benchmark --env no_such_module:Nothing-v0": "No module named 'no_such_module'. Give an id that gymnasium knows",
    "benchmark --env :CartPole-v1": "':CartPole-v1' is not allowed: write a module in front of the colon, or no colon",
    "benchmark --env .x:CartPole-v1": "'.x:CartPole-v1' is not allowed: write a module in front of the colon",
    "benchmark --env CartPole-v1 --repeats 0": "--repeats: '0' is not allowed",
    "benchmark --seconds 0": "--seconds: '0' is not allowed: give a number greater than 0",
    "benchmark --start CartPole-v1": "give an environment and a number of processes, for example CartPole-v1:100",
}


@pytest.mark.parametrize("arguments", WRONG)
def test_wrong_arguments_cost_one_line(arguments, run_file, monkeypatch, capsys):
    monkeypatch.chdir(run_file.parent)
    Path("other.txt").write_text("hello")
    good = "method,seed,seconds,timesteps,return\nppo,0,0,0,1\nppo,0,1,1,2\n"
    cut, empty = good[: good.rindex(",1,2")], "method,seed,seconds,return\n"
    for name, curves in {"empty": empty, "foreign": "x,y\n1,2\n", "good": good, "cut": cut}.items():
        Path(name).mkdir()
        Path(name, "curves.csv").write_text(curves)
    Path("foreign/tuned.json").write_text('{"tuned": [{"method"')
    Path("picture.png").write_bytes(b"\x89PNG\r\n\x1a\n\xff\xfe")
    Path("short.jsonl").write_text(run_file.read_text().splitlines()[0])
    with pytest.raises(SystemExit) as stopped:
        main(arguments.split())
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("sb3-nigt")
    assert re.search(WRONG[arguments], error), error


# Plans


def test_plan(capsys):
    """The numbers are worked out in test_planning.py."""
    main([*PLAN, "--message-times", "0.5,1"])
    printed = capsys.readouterr().out
    assert re.search(r"^1 +Rennala +planned +3 +4 +3 +0\.75 +2 +0 +0\.0% +37\.5%$", printed, re.MULTILINE)
    assert re.search(r"^3 +Rennala +first_finished +3 +4 +3 +0\.75 +2 +0 +12\.5% +25\.0%$", printed, re.MULTILINE)
    assert re.search(r"^7 +Synchronous +barrier +6 +7 +4 ", printed, re.MULTILINE)
    # M/A_n = 3/(4/3) and (M + m)/A_m: 4/1, 5/(4/3)
    assert "a round takes 2.25 to 3.75 s; workers worth waiting for: the 2 fastest of 2" in printed
    assert "M = 3 is rounded up to 4" in printed
    assert re.search(r"^ +1 +3 +3 +1 +33\.3 ", printed, re.MULTILINE)


def test_plan_on_the_page_about_planning(capsys):
    """The page shows what its command prints; the picture is not drawn again."""
    page = (ROOT / "docs/guide/planning.md").read_text(encoding="utf-8")
    shown = re.findall(r"^sb3-nigt (plan --step-times.*)\n```\n\n```text\n((?s:.*?))^```$", page, re.MULTILINE)
    assert len(shown) == 2
    for command, text in shown:
        main(command.removesuffix(" --output plan.png").split())
        assert capsys.readouterr().out.startswith(text)


def test_plan_of_a_recorded_run(run_file, capsys):
    """Workers of 1 and 3 seconds per step, two steps a trajectory, half a second a message; the third did nothing."""
    main(["plan", "--from", str(run_file), "--n-trajectories", "3"])
    printed = capsys.readouterr().out
    assert "left out: 2" in printed
    assert "2 workers, M = 3, 2 steps per trajectory" in printed
    assert re.search(r"^1 +Rennala +planned +6 +6\.5 +3 ", printed, re.MULTILINE)
    main(["plan", "--from", str(run_file), "--n-trajectories", "3", "--trajectory-steps", "4", "--message-times", "2"])
    assert re.search(r"^1 +Rennala +planned +12 +14 +3 ", capsys.readouterr().out, re.MULTILINE)


# Pictures


def is_png(path):
    return path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_picture_of_a_plan(tmp_path, capsys):
    main([*PLAN, "--output", str(tmp_path / "plan.png")])
    assert is_png(tmp_path / "plan.png")
    assert "plan.png" in capsys.readouterr().out


@pytest.mark.slow
def test_picture_of_a_plan_with_workers_left_out(run_file):
    path = run_file.with_name("plan.png")
    main(["plan", "--from", str(run_file), "--output", str(path)])
    assert is_png(path)


def test_picture_of_a_run(run_file, monkeypatch, capsys):
    monkeypatch.chdir(run_file.parent)
    main(["timeline", "run.jsonl"])
    assert is_png(Path("timeline.png"))
    assert capsys.readouterr().out == "timeline.png: rounds 0 to 4 of RennalaNIGT\n"
    main(["timeline", "run.jsonl", "--rounds", "2:4", "--output", "some.png"])
    assert is_png(Path("some.png"))
    assert capsys.readouterr().out == "some.png: rounds 2 to 3 of RennalaNIGT\n"


def test_bars_of_a_timeline():
    """
    h = 1, 3 s a step of two steps, M = 3, first_finished: w0 at 2 and 4; at 6 w1, which started at 0, before w0.

    So the third of w0 is lost. Then the same again.
    """
    env = simulated([2, 2], [1.0, 3.0])
    model = RennalaNIGT("MlpPolicy", env, n_trajectories=3, horizon=9, schedule="first_finished", device="cpu", seed=0)
    ax = Figure().subplots()
    draw_timeline(ax, run_rounds(model, 2))
    bars = sorted((round(bar.get_y() + bar.get_height() / 2), bar.get_x(), bar.get_width()) for bar in ax.patches)
    once = [(0, 0, 2), (0, 2, 2), (0, 4, 2), (1, 0, 6)]
    assert bars == sorted(once + [(worker, start + 6, width) for worker, start, width in once])
    assert [bar.get_x() for bar in ax.patches if bar.get_hatch()] == [4, 10]
    assert len({bar.get_facecolor() for bar in ax.patches}) == 3
    assert [line.get_xdata()[0] for line in ax.lines] == [6, 12]
    assert ax.get_xlabel() == "seconds on the workers' clock"
    assert ax.get_ylabel() == "worker"


def test_a_run_whose_workers_are_too_uneven_to_plan(run_file, monkeypatch, capsys):
    measured = dataclasses.replace(measure(Recording.load(run_file)), step_times=np.array([1.0, 2e4]))
    monkeypatch.setattr(plan, "measure", lambda recording: measured)
    with pytest.raises(SystemExit):
        main(["plan", "--from", str(run_file)])
    assert (
        "more than 10,000 times slower than the fastest: give the times of the others by --step-times"
        in capsys.readouterr().err
    )


# The program


def test_console_script_is_the_module():
    scripts = re.search(r"\[project\.scripts\]\nsb3-nigt = \"([\w.]+):(\w+)\"", (ROOT / "pyproject.toml").read_text())
    assert getattr(import_module(scripts[1]), scripts[2]) is main


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([name, "--help"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: sb3-nigt {name}")


def options_of(name):
    """All arguments of a command, without --help and positional ones."""
    parser = ArgumentParser()
    COMMANDS[name].add_arguments(parser)
    return [action for action in parser._actions if action.dest != "help"]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_says_what_it_is_and_its_default(name):
    for action in options_of(name):
        assert action.help, action.option_strings
        if not action.option_strings or action.required:
            continue
        _, is_shown, default = (action.help % vars(action)).rpartition("; default: ")
        assert is_shown, f"{action.option_strings}: {action.help}"
        given = action.default if isinstance(action.default, list) else [action.default]
        values = {str(value) for value in given if type(value) in (str, int, float)}
        assert default == "everything" or values <= set(default.replace(",", " ").split()), action.option_strings


def test_names_in_light_modules_are_those_of_the_others():
    """What the help shows without importing what it is about."""
    assert list(benchmark.PARTS) == list(PARTS)
    (algos,) = (action for action in options_of("tune") if action.dest == "algos")
    assert f"of {', '.join(METHODS)}, with" in algos.help


HEAVY = {"torch", "stable_baselines3", "sb3_contrib", "matplotlib", "mujoco", "ray", "rl_zoo3"}


@pytest.mark.parametrize(
    "arguments", ["tpyo", "--help", "plan --step-tmes 1,2", "plan --help", "compare --sead 3", "reproduce humaniod-sqrt"]
)
def test_a_typo_is_answered_before_anything_heavy_is_imported(arguments):
    program = (
        "import sys\nfrom sb3_nigt.__main__ import main\ntry:\n    main(sys.argv[1:])\n"
        "finally:\n    print('imported:', *{name.partition('.')[0] for name in sys.modules})"
    )
    result = subprocess.run([sys.executable, "-c", program, *arguments.split()], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == (0 if "--help" in arguments else 2)
    assert HEAVY & set(result.stdout.rpartition("imported:")[2].split()) == set()


def test_the_package_is_imported_when_its_names_are_asked_for():
    """``replay`` is a function and a module; the function is what the package shows, whichever is imported first."""
    program = (
        "import sys, sb3_nigt\n"
        "assert not any(name in sys.modules for name in ('torch', 'stable_baselines3', 'ray', 'mujoco', 'matplotlib'))\n"
        "import gymnasium; gymnasium.spec('sb3_nigt/FlippedHopper-v5')\n"
        "from sb3_nigt.replay import replay\n"
        "assert sb3_nigt.replay is replay and sb3_nigt.algorithms.RennalaNIGT is sb3_nigt.RennalaNIGT\n"
        "assert not any(name in sys.modules for name in ('ray', 'mujoco', 'matplotlib'))\n"
        "assert set(sb3_nigt.__all__) <= set(dir(sb3_nigt)) and not hasattr(sb3_nigt, 'nothing_like_it')\n"
        "from sb3_nigt import *\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_reader_that_has_seen_enough():
    """As with ``python -m sb3_nigt plan … | head -1``: no traceback."""
    command = [sys.executable, "-m", "sb3_nigt", *PLAN]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


def test_words_and_numbers_plan_the_same(capsys):
    printed = []
    for times in ("linear", "1,2,3"):
        main(["plan", "--step-times", times, "--n-workers", "3"])
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    assert printed[0].count("\n") > 20
