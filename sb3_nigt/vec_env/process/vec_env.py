"""Workers as processes of this machine, on the wall clock."""

from __future__ import annotations

import multiprocessing as mp
import select
import weakref
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import gymnasium as gym

from sb3_nigt.messages import SamplingPoint
from sb3_nigt.parameters import Layout
from sb3_nigt.sampling.steps import StepTable
from sb3_nigt.timing.time_models import TimeModel
from sb3_nigt.vec_env.pool.arrays import CONTROL, WorkerArrays, round_fields
from sb3_nigt.vec_env.pool.pool import WorkerPool
from sb3_nigt.vec_env.pool.restarts import RestartLimits
from sb3_nigt.vec_env.pool.slot import Slot
from sb3_nigt.vec_env.process.handle import RemoteWorker
from sb3_nigt.vec_env.process.shared_memory import SharedArrays


class ProcessVecEnv(WorkerPool):
    """
    One operating-system process a worker, on the wall clock.

    Workers run whole trajectories with their own copy of the policy. Parameters go out and steps and gradients come back
    through shared memory; the messages of a round have a few bytes. A worker that dies, hangs or raises is restarted and
    repeats its trajectory with the same random numbers, so nothing is lost and nothing counts twice.

    It has Stable-Baselines3's synchronous API as well, so PPO runs on it.

    :param env_fns: one function a worker that makes its environment
    :param task_ids: the task of each worker; workers with equal ids are exchangeable. None: unspecified
    :param start_method: "forkserver" or "spawn"; None: forkserver where there is one
    :param timeout: seconds without any sign of life (a step, a reset) after which a worker counts as hung; workers whose
        steps are slow get more
    :param max_restarts: restarts of one worker before it counts as lost
    :param max_restarts_per_minute: restarts of one worker within 60 seconds before it counts as lost; None: no limit
    :param time_model: ratios of the speeds until they are measured
    :raises ValueError: if lengths differ from the number of workers, or spaces differ between workers
    """

    can_be_interrupted = True
    _slots: list[Slot[RemoteWorker]]

    def __init__(
        self,
        env_fns: Sequence[Callable[[], gym.Env[Any, Any]]],
        task_ids: Sequence[Hashable] | None = None,
        start_method: str | None = None,
        timeout: float = 60.0,
        max_restarts: int = 10,
        max_restarts_per_minute: int | None = 10,
        time_model: TimeModel | None = None,
    ) -> None:
        env_fns = list(env_fns)
        if getattr(mp.current_process(), "_inheriting", False):
            raise RuntimeError(
                "ProcessVecEnv was made while a worker imports your script: put the code of the script that makes it behind "
                'the line: if __name__ == "__main__":'
            )
        if not env_fns:
            raise ValueError("env_fns=[] is not allowed: give one function for each worker, at least one.")
        if start_method not in (None, "forkserver", "spawn"):
            raise ValueError(f'start_method: cannot find context for {start_method!r}, give "forkserver", "spawn" or None.')
        limits = RestartLimits(max_restarts, max_restarts_per_minute)
        self._prepare_pool(env_fns, task_ids, timeout, limits, time_model)
        self._context = mp.get_context(
            start_method or ("forkserver" if "forkserver" in mp.get_all_start_methods() else "spawn")
        )
        if self._context.get_start_method() == "forkserver":
            self._context.set_forkserver_preload(["sb3_nigt.vec_env.process.preload"])
        self._control = SharedArrays(CONTROL, len(env_fns))
        self._blocks.append(self._control)
        # also when __init__ raises, and at the interpreter's exit
        self._finalizer = weakref.finalize(self, _end, self._slots, self._blocks)
        try:
            self._slots.extend(Slot(self._start(index), limits) for index in range(len(env_fns)))
            self._open(self._wait_for_start())
        except BaseException:
            self.close()
            raise

    def _start(self, index: int) -> RemoteWorker:
        return RemoteWorker(self._context, index, self._env_fns[index], self._control)

    @property
    def worker_pids(self) -> list[int | None]:
        """Process ids of the workers, of the last process where one has died."""
        return [slot.remote.process.pid for slot in self._slots]

    def _new_block(self, table: StepTable, horizon: int, layout: Layout) -> WorkerArrays:
        return SharedArrays(round_fields(table, horizon, layout), len(self._slots))

    def _send_point(self, slot: Slot[RemoteWorker], point: SamplingPoint) -> None:
        assert self._block is not None
        self._block.of(slot.remote.index)["parameters"][:] = point.parameters

    def _ready(self, slots: Sequence[Slot[RemoteWorker]], seconds: float) -> list[Slot[RemoteWorker]]:
        by_descriptor = {slot.remote.connection.fileno(): slot for slot in slots}
        poll = select.poll()
        for descriptor in by_descriptor:
            poll.register(descriptor, select.POLLIN)
        return [by_descriptor[descriptor] for descriptor, _ in poll.poll(1000 * seconds)]


def _end(slots: list[Slot[RemoteWorker]], blocks: list[WorkerArrays]) -> None:
    """Kill what is left of the processes; for ``close``, the garbage collector and the interpreter's exit."""
    for slot in slots:
        slot.remote.process.kill()
    for slot in slots:
        slot.remote.release()
    for block in blocks:
        block.close()
    blocks.clear()
