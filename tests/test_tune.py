"""Tuning and what reads its result: a landscape made by hand in place of the runs, and one real run of everything."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from sb3_nigt.__main__ import main
from sb3_nigt.experiments import tune
from sb3_nigt.experiments.campaign import FailedRunsError
from sb3_nigt.experiments.results import Curve
from sb3_nigt.experiments.setting import Budget, Setting
from sb3_nigt.experiments.tuned import Tuned, arguments_of, load, save

CARTPOLE = Setting("CartPole-v1", (1.0, 2.0), (0.0, 0.0))
BUDGET = Budget(timesteps=300, points=2, episodes=1)


@pytest.mark.parametrize(("method", "size"), [("rennala", 90), ("malenia:pipelined", 90), ("afedpg", 90), ("syncpg", 30)])
def test_grid_is_that_of_the_paper(method, size):
    grid = tune.grid(method)
    assert len(grid) == size
    rates = {arguments["learning_rate"] for arguments in grid.values()}
    bounds = (2**-24, 2**-6) if method == "syncpg" else (2**-10, 2**-1)  # plain ascent has small steps
    assert (min(rates), max(rates), len(rates)) == (*bounds, 10)
    m = "n_initial_trajectories" if method == "afedpg" else "n_trajectories"
    assert {arguments[m] for arguments in grid.values()} == {20, 30, 50}
    assert {arguments.get("eta") for arguments in grid.values()} == ({None} if size == 30 else {0.001, 0.01, 0.1})


def one_value(value):
    """A run whose return is always the same, after it was something else in its last evaluation, which has no time."""
    return Curve({"seconds": np.array([0.0, 1.0]), "return": np.array([value, value + 1000.0 * (value % 2)])})


class Landscape:
    """In place of the runs: a candidate's return is what ``height`` says; notes how many runs each call asks for."""

    def __init__(self, monkeypatch, height, broken=()):
        self.calls, self.height, self.broken = [], height, set(broken)
        monkeypatch.setattr(tune, "execute_all", self.execute_all)
        monkeypatch.setattr(tune, "load_curves", self.load_curves)
        monkeypatch.setattr(tune, "is_finished", lambda run, output: run.label not in self.broken)

    def execute_all(self, runs, output, processes):
        self.calls.append(runs)
        if any(run.label in self.broken for run in runs):
            raise FailedRunsError("broken")

    def load_curves(self, runs, output):
        curves = {}
        for run in runs:
            curves.setdefault(run.label, []).append(one_value(self.height(run.label, run.seed - 1000)))
        return curves


def candidates(method, number):
    return {method: tune.drawn(tune.grid(method), number)}


def labels(calls):
    return [list(dict.fromkeys(run.label for run in runs)) for runs in calls]


def test_halving_by_hand(monkeypatch, tmp_path):
    """
    Eight, four, two candidates with one, two, three seeds: 8 + 8 + 6 runs asked for, of which 8 + 4 + 2 are new.

    Candidate k has the return k, but 0 has 15 on its first seed: means 15, 15/2, 15/3, so 7 is behind, behind, ahead.
    """
    order = []

    def height(label, seed):
        if label not in order:
            order.append(label)
        return 15.0 if (order.index(label), seed) == (0, 0) else float(order.index(label))

    landscape = Landscape(monkeypatch, height)
    (best,) = tune.tune(candidates("rennala", 8), CARTPOLE, BUDGET, tmp_path, 1)
    assert [len(runs) for runs in landscape.calls] == [8, 8, 6]
    assert labels(landscape.calls)[1:] == [[order[k] for k in (0, 7, 6, 5)], [order[k] for k in (0, 7)]]
    assert (best.arguments, best.returns) == (tune.grid("rennala")[order[7]], [7, 7, 7])
    assert {run.seed for run in landscape.calls[-1]} == {1000, 1001, 1002}


def test_one_candidate_is_enough(monkeypatch, tmp_path):
    landscape = Landscape(monkeypatch, lambda label, seed: 1.0)
    (best,) = tune.tune(candidates("sync", 1), CARTPOLE, BUDGET, tmp_path, 1)
    assert best.returns == [1.0]
    assert len(landscape.calls) == 1


def test_all_of_the_grid_if_there_are_more_candidates_than_that(monkeypatch, tmp_path):
    landscape = Landscape(monkeypatch, lambda label, seed: 1.0)
    tune.tune(candidates("syncpg", 1000), CARTPOLE, BUDGET, tmp_path, 1)
    assert len(landscape.calls[0]) == 30


