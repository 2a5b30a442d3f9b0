"""The parent's handle on one worker process: start, talk, kill."""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import socket
import struct
import sys
from collections.abc import Callable, Sequence
from dataclasses import astuple
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from typing import Any

import cloudpickle

from sb3_nigt.messages import Contribution, SegmentStart, TrajectoryKey
from sb3_nigt.vec_env.pool import protocol
from sb3_nigt.vec_env.pool.handle import WorkerHandle
from sb3_nigt.vec_env.process import life
from sb3_nigt.vec_env.process.shared_memory import SharedArrays
from sb3_nigt.vec_env.process.worker import main as worker_main

STACK_SECONDS = 1.0  # granted to a hung worker for saying where it is
STACK_PAUSE_SECONDS = 0.1  # after which it has said everything
JOIN_SECONDS = 1.0
LONGEST_LIMIT = 1e8  # seconds
PIPE_BYTES = 2**14  # that a pipe takes on all systems although nothing is read


def limit_waits(connection: Connection, seconds: float) -> None:
    """
    Let a read raise BlockingIOError where nothing comes for some time, and a write where nothing is read.

    :param connection: one end of a pipe, which is a socket
    :param seconds: how long to wait for the next bytes; more than three years: for ever
    """
    if seconds > LONGEST_LIMIT:
        return
    with socket.socket(fileno=os.dup(connection.fileno())) as end:  # another name of the same one
        end.settimeout(None)  # or it has the default of the user's other sockets
        whole = math.floor(seconds)
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            end.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", whole, int(1e6 * (seconds - whole)) or 1))


