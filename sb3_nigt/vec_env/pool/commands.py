"""Commands to workers that are free, one answer each; every wait is bounded and every error keeps its type."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy.typing as npt

from sb3_nigt.errors import WorkerError
from sb3_nigt.vec_env.pool import protocol
from sb3_nigt.vec_env.pool.driver import Driver
from sb3_nigt.vec_env.pool.handle import encode_call
from sb3_nigt.vec_env.pool.packing import pack
from sb3_nigt.vec_env.pool.protocol import raise_remote
from sb3_nigt.vec_env.pool.roster import ALIVE_SECONDS, START_SECONDS
from sb3_nigt.vec_env.pool.slot import State

Answer = tuple[bytes, Any]  # REPLY or ERROR, and its content

PUMP_SECONDS = 0.05  # interval at which a wait for free workers looks again


class Commands:
    """
    Asks workers for methods of ``pool.worker.Worker``; Stable-Baselines3's synchronous API is made of these.

    :param driver: the driver of the workers
    :param timeout: seconds that a worker may take to answer
    :ivar needs_reset: whether trajectories have run since the last reset, or some environment has not been reset
    :ivar is_closed: whether the workers are closed; no further commands are allowed then
    """

    def __init__(self, driver: Driver, timeout: float) -> None:
        self._driver, self._roster, self._handles, self._now = driver, driver.roster, driver.transport.handles, driver.now
        self._timeout = timeout
        self.needs_reset = self.is_closed = False
        self._stepping = False  # a step was sent whose answers are not in
        self._step_answers: list[Answer] | None = None  # that are in, for ``take_step``

    # Free workers

    def wait_for_start(self) -> list[tuple[Any, ...]]:
        """Return what each worker says of its environment; raise what making it has raised."""
        workers = range(len(self._handles))
        described = self._contents(self._answers(workers, max(self._timeout, START_SECONDS)), workers)
        for worker in workers:
            self._driver.carry_out(self._roster.replied(worker, self._handles[worker].steps, self._now()))
        return described

    def check_open(self) -> None:
        """
        Refuse to ask closed workers.

        :raises RuntimeError: if they are closed
        """
        if self.is_closed:
            raise RuntimeError(
                "The environment is closed: make a new one. A model takes it with set_env(env) or load(path, env=env)."
            )

    def await_idle(self, workers: Sequence[int]) -> None:
        """Wait until some workers are free; their trajectories end first, since a round may be in progress (in a callback)."""
        self.check_open()
        while not self._roster.are_within(workers, State.IDLE, State.LOST):
            self._driver.pump(PUMP_SECONDS)
            self._driver.check_places(workers, any)

    def free_all(self) -> None:
        """Wait until every worker is free, after all jobs have been cancelled; notice those that have died meanwhile."""
        self._stepping, self._step_answers = False, None
        self._driver.revive_idle()
        workers = range(len(self._handles))
        while not self._roster.are_within(workers, State.IDLE, State.ABSENT, State.LOST):
            self._driver.pump(PUMP_SECONDS)

    def check_lost(self) -> None:
        """
        Refuse to go on without a worker that is lost.

        :raises WorkerError: if there is one
        """
        for worker in self._roster.within(State.LOST):
            said = f"it was lost after too many restarts{self._roster.last_failure(worker)}"
            raise WorkerError(said, worker, self._driver.task_ids[worker])

    # One command, one answer

    def call(self, name: str, per_worker: Sequence[tuple[Any, ...]], workers: Sequence[int]) -> list[Any]:
        """
        Call a method of some workers, each with its own arguments, and return the answers in their order.

        :param name: a method of ``Worker``
        :param per_worker: arguments, one tuple per worker
        :param workers: indices of the workers, possibly with repetitions
        """
        if len(set(workers)) < len(workers):  # a worker has one command at a time
            calls = zip(workers, per_worker, strict=True)
            return [self.call(name, [args], [worker])[0] for worker, args in calls]
        self.await_idle(workers)
        self._take_in_step()
        self._send(name, per_worker, workers)
        return self._contents(self._answers(workers, self._timeout), workers)

    def _send(self, name: str, per_worker: Sequence[tuple[Any, ...]], workers: Sequence[int]) -> None:
        # All calls first, since one that cannot be pickled must not leave the others in flight
        calls = [(self._handles[worker], encode_call(name, *args)) for worker, args in zip(workers, per_worker, strict=True)]
        for handle, call in calls:
            handle.send_call(call)

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
        handle = self._handles[worker]
        waited = 0.0
        while True:
            patience, began = max(0.0, min(timeout - waited, ALIVE_SECONDS)), self._now()
            try:
                message: Answer | None = handle.receive(patience)
            except TimeoutError as error:
                handle.kill(dump_stack=True)
                reason = f"{error}; its stack is on stderr"
                break
            except (EOFError, OSError):
                reason = handle.how_it_ended()
                break
            if message is not None:
                return message
            if waited >= timeout:
                handle.kill(dump_stack=True)
                reason = f"no answer within {timeout:g} s; its stack is on stderr"
                break
            # what is longer than that is time in which this process was stopped, perhaps together with the worker
            waited += min(self._now() - began, patience)
        self.needs_reset = True  # of the process that takes its place
        self._driver.fail(worker, reason)
        raise WorkerError(reason, worker, self._driver.task_ids[worker])

    def _contents(self, answers: Sequence[Answer], workers: Sequence[int]) -> list[Any]:
        for worker, (kind, content) in zip(workers, answers, strict=True):
            if kind == protocol.ERROR:
                raise_remote(content, worker)
        return [content for _, content in answers]

    # Resets and steps of all workers

    def reset(self, seeds: Sequence[int | None], options: Sequence[dict[str, Any]]) -> list[tuple[Any, dict[str, Any]]]:
        """
        Reset all environments; for a worker that is absent, the observation of another one is used.

        :param seeds: one seed per worker
        :param options: one dict per worker
        :return: packed observation and info of each worker
        """
        workers = range(len(self._handles))
        absent = self._roster.within(State.ABSENT)
        here = [worker for worker in workers if worker not in absent] or [0]
        answers = self.call("reset", [(seeds[worker], options[worker]) for worker in here], here)
        self.needs_reset = len(here) < len(workers)  # a step waits for all of them, and resets first
        by_worker = dict(zip(here, answers, strict=True))
        return [by_worker.get(worker, answers[0]) for worker in workers]

    def send_step(self, action_space: gym.Space[Any], actions: npt.NDArray[Any]) -> None:
        """
        Start a step of all environments, whose workers are free.

        :param actions: one action per worker
        """
        self._send("step", [(pack(action_space, action),) for action in actions], range(len(self._handles)))
        self._stepping, self._step_answers = True, None

    def take_step(self) -> list[tuple[Any, ...]]:
        """
        Return what the step has brought, waiting for the slowest.

        :raises RuntimeError: if there is no step, or the workers are closed
        """
        self.check_open()
        self._take_in_step()
        answers, self._step_answers = self._step_answers, None
        if answers is None:
            raise RuntimeError("There is no step to wait for: call step_async() first.")
        return self._contents(answers, range(len(self._handles)))

    def _take_in_step(self) -> None:
        """Keep the answers to a step for ``take_step``, so that a worker can be asked something else."""
        if self._stepping and not self.needs_reset:  # trajectories that have run since have made it void
            self._stepping = False
            self._step_answers = self._answers(range(len(self._handles)), self._timeout)