def test_methods_are_tuned_side_by_side(monkeypatch, tmp_path):
    """Four of one, two of the other: 4 + 2 runs, then (2 + 1 new ones, and) 2·2 for the first alone, the second is decided."""
    landscape = Landscape(monkeypatch, lambda label, seed: 1.0)
    first, second = tune.tune(candidates("sync", 4) | candidates("afedpg", 2), CARTPOLE, BUDGET, tmp_path, 1)
    assert (first.method, second.method) == ("sync", "afedpg")
    assert [[run.method for run in runs] for runs in landscape.calls] == [["sync"] * 4 + ["afedpg"] * 2, ["sync"] * 4]
    assert (first.returns, second.returns) == ([1.0, 1.0], [1.0])


@pytest.mark.parametrize(
    ("method", "eta", "exponents"),
    [
        ("rennala:pipelined", 0.1, (-1, -4, -7, -10)),
        ("afedpg", 0.1, (-1, -4, -7, -10)),
        ("rennalapg", None, (-6, -12, -18, -24)),
    ],
)
def test_learning_rates_alone(method, eta, exponents):
    """In equal steps of the exponent, η = 0.1 and M = 20 as in the paper's pictures."""
    found = list(tune.learning_rates(method, 4).values())
    assert [arguments.pop("learning_rate") for arguments in found] == [2**exponent for exponent in exponents]
    m = "n_initial_trajectories" if method == "afedpg" else "n_trajectories"
    assert found == [{m: 20} if eta is None else {m: 20, "eta": eta}] * 4
    assert len(tune.learning_rates(method, 99)) == 10


