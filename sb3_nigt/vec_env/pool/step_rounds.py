"""Rounds of steps: the workers step, the parent looks at their counters until the round is complete, and waits for nobody."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from sb3_nigt.messages import Job, SamplingPoint, TrajectoryKey
from sb3_nigt.vec_env.base import Segments
from sb3_nigt.vec_env.pool.driver import Driver
from sb3_nigt.vec_env.pool.segment_book import SegmentBook
from sb3_nigt.vec_env.pool.slot import State

WAITS = (0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005)  # seconds between two looks

IsComplete = Callable[[npt.NDArray[np.int64]], bool]


def seconds_to_wait(counts: npt.NDArray[np.int64], rates: npt.NDArray[np.float64], is_complete: IsComplete) -> float:
    """
    Return the longest wait after which the round will not be complete yet, as far as can be predicted.

    :param counts: steps of each worker, not complete
    :param rates: steps per second of each worker
    :param is_complete: of the counts
    """
    low, high = 0, len(WAITS)
    while low < high:
        middle = (low + high) // 2
        if is_complete(counts + (rates * WAITS[middle]).astype(np.int64)):
            high = middle
        else:
            low = middle + 1
    return WAITS[max(0, low - 1)]


class StepRounds:
    """
    Runs rounds of steps.

    :param driver: of the workers
    :param book: of their segments
    """

    def __init__(self, driver: Driver, book: SegmentBook) -> None:
        self._driver, self._book, self._roster = driver, book, driver.roster

    def run(
        self,
        point: SamplingPoint,
        is_complete: IsComplete,
        meanwhile: Callable[[], None],
        interrupt: Callable[[], bool] | None,
    ) -> Segments | None:
        """
        Run one round.

        :param point: θ̃ with its number
        :param is_complete: of the steps of each worker that count
        :param meanwhile: called once, when all workers that are free have begun
        :param interrupt: True gives the round up
        :return: None if it was given up; then and after an exception all jobs are to be cancelled
        """
        driver, book, roster, transport = self._driver, self._book, self._roster, self._driver.transport
        driver.pump(0.0)  # most workers have said meanwhile how the last round has ended for them
        book.begin_round(point)
        for worker in range(len(roster.slots)):
            self._submit(worker, point)
        meanwhile()
        while True:
            progress = transport.progress()
            counts = book.counts(progress)
            if is_complete(counts) or book.is_hopeless:
                break
            if interrupt is not None and interrupt():
                return None
            self._wait(counts, is_complete)
            for worker in book.take_due():
                self._submit(worker, point)
        driver.carry_out(roster.jobs.cancel())  # first, so that they stop soon
        segments, places = book.close_round(progress)
        for worker, place in places.items():
            roster.jobs.counted(worker, place)
        return segments

    def _submit(self, worker: int, point: SamplingPoint) -> None:
        if self._roster.slots[worker].state is not State.LOST:
            handle, n_steps = self._driver.transport.handles[worker], self._driver.transport.chunk_steps(worker)
            job = Job(worker, TrajectoryKey(point.round, worker, 0), point, segment_steps=n_steps)
            self._driver.carry_out(self._roster.jobs.submit(job, handle.steps, self._driver.now()))

    def _wait(self, counts: npt.NDArray[np.int64], is_complete: IsComplete) -> None:
        waited_for = self._roster.jobs.under_way()
        if not waited_for:
            raise RuntimeError("There is nothing to wait for: all workers are lost.")
        if self._roster.within(State.ABSENT):
            self._driver.check_places(waited_for, all)
        rates = np.where(self._book.running(), 1.0 / self._roster.speeds.expected(), 0.0)
        self._driver.pump(seconds_to_wait(counts, rates, is_complete))
