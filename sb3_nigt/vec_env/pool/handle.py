"""What a parent asks of a worker that runs elsewhere, whether that is a process of this machine or an actor of a cluster."""

from __future__ import annotations

import pickle
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import cloudpickle

from sb3_nigt.messages import Contribution, SegmentStart, TrajectoryKey


class WorkerHandle(ABC):
    """
    One worker: talk, listen, kill. Nothing here waits, unless it says so.

    :ivar index: index of the worker
    :ivar pid: process id, on its machine
    :ivar is_placed: whether there is a process
    :ivar answers_to_nobody: whether it is alive but its answers would be lost: Ctrl-C came between a call and its note
    :ivar node_has_left: whether the machine on which it ran is known to be gone
    """

    index: int
    pid: int | None
    is_placed: bool = True
    answers_to_nobody: bool = False
    node_has_left: bool = False

    @abstractmethod
    def is_alive(self) -> bool:
        """Whether it can still be talked to, as far as is known."""

    @abstractmethod
    def how_it_ended(self) -> str:
        """Say what is known of the end of a worker, which has come."""

    @property
    @abstractmethod
    def steps(self) -> int:
        """Grows with every step, reset and command that the worker begins or ends."""

    # Jobs

    @abstractmethod
    def send_context(self, context: bytes) -> None:
        """
        Send what does not travel with the parameters of a sampling point, for the jobs that follow.

        :param context: ``transform_obs`` and ``buffers`` of ``SamplingPoint``, pickled
        """

    @abstractmethod
    def run(self, job_number: int, point_number: int, round_: int, key: TrajectoryKey) -> None:
        """
        Start a trajectory; the answer is ARRIVAL.

        :param job_number: number of the job, larger than the previous one
        :param point_number: number of the point, different from the previous one if there are new parameters
        :param round_: the round that begins at that point
        :param key: name of the trajectory
        """

    @abstractmethod
    def run_segment(self, job_number: int, point_number: int, round_: int, start: SegmentStart, n_steps: int) -> None:
        """
        Start stepping where the environment is; the answer is SEGMENT.

        :param job_number: number of the job, larger than the previous one
        :param point_number: number of the point, different from the previous one if there are new parameters
        :param round_: the round that begins at that point
        :param start: where the worker is
        :param n_steps: maximum number of steps
        """

    @abstractmethod
    def cancel(self, job_number: int) -> None:
        """Say that a job is no longer wanted; seen after the worker's current step."""

    # Gradients

    @abstractmethod
    def request_gradient(self, contributions: Sequence[Contribution]) -> None:
        """
        Ask for S_i over trajectories that the worker holds; seen after its current step.

        :param contributions: the names of the trajectories and the coefficients of their scores
        """

    @property
    @abstractmethod
    def has_begun_gradient(self) -> bool:
        """Whether the worker has begun with the gradient that was asked for last."""

    @abstractmethod
    def drop_gradient(self) -> None:
        """No longer wait for a gradient; if it arrives anyway it is ignored."""

    # Commands

    def send_command(self, name: str, *args: Any) -> None:
        """
        Call a method of ``pool.worker.Worker``; the answer is REPLY or ERROR.

        :param name: the method
        :param args: its arguments
        """
        self.send_call(encode_call(name, *args))

    @abstractmethod
    def send_call(self, call: bytes) -> None:
        """
        Send a command that has been packed before.

        :param call: the result of ``encode_call``
        """

    @abstractmethod
    def receive(self, seconds: float = 0.0) -> tuple[bytes, Any] | None:
        """
        Return the next message as (first byte, content) if there is one.

        :param seconds: how long to wait for it
        :raises EOFError: if the worker has ended
        :raises TimeoutError: if it has stopped in the middle of a message
        """

    # The end

    @abstractmethod
    def stack(self) -> str:
        """Ask the worker, which may hang, where it is; wait a moment for the answer."""

    @abstractmethod
    def kill(self, dump_stack: bool = False) -> None:
        """
        End it, whatever it does.

        :param dump_stack: whether to write to stderr first where it hangs
        """

    @abstractmethod
    def hang_up(self) -> None:
        """Let an idle worker close its environment and end."""

    @abstractmethod
    def close(self, seconds: float) -> None:
        """
        Let it end by itself, then make it.

        :param seconds: how long it may take
        """


def encode_call(name: str, *args: Any) -> bytes:
    """
    Pack the call of a method of ``pool.worker.Worker``.

    :param name: the method
    :param args: its arguments
    """
    if all(type(arg) is bytes for arg in args):  # a step: plain pickle is many times faster
        return pickle.dumps((name, args))
    encoded: bytes = cloudpickle.dumps((name, args))  # brings also functions and classes that the worker cannot import
    return encoded
