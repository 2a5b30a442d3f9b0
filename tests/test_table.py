"""Comparisons as Markdown tables: numbers by hand."""

import csv
import math

import numpy as np
import pytest
from PIL import Image

from sb3_nigt.__main__ import main
from sb3_nigt.experiments import panels
from sb3_nigt.experiments.arguments import UsageError
from sb3_nigt.experiments.results import Curve
from sb3_nigt.experiments.table import (
    rate_table,
    returns_cells,
    returns_table,
    speed_cell,
    speed_table,
    speedup,
    speedups,
    tasks_table,
)


def curve(*points):
    """A run from (seconds, return)."""
    return Curve.of([{"seconds": str(seconds), "timesteps": "0", "return": str(value)} for seconds, value in points])


SLOW = curve((0, 0), (50, 40), (100, 80))
QUICK = curve((0, 0), (25, 90), (100, 300))


def test_how_much_sooner_the_first_method_is():
    """QUICK has 90 from 25 s on; SLOW has 80 at 100 s, or 70 and then 72 for the rest of its run."""
    assert speedup([QUICK], [SLOW]) == 100 / 25
    assert speedup([QUICK], [curve((0, 0), (30, 70), (60, 72), (100, 72))]) == 60 / 25
    assert speedup([QUICK], [curve((0, 0), (10, 90), (100, 90))]) == 10 / 25
    assert speedup([SLOW], [QUICK]) == 0.0
    for learned_nothing in (curve((0, 0), (100, -5)), curve((0, 5), (50, 4), (100, 5))):
        assert math.isnan(speedup([QUICK], [learned_nothing]))


def test_a_method_that_is_done_long_before_the_other_one():
    """Both have their final return at the end of their runs, the second one after 2,000 times as long."""
    straggler = curve((0, 0), (100_000, 200), (200_000, 300))
    assert speedup([QUICK], [straggler]) == 200_000 / 100
    assert speed_cell([QUICK] * 2, [straggler] * 2) == "2000.0 [2000.0, 2000.0]"


def random_run(rng):
    returns = np.cumsum(rng.normal(1.0, 2.0, 15))
    return curve(*zip(range(0, 100, 7), returns, strict=True))


def test_several_choices_of_runs_at_once():
    rng = np.random.default_rng(1)
    first, other = ([random_run(rng) for _ in range(5)] for _ in range(2))
    of_first, of_other = (rng.integers(5, size=(20, 5)) for _ in range(2))
    one_by_one = [
        speedup([first[n] for n in mine], [other[n] for n in its]) for mine, its in zip(of_first, of_other, strict=True)
    ]
    assert len(set(one_by_one)) > 5
    np.testing.assert_array_equal(speedups(first, other, of_first, of_other), one_by_one)


def test_an_interval_comes_from_choices_of_runs():
    late = curve((0, 0), (80, 90), (100, 90))
    assert speed_cell([QUICK] * 4 + [late], [SLOW] * 5) == "4.0 [1.2, 4.0]"
    assert speed_cell([QUICK] * 3, [SLOW] * 3) == "4.0 [4.0, 4.0]"


def test_tables_by_hand():
    text = returns_table([("task", {"first": [QUICK, QUICK], "other": [SLOW, SLOW]}), ("another", {"third": [SLOW]})])
    assert text.splitlines() == [
        "| Final return | runs | first | other | third |",
        "| --- | --- | --- | --- | --- |",
        "| task | 2 | **300** [300, 300] | 80.0 [80.0, 80.0] |  |",
        "| another | 1 |  |  | **80.0** |",
    ]
    text = returns_table([("tie", {"first": [curve((0, 300.2))], "other": [QUICK], "third": [SLOW]})])
    assert text.splitlines()[2] == "| tie | 1 | **300** | **300** | 80.0 |"
    text = speed_table([("task", {"first": [QUICK], "other": [SLOW], "third": [curve((0, 0), (100, 500))]})])
    assert text.splitlines()[0] == "| Times sooner than | other | third |"
    assert text.splitlines()[2] == "| task | 4.0 | not reached |"


def run(seconds, timesteps):
    return Curve.of([{"seconds": str(seconds), "timesteps": str(timesteps), "return": "0"}])


