"""Workers as actors of a Ray cluster, which may come and go."""

from __future__ import annotations

import time
import warnings
import weakref
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import ray
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices

from sb3_nigt.errors import WorkerError
from sb3_nigt.messages import RETURNED, SamplingPoint
from sb3_nigt.parameters import Layout
from sb3_nigt.sampling.steps import StepTable
from sb3_nigt.timing.time_models import TimeModel
from sb3_nigt.validation import check_bool, check_integer, check_interval
from sb3_nigt.vec_env.pool import protocol
from sb3_nigt.vec_env.pool.commands import START_SECONDS
from sb3_nigt.vec_env.pool.pool import POLL_SECONDS, WorkerPool
from sb3_nigt.vec_env.pool.protocol import raise_remote
from sb3_nigt.vec_env.pool.restarts import RestartLimits
from sb3_nigt.vec_env.pool.slot import Slot, State
from sb3_nigt.vec_env.ray.buffers import BufferLayout, ReceivedArrays
from sb3_nigt.vec_env.ray.cluster import Connection, connect
from sb3_nigt.vec_env.ray.handle import RayWorker
from sb3_nigt.vec_env.ray.options import actor_options, total

PLACE_SECONDS = 10.0  # without a place; then a worker counts as absent, and others take over what it was to do
LONGEST_BEAT_SECONDS = 1.0  # between two looks at a worker's signs of life; a twentieth of ``timeout`` if that is shorter


