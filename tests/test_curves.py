"""Table and pictures of a comparison, of curves that are made by hand."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from sb3_nigt.experiments import campaign, compare, training
from sb3_nigt.experiments.arguments import UsageError
from sb3_nigt.experiments.campaign import execute_all
from sb3_nigt.experiments.methods import BASELINES
from sb3_nigt.experiments.plots import method_style, save_picture, style_numbers
from sb3_nigt.experiments.results import Curve, default_threshold, on_grid, table
from sb3_nigt.experiments.setting import Budget, Run, Setting, title
from sb3_nigt.methods import METHODS


def curve(returns, seconds=None, messages=None):
    seconds = np.arange(len(returns)) * 10.0 if seconds is None else np.array(seconds, dtype=float)
    messages = seconds / 10 if messages is None else np.array(messages, dtype=float)
    return Curve(
        {"seconds": seconds, "timesteps": seconds * 4, "messages": messages, "updates": seconds, "return": np.array(returns)}
    )


CURVES = {
    "quick": [curve([0.0, 50.0, 100.0]), curve([0.0, 60.0, 100.0])],
    "slow": [curve([0.0, 10.0, 20.0, 50.0]), curve([0.0, 10.0, 20.0, 40.0])],
}


def test_table_by_hand():
    """50 is reached by quick after 10 s twice, by slow after 30 s once: the other run is shown as later than its end."""
    rows = [" ".join(row.split()) for row in table(CURVES, 50.0).splitlines()]
    assert rows[0] == "method final return (IQM) seconds to 50 reached seconds timesteps messages updates"
    assert rows[1] == "quick 100 [100, 100] 10 [10, 10] 2/2 20 80 2 20"
    assert rows[2] == "slow 45 [40, 50] >30 [30, >30] 1/2 30 120 3 30"
    assert rows[3].startswith("2 runs a method")


def test_table_of_runs_that_end_at_different_times():
    """Two of three runs are known not to have reached 50 before their end after 10 s: so the median is later than that."""
    ends = [curve([0.0, 10.0]), curve([0.0, 20.0]), curve([0.0, 10.0, 20.0, 30.0, 60.0])]
    row = " ".join(table({"a": ends}, 50.0).splitlines()[1].split())
    assert row.startswith("a 30 [10, 60] >10 [>10, >40] 1/3 ")
    row = " ".join(table({"a": ends[2:]}, 50.0).splitlines()[1].split())  # of one run there is no interval
    assert row.startswith("a 60 40 1/1 ")


def test_default_threshold_by_hand():
    """All begin at 0, the best median is quick's 100."""
    assert default_threshold(CURVES) == 75


def test_common_grid_by_hand():
    """Nothing is drawn beyond the end of a method's shortest run."""
    runs = [curve([1.0, 2.0, 3.0]), curve([5.0, 7.0], seconds=[0, 15])]
    x, returns = on_grid(runs, "seconds")
    assert x.tolist() == np.linspace(0, 15, 200).tolist()
    assert returns[[0, 132, 133, 198, 199]].tolist() == [[1, 5], [1, 5], [2, 5], [2, 5], [2, 7]]
    x, _ = on_grid(CURVES["slow"], "messages")
    assert x[[0, 1, -1]].tolist() == pytest.approx([0, 1, 3])


def test_a_method_that_is_done_long_before_the_others_is_drawn(tmp_path, monkeypatch):
    """All of its run lies before the first of 200 equal parts of the longest one."""
    drawn = []
    monkeypatch.setattr(compare, "save_picture", lambda figure, path: drawn.append(figure))
    curves = {"quick": [curve([0.0, 50.0, 100.0])], "slow": [curve([0.0, 10.0], seconds=[0, 100_000])]}
    compare.draw(curves, "two methods", tmp_path / "curves.png")
    for ax in drawn[0].axes:
        quick = ax.lines[0]
        assert len(quick.get_xdata()) >= 200
        assert [quick.get_ydata()[0], quick.get_ydata()[-1]] == [0, 100]


@pytest.mark.parametrize(
    ("setting", "heading"),
    [
        (Setting("E-v0", (1.0, 2.5), (0.0, 0.0)), "E-v0, 2 workers, 1 to 2.5 s a step, messages take no time"),
        (Setting("E-v0", (2.0,), (0.5,), "trajectory"), "E-v0, 1 worker, 2 s a trajectory, 0.5 s a message"),
    ],
)
def test_title(setting, heading):
    assert title(setting) == heading


def test_picture(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(compare, "save_picture", lambda figure, path: drawn.append(figure))
    compare.draw(CURVES, "two methods", tmp_path / "curves.png")
    axes = np.array(drawn[0].axes).reshape(2, 3)
    labels = [ax.get_xlabel() for ax in axes[1]]
    assert labels == ["seconds on the workers' clock", "environment steps", "messages to the learner"]
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["quick", "slow"]
    slow = axes[0, 0].lines[1]
    assert slow.get_xdata()[-1] == 30
    assert slow.get_ydata()[-1] == 45  # the median; the interquartile mean of two is the same
    assert axes[1, 0].lines[1].get_ydata()[-1] == 45


def test_picture_of_runs_that_end_before_the_first_update(tmp_path):
    """No worker has sent a message."""
    compare.draw({"short": [curve([1.0, 1.0], messages=[0, 0])]}, "one method", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").exists()


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_saved_pictures(suffix, tmp_path):
    """Few colours change no pixel by more than one can see."""
    figure = Figure()
    figure.subplots().plot([0, 1], color="#D55E00", linewidth=9)
    save_picture(figure, tmp_path / f"picture{suffix}")
    content = (tmp_path / f"picture{suffix}").read_bytes()
    if suffix == ".svg":
        assert b"<svg" in content
        return
    figure.savefig(tmp_path / "plain.png", dpi=100)
    saved, plain = (np.array(Image.open(tmp_path / f"{name}.png").convert("RGB"), dtype=int) for name in ("picture", "plain"))
    assert np.abs(saved - plain).max() <= 16
    assert len(np.unique(saved.reshape(-1, 3), axis=0)) <= 128


def test_a_method_looks_the_same_in_all_pictures():
    assert style_numbers(["rennala", "afedpg"]) == {"rennala": 0, "afedpg": 3}
    assert style_numbers(["ars", "rennala", "malenia", "sync"]) == {"ars": 1, "rennala": 0, "malenia": 3, "sync": 2}
    everybody = style_numbers([*METHODS, *BASELINES, "rennala:first_finished", "malenia:pipelined"])
    assert sorted(everybody.values()) == list(range(12))


def test_more_methods_than_styles():
    styles = [str(sorted(method_style(number).items(), key=str)) for number in range(12)]
    assert len(set(styles)) == 12


@pytest.mark.parametrize("n_bytes", [0, 20, 60])
def test_a_curve_that_is_cut_off_is_damaged(n_bytes, tmp_path):
    """By a full disk, say; also where the cut is between two lines or within a number."""
    run = Run("ppo", 0, Setting("CartPole-v1", (1.0, 2.0), (0.0, 0.0)), Budget(60, points=2, episodes=1))
    execute_all([run], tmp_path, 1)
    curve, _ = training.files_of(run, tmp_path)
    assert campaign.is_finished(run, tmp_path)
    text = curve.read_text()
    for kept in (text[:n_bytes], "".join(text.splitlines(keepends=True)[:-1]), text[:-3]):
        curve.write_text(kept)
        with pytest.raises(UsageError, match=f"{curve.name} is damaged: remove it to repeat the run"):
            execute_all([run], tmp_path, 1)
    curve.write_text(text)
    assert campaign.is_finished(run, tmp_path)
