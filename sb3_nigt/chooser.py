"""How the argument ``group`` becomes settings: the package says it, the algorithms ask, and neither imports the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_choose: list[Callable[[Any], Any]] = []


def set_chooser(choose: Callable[[Any], Any]) -> None:
    """
    Say how the argument ``group`` of the algorithms becomes settings; the package does so once, when it is imported.

    :param choose: a function of the argument
    """
    _choose[:] = [choose]


def choose(group: Any) -> Any:
    """
    Return what the package has said.

    :param group: the argument
    """
    return _choose[0](group)