class RayVecEnv(WorkerPool):
    """
    One Ray actor a worker, on the wall clock: ``ProcessVecEnv`` on the machines of a cluster.

    The same trajectories for (seed, round, worker, job) as on any other workers, and the same limits for restarts; a worker
    that fails is started anew wherever the cluster has a place. Workers may come and go: one that the cluster has no place
    for is absent, rounds go on without it where their rule allows that, and it joins as soon as there is a place.

    The number of environments is fixed; it is the largest number of workers. Stable-Baselines3's synchronous API, and so
    PPO, needs all of them.

    :param env_fns: one function a worker that makes its environment
    :param task_ids: the task of each worker; workers with equal ids are exchangeable. None: unspecified
    :param address: "local": start Ray here; "auto": the cluster that this machine is part of; "host:port" or
        "ray://host:port"; None: the connection that this process has, else what RAY_ADDRESS says, else "local"
    :param num_cpus: CPUs that Ray counts for a worker, one number for all or a list of one a worker
    :param num_gpus: GPUs that Ray counts for a worker, one number for all or a list of one a worker
    :param resources: custom resources of a worker, such as {"simulator": 1}; one dict for all or a list of one a worker
    :param scheduling_strategy: where the workers may run, as Ray takes it ("SPREAD", a placement group, a node, labels); one
        for all or a list of one a worker
    :param timeout: seconds without any sign of life (a step, a reset) after which a worker counts as hung; workers whose
        steps are slow get more
    :param max_restarts: restarts of one worker before it counts as lost; the end of its node is none
    :param max_restarts_per_minute: restarts of one worker within 60 seconds before it counts as lost; None: no limit
    :param min_workers: how many workers there must be at the start; None: all
    :param placement_timeout: seconds for which workers that are needed may be absent before it is an error
    :param allow_unauthenticated: take also a Ray that everybody who reaches it may use
    :param time_model: ratios of the speeds until they are measured
    :raises ValueError: for values that are not allowed, a cluster without authentication, spaces that differ between workers
    :raises WorkerError: if the cluster has no place for the workers
    """

    _slots: list[Slot[RayWorker]]

    def __init__(
        self,
        env_fns: Sequence[Callable[[], gym.Env[Any, Any]]],
        task_ids: Sequence[Hashable] | None = None,
        address: str | None = None,
        num_cpus: float | Sequence[float] = 1.0,
        num_gpus: float | Sequence[float] = 0.0,
        resources: dict[str, float] | Sequence[dict[str, float]] | None = None,
        scheduling_strategy: Any = None,
        timeout: float = 60.0,
        max_restarts: int = 10,
        max_restarts_per_minute: int | None = 10,
        min_workers: int | None = None,
        placement_timeout: float = 120.0,
        allow_unauthenticated: bool = False,
        time_model: TimeModel | None = None,
    ) -> None:
        env_fns = list(env_fns)
        if not env_fns:
            raise ValueError("env_fns=[] is not allowed: give one function for each worker, at least one.")
        limits = RestartLimits(max_restarts, max_restarts_per_minute)
        self._prepare_pool(env_fns, task_ids, timeout, limits, time_model)
        self._actor_options = actor_options(len(env_fns), num_cpus, num_gpus, resources, scheduling_strategy)
        self.placement_timeout = check_interval("placement_timeout", placement_timeout, 0.0, float("inf"), open_low=True)
        n_needed = _checked_min_workers(min_workers, len(env_fns))
        if address is not None and (not isinstance(address, str) or not address):
            raise ValueError(
                f'address={address!r} is not allowed: give "local", "auto", "host:port", "ray://host:port" or None.'
            )
        check_bool("allow_unauthenticated", allow_unauthenticated)
        self._parameters: tuple[SamplingPoint, Any] | None = None  # of the newest point, in the object store
        connection = connect(address, allow_unauthenticated, *total(self._actor_options))
        # also when __init__ raises, and at the interpreter's exit
        self._finalizer = weakref.finalize(self, _end, self._slots, connection)
        try:
            self._slots.extend(Slot(self._start(index), limits) for index in range(len(env_fns)))
            described = self._wait_for_workers(n_needed)
            self._render_mode = described[0][2]
            self._open(described)
        except BaseException:
            self.close()
            raise

    def _start(self, index: int) -> RayWorker:
        beat = min(LONGEST_BEAT_SECONDS, self.timeout / 20)
        return RayWorker(index, self._env_fns[index], self._actor_options[index], beat)

    def _wait_for_workers(self, n_needed: int) -> list[tuple[Any, ...]]:
        """Return what the first workers say of their environments; raise what making one has raised."""
        described: dict[int, tuple[Any, ...]] = {}
        began = time.monotonic()
        while len(described) < n_needed:
            waiting = [slot for slot in self._slots if slot.state == State.STARTING]
            for slot in self._ready(waiting, POLL_SECONDS):
                index = slot.remote.index
                try:
                    answer = slot.remote.receive()
                except EOFError:
                    raise WorkerError(slot.remote.how_it_ended(), index, self.task_ids[index]) from None
                if answer is not None and answer[0] == protocol.ERROR:
                    raise_remote(answer[1], index)
                if answer is not None:
                    described[index], slot.state = answer[1], State.IDLE
            self._check_start(n_needed, time.monotonic() - began)
        return [described[index] for index in sorted(described)]

    def _check_start(self, n_needed: int, seconds: float) -> None:
        unplaced = [slot.remote.index for slot in self._slots if not slot.remote.placed]
        if len(self._slots) - len(unplaced) < n_needed and seconds > self.placement_timeout:
            raise self._no_place(unplaced[0], "Give a smaller num_cpus, more nodes, or min_workers=... to begin with fewer.")
        if seconds > self.placement_timeout + START_SECONDS:
            late = next(slot.remote.index for slot in self._slots if slot.state == State.STARTING and slot.remote.placed)
            raise WorkerError(f"its environment was not made within {START_SECONDS:g} s", late, self.task_ids[late])

    @property
    def worker_pids(self) -> list[int | None]:
        """Process ids of the workers, each on its node, of the last process where one has died; None: never placed."""
        return [slot.remote.pid for slot in self._slots]

    @property
    def absent(self) -> frozenset[int]:
        """Workers that the cluster has no place for at this time."""
        return frozenset(slot.remote.index for slot in self._slots if slot.state == State.ABSENT)

    # Transport

    def _new_block(self, table: StepTable, horizon: int, layout: Layout) -> ReceivedArrays:
        self._received = ReceivedArrays(BufferLayout(table, layout.n_parameters), len(self._slots))
        return self._received

    def _prepare_worker(self, index: int) -> None:
        self._slots[index].remote.arrays = self._received
        super()._prepare_worker(index)

    def _send_point(self, slot: Slot[RayWorker], point: SamplingPoint) -> None:
        if self._parameters is None or self._parameters[0] is not point:
            self._parameters = point, ray.put(point.parameters)  # once a round; the nodes fetch it from there
        slot.remote.set_parameters(self._parameters[1])

    def _ready(self, slots: Sequence[Slot[RayWorker]], seconds: float) -> list[Slot[RayWorker]]:
        ended = [slot for slot in slots if slot.remote.has_ended]
        by_reference = {ref: slot for slot in slots if not slot.remote.has_ended for ref in slot.remote.awaited}
        if not by_reference:
            time.sleep(0.0 if ended else seconds)
            return ended
        references = list(by_reference)
        done, _ = ray.wait(references, timeout=0.0 if ended else seconds)
        if done and len(references) > 1:
            done, _ = ray.wait(references, num_returns=len(references), timeout=0.0)
        return [*ended, *dict.fromkeys(by_reference[ref] for ref in done)]

    def _pump(self, seconds: float) -> None:
        # Signs of life come only while they are asked for. A callback that evaluates for minutes is nobody's silence.
        now = time.monotonic()
        if now - self._next_check > LONGEST_BEAT_SECONDS:
            for slot in self._slots:
                slot.heartbeat.forgive(now - self._next_check, now)
        super()._pump(seconds)

    # Coming and going

    def _fail(self, slot: Slot[Any], reason: str) -> None:
        """A worker whose node has left has not failed: it starts anew at once, where there is a place."""
        if not (self._ever_ready and slot.remote.node_has_left):
            super()._fail(slot, reason)
            return
        slot.remote.kill()
        slot.held.clear()
        slot.point = None
        index = slot.remote.index
        said = f"Worker {index} (task {self.task_ids[index]!r}) has lost its node. It starts again where there is a place."
        warnings.warn(said, stacklevel=2)
        self._start_again(slot)

    def _check_progress(self, slot: Slot[Any], now: float) -> None:
        if slot.state in (State.BUSY, State.CANCELLING, State.PREPARING) and slot.remote.answers_to_nobody:
            # Ctrl-C has come between a call and the note of it; what was asked for can be asked for again
            if slot.state == State.PREPARING:
                self._prepare_worker(slot.remote.index)
            else:
                self._become_idle(slot)
        elif slot.state not in (State.STARTING, State.ABSENT) or slot.remote.placed:
            super()._check_progress(slot, now)
        elif slot.state == State.STARTING and slot.heartbeat.look(0, now) > PLACE_SECONDS:
            slot.state, slot.absent_since = State.ABSENT, now - PLACE_SECONDS
            if slot.job is not None and slot.job.committed:
                self._reject(slot, RETURNED)

    def _receive(self, slot: Slot[Any]) -> None:
        super()._receive(slot)
        if slot.state == State.ABSENT and slot.remote.placed:
            slot.state = State.STARTING
            self._note_progress(slot)

    def _take_start(self, slot: Slot[Any], described: tuple[Any, ...]) -> None:
        if described[:2] != (self.observation_space, self.action_space):  # one that has come late
            raise ValueError(
                f"env_fns: the spaces of worker {slot.remote.index} are {described[:2]}, those of the others are "
                f"{(self.observation_space, self.action_space)}: wrap the environments so that they agree."
            )
        super()._take_start(slot, described)

    def predicted_durations(self, n_steps: float) -> npt.NDArray[np.float64]:
        """See ``TrajectoryWorkers``; nobody knows when a worker that is absent will begin."""
        durations = super().predicted_durations(n_steps)
        durations[list(self.absent)] = np.inf
        return durations

    def _check_places(self, workers: Sequence[int], enough: Callable[[Iterable[bool]], bool]) -> None:
        now, absent = time.monotonic(), self.absent
        waited = {worker: now - self._slots[worker].absent_since if worker in absent else 0.0 for worker in workers}
        if waited and enough(seconds > self.placement_timeout for seconds in waited.values()):
            raise self._no_place(max(waited, key=lambda worker: waited[worker]), "Nothing goes on without it.")

    def _no_place(self, index: int, advice: str) -> WorkerError:
        asked = {name: amount for name, amount in self._actor_options[index].items() if amount}
        free = {name: amount for name, amount in ray.available_resources().items() if not name.startswith("node:")}
        return WorkerError(
            f"the cluster has had no place for it for {self.placement_timeout:g} s (placement_timeout). It asks for {asked}, "
            f"what is free in the cluster: {free}. {advice}",
            index,
            self.task_ids[index],
        )

    # Synchronous API

    def _present(self) -> Sequence[int]:
        absent = self.absent
        return [worker for worker in range(len(self._slots)) if worker not in absent] or [0]

    def step_async(self, actions: npt.NDArray[Any]) -> None:
        """
        Start a step of all environments; workers that are absent are waited for.

        :param actions: one a worker
        """
        if self._needs_reset or self.absent:
            self._settle()
            self._await_idle(range(len(self._slots)))
        super().step_async(actions)

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """See ``VecEnv.get_attr``."""
        if attr_name == "render_mode" and not hasattr(self, "render_mode"):  # asked by ``VecEnv`` while workers may be absent
            return [self._render_mode] * len(self._workers_of(indices))
        return super().get_attr(attr_name, indices)


def _checked_min_workers(min_workers: int | None, n_workers: int) -> int:
    if min_workers is None:
        return n_workers
    if check_integer("min_workers", min_workers, 1) > n_workers:
        raise ValueError(f"min_workers={min_workers} is not allowed: there are {n_workers} env_fns, give {n_workers} at most.")
    return min_workers


def _end(slots: list[Slot[RayWorker]], connection: Connection) -> None:
    """Kill what is left of our actors; for ``close``, the garbage collector and the interpreter's exit."""
    for slot in slots:
        slot.remote.kill()
    connection.release()
