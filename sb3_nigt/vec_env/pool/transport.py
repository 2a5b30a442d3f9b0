"""How the parent reaches its workers: one handle each, the arrays of a round, and one wait for all of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import numpy as np

from sb3_nigt.messages import SamplingPoint
from sb3_nigt.parameters import Layout
from sb3_nigt.sampling.steps import StepTable
from sb3_nigt.vec_env.base import RolloutSpec
from sb3_nigt.vec_env.pool.arrays import WorkerArrays, rows_of
from sb3_nigt.vec_env.pool.handle import WorkerHandle
from sb3_nigt.vec_env.pool.infos import InfoKeys
from sb3_nigt.vec_env.pool.segment_book import Progress

CLOSE_SECONDS = 1.0  # that workers get to close their environments

HandleT = TypeVar("HandleT", bound=WorkerHandle)


class Transport(ABC, Generic[HandleT]):
    """
    The workers as the parent can reach them. It decides nothing, and nothing here waits, unless it says so.

    :param n_workers: number of workers
    :param now: a function that returns seconds on a clock that does not jump
    :param info_keys: names of the entries of infos that are sent for every step; None: all
    :ivar handles: one handle per worker, of its last process or actor
    :ivar counters_are_seen: whether steps are seen as soon as they are made; otherwise workers report parts of their segments
    """

    counters_are_seen: bool = False

    def __init__(self, n_workers: int, now: Callable[[], float], info_keys: InfoKeys = ()) -> None:
        self.n_workers, self.now, self.info_keys = n_workers, now, info_keys
        self.handles: list[HandleT] = []
        self._arrays: WorkerArrays | None = None
        self._settings: tuple[bytes, int, int, bool, InfoKeys] | None = None
        self._first_worker = 0

    # Workers

    def start_all(self) -> None:
        """Start every worker for the first time."""
        for worker in range(self.n_workers):
            self.handles.append(self._new_handle(worker))

    def start(self, worker: int) -> None:
        """Start a worker whose process or actor has ended."""
        self.handles[worker] = self._new_handle(worker)

    @abstractmethod
    def _new_handle(self, worker: int) -> HandleT:
        """Start a process or an actor."""

    @abstractmethod
    def ready(self, workers: Sequence[int], seconds: float) -> list[int]:
        """
        Wait until one of some workers has said something; return those that have.

        :param workers: the workers that owe an answer
        :param seconds: maximum time to wait
        """

    def why_no_place(self, worker: int) -> str:
        """Say what a worker that is absent asks for, and what there is; only a cluster can have no place."""
        return "there is no place for it"

    def close(self, able: Sequence[int]) -> None:
        """
        End all workers; wait for a moment while they close their environments.

        :param able: workers that wait for messages, or will when their step has ended
        """
        for worker, handle in enumerate(self.handles):
            if worker not in able:
                handle.kill()
        until = self.now() + CLOSE_SECONDS
        for worker in able:
            self.handles[worker].hang_up()
        for worker in able:
            self.handles[worker].close(max(0.0, until - self.now()))

    @abstractmethod
    def end(self) -> None:
        """Kill what is left and let go of everything; for ``close``, the garbage collector and the interpreter's exit."""

    # Rounds

    def take_settings(self, policy: bytes, spec: RolloutSpec, table: StepTable, layout: Layout) -> Callable[[], None]:
        """
        Make room for rounds with other settings.

        :param policy: the workers' policy, pickled
        :param spec: the settings
        :param table: table of the steps of a trajectory
        :param layout: layout of the policy's parameters and buffers
        :return: lets go of the room of the rounds before, which workers may no longer use
        :raises ValueError: if there is not enough room; then nothing has changed
        """
        arrays = self._new_arrays(table, rows_of(spec.n_steps, spec.round_steps), layout)
        old, self._arrays = self._arrays, arrays
        self._settings = policy, spec.n_steps, spec.seed, spec.stagger, self.info_keys
        self._first_worker = spec.first_worker
        return lambda: None if old is None else self._let_go(old)

    @abstractmethod
    def _new_arrays(self, table: StepTable, rows: int, layout: Layout) -> WorkerArrays:
        """Return arrays for what the workers and their parent exchange in a round."""

    def _let_go(self, arrays: WorkerArrays) -> None:
        """Close arrays that are no longer used."""
        arrays.close()

    @property
    def arrays(self) -> WorkerArrays:
        """What the workers and their parent exchange in a round."""
        assert self._arrays is not None
        return self._arrays

    def prepare(self, worker: int) -> None:
        """Tell a worker of the settings."""
        assert self._settings is not None
        self.handles[worker].send_command("prepare", worker, *self._settings, self._first_worker + worker, self.arrays.layout)

    @abstractmethod
    def send_point(self, worker: int, point: SamplingPoint) -> None:
        """Let a worker have the parameters of its next job."""

    # Rounds of steps

    def progress(self) -> Progress:
        """Return the counters of all workers; zeros where they cannot be seen."""
        zeros = np.zeros(self.n_workers, dtype=np.int64)
        return Progress(zeros, zeros, zeros)