def test_steps_a_second_by_hand():
    """300 steps in 10 s and 500 in 10 s are 40 a second on average; the others make 10 and 20."""
    text = rate_table([("task", {"first": [run(10, 300), run(10, 500)], "other": [run(10, 100)], "third": [run(5, 100)]})])
    assert text.splitlines() == [
        "| Times as many steps a second as | other | third |",
        "| --- | --- | --- |",
        "| task | 4.0 | 2.0 |",
    ]


def test_small_returns_have_two_decimals():
    """In the whole row; zero has no sign."""
    cells = returns_cells({"first": np.array([0.912, 0.912]), "other": np.array([-0.001, -0.001])})
    assert cells == {"first": "**0.91** [0.91, 0.91]", "other": "0.00 [0.00, 0.00]"}
    assert returns_cells({"first": np.array([0.912]), "other": np.array([2.0])}) == {"first": "0.9", "other": "**2.0**"}


def test_tasks_by_hand():
    """The worst task is that of each run, so it may be lower than each task's mean."""
    runs = [
        Curve.of([{"seconds": "0", "return": "0", "a=1": a, "a=2": b}, {"seconds": "9", "return": "0", "a=1": b, "a=2": a}])
        for a, b in (("1", "9"), ("7", "3"))
    ]
    assert tasks_table("name", {"first": runs, "other": runs[:1]}).splitlines() == [
        "| name | first | other |",
        "| --- | --- | --- |",
        "| a=1 | 6.0 [3.0, 9.0] | **9.0** |",
        "| a=2 | **4.0** [1.0, 7.0] | 1.0 |",
        "| worst task | **2.0** [1.0, 3.0] | 1.0 |",
    ]


def test_the_command_writes_what_it_prints(tmp_path, capsys):
    directory = tmp_path / "Task-equal"
    directory.mkdir()
    with (directory / "curves.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["method", "seed", "seconds", "timesteps", "return"])
        rows.writerows([["rennala", 0, 0, 0, 1], ["rennala", 0, 10, 10, 7], ["ppo", 0, 0, 0, 1], ["ppo", 0, 10, 10, 3]])
    main(["table", str(directory), "--output", str(tmp_path / "table.md"), "--picture", str(tmp_path / "p.png")])
    assert "| Task-equal | 1 | **7.0** | 3.0 |" in capsys.readouterr().out
    with Image.open(tmp_path / "p.png") as picture:
        assert picture.size[0] > 500
    assert "| Task-equal | 1.0 |" in (tmp_path / "table.md").read_text()


@pytest.mark.parametrize("n_comparisons", [1, 4, 5, 6, 8])
def test_no_panel_is_left_empty(n_comparisons, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(panels, "save_picture", lambda figure, path: drawn.append(figure))
    names = [f"comparison {number}" for number in range(n_comparisons)]
    panels.draw_panels([(name, {"rennala": [QUICK]}) for name in names], tmp_path / "picture.png", "seconds")
    assert [ax.get_title() for ax in drawn[0].axes if ax.axison] == names


def test_comparisons_that_begin_with_different_methods():
    """A column would compare with one method in one line, with another one in the next."""
    lines = [("a", {"rennala": [QUICK], "ppo": [SLOW]}), ("b", {"ppo": [SLOW], "rennala": [QUICK]})]
    with pytest.raises(UsageError, match="rennala, ppo: give those of each separately"):
        speed_table(lines)


def test_rates_that_are_unknown_are_left_out():
    """Files without timesteps, and runs that ended at once."""
    no_steps, at_once = Curve({"seconds": QUICK["seconds"], "return": QUICK["return"]}), curve((0, 0))
    known = Curve.of([{"seconds": str(t), "timesteps": str(9 * t), "return": "0"} for t in (0, 100)])
    text = rate_table([("name", {"known": [known], "a": [no_steps], "b": [at_once], "c": [QUICK], "d": [known]})])
    assert text.splitlines()[-1] == "| name |  |  |  | 1.0 |"
    assert returns_table([("name", {"known": [known], "a": [no_steps]})])


def test_a_return_that_is_no_number_is_not_the_best():
    assert returns_cells({"a": np.array([np.nan]), "b": np.array([200.0])}) == {"a": "nan", "b": "**200**"}
