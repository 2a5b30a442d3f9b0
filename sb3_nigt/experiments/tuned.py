"""The result of tuning as a small file: the best arguments of each method in each setting."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sb3_nigt.experiments.arguments import UsageError
from sb3_nigt.experiments.methods import is_baseline
from sb3_nigt.experiments.setting import Budget, Setting


@dataclass(frozen=True)
class Tuned:
    """
    The best arguments of a method in a setting.

    :param method: its name
    :param setting: environment and workers
    :param budget: budget of the runs that decided
    :param arguments: arguments of the algorithm
    :param returns: mean over the time of each run
    """

    method: str
    setting: Setting
    budget: Budget
    arguments: dict[str, Any]
    returns: list[float]


def load(path: Path) -> list[Tuned]:
    """
    Read a file.

    :param path: path of the file
    :raises UsageError: if it is something else
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["tuned"]
        return [
            Tuned(**{**entry, "setting": _setting(entry["setting"]), "budget": Budget(**entry["budget"])}) for entry in entries
        ]
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"{str(path)!r} has no tuned values: give a file written by sb3-nigt tune") from None


def _setting(entry: dict[str, Any]) -> Setting:
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in entry.items()}
    return Setting(**values)


def save(best: Tuned, path: Path) -> None:
    """
    Add a result to a file, instead of an earlier one of the same method and setting.

    :param best: the result
    :param path: path of the file
    :raises UsageError: if it is there and is something else
    """
    before = load(path) if path.exists() else []
    others = [tuned for tuned in before if (tuned.method, tuned.setting) != (best.method, best.setting)]
    text = json.dumps({"tuned": [dataclasses.asdict(tuned) for tuned in (*others, best)]}, indent=1)
    unfinished = path.with_suffix(".part")
    unfinished.write_text(text + "\n", encoding="utf-8")
    os.replace(unfinished, path)  # a kill leaves the old file or the new one


def tuned_file(text: str) -> list[Tuned]:
    """
    Read an argument.

    :param text: what the user typed
    """
    try:
        return load(Path(text))
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error.strerror}. Give a file written by sb3-nigt tune") from None
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def arguments_of(method: str, setting: Setting, tuned: Sequence[Tuned]) -> dict[str, Any]:
    """
    Return the tuned arguments; if there are none for this setting, those for another one of the same environment.

    A variant of a method has those of the method.

    A line says so, or that there are none at all. Nothing is said of baselines, which have no grid.

    :param method: its name
    :param setting: environment and workers
    :param tuned: the tuned arguments from the file; empty if none was given
    """
    of_method = [entry for entry in tuned if entry.method == method.partition("@")[0]]
    for entry in of_method:
        if entry.setting == setting:
            return entry.arguments
    for entry in of_method:
        if entry.setting.env == setting.env:
            print(f"{method}: tuned on other workers or tasks of {setting.env}")
            return entry.arguments
    if tuned and not is_baseline(method):
        print(f"{method}: nothing tuned for {setting.env}, so its defaults")
    return {}
