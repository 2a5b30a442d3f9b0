"""Why a worker has failed, as text: the cause in the first line, then where, without the code of this package around it."""

from __future__ import annotations

import traceback
from pathlib import Path

ROOT = Path(__file__).parents[2]  # of the package
OWN = tuple(str(ROOT / folder) for folder in ("vec_env", "sampling"))  # what calls the environment


def cause_of(error: BaseException) -> str:
    """
    Return type and text of an exception in one line.

    :param error: any exception
    """
    return " ".join("".join(traceback.format_exception_only(error)).split("\n")).strip()


def traceback_of(error: BaseException) -> str:
    """
    Return the traceback of an exception from the first line on that is not the package's; all of it where all are.

    :param error: the exception being handled
    """
    described = traceback.TracebackException.from_exception(error)
    frames = list(described.stack)
    first = next((i for i, frame in enumerate(frames) if not frame.filename.startswith(OWN)), 0)
    described.stack = traceback.StackSummary.from_list(frames[first:])
    return "".join(described.format())


def stack_of(dumped: str) -> str:
    """
    Return the stacks of a process that hangs, each down to where the package has called what hangs.

    :param dumped: a dump by ``faulthandler``, the most recent call of each thread first; other text is returned unchanged
    """
    own, kept = tuple(f'File "{path}' for path in OWN), []
    for thread in dumped.strip().split("\n\n"):
        head, *calls = thread.split("\n")
        if not head.endswith("(most recent call first):"):
            return dumped
        end = next((number for number, call in enumerate(calls) if call.strip().startswith(own)), None)
        if end is None or head.startswith("Current thread"):  # other threads in our code wait for messages
            kept.append("\n".join([head, *calls[: end or None]]))
    return "\n\n".join(kept)


def in_first_line(before: str, reason: str, after: str) -> str:
    """
    Say in the first line whom a reason is about and what follows from it.

    :param before: the beginning of the line
    :param reason: the cause, and further lines that say where
    :param after: sentences that end the line
    """
    cause, *where = reason.rstrip().split("\n")
    return "\n".join([f"{before}{cause.rstrip('.')}. {after}".rstrip(), *where])
