"""Verdicts on claims: numbers by hand."""

import csv
import math

import numpy as np
import pytest

from sb3_nigt.__main__ import main
from sb3_nigt.experiments.arguments import UsageError
from sb3_nigt.experiments.results import Curve
from sb3_nigt.experiments.verdicts import Effect, comparison_rows, effects, last_quarter


def rising(slope, shift=0.0):
    """Measured every second of 0 to 100; the return rises by ``slope`` a second and starts at 10."""
    seconds = np.arange(101.0)
    return Curve({"seconds": seconds, "return": 10 + slope * np.maximum(seconds - shift, 0)})


def test_last_quarter_by_hand():
    """Each value is in force for a second: the mean of 10 + 75 to 10 + 99."""
    assert last_quarter(rising(1.0), 100.0) == pytest.approx(10 + (75 + 99) / 2)


def test_effects_by_hand():
    """Twice the slope: twice the gain at all times, and half the time to each return."""
    found = effects([rising(2.0)] * 5, [rising(1.0)] * 5, [50.0, 110.0, 150.0])
    assert found["mean over the run"] == Effect(2.0, 2.0, 2.0)
    assert found["last quarter"].ratio == pytest.approx(2.0)
    assert found["time to 50"] == Effect(2.0, 2.0, 2.0, ("0/5", "0/5"))
    assert found["time to 110"].verdict == "ahead"
    # 140 more are 70 s for the first, the other never gets there: its runs count with their 100 s
    assert found["time to 150"].ratio == pytest.approx(100 / 70)
    assert found["time to 150"].censored == ("0/5", "5/5")


def test_untrained_policies_that_differ_have_gained_nothing():
    """One starts higher than the other, and neither learns."""
    flat = [Curve({"seconds": np.arange(101.0), "return": np.full(101, level)}) for level in (100.0, 0.0)]
    found = effects([flat[0]] * 3, [flat[1]] * 3, [50.0])
    assert all(math.isnan(effect.ratio) for effect in found.values())
    higher = Curve({"seconds": np.arange(101.0), "return": rising(1.0)["return"] + 500})
    assert effects([higher] * 3, [rising(1.0)] * 3, [])["mean over the run"] == Effect(1.0, 1.0, 1.0)


def test_a_mean_that_is_no_number():
    broken = Curve({"seconds": np.arange(101.0), "return": np.full(101, np.nan)})
    for pair in ((broken, rising(1.0)), (rising(1.0), broken)):
        assert math.isnan(effects(*([curve] * 3 for curve in pair), [])["mean over the run"].ratio)


def test_seeds_are_paired():
    """Each seed is twice as good with the first method, however much the seeds differ: the interval has no width."""
    slopes = [0.1, 1.0, 5.0]
    found = effects([rising(2 * slope) for slope in slopes], [rising(slope) for slope in slopes], [])
    assert found["mean over the run"].low == pytest.approx(2.0)
    assert found["mean over the run"].high == pytest.approx(2.0)


def test_a_return_that_no_run_reaches_decides_nothing():
    found = effects([rising(1.0)] * 5, [rising(1.0)] * 5, [1000.0])["time to 1000"]
    assert (found.verdict, found.censored) == ("undecided", ("5/5", "5/5"))


@pytest.mark.parametrize(("n_reached", "verdict"), [(2, "undecided"), (3, "no difference")])
def test_hardly_any_run_reaches_a_return(n_reached, verdict):
    """With times that are cut off at the end of the run, the ratio is near 1 whatever the methods are like."""
    runs = [rising(1.0)] * n_reached + [rising(0.1)] * (5 - n_reached)
    assert effects(runs, runs, [50.0])["time to 50"].verdict == verdict
    others = [rising(0.1)] * 5
    assert effects([rising(10.0)] * 5, others, [50.0])["time to 50"].verdict == "ahead", "a bound is enough for that"


def test_a_method_that_gains_nothing_is_behind():
    found = effects([rising(-1.0)] * 3, [rising(1.0)] * 3, [])["mean over the run"]
    assert (found.ratio, found.verdict) == (0.0, "behind")
    found = effects([rising(1.0)] * 3, [rising(-1.0)] * 3, [])["mean over the run"]
    assert (found.ratio, found.verdict) == (math.inf, "ahead")


def test_runs_are_paired_by_their_seeds():
    """Not by their order in the file, and without a seed that only one method has."""

    def runs(slopes):
        return [Curve({**rising(slope).columns, "seed": np.full(101, float(seed))}) for seed, slope in slopes.items()]

    curves = {"rennala": runs({0: 2.0, 1: 40.0, 2: 6.0}), "sync": runs({2: 3.0, 0: 1.0})}
    rows = comparison_rows("task", curves, [])
    assert [row[4:6] for row in rows] == [("2.00", "2.00 to 2.00")] * 2
    with pytest.raises(UsageError, match="no seed in common"):
        comparison_rows("task", {"rennala": runs({0: 1.0}), "sync": runs({1: 1.0})}, [])


@pytest.mark.parametrize(
    ("names", "pairs"),
    [
        ("ppo,ppo:tuned", "ppo,ppo:tuned"),
        ("ppo,ppo:tuned,rennala", "ppo,ppo:tuned ppo,rennala"),
        ("rennala:pipelined@a,rennala:pipelined@b", "rennala:pipelined@a,rennala:pipelined@b"),
        ("rennala@a,rennala:pipelined@a,rennala@b", "rennala@a,rennala@b rennala:pipelined@a,rennala@b"),
        ("rennala,sync,rennala:pipelined", "rennala,sync rennala:pipelined,sync"),
        ("rennala:pipelined,rennala", "rennala:pipelined,rennala"),
        ("rennala", ""),
    ],
)
def test_what_is_compared(names, pairs):
    """Tuned values and what follows an @ make another method, a schedule does not, unless there is nothing else."""
    curves = {name: [Curve({**rising(1.0).columns, "seed": np.zeros(101)})] for name in names.split(",")}
    rows = comparison_rows("task", curves, [])
    assert list(dict.fromkeys(f"{row[1]},{row[2]}" for row in rows)) == pairs.split()


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (1.01, 9.0, "ahead"),
        (0.1, 0.99, "behind"),
        (0.7, 1.4, "no difference"),
        (0.7, 1.6, "undecided"),
        (0.6, 1.1, "undecided"),
    ],
)
def test_verdicts(low, high, verdict):
    assert Effect(1.0, low, high).verdict == verdict


def test_the_command(tmp_path, capsys):
    """Each schedule of the first method against each other method."""
    with (tmp_path / "curves.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["method", "seed", "seconds", "return"])
        for method, slope in (("rennala", 2), ("rennala:first_finished", 1), ("sync", 1)):
            rows.writerows([[method, seed, t, slope * t] for seed in range(2) for t in range(11)])
    main(["verdicts", str(tmp_path), "--returns", "8", "--output", str(tmp_path / "verdicts.md")])
    lines = (tmp_path / "verdicts.md").read_text().splitlines()
    assert lines == capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 2 * 3
    assert f"| {tmp_path.name} | rennala | sync | time to 8 | 2.00 | 2.00 to 2.00 | 0/2 and 0/2 | ahead |" in lines
    assert (
        f"| {tmp_path.name} | rennala:first_finished | sync | time to 8 | 1.00 | 1.00 to 1.00 | 0/2 and 0/2 | no difference |"
        in lines
    )
