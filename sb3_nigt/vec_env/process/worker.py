"""The worker process: its entry point, and the shared arrays through which a round's data goes."""

from __future__ import annotations

import faulthandler
import signal
from multiprocessing.connection import Connection
from typing import Any

import cloudpickle
import numpy as np
import numpy.typing as npt
import torch as th
from stable_baselines3.common.vec_env.patch_gym import _patch_env

from sb3_nigt.sampling.steps import write_steps
from sb3_nigt.sampling.trajectory import Trajectory
from sb3_nigt.vec_env.pool import protocol
from sb3_nigt.vec_env.pool.worker import Worker
from sb3_nigt.vec_env.process import life
from sb3_nigt.vec_env.process.script import give_names
from sb3_nigt.vec_env.process.shared_memory import SharedArrays, SharedLayout


class WorkerProcess(Worker):
    """A worker in a process of the learner's machine: parameters, steps and gradients lie in shared memory."""

    _block: SharedArrays | None = None

    def _open_arrays(self, index: int, layout: SharedLayout) -> dict[str, npt.NDArray[Any]]:
        if self._block is not None:
            self._block.close()
        self._block = SharedArrays.attach(layout)
        self._arrays = self._block.of(index)
        return self._arrays

    def _parameters(self) -> npt.NDArray[np.float32]:
        return self._arrays["parameters"].copy()

    def _send_arrival(self, trajectory: Trajectory, message: bytes) -> None:
        write_steps(trajectory, self._arrays)
        self.connection.send_bytes(message)

    def _send_segment(self, said: protocol.SegmentArrival, message: bytes) -> None:
        self.connection.send_bytes(message)

    def _send_gradient(self, total: npt.NDArray[np.float32], message: bytes) -> None:
        self._arrays["gradient"][:] = total
        self.connection.send_bytes(message)


def main(connection: Connection, parent: int, stack: Connection, env_fn: bytes, index: int, control: SharedLayout) -> None:
    """
    Entry point of the process.

    :param connection: connection to the parent
    :param parent: its process id
    :param stack: pipe for the stacks of all threads when the parent asks with SIGUSR1 where a hung worker is
    :param env_fn: cloudpickled function that makes the environment
    :param index: index of the worker
    :param control: shared counters
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    faulthandler.register(signal.SIGUSR1, file=stack.fileno())
    life.begin(parent)
    th.set_num_threads(1)
    block = SharedArrays.attach(control)
    try:
        make_env = cloudpickle.loads(env_fn)
        give_names(make_env)
        worker = WorkerProcess(connection, _patch_env(make_env()), block.of(index))
        connection.send_bytes(
            protocol.REPLY + protocol.NUMBER_FORMAT.pack(protocol.FIRST_COMMAND) + cloudpickle.dumps(worker.describe())
        )
    except Exception as error:
        connection.send_bytes(
            protocol.ERROR + protocol.NUMBER_FORMAT.pack(protocol.FIRST_COMMAND) + protocol.encode_error(error)
        )
        return
    try:
        worker.serve()
    except (EOFError, OSError):  # the parent has gone without a word
        life.end_group()
    worker.env.close()
