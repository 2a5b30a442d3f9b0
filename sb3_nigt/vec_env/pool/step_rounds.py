"""
Rounds of steps: the workers step, the parent looks at their counters until the round is complete, and waits for no worker.

A worker continues by itself for up to a quarter more than its predicted share. So a round keeps about the right size even if
the parent is busy with something that takes longer than the round.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

from sb3_nigt.messages import Job, SamplingPoint, TrajectoryKey
from sb3_nigt.vec_env.base import Segments
from sb3_nigt.vec_env.pool.driver import Driver
from sb3_nigt.vec_env.pool.segment_book import SegmentBook
from sb3_nigt.vec_env.pool.slot import State

MARGIN, SMALLEST_PART = 1.25, 8  # a worker stops at so many times its share, while the parent is busy with something else
REPORTED_PART = 0.25  # of a worker's share, where steps are seen only when the worker reports them
LONGEST_WAIT = 0.25  # for such reports
MOST_DOUBLINGS, BISECTIONS = 40, 8
INTERRUPT_SECONDS = 0.001  # interval at which the function that may interrupt the wait is called
WAITS = (0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005)  # seconds between two looks

IsComplete = Callable[[npt.NDArray[np.int64]], bool]


def seconds_to_wait(counts: npt.NDArray[np.int64], rates: npt.NDArray[np.float64], is_complete: IsComplete) -> float:
    """
    Return the longest wait after which the round will not be complete yet, as far as can be predicted.

    :param counts: steps of each worker, an incomplete round
    :param rates: steps per second of each worker
    :param is_complete: the rule of the round, a function of the counts
    """
    low, high = 0, len(WAITS)
    while low < high:
        middle = (low + high) // 2
        if is_complete(counts + (rates * WAITS[middle]).astype(np.int64)):
            high = middle
        else:
            low = middle + 1
    return WAITS[max(0, low - 1)]


def predicted_shares(rates: npt.NDArray[np.float64], is_complete: IsComplete) -> npt.NDArray[np.float64]:
    """
    Return how many steps each worker is expected to make in a round.

    :param rates: steps per second of each worker; 0 for those that take no part
    :param is_complete: the rule of the round, a function of the counts
    """
    seconds = 1.0 / max(float(rates.max()), 1e-9)
    for _ in range(MOST_DOUBLINGS):
        if is_complete((rates * seconds).astype(np.int64)):
            break
        seconds *= 2
    low, high = seconds / 2, seconds
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if is_complete((rates * middle).astype(np.int64)) else (middle, high)
    return rates * high


class StepRounds:
    """
    Runs rounds of steps.

    :param driver: the driver of the workers
    :param book: the book of their segments
    """

    def __init__(self, driver: Driver, book: SegmentBook) -> None:
        self._driver, self._book, self._roster = driver, book, driver.roster

    def run(
        self,
        point: SamplingPoint,
        is_complete: IsComplete,
        meanwhile: Callable[[], None],
        interrupt: Callable[[], bool] | None,
        steps_left: Callable[[npt.NDArray[np.int64]], int] | None = None,
    ) -> Segments | None:
        """
        Run one round.

        :param point: θ̃ with its number
        :param is_complete: the rule of the round, a function of the steps of each worker that count
        :param meanwhile: a function to call once, when all free workers have begun
        :param interrupt: a function that returns True to abandon the round
        :param steps_left: see ``TrajectoryWorkers``
        :return: None if it was given up; then and after an exception all jobs are to be cancelled
        """
        driver, book, roster, transport = self._driver, self._book, self._roster, self._driver.transport
        driver.pump(0.0)  # most workers have said meanwhile how the last round has ended for them
        book.begin_round(point)
        rates = 1.0 / roster.speeds.expected()
        parts = self._parts(rates, is_complete)
        self._submit(range(len(roster.slots)), point, parts)
        meanwhile()
        while True:
            progress = transport.progress()
            counts = book.counts(progress)
            left = 1 - is_complete(counts) if steps_left is None else steps_left(counts)
            if left == 0 or book.is_hopeless:
                break
            if interrupt is not None and interrupt():
                return None
            if steps_left is not None:
                seconds = min(left / max(float(rates[book.running()].sum()), 1e-9), WAITS[-1])
            elif transport.counters_are_seen:
                seconds = seconds_to_wait(counts, np.where(book.running(), rates, 0.0), is_complete)
            else:
                seconds = LONGEST_WAIT if interrupt is None else INTERRUPT_SECONDS
            self._wait(seconds, must_go_on=steps_left is None)
            self._submit(book.take_due(), point, parts)
        if steps_left is not None:
            progress = transport.progress()  # the answer may have taken some time, in which the workers have gone on
        driver.carry_out(roster.jobs.cancel())  # first, so that they stop soon
        segments, places = book.close_round(progress)
        for worker, place in places.items():
            roster.jobs.counted(worker, place)
        return segments

    def _parts(self, rates: npt.NDArray[np.float64], is_complete: IsComplete) -> npt.NDArray[np.int64]:
        away = self._roster.within(State.WAITING, State.ABSENT, State.LOST)
        present = np.array([worker not in away for worker in range(len(rates))])
        shares = predicted_shares(np.where(present, rates, 0.0), is_complete)
        are_seen = self._driver.transport.counters_are_seen
        part, smallest = (MARGIN, SMALLEST_PART) if are_seen else (REPORTED_PART, 1)
        return np.maximum(smallest, np.ceil(part * shares)).astype(np.int64)

    def _submit(self, workers: Iterable[int], point: SamplingPoint, parts: npt.NDArray[np.int64]) -> None:
        for worker in workers:
            if self._roster.slots[worker].state is not State.LOST:
                key = TrajectoryKey(point.round, worker, 0)
                job = Job(worker, key, point, segment_steps=int(parts[worker]))
                steps = self._driver.transport.handles[worker].steps
                self._driver.carry_out(self._roster.jobs.submit(job, steps, self._driver.now()))

    def _wait(self, seconds: float, must_go_on: bool) -> None:
        waited_for = self._roster.jobs.under_way()
        if not waited_for and must_go_on:  # otherwise workers elsewhere complete the round
            raise RuntimeError("There is nothing to wait for: all workers are lost.")
        if self._roster.within(State.ABSENT):
            self._driver.check_places(waited_for, all)
        self._driver.pump(seconds)
