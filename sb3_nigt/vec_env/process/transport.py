"""How the parent reaches workers that are processes of its machine: pipes, and shared memory for the data of a round."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Sequence
from multiprocessing.context import BaseContext

from sb3_nigt.messages import SamplingPoint
from sb3_nigt.parameters import Layout
from sb3_nigt.sampling.steps import StepTable
from sb3_nigt.vec_env.pool.arrays import CONTROL, WorkerArrays, round_fields
from sb3_nigt.vec_env.pool.infos import InfoKeys, info_room
from sb3_nigt.vec_env.pool.segment_book import Progress
from sb3_nigt.vec_env.pool.transport import Transport
from sb3_nigt.vec_env.process.handle import RemoteWorker
from sb3_nigt.vec_env.process.life import which_limit
from sb3_nigt.vec_env.process.shared_memory import SharedArrays

SHORTEST_POLL_SECONDS = 0.001


class ProcessTransport(Transport[RemoteWorker]):
    """
    Worker processes.

    :param context: start method
    :param env_fns: cloudpickled functions that make the environments
    :param now: a function that returns seconds on a clock that does not jump, the same in all processes
    :param timeout: seconds for which the rest of a message may not come
    :param info_keys: names of the entries of infos that are sent for every step; None: all
    :ivar blocks: shared memory that is in use
    """

    counters_are_seen = True

    def __init__(
        self,
        context: BaseContext,
        env_fns: Sequence[bytes],
        now: Callable[[], float],
        timeout: float,
        info_keys: InfoKeys = (),
    ) -> None:
        super().__init__(len(env_fns), now, info_keys)
        self._timeout = timeout
        self._context, self._env_fns, self._owner = context, env_fns, os.getpid()
        self._stacks = context.Pipe(duplex=False)
        self._control = SharedArrays(CONTROL, len(env_fns))
        self.blocks: list[WorkerArrays] = [self._control]
        self._polled: list[int] | None = None  # workers that the two below are made for
        self._poll, self._by_descriptor = select.poll(), dict[int, int]()

    def _new_handle(self, worker: int) -> RemoteWorker:
        self._polled = None
        try:
            return RemoteWorker(
                self._context, worker, self._env_fns[worker], self._control, self._stacks, self.now, self._timeout
            )
        except OSError as error:
            raise OSError(error.errno, f"worker {worker} could not be started: {which_limit(error)}") from error

    def ready(self, workers: Sequence[int], seconds: float) -> list[int]:
        """See ``Transport``."""
        if workers != self._polled:
            try:
                self._by_descriptor = {self.handles[worker].connection.fileno(): worker for worker in workers}
            except OSError:  # Ctrl-C has come between the end of a process and the start of the next one
                return [worker for worker in workers if self.handles[worker].connection.closed]
            self._poll, self._polled = select.poll(), list(workers)
            for descriptor in self._by_descriptor:
                self._poll.register(descriptor, select.POLLIN)
        if seconds < SHORTEST_POLL_SECONDS:  # which poll would round up
            time.sleep(seconds)
            seconds = 0.0
        return [self._by_descriptor[descriptor] for descriptor, _ in self._poll.poll(1000 * seconds)]

    def _new_arrays(self, table: StepTable, rows: int, layout: Layout) -> WorkerArrays:
        arrays = SharedArrays(round_fields(table, rows, layout, info_room(self.info_keys)), self.n_workers)
        self.blocks.append(arrays)
        return arrays

    def _let_go(self, arrays: WorkerArrays) -> None:
        self.blocks.remove(arrays)
        arrays.close()

    def send_point(self, worker: int, point: SamplingPoint) -> None:
        """See ``Transport``."""
        self.arrays.of(worker)["parameters"][:] = point.parameters

    def progress(self) -> Progress:
        """See ``Transport``; a worker writes these counters in the other order."""
        made, pieces, rejected = map(self._control.column, ("made", "pieces", "rejected"))
        return Progress(made, pieces, rejected)

    def end(self) -> None:
        """See ``Transport``; a copy in a process that this one has forked leaves the workers alone."""
        if os.getpid() != self._owner:
            return
        for handle in self.handles:
            handle.end()
        for handle in self.handles:
            handle.release()
        for block in self.blocks:
            block.close()
        self.blocks.clear()
        for connection in self._stacks:
            connection.close()
