"""How often the store is asked: seldom by many ranks, and more seldom the longer it lasts."""

from __future__ import annotations

REQUESTS_PER_SECOND = 10_000  # that the store has to answer at most while all ranks look at it
PATIENCE = 0.01  # of the time that something has lasted, by which it may last longer unnoticed
LONGEST_GROWN_PAUSE = 0.02  # seconds


def least_pause(lasted: float, size: int) -> float:
    """
    Seconds between two looks at the store.

    :param lasted: seconds that a rank has been looking for the same thing
    :param size: number of ranks that do so
    """
    return max(size / REQUESTS_PER_SECOND, min(PATIENCE * lasted, LONGEST_GROWN_PAUSE))
