"""What the commands have in common: arguments that say what to type when they are wrong."""

from __future__ import annotations

import argparse
import importlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from sb3_nigt.timing.limits import LARGEST_MESSAGE, LARGEST_RATIO
from sb3_nigt.timing.link import Aggregation, Link, check_link
from sb3_nigt.validation import per_worker

FloatArray = npt.NDArray[np.float64]

WORDS: dict[str, Callable[[FloatArray], FloatArray]] = {"equal": np.ones_like, "sqrt": np.sqrt, "linear": np.positive}
LARGEST_SECONDS = 1e100  # sums and products of far larger ones overflow
N_SEEDS = 2**32  # as NumPy and PyTorch take them
PICTURES = (".png", ".pdf", ".svg")


class OneLineParser(argparse.ArgumentParser):
    """Reports an invalid argument in one line instead of the whole usage."""

    def error(self, message: str) -> NoReturn:
        """
        Say it and end the process.

        :param message: what is wrong
        """
        self.exit(2, f"{self.prog}: {message.rstrip('.')}. Help: {self.prog} --help\n")


class UsageError(Exception):
    """Arguments that do not go together, or not with the files they name; the message says what to type."""


class FailedRunsError(Exception):
    """Runs that ended with an error; the others are finished."""


def parse_times(
    text: str,
    n_workers: int | None,
    *,
    name: str = "--step-times",
    positive: bool = True,
    largest_ratio: float = LARGEST_RATIO,
) -> FloatArray:
    """
    Seconds of each worker: numbers with commas between them, or "equal" (1), "sqrt" (√i), "linear" (i).

    :param text: what the user typed
    :param n_workers: n, which the words and a single number for all need; None: as many as there are numbers
    :param name: the option, for messages
    :param positive: whether to refuse zero, and more than the largest ratio
    :param largest_ratio: of two workers' times
    :return: shape (n,)
    :raises UsageError: if it is something else, or the number of workers differs
    """
    if text in WORDS:
        if n_workers is None:
            raise UsageError(f"{name} {text}: say for how many workers, for example --n-workers 10")
        return WORDS[text](np.arange(1.0, n_workers + 1))
    try:
        times = [float(part) for part in text.split(",")]
    except ValueError:
        words = ", ".join(WORDS)
        raise UsageError(f"{name} {text!r}: give seconds as in {name} 1,1.4,2, or one of the words {words}") from None
    try:
        seconds = per_worker(name, times[0] if len(times) == 1 else times, n_workers or len(times), positive=positive)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if positive and float(seconds.max()) > largest_ratio * float(seconds.min()):
        raise UsageError(
            f"{name}: the fastest worker would make more than {largest_ratio:,.0f} steps while the slowest makes one"
        )
    if positive and not 1 / LARGEST_SECONDS <= float(seconds.min()) <= LARGEST_SECONDS:
        raise UsageError(f"{name} {text}: give seconds from {1 / LARGEST_SECONDS:g} to {LARGEST_SECONDS:g}")
    return seconds


def parse_message_times(text: str, step_times: FloatArray) -> FloatArray:
    """
    Seconds of each worker's message, as in ``parse_times``.

    :param text: what the user typed
    :param step_times: seconds per step, shape (n,)
    :return: shape (n,)
    :raises UsageError: if it is something else, or messages are so long that steps would not count
    """
    seconds = parse_times(text, len(step_times), name="--message-times", positive=False)
    if float(seconds.max()) > LARGEST_MESSAGE * float(step_times.min()):
        raise UsageError(f"--message-times: a message would last longer than {LARGEST_MESSAGE:,} of the shortest steps")
    return seconds


def link_of(
    args: argparse.Namespace, link: Link = "parallel", aggregation: Aggregation = "all_reduce"
) -> tuple[Link, Aggregation]:
    """
    Return how messages reach the learner.

    :param args: parsed command line
    :param link: the default
    :param aggregation: the default
    :raises UsageError: if the two do not go together
    """
    found = args.link or link, args.aggregation or aggregation
    try:
        check_link(*found)
    except ValueError:
        raise UsageError(
            "--aggregation server needs --link serial: over a parallel link a server takes as long as an all-reduce"
        ) from None
    return found


def positive_integer(text: str) -> int:
    """
    Convert an argument that counts something.

    :param text: what the user typed
    """
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed: give an integer of at least 1, for example 20")
    return int(text)


def seed(text: str) -> int:
    """
    Convert an argument that seeds random numbers.

    :param text: what the user typed
    """
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed: give an integer of at least 0, for example 100")
    return int(text)


def seeds_of(args: argparse.Namespace) -> range:
    """
    Return the seeds of the runs.

    :param args: parsed command line
    :raises UsageError: if one is too large
    """
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    if seeds[-1] >= N_SEEDS:
        raise UsageError(f"--first-seed {args.first_seed}: seeds go up to {N_SEEDS - 1:,}, give a smaller one")
    return seeds


def positive_number(text: str) -> float:
    """
    Convert an argument that measures something.

    :param text: what the user typed
    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0.0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed: give a number greater than 0, for example 0.1")
    return number


def finite_number(text: str) -> float:
    """
    Convert an argument that may be negative.

    :param text: what the user typed
    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed: give a number, for example -10.5")
    return number


def environment(text: str) -> str:
    """
    Check the id of an environment; ``module:Name-v0`` imports the module, as ``gym.make`` does.

    :param text: what the user typed
    """
    import gymnasium as gym

    module, colon, name = text.rpartition(":")
    if colon and (not module or module.startswith(".")):  # which would be relative to another one
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed: write a module in front of the colon, or no colon")
    try:
        if module:
            importlib.import_module(module)
        gym.spec(name)
    except (gym.error.Error, ModuleNotFoundError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise argparse.ArgumentTypeError(f"{reason}. Give an id that gymnasium knows, for example CartPole-v1") from None
    return text


def picture(text: str) -> Path:
    """
    Check the name of a picture, before the work that it is to show is done.

    :param text: what the user typed
    """
    if Path(text).suffix not in PICTURES:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed: give a name that ends in {', '.join(PICTURES)}")
    return output_file(text)


def output_file(text: str) -> Path:
    """
    Check the name of a file that is written, before the work whose result it gets.

    :param text: what the user typed
    """
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed: it is a directory, give the name of a file")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed: there is no directory {str(path.parent)!r}, make it first")
    return path


def directory(text: str) -> Path:
    """
    Check the name of a directory that is made if it does not exist.

    :param text: what the user typed
    """
    path = Path(text)
    if any(part.exists() and not part.is_dir() for part in (path, *path.parents)):
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed: it is a file, give the name of a directory")
    return path
