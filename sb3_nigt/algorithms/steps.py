"""A round of steps: episodes continue across rounds, and all steps count that were made until the rule says so."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np
import numpy.typing as npt

from sb3_nigt.aggregators import Aggregator
from sb3_nigt.algorithms.book import BetweenRounds, Book, RoundResult
from sb3_nigt.algorithms.round import RESET_IN_A_ROUND, Show, check_lost
from sb3_nigt.errors import warn_user
from sb3_nigt.messages import SamplingPoint
from sb3_nigt.vec_env.base import Segments, TrajectoryWorkers

SMALLEST_ROUND, SMALLEST_SEGMENT = 1000, 20  # steps


def steps_of_a_round(n_steps: int | None, n_workers: int) -> int:
    """
    Return M of a round of steps.

    :param n_steps: steps a worker makes in a round where all are equally fast; None: so many that a round has at least 1,000
        steps and a segment is not too short for an advantage
    :param n_workers: n
    """
    if n_steps is None:
        n_steps = -(-max(SMALLEST_ROUND, SMALLEST_SEGMENT * n_workers) // n_workers)
    return n_steps * n_workers


def check_steps_of_a_round(round_steps: int, n_workers: int, n_tasks: int) -> None:
    """
    Refuse rounds without a gradient: advantages are normalised, and a single one is 0 then.

    :param round_steps: M
    :param n_workers: n
    :param n_tasks: tasks whose advantages are normalised separately
    :raises ValueError: if there are less than two steps for each
    """
    if round_steps < 2 * n_tasks:
        raise ValueError(
            f"n_steps={round_steps // n_workers} is not allowed with {n_workers} workers and {n_tasks} tasks: advantages are "
            f"normalised, so a round needs two steps for each task: give at least {-(-2 * n_tasks // n_workers)}."
        )


def warn_of_single_steps(round_steps: int, n_workers: int, n_tasks: int) -> None:
    """
    Say that a slow task may have a single step in each round, whose standardised advantage is 0.

    A round is complete when (1/K) Σ_k 1/N_k ≤ K/M. With N_k = 1 for some k, that can be so if M ≤ K².

    :param round_steps: M
    :param n_workers: n
    :param n_tasks: K
    """
    if round_steps <= n_tasks**2:
        warn_user(
            f"n_steps=None is {round_steps // n_workers} here. With {n_tasks} tasks, a round may have a single step of a slow "
            f"one, which learns nothing from it: give n_steps={-(-4 * n_tasks**2 // n_workers)} for four steps or more."
        )


def checked_steps_of_a_round(n_steps: int | None, task_ids: Sequence[Hashable], every_task: bool) -> int:
    """
    Return M of a round of steps that gives a gradient.

    :param n_steps: see ``steps_of_a_round``
    :param task_ids: of the workers
    :param every_task: the advantages of each task are normalised separately
    :raises ValueError: see ``check_steps_of_a_round``
    """
    n_tasks = len(set(task_ids)) if every_task else 1
    steps = steps_of_a_round(n_steps, len(task_ids))
    check_steps_of_a_round(steps, len(task_ids), n_tasks)
    if n_steps is None:
        warn_of_single_steps(steps, len(task_ids), n_tasks)
    return steps


def run_steps(
    workers: TrajectoryWorkers,
    aggregator: Aggregator,
    point: SamplingPoint,
    show: Show,
    memory: BetweenRounds,
    meanwhile: Callable[[], None],
) -> RoundResult | None:
    """
    Sample one round of steps at a point.

    :param workers: the workers that step
    :param aggregator: when the round is complete, and the weights; it counts steps
    :param point: θ̃ with its number
    :param show: shows the steps of a piece to callbacks
    :param memory: what the rounds before have left, updated here
    :param meanwhile: called once, when the workers have begun
    :return: None if a callback said stop
    :raises LostWorkerError: if the round needs a worker that is lost
    :raises WorkerError: if one worker delivers non-finite numbers several times in a row
    """
    book, n_resets = Book(workers, point, memory), workers.n_resets

    def is_complete(counts: npt.NDArray[np.int64]) -> bool:
        check_lost(workers.lost(), aggregator, workers.task_ids, workers.last_failure)
        return aggregator.is_complete(counts)

    segments = workers.run_segments(point, is_complete, meanwhile)
    if segments is None:
        return None
    if not take_segments(book, segments, show):
        return None
    if workers.n_resets != n_resets:
        raise RuntimeError(RESET_IN_A_ROUND)
    book.aggregate(np.flatnonzero(segments.counts).tolist())
    return book.close(segments.counts, aggregator.weights(segments.counts), segments.segments)


def take_segments(book: Book, segments: Segments, show: Show) -> bool:
    """
    Enter what the workers have done into the book of the round.

    :param book: of the round
    :param segments: of the workers of this process
    :param show: shows the steps of a piece to callbacks
    :return: False if a callback said stop
    :raises WorkerError: if one worker delivers non-finite numbers several times in a row
    """
    for arrival, piece in segments.pieces:
        if arrival.rejected is None:
            book.accept(arrival, piece)
        else:
            book.reject(arrival)
        if not show(piece):
            return False
    book.discard(segments.discarded)
    return all(show(late.trajectory) for late in segments.discarded)
