"""How the parent reaches workers that are actors of a Ray cluster: calls, and the object store for parameters."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import ray

from sb3_nigt.messages import SamplingPoint
from sb3_nigt.parameters import Layout
from sb3_nigt.sampling.steps import StepTable
from sb3_nigt.vec_env.pool.arrays import WorkerArrays
from sb3_nigt.vec_env.pool.infos import InfoKeys, info_room
from sb3_nigt.vec_env.pool.transport import Transport
from sb3_nigt.vec_env.ray.buffers import BufferLayout, ReceivedArrays
from sb3_nigt.vec_env.ray.cluster import Connection
from sb3_nigt.vec_env.ray.handle import RayWorker


class RayTransport(Transport[RayWorker]):
    """
    Workers in actors.

    :param connection: connection to the cluster, released at the end
    :param env_fns: cloudpickled functions that make the environments
    :param options: options of each worker's actor
    :param beat_seconds: seconds between two requests for a worker's signs of life
    :param placement_timeout: seconds for which workers that are needed may be absent
    :param now: a function that returns seconds on a clock that does not jump
    :param info_keys: names of the entries of infos that are sent for every step; None: all
    :param worker_class: class of the handles
    """

    def __init__(
        self,
        connection: Connection,
        env_fns: Sequence[bytes],
        options: Sequence[dict[str, Any]],
        beat_seconds: float,
        placement_timeout: float,
        now: Callable[[], float],
        info_keys: InfoKeys = (),
        worker_class: type[RayWorker] = RayWorker,
    ) -> None:
        super().__init__(len(env_fns), now, info_keys)
        self._connection, self._env_fns, self._options = connection, env_fns, options
        self._beat_seconds, self._placement_timeout, self._worker_class = beat_seconds, placement_timeout, worker_class
        self._received: ReceivedArrays | None = None
        self._parameters: tuple[SamplingPoint, Any] | None = None  # of the newest point, in the object store

    def _new_handle(self, worker: int) -> RayWorker:
        return self._worker_class(worker, self._env_fns[worker], self._options[worker], self._beat_seconds, self.now)

    def ready(self, workers: Sequence[int], seconds: float) -> list[int]:
        """See ``Transport``."""
        handles = [self.handles[worker] for worker in workers]
        ended = [handle.index for handle in handles if handle.has_ended]
        by_reference = {ref: handle.index for handle in handles if not handle.has_ended for ref in handle.awaited}
        if not by_reference:
            time.sleep(0.0 if ended else seconds)
            return ended
        references = list(by_reference)
        done, _ = ray.wait(references, timeout=0.0 if ended else seconds)
        if done and len(references) > 1:
            done, _ = ray.wait(references, num_returns=len(references), timeout=0.0)
        return [*ended, *dict.fromkeys(by_reference[ref] for ref in done)]

    def why_no_place(self, worker: int) -> str:
        """See ``Transport``."""
        asked = {name: amount for name, amount in self._options[worker].items() if amount}
        free = {name: amount for name, amount in ray.available_resources().items() if not name.startswith("node:")}
        return (
            f"the cluster could not place it within {self._placement_timeout:g} s (placement_timeout). "
            f"It requests {asked}; available: {free}."
        )

    def end(self) -> None:
        """See ``Transport``."""
        for handle in self.handles:
            handle.kill()
        self._connection.release()

    def _new_arrays(self, table: StepTable, rows: int, layout: Layout) -> WorkerArrays:
        self._received = ReceivedArrays(
            BufferLayout(table, layout.n_parameters, rows, info_room(self.info_keys)), self.n_workers
        )
        return self._received

    def prepare(self, worker: int) -> None:
        """See ``Transport``."""
        self.handles[worker].arrays = self._received
        super().prepare(worker)

    def send_point(self, worker: int, point: SamplingPoint) -> None:
        """See ``Transport``."""
        if self._parameters is None or self._parameters[0] is not point:
            self._parameters = point, ray.put(point.parameters)  # once a round; the nodes fetch it from there
        self.handles[worker].set_parameters(self._parameters[1])
