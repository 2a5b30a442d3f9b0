"""What has arrived on all ranks in a round: trajectories from the list on the store, pieces of steps from rows of numbers."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sb3_nigt.algorithms.book import Accepted
from sb3_nigt.distributed.ledger import Entry
from sb3_nigt.messages import Arrival, TrajectoryKey
from sb3_nigt.vec_env.pool.protocol import rejection_number, rejection_of

FloatArray = npt.NDArray[np.float64]
WIDTH = 8  # numbers of an ArrivalRow


class ArrivalRow(NamedTuple):
    """
    A piece.

    :param worker: numbered over all ranks
    :param number: of the piece in the worker's segment
    :param n_steps: in it
    :param episode_return: of the episode that it ends, NaN where it ends none
    :param episode_steps: of that episode
    :param began: seconds since the round began on the worker's rank
    :param ended: the same
    :param rejection: number of the reason, see ``rejection_number``
    """

    worker: float
    number: float
    n_steps: float
    episode_return: float
    episode_steps: float
    began: float
    ended: float
    rejection: float


def arrival_rows(accepted: Accepted, rejected: Sequence[Arrival], started_at: float) -> FloatArray:
    """
    Return the pieces of this rank, one a row.

    :param accepted: those that count
    :param rejected: those that do not
    :param started_at: when the round began here
    """
    told = [(arrival, 0 if piece.report is None else piece.report["l"]) for arrival, piece in accepted]
    told += [(arrival, 0) for arrival in rejected]
    rows = [
        ArrivalRow(
            arrival.worker,
            arrival.key.number,
            arrival.n_steps,
            arrival.episode_return,
            episode_steps,
            arrival.started_at - started_at,
            arrival.finished_at - started_at,
            rejection_number(arrival.rejected),
        )
        for arrival, episode_steps in told
    ]
    return np.array(rows, dtype=np.float64).reshape(len(rows), WIDTH)


class Arrivals(NamedTuple):
    """
    What has arrived on all ranks.

    :param accepted: what counts
    :param rejected: what does not
    :param episodes: episodes that have ended, with the numbers of their workers, as the logger keeps them
    """

    accepted: tuple[Arrival, ...]
    rejected: tuple[Arrival, ...]
    episodes: list[tuple[int, dict[str, Any]]]


def arrivals_of(rows: FloatArray, round_: int, task_ids: Sequence[Hashable], started_at: float) -> Arrivals:
    """
    Return the pieces of all ranks.

    :param rows: of all ranks
    :param round_: number of the round
    :param task_ids: of all workers
    :param started_at: when the round began here
    """
    told = [ArrivalRow(*row) for row in rows.tolist()]
    arrivals = [
        Arrival(
            worker=int(row.worker),
            task_id=task_ids[int(row.worker)],
            key=TrajectoryKey(round_, int(row.worker), int(row.number)),
            n_steps=int(row.n_steps),
            episode_return=row.episode_return,
            started_at=started_at + row.began,
            finished_at=started_at + row.ended,
            arrived_at=started_at + row.ended,
            rejected=rejection_of(int(row.rejection)),
        )
        for row in told
    ]
    episodes = [
        (int(row.worker), {"r": row.episode_return, "l": int(row.episode_steps), "t": row.ended})
        for row in told
        if not row.rejection and not math.isnan(row.episode_return)
    ]
    accepted = tuple(arrival for arrival in arrivals if arrival.rejected is None)
    return Arrivals(accepted, tuple(arrival for arrival in arrivals if arrival.rejected is not None), episodes)


def listed_arrivals(
    admitted: Sequence[Entry], rejected: Sequence[Entry], task_ids: Sequence[Hashable], started_at: float
) -> Arrivals:
    """
    Return the trajectories of all ranks.

    :param admitted: entries of the list on the store that count
    :param rejected: those that do not
    :param task_ids: of all workers
    :param started_at: when the round began here
    """

    def arrival(entry: Entry, rejected: str | None = None) -> Arrival:
        return Arrival(
            worker=entry.worker,
            task_id=task_ids[entry.worker],
            key=entry.key,
            n_steps=entry.n_steps,
            episode_return=entry.episode_return,
            started_at=started_at + entry.began,
            finished_at=started_at + entry.ended,
            arrived_at=started_at + entry.ended,
            rejected=rejected,
        )

    reason = "not finite, or its worker failed"
    episodes = [
        (entry.worker, {"r": entry.reported_return, "l": entry.episode_steps, "t": entry.ended})
        for entry in admitted
        if entry.episode_steps
    ]
    return Arrivals(tuple(map(arrival, admitted)), tuple(arrival(entry, reason) for entry in rejected), episodes)
