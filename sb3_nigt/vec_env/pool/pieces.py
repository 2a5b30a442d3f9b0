"""The steps of a segment in arrays: a worker writes them one by one, the parent reads as far as a counter says it may."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sb3_nigt.messages import SamplingPoint, TrajectoryKey
from sb3_nigt.sampling.steps import Arrays, StepTable, read_steps
from sb3_nigt.sampling.trajectory import Trajectory, map_observation
from sb3_nigt.vec_env.pool.infos import InfoWriter, read_infos
from sb3_nigt.vec_env.pool.protocol import rejection_number, rejection_of

FloatArray = npt.NDArray[np.float64]


class Note(NamedTuple):
    """
    What is noted of a piece: its place when it begins, the rest when it ends.

    :param row: row of its first step in the arrays; the next piece begins after the observation that follows its last step
    :param age: steps of the episode before it
    """

    row: float
    age: float
    n_steps: float
    terminated: float
    truncated: float
    rejection: float


class PieceWriter:
    """
    The ``PieceLog`` of a worker: steps go into arrays that the parent reads meanwhile.

    :param arrays: the worker's arrays, with notes
    :param table: table of the steps
    :param control: shared counters, see ``arrays.CONTROL``
    :param infos: the writer of the infos
    """

    def __init__(self, arrays: Arrays, table: StepTable, control: dict[str, Any], infos: InfoWriter) -> None:
        self._infos, self._info_row = infos, 0
        self._steps, self._notes = {name: arrays[name] for name in table.fields}, arrays["notes"]
        self._rejected, self._pieces = memoryview(control["rejected"]), memoryview(control["pieces"])
        self._rows, self._row = len(arrays["rewards"]), 0

    def begin(self) -> None:
        """Start again at the first row; the parent has read what was there."""
        self._row = 0
        self._infos.begin()
        self._rejected[0] = self._pieces[0] = 0

    @property
    def n_pieces(self) -> int:
        """Pieces that have ended."""
        return int(self._pieces[0])

    def room(self) -> int:
        """See ``PieceLog``."""
        left, infos = self._rows - self._row, self._infos.room()
        if self._infos.wants_all_steps:
            return min(left, infos)
        return left if infos else 0

    def open(self, age: int) -> Arrays:
        """See ``PieceLog``."""
        self._notes[self._pieces[0], :2] = self._row, age
        self._info_row = self._row
        return {name: array[self._row :] for name, array in self._steps.items()}

    def keep_info(self, info: dict[str, Any]) -> dict[str, Any]:
        """
        Write what travels of every step, and return it.

        :param info: the info of the next step of the open piece
        """
        kept = self._infos.selected(info)
        self._infos.write_step(self._info_row, kept)
        self._info_row += 1
        return kept

    def close(self, piece: Trajectory) -> None:
        """See ``PieceLog``."""
        n, number = piece.n_steps, self._pieces[0]
        if n or piece.rejected:
            self._notes[number, 2:] = n, piece.terminated, piece.truncated, rejection_number(piece.rejected)
            if n:
                self._infos.write_last(self._row + n - 1, piece.infos[-1])
            self._row += n + 1
            self._rejected[0] += n if piece.rejected else 0
            self._pieces[0] = number + 1


def read_pieces(
    arrays: Arrays, table: StepTable, n_pieces: int, start: int, stop: int, key: TrajectoryKey, point: SamplingPoint
) -> list[Trajectory]:
    """
    Copy some steps of a segment out of the arrays, as pieces within one episode each.

    :param arrays: the worker's arrays, with notes
    :param table: table of the steps
    :param n_pieces: number of pieces known to have ended
    :param start: the first step
    :param stop: the step after the last one; it and those before it have been made
    :param key: key of all pieces
    :param point: the point at which they were sampled
    """
    pieces, before = [], 0
    for number in range(n_pieces + 1):
        if number == n_pieces and before >= stop:
            break
        note = Note(*arrays["notes"][number].tolist())
        is_whole = number < n_pieces and before + note.n_steps <= stop
        n = int(note.n_steps) if is_whole else stop - before
        first = max(0, start - before)
        if first < n or (is_whole and n == 0 and before >= start):
            pieces.append(_read(arrays, table, note, first, n, is_whole, key, point))
        before += n
        if not is_whole:
            break
    return pieces


def _read(
    arrays: Arrays, table: StepTable, note: Note, first: int, n: int, is_whole: bool, key: TrajectoryKey, point: SamplingPoint
) -> Trajectory:
    row = int(note.row) + first
    return Trajectory(
        key=key,
        point=point,
        **read_steps({name: arrays[name][row:] for name in table.fields}, n - first),
        terminated=is_whole and bool(note.terminated),
        truncated=is_whole and bool(note.truncated),
        infos=read_infos(arrays["infos"], row, row + n - first),
        rejected=rejection_of(int(note.rejection)) if is_whole else None,
        age=int(note.age) + first,
    )


def joined(pieces: Sequence[Trajectory]) -> list[Trajectory]:
    """
    Undo the cuts between the parts of a segment, so that pieces end only where their episode or the segment does.

    :param pieces: the pieces of one worker in one segment, in order
    :return: with their numbers in their keys
    """
    whole: list[Trajectory] = []
    for piece in pieces:
        if whole and piece.age > 0 and piece.age == whole[-1].age + whole[-1].n_steps:
            whole[-1] = _join(whole[-1], piece)
        else:
            whole.append(dataclasses.replace(piece, key=piece.key._replace(number=len(whole))))
    return whole


def _join(first: Trajectory, second: Trajectory) -> Trajectory:
    return dataclasses.replace(
        second,
        key=first.key,
        age=first.age,
        observations=map_observation(lambda *xs: np.concatenate(xs), first.observations, second.observations),
        samples=np.concatenate([first.samples, second.samples]),
        actions=np.concatenate([first.actions, second.actions]),
        rewards=np.concatenate([first.rewards, second.rewards]),
        infos=first.infos + second.infos,
    )


def steps_that_count(pieces: Sequence[Trajectory]) -> int:
    """
    Return how many steps are in pieces that are not rejected.

    :param pieces: joined pieces
    """
    return sum(piece.n_steps for piece in pieces if piece.rejected is None)
