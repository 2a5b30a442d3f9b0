"""How many steps the workers of all ranks have made in a round, told through the store a few times a round."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.distributed.distributed_c10d import Store

from sb3_nigt.aggregators import Aggregator
from sb3_nigt.distributed.line import StoreLine
from sb3_nigt.distributed.losses import Losses
from sb3_nigt.distributed.rules import filled
from sb3_nigt.errors import RankError
from sb3_nigt.vec_env.pool.step_rounds import predicted_shares

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

NO_ROUND = -1
PART_OF_THE_REST = 0.5  # of what is predicted to be left of the round passes between two looks
TIMES_A_LOOK = 5.0  # a look takes at most one part in so many of the time
SHORTEST_PAUSE, LONGEST_PAUSE = 0.0005, 0.002  # seconds between two looks at the end of a round
LONGEST_WAIT, PART_OF_TIMEOUT = 0.25, 0.05  # seconds until the next look at most


class StepCounts:
    """
    Counts of the workers of all ranks, as one rank sees them.

    Each rank has one key on the store, with the round, the steps of its workers and whether it has seen that the round is
    complete, and overwrites it at every look. Steps that are lost, as with a worker that dies, are made again, unless a rank
    has seen the round complete before: then it is over for all, with fewer steps than asked for.

    A look comes when half of what is left of the round has passed, as far as can be predicted: a few of them a round, and none
    that depends on the number of steps.

    :param line: to the store
    :param own: numbers of this rank's workers
    :param n_workers: of each rank
    :param losses: workers that all ranks have lost
    """

    def __init__(self, line: StoreLine, own: range, n_workers: Sequence[int], losses: Losses) -> None:
        self._line, self._own, self._losses = line, own, losses
        self._keys = [f"steps/{rank}" for rank in range(len(n_workers))]
        self._longest_wait = min(LONGEST_WAIT, PART_OF_TIMEOUT * line.timeout)
        # the key is there before the first round, which all ranks begin together
        line.call(partial(_set_and_get, key=self._keys[line.rank], value=_packed(NO_ROUND, np.zeros(len(own))), keys=[]))

    def begin(self, round_: int, aggregator: Aggregator, seconds_per_step: FloatArray) -> None:
        """
        Begin a round.

        :param round_: its number
        :param aggregator: when it is complete
        :param seconds_per_step: of all workers; NaN: not known yet, infinite: lost
        """
        self._round, self._aggregator = round_, aggregator
        self._losses.check(aggregator)
        self._rates = 1.0 / filled(seconds_per_step)
        self._are_guessed, self._began = bool(np.isnan(seconds_per_step).all()), time.monotonic()
        shares = predicted_shares(self._rates, aggregator.is_complete)
        self._share = float(shares[self._own.start : self._own.stop].sum())
        self._next_look, self._next_steps, self._is_over = 0.0, 0, False

    def is_complete(self, counts: IntArray) -> bool:
        """
        Predict whether the round will be complete when this rank's workers have made so many steps.

        :param counts: of these, shape (n,)
        """
        return int(counts.sum()) >= self._share

    def steps_left(self, counts: IntArray) -> int:
        """
        Return how many steps this rank's workers can make before the next look, 0 when the round is complete.

        :param counts: steps that they have made, shape (n,)
        :raises RankError: if another rank cannot go on, or the round needs a worker that is lost
        """
        made, now = int(counts.sum()), time.monotonic()
        if not self._is_over and (made >= self._next_steps or now >= self._next_look):
            self._look(counts)
        return 0 if self._is_over else max(1, self._next_steps - made)

    def _look(self, counts: IntArray) -> None:
        self._losses.check(self._aggregator)
        began = time.monotonic()
        made, self._is_over = self._tell(self._round, counts)
        self._line.check()
        now = time.monotonic()
        if not self._is_over and self._aggregator.is_complete(made):
            self._tell(self._round, counts, is_over=True)
            self._is_over = True
        if self._is_over:
            return
        self._measure(int(counts.sum()), now - self._began)
        pause = min(max(TIMES_A_LOOK * (now - began), SHORTEST_PAUSE), LONGEST_PAUSE)
        wait = min(max(PART_OF_THE_REST * self._seconds_left(made), pause), self._longest_wait)
        self._next_look = now + wait
        own_rate = float(self._rates[self._own.start : self._own.stop].sum())
        self._next_steps = int(counts.sum()) + max(1, int(wait * own_rate))

    def _measure(self, made: int, seconds: float) -> None:
        """In the first round, whose speeds are not known, all workers count as equally fast."""
        if self._are_guessed and made > 0:
            self._rates = np.where(self._rates > 0, made / seconds / len(self._own), 0.0)

    def _seconds_left(self, made: IntArray) -> float:
        fastest = int(np.argmax(self._rates))
        further = predicted_shares(self._rates, lambda more: self._aggregator.is_complete(made + more))
        return float(further[fastest] / max(self._rates[fastest], 1e-9))

    def _tell(self, round_: int, counts: IntArray, is_over: bool = False) -> tuple[IntArray, bool]:
        """Write this rank's counts; return those of all workers in this round, and whether a rank has seen it complete."""
        own, key = _packed(round_, counts, is_over), self._keys[self._line.rank]
        texts = self._line.call(partial(_set_and_get, key=key, value=own, keys=self._keys))
        rows = [np.frombuffer(text, "<i8") for text in texts]
        of_round = [row if row[0] == round_ else np.zeros_like(row) for row in rows]
        return np.concatenate([row[2:] for row in of_round]), any(bool(row[1]) for row in of_round)


def check_parts(counts: IntArray, aggregator: Aggregator, round_: int) -> None:
    """
    Refuse a round that has no steps of workers that it needs, since they were lost in the moment in which it was complete.

    :param counts: steps of all workers that count
    :param aggregator: the rule of the round
    :param round_: its number
    :raises RankError: naming the workers
    """
    without = np.flatnonzero(counts == 0).tolist()
    if not aggregator.can_do_without(without, len(counts)):
        raise RankError(
            f"round {round_} has nothing of workers {without}, which were lost when it was complete: continue from the last "
            "checkpoint."
        )


def _packed(round_: int, counts: npt.NDArray[Any], is_over: bool = False) -> bytes:
    return np.array([round_, is_over, *counts], dtype="<i8").tobytes()


def _set_and_get(store: Store, key: str, value: bytes, keys: list[str]) -> list[bytes]:
    store.set(key, value)  # type: ignore[arg-type]
    return store.multi_get(keys)
