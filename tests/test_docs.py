"""The documentation: its examples run, its links lead somewhere, its tables agree with the code."""

import argparse
import ast
import glob
import importlib
import inspect
import itertools
import json
import os
import re
import runpy
import secrets
import shlex
import subprocess
import sys
import warnings
from pathlib import Path
from unittest import mock

import pytest
import torch as th
from stable_baselines3.common.logger import KVWriter, Logger

import sb3_nigt
from sb3_nigt import (
    PAPER,
    AFedPG,
    MaleniaNIGT,
    ProcessVecEnv,
    RennalaNIGT,
    RennalaPG,
    RunRecorder,
    SimulatedVecEnv,
    SyncNIGT,
    SyncPG,
    make_worker_vec_env,
)
from sb3_nigt.__main__ import main
from sb3_nigt.envs.tasks import FAMILIES
from sb3_nigt.experiments import compare, reproduce
from sb3_nigt.experiments.command_line import COMMANDS
from sb3_nigt.experiments.results import ALL_CURVES, load_all
from sb3_nigt.experiments.setting import Budget, completed
from sb3_nigt.experiments.tuned import load as load_tuned
from sb3_nigt.optimizers import NIGT
from sb3_nigt.parameters import Layout
from sb3_nigt.zoo import ALGORITHMS

th.set_num_threads(1)

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "sb3_nigt"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```([\w{}-]*)(?: [^\n`]*)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FILE = re.compile(r"`([\w./-]+/[\w.-]+\.(?:py|md|png|txt))`")
RECORD = re.compile(r"logger\.record\(\s*f?\"([^\"]+)\"")


RESULTS = ROOT / "docs/results"
with mock.patch.object(sys, "path", [str(ROOT / "docs"), *sys.path]):
    curves = importlib.import_module("curves")  # as the build of the pages does
DRAWN_AT_THE_BUILD = {path.with_name("curves.png") for path in RESULTS.glob(f"*/{ALL_CURVES}")}
DRAWN_AT_THE_BUILD |= {ROOT / "docs" / "images" / f"defaults-{name}.png" for name in curves.PANELS}


def name_of(page):
    return str(page.relative_to(ROOT))


def python_blocks(page):
    """First line and source of each Python example, and what it prints if the next block is text."""
    text = page.read_text(encoding="utf-8")
    blocks = [*FENCE.finditer(text), None]
    return [
        (text[: block.start(2)].count("\n"), block[2], after[2] if after and after[1] == "text" else None)
        for block, after in itertools.pairwise(blocks)
        if block[1] == "python"
    ]


INCLUDE = re.compile(r"^```{include} (\S+)\n```$", re.MULTILINE)


def prose(page):
    """The page without its fenced blocks, but with the files that it includes."""
    text = INCLUDE.sub(lambda found: prose(page.parent / found[1]), page.read_text(encoding="utf-8"))
    return FENCE.sub("", text)


def anchors(page):
    """Anchors of the headings, as code hosts and MyST make them, and explicit ones."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return slugs | set(re.findall(r"^\(([\w-]+)\)=$", prose(page), re.MULTILINE))


TAKE_LONG = ("ray", "from_ppo")  # to start a Ray; PPO's 8,192 steps


def shortened(block):
    """Trains for 2,000 steps where it has 10,000 or more."""
    return re.sub(r"(\.learn\((?:total_timesteps=)?)\d\d+_000\)", r"\g<1>2_000)", block)


def runs_of_pages():
    """Each page, and whether it trains for as long as it says."""
    for page in PAGES:
        blocks = [block for _, block, _ in python_blocks(page)]
        if blocks:
            yield pytest.param(page, False, marks=pytest.mark.slow if page.stem in TAKE_LONG else (), id=name_of(page))
        if any(block != shortened(block) for block in blocks):
            yield pytest.param(page, True, marks=pytest.mark.slow, id=f"{name_of(page)}, whole")


@pytest.mark.parametrize(("page", "whole"), list(runs_of_pages()))
def test_examples_run(page, whole, tmp_path, monkeypatch, request, capsys):
    """The blocks of a page share a namespace, so that later ones may build on earlier ones."""
    if page.name == "zoo.md":
        request.getfixturevalue("rl_zoo3")
    if page.stem == "ray":
        pytest.importorskip("ray")
        monkeypatch.setenv("RAY_AUTH_MODE", "token")
        monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(16))  # none in the home of who runs the tests
        request.getfixturevalue("ray_of_the_page")
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    for line, block, printed in python_blocks(page):
        # empty lines in front, so that a traceback names the line of the page
        capsys.readouterr()
        source = block if whole else shortened(block)
        exec(compile("\n" * line + source, name_of(page), "exec"), namespace)
        assert printed is None or capsys.readouterr().out == printed


@pytest.fixture
def ray_of_the_page():
    """One Ray for all blocks, where a reader's would end with each ``close``: to start it takes most of the time."""
    from sb3_nigt.vec_env.ray.cluster import connect

    connection = connect("local", False, 4.0, {})
    yield
    connection.release()


