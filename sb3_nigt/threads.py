"""How many threads torch may use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch as th


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch on one thread: for small networks a second one costs more than it gives, most of all on a busy machine."""
    n_threads = th.get_num_threads()
    th.set_num_threads(1)
    try:
        yield
    finally:
        th.set_num_threads(n_threads)
