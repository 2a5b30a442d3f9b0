"""
What a script defines itself reaches a worker by value; here it gets its name back.

So an environment that is defined in the script may hand the script's functions and classes to processes of its own, which
pickle them by name.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from types import CellType, FunctionType, MethodType
from typing import Any

MAIN = "__main__"


def give_names(env_fn: Any) -> None:
    """
    Let the names of the worker's main module stand for the objects that have come with a function.

    :param env_fn: as unpickled; what it can reach of the script's functions and classes is named
    """
    names = vars(sys.modules[MAIN])
    for function in _functions(env_fn):
        if function.__module__ == MAIN:
            names.update({name: value for name, value in function.__globals__.items() if _is_main(name, value)})


def _is_main(name: str, value: Any) -> bool:
    return getattr(value, "__module__", None) == MAIN and getattr(value, "__qualname__", None) == name


def _functions(root: Any) -> Iterator[FunctionType]:
    """Functions that an object is made of, as far as functions are usually put together."""
    seen: set[int] = set()
    left = [root]
    while left:
        value = left.pop()
        if id(value) not in seen:
            seen.add(id(value))
            left += _parts(value)
            if isinstance(value, FunctionType):
                yield value


def _parts(value: Any) -> list[Any]:
    if isinstance(value, partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, MethodType):
        return [value.__func__]
    if isinstance(value, FunctionType):
        return [*(value.__closure__ or ()), *(value.__defaults__ or ())]
    if isinstance(value, CellType):
        try:
            return [value.cell_contents]
        except ValueError:  # empty
            return []
    if isinstance(value, type) and value.__module__ == MAIN:
        return [*vars(value).values(), *value.__bases__]
    if isinstance(value, dict):
        return list(value.values())
    return list(value) if isinstance(value, list | tuple) else []
