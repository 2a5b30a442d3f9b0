"""What a worker and its parent say to each other: kinds of messages, their layout, and how results and errors travel."""

from __future__ import annotations

import contextlib
import pickle
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import cloudpickle
import numpy as np
import numpy.typing as npt

from sb3_nigt.errors import RemoteError
from sb3_nigt.messages import Contribution, TrajectoryKey
from sb3_nigt.replica.gradients import in_float32
from sb3_nigt.vec_env.pool.reasons import cause_of, traceback_of

# First byte of a message. Parent to worker:
JOB, SEGMENT, CONTEXT, GRADIENT, COMMAND, CLOSE = b"J", b"S", b"X", b"G", b"C", b"Q"
# Worker to parent (GRADIENT and SEGMENT too, when they are ready):
ARRIVAL, REPLY, ERROR = b"A", b"R", b"E"

JOB_FORMAT = struct.Struct("<6q")  # job number, point number, round of the point, key
SEGMENT_FORMAT = struct.Struct("<7q")  # job number, point number, round of the point, start (three), steps at most
CONTRIBUTION_FORMAT = struct.Struct("<4q")  # key and number of steps, in front of a coefficient a step
NUMBER_FORMAT = struct.Struct("<q")  # of a command, echoed in its answer, so that an answer that was not taken is recognised
FIRST_COMMAND, NO_COMMAND = 0, -1  # the first answer comes unasked; errors of jobs belong to no command
ARRIVAL_FORMAT = struct.Struct("<2q4B2d")
SEGMENT_ARRIVAL_FORMAT = struct.Struct("<7q2d")
NO_EPISODE = -1
NO_PLACE = NO_EPISODE, 0
_REJECTIONS = (None, "reward", "observation", "action")


def rejection_number(rejected: str | None) -> int:
    """
    Return the number that stands for why a trajectory must not enter any sum.

    :param rejected: the reason, see ``Trajectory``
    """
    return _REJECTIONS.index(rejected)


def rejection_of(number: int) -> str | None:
    """
    Undo ``rejection_number``.

    :param number: the result of ``rejection_number``
    """
    return _REJECTIONS[number]


def encode_contributions(number: int, contributions: Sequence[Contribution]) -> bytes:
    """
    Pack the request for a gradient: four bytes a step.

    :param number: number of the gradient, echoed in the answer
    :param contributions: trajectories, with the coefficients of their scores
    """
    parts = [GRADIENT, NUMBER_FORMAT.pack(number)]
    for contribution in contributions:
        coefficients = in_float32(contribution.coefficients)
        parts += [CONTRIBUTION_FORMAT.pack(*contribution.key, len(coefficients)), coefficients.tobytes()]
    return b"".join(parts)


def decode_contributions(body: bytes) -> tuple[int, list[tuple[TrajectoryKey, npt.NDArray[np.float32]]]]:
    """
    Undo ``encode_contributions``; return the number, and key and coefficients of each trajectory.

    :param body: the message without its first byte
    """
    (number,) = NUMBER_FORMAT.unpack_from(body)
    position, wanted = NUMBER_FORMAT.size, []
    while position < len(body):
        *key, n_steps = CONTRIBUTION_FORMAT.unpack_from(body, position)
        position += CONTRIBUTION_FORMAT.size
        wanted.append((TrajectoryKey(*key), np.frombuffer(body, np.float32, n_steps, position)))
        position += 4 * n_steps
    return number, wanted


class SegmentArrival(NamedTuple):
    """What a worker says of its part of a segment, which has no more room or was stopped; its steps lie in arrays."""

    job_number: int
    n_steps: int
    n_pieces: int
    n_made: int  # by this worker in all rounds
    n_episodes: int  # begun by this worker in all rounds
    cancelled: int
    hopeless: int  # several episodes in a row were rejected
    started_at: float
    finished_at: float


class RemoteArrival(NamedTuple):
    """What a worker says of a trajectory that has ended or was cancelled; its steps lie in shared memory."""

    job_number: int
    n_steps: int
    terminated: int
    truncated: int
    rejection: int  # see ``rejection_number``
    cancelled: int
    started_at: float
    finished_at: float


def encode_result(result: Any) -> bytes:
    """
    Pack what a command returns.

    :param result: anything
    """
    try:
        return pickle.dumps(result)  # several times faster
    except Exception:  # a function or a class that exists here only; there is no common type of these errors
        encoded: bytes = cloudpickle.dumps(result)
        return encoded


class RemoteFailure(NamedTuple):
    """
    What a worker says of an exception.

    :param encoded: the exception, or its type and text; None if neither can be sent
    :param type_name: type of the exception
    :param cause: type and text of the exception in one line
    :param traceback: text
    :param episode: in rounds of steps, the number of the worker's episode, from 0; NO_EPISODE in others
    :param age: steps of the trajectory or the episode before
    """

    encoded: bytes | None
    type_name: str
    cause: str
    traceback: str
    episode: int
    age: int


def encode_error(error: BaseException, place: tuple[int, int] = NO_PLACE) -> bytes:
    """
    Pack an exception for the parent.

    :param error: any exception; if it cannot be pickled its type and text are sent, or at least their names
    :param place: episode and age, see ``RemoteFailure``
    """
    try:
        encoded = cloudpickle.dumps(error)
        pickle.loads(encoded)  # fails if __init__ takes other arguments than it hands on, which is common
    except Exception:
        try:
            encoded = cloudpickle.dumps((type(error), str(error)))
        except Exception:
            encoded = None
    packed: bytes = cloudpickle.dumps(
        RemoteFailure(encoded, type(error).__name__, cause_of(error), traceback_of(error), *place)
    )
    return packed


def raise_remote(failure: RemoteFailure, worker: int) -> None:
    """
    Raise what a worker has raised, as the same type, with the worker's traceback as its cause.

    :param failure: the result of ``encode_error``
    :param worker: index of the worker
    :raises BaseException: always
    """
    encoded = failure.encoded
    error: BaseException = RuntimeError(f"{failure.cause} (worker {worker})")
    with contextlib.suppress(Exception):  # a type that this process cannot import
        loaded = pickle.loads(encoded) if encoded is not None else error
        if isinstance(loaded, tuple):  # type and text of one that could not be pickled
            error_type, message = loaded
            loaded = error_type.__new__(error_type)
            loaded.args = (message,)
        error = loaded
    raise error from RemoteError(f"in worker {worker}:\n{failure.traceback}")
