"""Command line: ``python -m sb3_nigt.zoo train ...``, and the other commands of rl_zoo3."""

from __future__ import annotations

import argparse
import runpy
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from typing import Any

from sb3_nigt.experiments.arguments import OneLineParser
from sb3_nigt.vec_env import ProcessVecEnv, SimulatedVecEnv, WorkerVecEnv
from sb3_nigt.zoo import ALGORITHMS, HYPERPARAMS, register

PROG = "python -m sb3_nigt.zoo"
PLOTS = ("plot_train", "plot_from_file", "all_plots")
COMMANDS = ("train", "enjoy", "record_video", *PLOTS)
WORKERS: dict[str, type[WorkerVecEnv]] = {"dummy": SimulatedVecEnv, "subproc": ProcessVecEnv}  # of --vec-env
OF_THE_USER = (  # parts of messages about what was typed, of rl_zoo3 and of our algorithms
    "not found in gym registry",
    "folder was not found",
    "No model found",
    "has no argument",
)


def main(argv: list[str] | None = None) -> None:
    """
    Run a command of rl_zoo3, which then knows the algorithms of this package.

    :param argv: arguments, those of the process by default
    """
    parser = OneLineParser(PROG, usage="%(prog)s COMMAND ...", description="rl_zoo3 with the algorithms of sb3_nigt.")
    parser.add_argument("command", choices=COMMANDS, help="of rl_zoo3; each has its own --help")
    argv = sys.argv[1:] if argv is None else argv
    command, arguments = parser.parse_args(argv[:1]).command, argv[1:]
    try:
        register()
        run = _function(command)
    except ModuleNotFoundError as error:
        extra = "rl_zoo3[plots]" if command in PLOTS and error.name != "rl_zoo3" else "sb3_nigt[zoo]"
        parser.exit(1, f"{PROG}: {error.name} is not installed, type: pip install '{extra}'\n")
    with _prepared(command, arguments), _one_line_errors():
        try:
            run()
        except (ValueError, AssertionError, TypeError) as error:
            if not any(text in str(error) for text in OF_THE_USER):
                raise
            parser.error(str(error))


def _function(name: str) -> Callable[[], Any]:
    """Import a command."""
    if name == "record_video":  # a script
        return partial(runpy.run_module, "rl_zoo3.record_video", run_name="__main__")
    function: Callable[[], Any] = getattr(import_module("rl_zoo3.plots" if name in PLOTS else f"rl_zoo3.{name}"), name)
    return function


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """The parsers of rl_zoo3 print their whole usage, two screens of it, for a wrong argument."""
    before = argparse.ArgumentParser.error
    argparse.ArgumentParser.error = OneLineParser.error  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        argparse.ArgumentParser.error = before  # type: ignore[method-assign]


@contextmanager
def _prepared(command: str, arguments: list[str]) -> Iterator[None]:
    """Let rl_zoo3 find the arguments where it looks for them, with our defaults in front, so that the user's own count."""
    from rl_zoo3.exp_manager import ExperimentManager

    known = OneLineParser(PROG, add_help=False)
    known.add_argument("--algo")
    known.add_argument("--vec-env", default="dummy")
    given, _ = known.parse_known_args(arguments)
    defaults: list[str] = []
    before = sys.argv, ExperimentManager.default_vec_env_cls
    if given.algo in ALGORITHMS and command == "train":
        defaults = ["--conf-file", str(HYPERPARAMS / f"{given.algo}.yml")]
        ExperimentManager.default_vec_env_cls = WORKERS.get(given.vec_env)
    elif given.algo in ALGORITHMS and command in ("enjoy", "record_video"):
        defaults = ["--folder", "logs"]  # where train puts agents; rl_zoo3's own default is for agents to download
    sys.argv = [f"{PROG} {command}", *defaults, *arguments]
    try:
        yield
    finally:
        sys.argv, ExperimentManager.default_vec_env_cls = before


if __name__ == "__main__":
    main()
