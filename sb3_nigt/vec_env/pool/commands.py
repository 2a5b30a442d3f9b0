"""Stable-Baselines3's synchronous API over workers elsewhere; every wait is bounded and every error keeps its type."""

from __future__ import annotations

import time
import warnings
from abc import abstractmethod
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from sb3_nigt.errors import WorkerError
from sb3_nigt.vec_env.pool import protocol
from sb3_nigt.vec_env.pool.handle import WorkerHandle, encode_call
from sb3_nigt.vec_env.pool.packing import pack, unpack_rows
from sb3_nigt.vec_env.pool.protocol import raise_remote
from sb3_nigt.vec_env.pool.slot import Slot, State

Answer = tuple[bytes, Any]  # REPLY or ERROR, and its content

START_SECONDS = 120.0  # granted for imports and for making the environment, which give no sign of life
ALIVE_SECONDS = 1.0  # of silence; then look whether the process is gone: a child of its own may keep its connection open
CLOSE_SECONDS = 1.0  # that idle workers get to close their environments


class SynchronousProcesses(VecEnv):
    """The part of ``WorkerPool`` that other algorithms use: one command, one answer from each worker."""

    _slots: list[Slot[Any]]
    _discarded: list[Any]
    _finalizer: Callable[[], Any]
    task_ids: tuple[Hashable, ...]
    n_resets: int
    timeout: float
    closed: bool
    _needs_reset = False  # trajectories have run since the last reset
    _stepping = False  # step_async has sent a step whose answers are not in
    _step_answers: list[Answer] | None = None  # that are in, for step_wait

    @abstractmethod
    def cancel(self) -> list[Any]:
        """Stop all jobs."""

    @abstractmethod
    def last_failure(self, worker: int) -> str:
        """Say why a worker has failed last."""

    @abstractmethod
    def _pump(self, seconds: float) -> None:
        """Take in what the workers say within some seconds."""

    @abstractmethod
    def _fail(self, slot: Slot[Any], reason: str) -> None:
        """Restart a worker, or give it up."""

    def _present(self) -> Sequence[int]:
        """Workers that take part in a reset."""
        return range(len(self._slots))

    def _check_places(self, workers: Sequence[int], enough: Callable[[Iterable[bool]], bool]) -> None:
        """Raise if workers that are waited for have had no place for too long: any of them, or all."""

    # Life

    def _wait_for_start(self) -> list[tuple[Any, ...]]:
        """Return what each worker says of its environment; raise what making it has raised."""
        workers = range(len(self._slots))
        described = self._contents(self._answers(workers, max(self.timeout, START_SECONDS)), workers)
        for slot in self._slots:
            slot.state = State.IDLE
        return described

    def _check_open(self) -> None:
        if self.closed:
            raise RuntimeError("The environment is closed.")

    def _settle(self) -> None:
        """Void all jobs and wait until every worker is free for commands, also those that have died meanwhile."""
        self._check_open()
        self._stepping, self._step_answers = False, None
        self.cancel()
        for slot in self._slots:
            if slot.state == State.IDLE and not slot.remote.is_alive():
                self._fail(slot, slot.remote.how_it_ended())
        while any(slot.state not in (State.IDLE, State.ABSENT, State.LOST) for slot in self._slots):
            self._pump(0.05)
        self._discarded.clear()
        lost = next((slot.remote.index for slot in self._slots if slot.state == State.LOST), None)
        if lost is not None:
            raise WorkerError(f"it was lost after too many restarts{self.last_failure(lost)}", lost, self.task_ids[lost])

    def close(self) -> None:
        """End all workers within seconds, also hung ones; may be called again."""
        if self.closed:
            return
        self.closed = True
        free = [slot.remote for slot in self._slots if slot.state == State.IDLE]
        for slot in self._slots:
            if slot.state != State.IDLE:
                slot.remote.kill()
        until = time.monotonic() + CLOSE_SECONDS
        for remote in free:
            remote.hang_up()
        for remote in free:
            remote.close(max(0.0, until - time.monotonic()))
        self._finalizer()

    # Commands

    def _await_idle(self, workers: Sequence[int]) -> None:
        """Wait until some workers are free; their trajectories end first, since a round may be under way (in a callback)."""
        self._check_open()
        while any(self._slots[worker].state not in (State.IDLE, State.LOST) for worker in workers):
            self._pump(0.05)
            self._check_places(workers, any)

    def _call(self, name: str, per_worker: Sequence[tuple[Any, ...]], workers: Sequence[int] | None = None) -> list[Any]:
        """
        Call a method of some workers with arguments of their own and return the answers in their order.

        :param name: method of ``WorkerProcess``
        :param per_worker: arguments, one tuple a worker
        :param workers: None: all
        """
        workers = range(len(self._slots)) if workers is None else workers
        if len(set(workers)) < len(workers):  # a worker that is named twice; it has one command at a time
            calls = zip(workers, per_worker, strict=True)
            return [self._call(name, [args], [worker])[0] for worker, args in calls]
        self._await_idle(workers)
        self._take_in_step()
        self._send(name, per_worker, workers)
        return self._contents(self._answers(workers, self.timeout), workers)

    def _send(self, name: str, per_worker: Sequence[tuple[Any, ...]], workers: Sequence[int]) -> None:
        # All calls first, since one that cannot be pickled must not leave the others under way
        calls = [
            (self._slots[worker].remote, encode_call(name, *args)) for worker, args in zip(workers, per_worker, strict=True)
        ]
        for remote, call in calls:
            remote.send_call(call)

    def _answers(self, workers: Sequence[int], timeout: float) -> list[Answer]:
        """Wait for one answer of each worker; take all in before raising the first error, so that no answer is left over."""
        answers, errors = [], []
        for worker in workers:
            try:
                answers.append(self._answer(worker, timeout))
            except WorkerError as error:
                errors.append(error)
        if errors:
            raise errors[0]
        return answers

    def _answer(self, worker: int, timeout: float) -> Answer:
        remote: WorkerHandle = self._slots[worker].remote
        until = time.monotonic() + timeout
        while True:
            left = until - time.monotonic()
            try:
                message = remote.receive(max(0.0, min(left, ALIVE_SECONDS)))
            except (EOFError, OSError):
                reason = remote.how_it_ended()
                break
            if message is not None:
                return message
            if left <= 0:
                remote.kill(dump_stack=True)
                reason = f"no answer within {timeout:g} s; its stack is on stderr"
                break
        self._fail(self._slots[worker], reason)
        raise WorkerError(reason, worker, self.task_ids[worker])

    def _contents(self, answers: Sequence[Answer], workers: Sequence[int]) -> list[Any]:
        for worker, (kind, content) in zip(workers, answers, strict=True):
            if kind == protocol.ERROR:
                raise_remote(content, worker)
        return [content for _, content in answers]

    # Stable-Baselines3's API

    def reset(self) -> VecEnvObs:
        """Reset all environments; trajectories in flight are void."""
        self.n_resets += 1
        self._settle()
        here = self._present()
        answers = self._call("reset", [(self._seeds[worker], self._options[worker]) for worker in here], here)
        by_worker = dict(zip(here, answers, strict=True))
        # who is absent shows what another one does; a step waits for everybody and resets all first
        results = [by_worker.get(worker, answers[0]) for worker in range(len(self._slots))]
        self._needs_reset = len(here) < len(results)
        self.reset_infos = [info for _, info in results]
        self._reset_seeds()
        self._reset_options()
        return unpack_rows(self.observation_space, [observation for observation, _ in results])  # type: ignore[no-any-return]

    def step_async(self, actions: npt.NDArray[Any]) -> None:
        """
        Start a step of all environments.

        :param actions: one a worker
        """
        if self._needs_reset:  # trajectories have run since the last reset
            self.reset()
        if self.closed or any(slot.state is not State.IDLE for slot in self._slots):
            self._settle()
        self._send("step", [(pack(self.action_space, action),) for action in actions], range(len(self._slots)))
        self._stepping, self._step_answers = True, None

    def step_wait(self) -> VecEnvStepReturn:
        """Return what the step has brought, waiting for the slowest."""
        self._check_open()
        self._take_in_step()
        answers, self._step_answers = self._step_answers, None
        if answers is None:
            raise RuntimeError("There is no step to wait for: call step_async() first.")
        results = self._contents(answers, range(len(self._slots)))
        observations, rewards, dones, infos, reset_infos = zip(*results, strict=True)
        for worker, reset_info in enumerate(reset_infos):
            if reset_info is not None:
                self.reset_infos[worker] = reset_info
        stacked = unpack_rows(self.observation_space, observations)
        return stacked, np.array(rewards, dtype=np.float32), np.array(dones), list(infos)

    def _take_in_step(self) -> None:
        """Keep the answers to a step for ``step_wait``, so that a worker can be asked something else."""
        if self._stepping and not self._needs_reset:  # trajectories that have run since have made it void
            self._stepping = False
            self._step_answers = self._answers(range(len(self._slots)), self.timeout)

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """See ``VecEnv.get_attr``."""
        workers = self._workers_of(indices)
        return self._call("get_attr", [(attr_name,)] * len(workers), workers)

    def has_attr(self, attr_name: str) -> bool:
        """See ``VecEnv.has_attr``."""
        return all(self._call("has_attr", [(attr_name,)] * len(self._slots)))

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """See ``VecEnv.set_attr``."""
        workers = self._workers_of(indices)
        self._call("set_attr", [(attr_name, value)] * len(workers), workers)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """See ``VecEnv.env_method``."""
        workers = self._workers_of(indices)
        return self._call("env_method", [(method_name, method_args, method_kwargs)] * len(workers), workers)

    def env_is_wrapped(self, wrapper_class: type[Any], indices: VecEnvIndices = None) -> list[bool]:
        """See ``VecEnv.env_is_wrapped``."""
        workers = self._workers_of(indices)
        return self._call("is_wrapped", [(wrapper_class,)] * len(workers), workers)

    def get_images(self) -> Sequence[npt.NDArray[Any] | None]:
        """See ``VecEnv.get_images``."""
        if self.render_mode != "rgb_array":
            warnings.warn(f'There are pictures with render_mode="rgb_array" only, it is {self.render_mode!r}.', stacklevel=2)
            return [None] * len(self._slots)
        return self._call("render", [()] * len(self._slots))

    def _workers_of(self, indices: VecEnvIndices) -> list[int]:
        every = range(len(self._slots))
        return [every[index] for index in self._get_indices(indices)]  # also counted from the end