class RemoteWorker(WorkerHandle):
    """
    One worker process.

    :param context: start method
    :param index: index of the worker
    :param env_fn: cloudpickled function that makes its environment
    :param control: the shared counters of all workers
    :param stacks: pipe of all workers through which they say where they hang
    :param now: a function that returns seconds on a clock that does not jump
    :param timeout: seconds for which the rest of a message may not come
    """

    def __init__(
        self,
        context: BaseContext,
        index: int,
        env_fn: bytes,
        control: SharedArrays,
        stacks: tuple[Connection, Connection],
        now: Callable[[], float],
        timeout: float,
    ) -> None:
        self.index, self._now, self._stacks = index, now, stacks[0]
        self._command_number = protocol.FIRST_COMMAND
        self._gradient_number: int | None = None  # of the one that is waited for
        self._counters = control.of(index)
        self._counters["cancelled"][0] = 0
        self._counters["answering"][0] = self._counters["requested"][0]  # what a predecessor has left undone
        self.connection, child = context.Pipe()
        limit_waits(self.connection, timeout)
        self._timeout, self._reads_nothing = timeout, False
        self._poll = select.poll()  # a tenth of the time of connection.poll(), which makes a new selector each time
        self._poll.register(self.connection, select.POLLIN)
        self.process = context.Process(  # type: ignore[attr-defined]
            target=worker_main,
            args=(child, os.getpid(), stacks[1], env_fn, index, control.layout),
            name=f"worker-{index}",
            daemon=True,  # it is not waited for when the interpreter exits; the worker itself does not know
        )
        try:
            with life.may_start_processes():
                self.process.start()
        except BaseException:
            self.connection.close()
            raise
        finally:
            child.close()
        assert self.process.pid is not None
        self.pid: int = self.process.pid
        self._is_killed = False

    def is_alive(self) -> bool:
        """See ``WorkerHandle``."""
        return self.process.is_alive()  # type: ignore[no-any-return]

    def how_it_ended(self) -> str:
        """See ``WorkerHandle``."""
        self.process.join(JOIN_SECONDS)
        if self._reads_nothing:
            return f"it did not read a message for {self._timeout:g} s (timeout={self._timeout:g})"
        return f"its process ended with exit code {self.process.exitcode}"

    @property
    def steps(self) -> int:
        """Grows with every step, reset and command that the worker begins or ends."""
        return int(self._counters["steps"][0])

    def send(self, message: bytes) -> None:
        """
        Send a message; a dead worker is noticed when its answer is waited for.

        :param message: first byte and body
        """
        self._command_number += 1  # what the last command would still answer is not the answer to this
        try:
            self.connection.send_bytes(message)
        except BlockingIOError:  # a part of it may have been read, and no other can follow it
            self._reads_nothing = True
            self.end()
        except OSError:
            pass
        except BaseException:  # such as KeyboardInterrupt: half a message may be on its way, and no other can follow it
            self.end()
            raise

    def send_call(self, call: bytes) -> None:
        """See ``WorkerHandle``."""
        self.send(protocol.COMMAND + protocol.NUMBER_FORMAT.pack(self._command_number + 1) + call)

    def send_context(self, context: bytes) -> None:
        """See ``WorkerHandle``."""
        self.send(protocol.CONTEXT + context)

    def run(self, job_number: int, point_number: int, round_: int, key: TrajectoryKey) -> None:
        """See ``WorkerHandle``."""
        self.send(protocol.JOB + protocol.JOB_FORMAT.pack(job_number, point_number, round_, *key))

    def run_segment(self, job_number: int, point_number: int, round_: int, start: SegmentStart, n_steps: int) -> None:
        """See ``WorkerHandle``."""
        for name in ("made", "pieces", "rejected"):  # of the last job, or of a process that has ended
            self._counters[name][0] = 0
        self.send(protocol.SEGMENT + protocol.SEGMENT_FORMAT.pack(job_number, point_number, round_, *astuple(start), n_steps))

    def cancel(self, job_number: int) -> None:
        """Say that a job is no longer wanted; seen after the worker's current step."""
        self._counters["cancelled"][0] = job_number

    def request_gradient(self, contributions: Sequence[Contribution]) -> None:
        """See ``WorkerHandle``."""
        number = int(self._counters["requested"][0]) + 1
        message = protocol.encode_contributions(number, contributions)
        # A worker that sees the number reads the message at once. So the number comes after the message, unless that is too
        # long for the pipe: then it can be written only while the worker reads.
        fits = len(message) <= PIPE_BYTES
        if not fits:
            self._counters["requested"][0] = number
        self.send(message)
        self._counters["requested"][0] = number
        self._gradient_number = number

    @property
    def has_begun_gradient(self) -> bool:
        """See ``WorkerHandle``."""
        return bool(self._counters["answering"][0] == self._gradient_number)

    def drop_gradient(self) -> None:
        """No longer wait for a gradient; if it arrives anyway it is ignored."""
        self._gradient_number = None

    def receive(self, seconds: float = 0.0) -> tuple[bytes, Any] | None:
        """
        Return the next message as (first byte, content) if there is one.

        :param seconds: how long to wait for it
        :raises EOFError: if the process has ended
        :raises TimeoutError: if it has stopped in the middle of a message
        """
        if self.connection.closed:
            raise EOFError
        if not self._poll.poll(1000 * seconds):  # the end of the process ends the wait as well: its connection closes
            if not self.process.is_alive():
                raise EOFError
            return None
        try:
            message = self.connection.recv_bytes()
        except BlockingIOError:
            raise TimeoutError("it has stopped in the middle of a message") from None
        kind, body = message[:1], message[1:]
        if kind == protocol.ARRIVAL:
            return kind, protocol.RemoteArrival(*protocol.ARRIVAL_FORMAT.unpack(body))
        if kind == protocol.SEGMENT:
            return kind, protocol.SegmentArrival(*protocol.SEGMENT_ARRIVAL_FORMAT.unpack(body))
        (number,) = protocol.NUMBER_FORMAT.unpack_from(body)
        if kind == protocol.GRADIENT:
            if number != self._gradient_number:
                return None
            self._gradient_number = None
            return kind, None
        if number not in (self._command_number, protocol.NO_COMMAND):
            return None  # the answer to a command whose caller was interrupted
        return kind, cloudpickle.loads(body[protocol.NUMBER_FORMAT.size :])

    def stack(self) -> str:
        """Ask the process, which may hang, where it is: the stacks of its threads; empty if it does not answer."""
        text, until = b"", self._now() + STACK_SECONDS
        with contextlib.suppress(OSError, EOFError):
            while self._stacks.poll():  # of another worker, which was late
                os.read(self._stacks.fileno(), 2**16)
            os.kill(self.pid, signal.SIGUSR1)
            while self._stacks.poll(max(0.0, until - self._now())):
                text += os.read(self._stacks.fileno(), 2**16)
                until = min(until, self._now() + STACK_PAUSE_SECONDS)  # it comes in pieces
        return text.decode(errors="replace")

    def kill(self, dump_stack: bool = False) -> None:
        """
        End the process and all that its environment has started, whatever they do.

        :param dump_stack: whether to write to stderr first where it hangs
        """
        if dump_stack and self.process.is_alive():
            sys.stderr.write(self.stack())
        self.drop_gradient()
        self.end()
        self.process.join(JOIN_SECONDS)
        self.connection.close()

    def end(self) -> None:
        """Kill the process and its group, without waiting; once, since the number of a group that has gone is free again."""
        if not self._is_killed:
            self._is_killed = True
            self.process.kill()
            life.kill_group(self.pid)

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
        """
        Tell a worker to close its environment and to end.

        The connection stays open until it has: a worker that cannot send its last answer ends at once, as without a parent.
        """
        self.send(protocol.CLOSE)
