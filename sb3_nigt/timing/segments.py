"""When a round of steps is complete, where every worker makes one step after the other at its own speed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

RELATIVE_GAP = 1e-9  # to which the end is found by bisection; the steps in it are looked at one by one


def steps_by(time: float, starts: FloatArray, step_times: FloatArray) -> IntArray:
    """
    Count the steps that have ended at a time, those that end then included: the largest k with s_i + k h_i ≤ t.

    :param time: t
    :param starts: s_i, when each worker begins with its first step, shape (n,)
    :param step_times: h_i, seconds per step, shape (n,)
    :return: shape (n,)
    """
    counts = np.maximum(0, np.floor((time - starts) / step_times)).astype(np.int64)
    counts += starts + (counts + 1) * step_times <= time  # undo the rounding of the division
    counts -= (counts > 0) & (starts + counts * step_times > time)
    return counts


def round_of_steps(
    starts: FloatArray, step_times: FloatArray, is_complete: Callable[[IntArray], bool]
) -> tuple[float, IntArray]:
    """
    Find the first time at which a round is complete; all steps that have ended by then count.

    :param starts: s_i, when each worker begins with its first step, shape (n,)
    :param step_times: h_i, seconds per step, shape (n,)
    :param is_complete: of the steps of each worker; stays true when one of them grows
    :return: the time, and the steps of each worker
    """
    origin = float(starts.min())
    early, late = origin, float((starts + step_times).min())
    while not is_complete(steps_by(late, starts, step_times)):
        early, late = late, origin + 2 * (late - origin)
    while late - early > RELATIVE_GAP * (late - origin):
        middle = 0.5 * (early + late)
        if not early < middle < late:
            break
        early, late = (early, middle) if is_complete(steps_by(middle, starts, step_times)) else (middle, late)
    before, after = steps_by(early, starts, step_times), steps_by(late, starts, step_times)
    ends = {
        float(starts[i] + k * step_times[i]) for i in range(len(starts)) for k in range(int(before[i]) + 1, int(after[i]) + 1)
    }
    for end in sorted(ends):
        counts = steps_by(end, starts, step_times)
        if is_complete(counts):
            return end, counts
    return late, after
