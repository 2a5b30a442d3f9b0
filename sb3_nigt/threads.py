"""How many threads torch may use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch as th


@contextmanager
def one_thread(is_small: bool = True) -> Iterator[None]:
    """
    Keep torch on one thread: for small networks a second one costs more than it gives, most of all on a busy machine.

    :param is_small: False leaves torch as it is
    """
    n_threads = th.get_num_threads()
    th.set_num_threads(1 if is_small else n_threads)
    try:
        yield
    finally:
        th.set_num_threads(n_threads)