@pytest.mark.slow
def test_tests_on_the_page_of_aggregators_pass(tmp_path):
    """What a reader would put into a file and hand to pytest."""
    blocks = [block for _, block, _ in python_blocks(ROOT / "docs/guide/aggregators.md")]
    (tmp_path / "test_page.py").write_text("\n".join(blocks))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_page.py"]
    outcome = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280)
    assert outcome.returncode == 0, outcome.stdout
    assert re.search(r"^1\d passed", outcome.stdout, re.MULTILINE), outcome.stdout


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    for link in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists() or target.resolve() in DRAWN_AT_THE_BUILD, f"{link} in {name_of(page)}"
        assert not anchor or anchor in anchors(target), f"{link} in {name_of(page)}: there is no such heading"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_that_are_named_exist(page):
    """Paths in code style are relative to the repository or to the package."""
    for path in FILE.findall(prose(page)):
        assert (ROOT / path).exists() or (SOURCE / path).exists(), f"{path} in {name_of(page)}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_examples_are_closed_and_marked(page):
    """An unclosed or unmarked fence would hide an example from these tests."""
    text = page.read_text(encoding="utf-8")
    assert text.count("```") == 2 * len(FENCE.findall(text))
    assert {language for language, _ in FENCE.findall(text)} <= {
        "python",
        "bash",
        "bibtex",
        "text",
        "yaml",
        "{toctree}",
        "{eval-rst}",
        "{literalinclude}",
        "{include}",
    }


def test_tables_in_the_readme_are_what_commands_have_printed():
    """Every text block is a file in docs/results, to the letter."""
    blocks = [
        block for language, block in FENCE.findall((ROOT / "README.md").read_text(encoding="utf-8")) if language == "text"
    ]
    kept = [path.read_text(encoding="utf-8") for path in (ROOT / "docs/results").glob("*.txt")]
    assert len(blocks) == 1
    assert set(blocks) <= set(kept)


RESULTS_PAGE = (RESULTS / "experiments.md").read_text(encoding="utf-8")
VERDICTS_PAGE = (ROOT / "docs/guide/results.md").read_text(encoding="utf-8")
EXPERIMENT = re.compile(
    r"results/([\w-]+)/table.txt\n```\n\n!\[[^\]]*\]\(../results/\1/curves.png\)\n\n```bash\nsb3-nigt (reproduce .*)\n```"
)


def test_every_experiment_that_is_kept_is_on_the_page():
    assert {name for name, _ in EXPERIMENT.findall(RESULTS_PAGE)} == {p.name for p in RESULTS.iterdir() if p.is_dir()}


def usual_experiment(name, command):
    """What is claimed rests on those with communication; the others take a minute together."""
    return pytest.param(name, command, marks=() if "communication" in name else pytest.mark.slow)


@pytest.mark.parametrize(("name", "command"), [usual_experiment(*found) for found in EXPERIMENT.findall(RESULTS_PAGE)])
def test_command_beneath_an_experiment_is_the_one_that_made_it(name, command, monkeypatch):
    """Same runs: figure, reading, length, points, seeds, arguments and table are those of the files that are kept."""
    asked = []
    monkeypatch.chdir(ROOT)  # commands name files with tuned values; nothing is trained or written
    monkeypatch.setattr(reproduce, "tune", lambda *args: [])
    monkeypatch.setattr(reproduce, "load", lambda path: load_tuned(RESULTS / name / "tuned.json"))
    monkeypatch.setattr(reproduce, "compare", lambda runs, output, processes: asked.append((runs, output)))
    main(command.split())
    runs, output = asked[0]
    assert output.name == name
    kept_runs = load_all(RESULTS / name / ALL_CURVES)
    assert {run.method: run.seed + 1 for run in runs} == {method: len(of_one) for method, of_one in kept_runs.items()}
    for run in runs:
        if run.seed == 0:
            kept = json.loads((RESULTS / name / f"{run.name}.json").read_text(encoding="utf-8"))["run"]
            assert completed({"paper": True} | kept) == run.as_json()  # before there was a choice all were the paper's
    assert (RESULTS / name / "table.txt").read_text(encoding="utf-8") == compare.report(runs, kept_runs, None) + "\n"