def test_a_candidate_without_a_return_is_the_last(monkeypatch, tmp_path):
    """Whatever its place in the grid."""
    heights = {label: float(number) for number, label in enumerate(tune.grid("sync"))}
    top = max(heights, key=heights.get)
    for nan in [label for label in heights if label != top][:: len(heights) // 3]:
        Landscape(monkeypatch, lambda label, seed, nan=nan: np.nan if label == nan else heights[label])
        (best,) = tune.tune(candidates("sync", 90), CARTPOLE, BUDGET, tmp_path, 1)
        assert best.arguments == tune.grid("sync")[top]


def test_broken_candidates_are_out(monkeypatch, tmp_path):
    """The highest one breaks its run; the next one wins. If all break, that is an error."""
    heights = {label: number for number, label in enumerate(tune.grid("sync"))}
    top, second = sorted(heights, key=heights.get)[-1:-3:-1]
    Landscape(monkeypatch, lambda label, seed: float(heights[label]), broken=[top])
    (best,) = tune.tune(candidates("sync", 90), CARTPOLE, BUDGET, tmp_path, 1)
    assert best.arguments == tune.grid("sync")[second]
    Landscape(monkeypatch, lambda label, seed: 1.0, broken=heights)
    with pytest.raises(FailedRunsError):
        tune.tune(candidates("sync", 90), CARTPOLE, BUDGET, tmp_path, 1)


def test_file_of_tuned_values(tmp_path, capsys):
    path = tmp_path / "tuned.json"
    other, acrobot = Setting("CartPole-v1", (1.0, 3.0), (0.0, 0.0)), Setting("Acrobot-v1", (1.0, 2.0), (0.0, 0.0))
    first = Tuned("rennala", CARTPOLE, BUDGET, {"eta": 0.1}, [1.0])
    better, elsewhere = (
        Tuned("rennala", CARTPOLE, BUDGET, {"eta": 0.01}, [2.0]),
        Tuned("rennala", other, BUDGET, {"eta": 0.5}, [3.0]),
    )
    for tuned in (first, elsewhere, better):
        save(tuned, path)
    found = load(path)
    assert found == [elsewhere, better]
    assert arguments_of("rennala", CARTPOLE, found) == {"eta": 0.01}
    assert capsys.readouterr().out == ""
    assert arguments_of("rennala", Setting("CartPole-v1", (9.0,), (0.0,)), found) == {"eta": 0.5}
    assert capsys.readouterr().out == "rennala: tuned on other workers or tasks of CartPole-v1\n"
    assert arguments_of("rennala", acrobot, found) == {}
    assert capsys.readouterr().out == "rennala: nothing tuned for Acrobot-v1, so its defaults\n"
    assert arguments_of("rennala@variant", CARTPOLE, found) == {"eta": 0.01}
    assert arguments_of("rennala:first_finished", CARTPOLE, found) == {}
    assert capsys.readouterr().out == "rennala:first_finished: nothing tuned for CartPole-v1, so its defaults\n"
    assert arguments_of("ppo", CARTPOLE, found) == arguments_of("rennala:pipelined", CARTPOLE, []) == {}
    assert capsys.readouterr().out == ""


def test_tune_then_compare(runs_in_this_process, tmp_path, monkeypatch, capsys):
    """The real thing: one candidate of the grid, found in the configuration of the run that is compared."""
    monkeypatch.chdir(tmp_path)
    common = "--env CartPole-v1 --step-times 1,2 --timesteps 300 --points 2 --episodes 1"
    main(f"tune {common} --algos rennala --candidates 1".split())
    assert "rennala: learning_rate=" in capsys.readouterr().out
    main(f"compare {common} --algos rennala --seeds 1 --tuned tune/tuned.json".split())
    record = json.loads(Path("compare/rennala-seed0.json").read_text())
    assert record["run"]["arguments"] == load(Path("tune/tuned.json"))[0].arguments
    assert record["arguments"].items() >= record["run"]["arguments"].items()
    values = ", ".join(f"{name}={value:g}" for name, value in record["run"]["arguments"].items())
    assert Path("compare/table.txt").read_text().splitlines()[-1] == f"rennala: {values}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("tune --env CartPole-v1 --timesteps 9 --n-workers 2 --algos rennala,ppo", "'ppo' has no grid: give some of rennala"),
        ("tune --env CartPole-v1 --timesteps 9 --n-workers 2 --candidates 0", "'0' is not allowed"),
        ("tune --env CartPole-v1 --timesteps 9 --n-workers 2 --tasks gravity", "CartPole"),
        ("compare --env CartPole-v1 --timesteps 9 --tuned none.json", "none.json: No such file or directory. Give a file"),
        ("tune --env CartPole-v1 --timesteps 9 --n-workers 2 --algos rennala:planned@x", "has no grid"),
        ("compare --env CartPole-v1 --timesteps 9 --tuned other.json", "give a file written by sb3-nigt tune"),
        ("reproduce mars", "invalid choice: 'mars' .*humanoid-equal.*malenia-bit"),
        ("reproduce humanoid-equal --tune 0", "'0' is not allowed"),
        ("reproduce humanoid-equal --tune 2 --tuned tuned.json", "not allowed with argument --tune"),
        ("reproduce humanoid-equal --scale 0", "'0' is not allowed: give a number greater than 0"),
    ],
)
def test_wrong_arguments_cost_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("other.json").write_text("[]")
    Path("tuned.json").write_text('{"tuned": []}')
    with pytest.raises(SystemExit) as stopped:
        main(arguments.split())
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error), error


@pytest.mark.parametrize(("eta", "alpha", "distance"), [(0.001, 0.5, "500"), (0.01, 0.5, "49.5")])
def test_a_lookahead_that_is_longer_than_the_policy_is_said(eta, alpha, distance):
    (text,) = tune.far_lookahead("rennala", {"eta": eta, "learning_rate": alpha, "n_trajectories": 20}, CARTPOLE)
    assert text.startswith(f"eta={eta:g} with learning_rate=0.5 samples at a distance of (1 - eta) / eta")
    assert f"= {distance} from the policy" in text


@pytest.mark.parametrize("method", ["rennala", "afedpg", "rennalapg"])
def test_a_short_lookahead(method):
    arguments = {"learning_rate": 2.0**-6} | ({} if method == "rennalapg" else {"eta": 0.1})
    assert tune.far_lookahead(method, arguments, CARTPOLE) == []


def test_a_choice_at_the_edge_of_the_grid_is_said():
    grid = tune.grid("rennala")
    assert tune.at_edges({"learning_rate": 2.0**-4, "n_trajectories": 30, "eta": 0.01}, grid) == []
    assert tune.at_edges({"learning_rate": 0.5, "n_trajectories": 20, "eta": 0.01}, grid) == [
        "learning_rate=0.5 is the largest of the grid, so a larger one may do better",
        "n_trajectories=20 is the smallest of the grid, so a smaller one may do better",
    ]
