"""The parent's handle on one worker process: start, talk, kill."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from typing import Any

import cloudpickle

from sb3_nigt.errors import RemoteError
from sb3_nigt.vec_env import worker as protocol
from sb3_nigt.vec_env.shared import SharedArrays

STACK_SECONDS = 1.0  # granted to a hung worker for saying where it is
STACK_PAUSE_SECONDS = 0.1  # after which it has said everything
JOIN_SECONDS = 1.0


class RemoteWorker:
    """
    One worker process.

    :param context: start method
    :param index: which worker it is
    :param env_fn: cloudpickled function that makes its environment
    :param control: shared counters of all workers
    """

    def __init__(self, context: BaseContext, index: int, env_fn: bytes, control: SharedArrays) -> None:
        self.index = index
        self._command_number = protocol.FIRST_COMMAND
        self._counters = control.of(index)
        self.connection, child = context.Pipe()
        child_lifeline, self._lifeline = context.Pipe(duplex=False)
        self._stack, child_stack = context.Pipe(duplex=False)
        self.process = context.Process(  # type: ignore[attr-defined]
            target=protocol.main,
            args=(child, child_lifeline, child_stack, env_fn, index, control.layout),
            name=f"worker-{index}",
            daemon=True,
        )
        self.process.start()
        assert self.process.pid is not None
        self.pid: int = self.process.pid
        for connection in (child, child_lifeline, child_stack):
            connection.close()

    @property
    def waitables(self) -> list[Connection | int]:
        """What becomes ready when there is a message or the process has ended."""
        return [self.connection, self.process.sentinel]

    @property
    def steps(self) -> int:
        """Grows with every step, reset and command that the worker begins or ends."""
        return int(self._counters["steps"][0])

    def send(self, message: bytes) -> None:
        """
        Send a message; a dead worker is noticed when its answer is waited for.

        :param message: first byte and body
        """
        with contextlib.suppress(OSError):
            self.connection.send_bytes(message)

    def send_command(self, name: str, *args: Any, **kwargs: Any) -> None:
        """
        Ask for a method of ``WorkerProcess``; the answer is REPLY or ERROR.

        :param name: the method
        """
        self._command_number += 1
        number = protocol.NUMBER_FORMAT.pack(self._command_number)
        self.send(protocol.COMMAND + number + cloudpickle.dumps((name, args, kwargs)))

    def cancel(self, job_number: int) -> None:
        """
        Say that a job is not wanted any more; seen after the worker's current step.

        :param job_number: of the job
        """
        self._counters["cancelled"][0] = job_number

    def wait(self, seconds: float) -> None:
        """
        Wait for a message or the end of the process.

        :param seconds: no longer than this
        """
        wait(self.waitables, timeout=seconds)

    def receive(self) -> tuple[bytes, Any] | None:
        """
        Return the next message as (first byte, content) if there is one.

        :raises EOFError: if the process has ended
        """
        if not self.connection.poll():
            if not self.process.is_alive():
                raise EOFError
            return None
        message = self.connection.recv_bytes()
        kind, body = message[:1], message[1:]
        if kind == protocol.ARRIVAL:
            return kind, protocol.RemoteArrival(*protocol.ARRIVAL_FORMAT.unpack(body))
        if kind == protocol.GRADIENT:
            return kind, None
        (number,) = protocol.NUMBER_FORMAT.unpack_from(body)
        if number not in (self._command_number, protocol.NO_COMMAND):
            return None  # the answer to a command whose caller was interrupted
        return kind, cloudpickle.loads(body[protocol.NUMBER_FORMAT.size :])

    def stack(self) -> str:
        """Ask the process, which may hang, where it is: the stacks of its threads."""
        text, until = b"", time.monotonic() + STACK_SECONDS
        with contextlib.suppress(OSError, EOFError):
            os.kill(self.pid, signal.SIGUSR1)
            while self._stack.poll(max(0.0, until - time.monotonic())) and (piece := os.read(self._stack.fileno(), 2**16)):
                text += piece
                until = min(until, time.monotonic() + STACK_PAUSE_SECONDS)  # it comes in pieces
        return text.decode(errors="replace") or f"(It has not said within {STACK_SECONDS:g} s where it is.)"

    def kill(self, dump_stack: bool = False) -> None:
        """
        End the process, whatever it does.

        :param dump_stack: write to stderr where it hangs, first
        """
        if dump_stack and self.process.is_alive():
            sys.stderr.write(self.stack())
        self.process.kill()
        self.process.join(JOIN_SECONDS)
        for connection in (self.connection, self._lifeline, self._stack):
            connection.close()

    def close(self, seconds: float) -> None:
        """
        Let the process end by itself, then make it.

        :param seconds: how long it may take
        """
        self.hang_up()
        self.process.join(seconds)
        self.kill()

    def release(self) -> None:
        """End the process for good: after this nothing can be asked of it, and it holds no open file."""
        self.kill()
        with contextlib.suppress(ValueError):  # it has not ended even now, and will not be waited for any longer
            self.process.close()

    def hang_up(self) -> None:
        """Close the connection, at which an idle worker closes its environment and ends; the lifeline would end it at once."""
        self.connection.close()


def raise_remote(content: tuple[bytes | None, str, str], worker: int) -> None:
    """
    Raise what a worker has raised, as the same type, with the worker's traceback as its cause.

    :param content: pickled exception (None if it could not travel), name of its type, traceback text
    :param worker: index of the worker
    """
    pickled, type_name, text = content
    error: BaseException = RuntimeError(f"{type_name} in worker {worker}")
    with contextlib.suppress(Exception):  # see encode_error: not everything that can be pickled can be made again
        error = cloudpickle.loads(pickled)
    raise error from RemoteError(f"in worker {worker}:\n{text}")
