"""The differences between methods that ``sb3-nigt summary`` prints."""

import numpy as np

from sb3_nigt.__main__ import main
from sb3_nigt.experiments.results import ALL_CURVES, Curve
from sb3_nigt.experiments.summary import summary


def curve(returns):
    """A run with a point every ten seconds."""
    seconds = np.arange(len(returns)) * 10.0
    return Curve({"seconds": seconds, "timesteps": seconds * 4, "return": np.array(returns)})


def test_summary_of_files_made_by_hand(tmp_path, capsys):
    """
    Of a the returns over time are (0·10 + 10·10) / 20 = 5 and 6, at the end 10 and 12; of b 2 and 2, and 4 and 4.

    Two of the six ways to deal four runs out in pairs separate them so. That b's runs go on for longer does not count.
    """
    directory = tmp_path / "by-hand"
    directory.mkdir()
    curves = {("a", 0): [0, 10], ("a", 1): [0, 12], ("b", 0): [0, 4, 4], ("b", 1): [0, 4, 4]}
    lines = [
        f"{m},{seed},{10 * k},{value}" for (m, seed), values in curves.items() for k, value in enumerate([*values, values[-1]])
    ]
    (directory / ALL_CURVES).write_text("\n".join(["method,seed,seconds,return", *lines]) + "\n")
    main(["summary", str(directory)])
    name, _, a, b, *_ = capsys.readouterr().out.splitlines()
    assert name == "by-hand, 20 seconds"
    assert a.split() == ["a", "5.5", "11"]
    assert b.split() == ["b", "2", "+3.5", "[+3,", "+4]", "0.333", "4", "+7", "[+6,", "+8]", "0.333"]


def test_summary_takes_the_first_method_with_each_schedule():
    """The second block has what is not rennala, and one run a method has no interval."""
    curves = {
        name: [curve([value, value])] for name, value in {"rennala": 3.0, "rennala:first_finished": 5.0, "sync": 4.0}.items()
    }
    rows = [" ".join(row.split()) for row in summary(curves).splitlines()]
    assert rows == [
        "10 seconds",
        "method return rennala ahead by p at the end ahead by p",
        "rennala 3 3",
        "rennala:first_finished 5 -2 1.000 5 -2 1.000",
        "sync 4 -1 1.000 4 -1 1.000",
        "method return rennala:first_finished ahead by p at the end ahead by p",
        "rennala:first_finished 5 5",
        "sync 4 +1 1.000 4 +1 1.000",
    ]


def test_summary_takes_tuned_values_for_another_method():
    curves = {name: [curve([value, value])] for name, value in {"ppo": 3.0, "ppo:tuned": 5.0, "rennala": 4.0}.items()}
    assert [row.split()[0] for row in summary(curves).splitlines()] == ["10", "method", "ppo", "ppo:tuned", "rennala"]