@pytest.mark.parametrize("page", sorted((ROOT / "docs/modules").glob("*.md")), ids=name_of)
def test_commands_to_replicate_are_those_of_the_results(page):
    commands = re.findall(r"^sb3-nigt (reproduce .*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(commands) <= {command for _, command in EXPERIMENT.findall(RESULTS_PAGE)}


COMMANDS_TO_TYPE = {
    command: name_of(page)
    for page in PAGES
    for block in FENCE.finditer(page.read_text(encoding="utf-8"))
    if block[1] == "bash"
    for command in re.findall(r"^sb3-nigt (.*)$", block[2].replace("\\\n", " "), re.MULTILINE)
}


@pytest.fixture(scope="module")
def folder_of_a_reader(tmp_path_factory):
    """With the files that commands on the pages have written or take for granted."""
    folder, result = tmp_path_factory.mktemp("reader"), ROOT / "docs" / "results" / "reacher-sqrt-per-step"
    for name, target in {"docs": ROOT / "docs", "reacher": result, "tune": result}.items():
        (folder / name).symlink_to(target)
    RennalaNIGT("MlpPolicy", make_worker_vec_env("CartPole-v1", 2), device="cpu").learn(1, RunRecorder(folder / "run.jsonl"))
    return folder


@pytest.mark.parametrize("command", COMMANDS_TO_TYPE)
def test_commands_on_the_pages_are_understood(command, folder_of_a_reader, monkeypatch):
    """No argument is misspelt, missing or of the wrong type; what they do is tested elsewhere."""
    if ":tuned" in command:
        pytest.importorskip("rl_zoo3")
    monkeypatch.chdir(folder_of_a_reader)
    given = []
    for module in COMMANDS.values():
        monkeypatch.setattr(module, "run", given.append)
    words = shlex.split(command, comments=True)
    main([match for word in words for match in (sorted(glob.glob(word)) if "*" in word else [word])])
    assert given[0].command == words[0]


def test_summary_of_the_experiments_is_up_to_date(capsys):
    directories = sorted(str(path) for path in RESULTS.iterdir() if path.is_dir())
    main(["summary", *directories])
    assert capsys.readouterr().out == (RESULTS / "summary.txt").read_text(encoding="utf-8")


def documented_keys():
    """First column of the tables on the page of the logged keys."""
    text = (ROOT / "docs/guide/logged_keys.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([^`]+/[^`]+)` \|", text, re.MULTILINE)
    assert len(rows) == len(set(rows))
    return set(rows)


VERDICTS = re.findall(r"^sb3-nigt (verdicts .*) --output docs/results/([\w-]+).md$", VERDICTS_PAGE, re.MULTILINE)


@pytest.mark.parametrize(("command", "name"), VERDICTS)
def test_verdicts_on_the_long_runs_are_up_to_date(command, name, tmp_path):
    assert {name for _, name in VERDICTS} == {path.stem for path in RESULTS.glob("verdicts*.md")}
    words = [str(ROOT / word) if word.startswith("docs/") else word for word in command.split()]
    main([*words, "--output", str(tmp_path / "verdicts.md")])
    assert (tmp_path / "verdicts.md").read_text(encoding="utf-8") == (RESULTS / f"{name}.md").read_text(encoding="utf-8")


def test_the_claims_are_decided_from_the_files():
    written = runpy.run_path(str(RESULTS / "claims.py"))["table"]()
    assert written + "\n" == (RESULTS / "claims.md").read_text(encoding="utf-8")


def test_the_page_of_experiments_is_made_from_their_commands():
    written = runpy.run_path(str(RESULTS / "experiments.py"))["page"]()
    assert written + "\n" == (RESULTS / "experiments.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", curves.TABLES)
def test_tables_of_the_comparisons_are_those_of_their_curves(name):
    assert curves.table(name) + "\n" == (ROOT / "docs" / "defaults" / f"{name}.md").read_text(encoding="utf-8")


def test_every_comparison_that_is_kept_is_on_the_page():
    shown = {name for kind in (curves.TABLES, curves.PANELS) for rows in kind.values() for name in rows.values()}
    asynchrony = runpy.run_path(str(ROOT / "docs" / "defaults" / "asynchrony.py"))
    shown |= {f"{task}-{kind}" for task in asynchrony["TASKS"] for kind in asynchrony["SETTINGS"]}
    kept = {path.parent.name for path in (ROOT / "docs" / "defaults").glob(f"*/{ALL_CURVES}")}
    with_own_tables = ("-ablation", "-large", "-rate")
    others = {name for name in kept if name.endswith(with_own_tables)}
    assert kept - others <= shown


def test_the_build_draws_what_is_missing_or_old(tmp_path, monkeypatch):
    folder = tmp_path / "results" / "some"
    folder.mkdir(parents=True)
    for name in (ALL_CURVES, "table.txt"):
        (folder / name).write_bytes((RESULTS / "malenia-bit-per-step" / name).read_bytes())
    (tmp_path / "defaults").symlink_to(ROOT / "docs" / "defaults")
    (tmp_path / "images").mkdir()
    monkeypatch.setattr(curves, "DOCS", tmp_path)
    monkeypatch.setattr(
        curves, "PANELS", {"asynchrony": {"√i": "Hopper-v5-sqrt"}, curves.ON_THE_README: {"slow": "Hopper-v5-one-slow"}}
    )
    pictures = [folder / "curves.png", tmp_path / "images" / "defaults-asynchrony.png"]
    curves.draw_all()
    assert all(picture.read_bytes().startswith(b"\x89PNG") for picture in pictures)
    assert not (tmp_path / "images" / "defaults-one-slow.png").exists()
    for picture in pictures:
        picture.write_bytes(b"kept")
    curves.draw_all()
    assert all(picture.read_bytes() == b"kept" for picture in pictures)
    os.utime(pictures[0], (0, 0))
    curves.draw_all()
    assert pictures[0].read_bytes() != b"kept" == pictures[1].read_bytes()


@pytest.mark.parametrize("task", ["Hopper-v5", "Humanoid-v5"])
def test_messages_have_the_size_of_the_default_policy(task):
    asynchrony = runpy.run_path(str(ROOT / "docs" / "defaults" / "asynchrony.py"))
    assert asynchrony["TASKS"][task] == Layout(RennalaNIGT("MlpPolicy", task, device="cpu").policy).n_parameters


@pytest.mark.parametrize(
    ("file", "write"),
    [("ablation.md", "table"), ("asynchrony.md", "table"), ("search.md", "tables"), ("commands.txt", "commands")],
)
def test_tables_of_the_defaults_are_those_of_their_files(file, write):
    path = ROOT / "docs" / "defaults" / file
    written = runpy.run_path(str(path.with_suffix(".py")))[write]()
    assert written + "\n" == path.read_text(encoding="utf-8")


COMMANDS_OF_THE_DEFAULTS = (ROOT / "docs" / "defaults" / "commands.txt").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("command", COMMANDS_OF_THE_DEFAULTS, ids=lambda command: command.rpartition("/")[2])
def test_commands_of_the_defaults_give_their_tables(command, monkeypatch):
    """With the runs that are there: same workers, methods, arguments and seeds."""
    pytest.importorskip("rl_zoo3")
    monkeypatch.syspath_prepend(ROOT / "docs" / "defaults")  # of catch.py
    *_, options = command.partition(" compare ")
    parser = argparse.ArgumentParser()
    COMMANDS["compare"].add_arguments(parser)
    args = parser.parse_args(shlex.split(options))
    setting = compare.processes_of(args) if args.workers == "processes" else compare.setting_of(args)
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    budget = Budget(args.timesteps, args.seconds, args.points, args.episodes)
    runs = compare.seeded_runs(args.algos, seeds, setting, budget, given=args.set)
    curves = load_all(ROOT / args.output / ALL_CURVES)
    seeds_of = {name: [curve["seed"][0] for curve in of_one] for name, of_one in curves.items()}
    assert seeds_of == {name: list(seeds) for name in args.algos}
    assert compare.report(runs, curves, args.target_return) + "\n" == (ROOT / args.output / "table.txt").read_text("utf-8")


def test_keys_in_the_source_are_documented():
    sources = "\n".join(path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py"))
    keys = {re.sub(r"\{[^}]*\}", "<id>", key) for key in RECORD.findall(sources)}
    assert len(keys) > 10
    assert keys <= documented_keys()


class Keys(KVWriter):
    """Collects the keys of all log entries."""

    def __init__(self):
        self.keys = set()

    def write(self, key_values, key_excluded, step=0):
        self.keys |= set(key_values)

    def close(self):
        pass


def logged_keys(algorithm, vec_env_cls=SimulatedVecEnv, env_id="CartPole-v1", **kwargs):
    env = make_worker_vec_env(env_id, 2, vec_env_cls=vec_env_cls, step_times=[1, 2])
    model, keys = algorithm("MlpPolicy", env, seed=0, **kwargs), Keys()
    model.set_logger(Logger(None, [keys]))
    model.learn(2_600)  # three rounds of steps: the critic's first fit is in the third entry
    model.env.close()
    return {re.sub(r"_\d+$", "_<id>", re.sub(r"^task/.*/", "task/<id>/", key)) for key in keys.keys}


def test_keys_of_a_run_are_those_on_the_page():
    runs = [logged_keys(RennalaNIGT, **PAPER, n_trajectories=2, schedule="first_finished"), logged_keys(AFedPG)]
    runs += [logged_keys(SyncNIGT), *(logged_keys(algorithm, n_trajectories=2) for algorithm in (SyncPG, RennalaPG))]
    runs += [logged_keys(RennalaNIGT, ProcessVecEnv)]
    runs += [logged_keys(MaleniaNIGT, on_lost_task="drop"), logged_keys(RennalaNIGT, env_id="Pendulum-v1")]
    in_a_group = {key for key in documented_keys() if key.startswith("group/")}  # see test_group_settings.py
    assert set().union(*runs) == documented_keys() - {"rollout/success_rate"} - in_a_group


def parameter_rows(page):
    """Name and default in the first table of the section on parameters."""
    section = prose(page).split("\n## Parameters\n")[1].split("\n## ")[0]
    return dict(re.findall(r"^\| `(\w+)` \| (?:`([^`]+)`)? ?\|", section, re.MULTILINE))


def signature_defaults(cls):
    return {name: p.default for name, p in inspect.signature(cls).parameters.items()}


def evaluated(default):
    """The value of a default as it is written on a page."""
    return eval(compile(ast.parse(default, mode="eval"), "default", "eval"), vars(sb3_nigt).copy()) if default else None


PAGES_OF_CLASSES = {f"docs/modules/{name}.md": algorithm for name, algorithm in ALGORITHMS.items()}
PAGES_OF_CLASSES |= {"docs/modules/nigt.md": NIGT}


@pytest.mark.parametrize("page", PAGES_OF_CLASSES)
def test_parameter_tables(page):
    """Other pages than RennalaNIGT's may leave out what is the same there."""
    cls = PAGES_OF_CLASSES[page]
    expected, rows = signature_defaults(cls), parameter_rows(ROOT / page)
    missing = expected.keys() - rows.keys()
    assert list(rows) == [name for name in expected if name in rows]
    if missing:
        rennala = signature_defaults(RennalaNIGT)
        assert cls not in (RennalaNIGT, NIGT)
        assert {name: expected[name] for name in missing} == {name: rennala[name] for name in missing}
    for name, default in rows.items():
        assert (not default) if expected[name] is inspect.Parameter.empty else evaluated(default) == expected[name], name


def test_arguments_of_make_worker_vec_env():
    table = (ROOT / "docs/guide/workers.md").read_text(encoding="utf-8").split("\n## SimulatedVecEnv\n")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| (?:`([^`]+)`)? ?\|", table, re.MULTILINE))
    expected = {name: p.default for name, p in inspect.signature(make_worker_vec_env).parameters.items()}
    assert list(rows) == list(expected)
    for name, default in expected.items():
        assert (not rows[name]) if default is inspect.Parameter.empty else evaluated(rows[name]) == default, name


def test_every_public_name_is_documented():
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    names = [*sb3_nigt.__all__, *sb3_nigt.envs.__all__]
    missing = [name for name in names if not re.search(rf"\b{name}\b", text)]
    assert missing == ["__version__"]


def test_families_of_tasks():
    """Name and argument of each family, as in the first table of the page."""
    text = (ROOT / "docs/guide/tasks.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `\"(\w+)\"` \| [^|]* \| `(\w+)` \|", text, re.MULTILINE)
    assert rows == [(name, next(iter(family.arguments))) for name, family in FAMILIES.items()]


def test_documented_warning_about_tasks():
    env = make_worker_vec_env("Pendulum-v1", 2, env_kwargs=[{"g": 9.8}, {"g": 5.0}])
    with pytest.warns(UserWarning, match="MaleniaNIGT"):
        RennalaNIGT("MlpPolicy", env)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MaleniaNIGT("MlpPolicy", env)
