"""``--set METHOD.ARGUMENT=VALUE``: arguments of the methods that are compared."""

from __future__ import annotations

import argparse
import ast
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sb3_nigt.experiments.arguments import UsageError
from sb3_nigt.experiments.methods import check_argument, check_method

EXAMPLE = "rennala.eta=0.3"
NOT_PYTHON = ("true", "false", "none", "null")  # in other notations than Python's


@dataclass(frozen=True)
class Given:
    """
    An argument that the user has given.

    :param method: its name
    :param argument: an argument of its constructor
    :param value: a number, a word, None, or a dict, list or tuple of these
    """

    method: str
    argument: str
    value: Any


def given_argument(text: str) -> Given:
    """
    Read an option.

    :param text: what the user typed
    """
    name, equals, value = text.partition("=")
    method, dot, argument = name.rpartition(".")
    if not (equals and dot):
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed: write METHOD.ARGUMENT=VALUE, for example {EXAMPLE}")
    try:
        method = check_method(method)
        check_argument(method, argument)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    try:
        return Given(method, argument, ast.literal_eval(value))
    except (ValueError, SyntaxError):
        if value.strip().lower() in NOT_PYTHON:  # any word is true
            raise argparse.ArgumentTypeError(f"{text!r} is not allowed: write True, False or None") from None
        if "(" in value:  # as in the files of rl_zoo3
            raise argparse.ArgumentTypeError(f"{text!r} is not allowed: write a dict as {{'net_arch': [64]}}") from None
        return Given(method, argument, value)  # a word such as natural needs no quotes


def check_given(given: Sequence[Given], methods: Sequence[str]) -> None:
    """
    Check that every argument belongs to a method that is compared.

    :param given: the arguments
    :param methods: names
    :raises UsageError: if one does not
    """
    for one in given:
        if one.method not in methods:
            raise UsageError(f"--set {one.method}.{one.argument}: {one.method} is not one of --algos {','.join(methods)}")
