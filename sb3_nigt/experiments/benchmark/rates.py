"""Raw environment steps, alone and in processes."""

from __future__ import annotations

import multiprocessing as mp
import os
import time
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from typing import Any

import gymnasium as gym


def rate(work: Callable[[], int]) -> float:
    """
    Time something once.

    :param work: a function that returns how many steps it has made
    :return: steps per second
    """
    start = time.perf_counter()
    steps = work()
    return steps / (time.perf_counter() - start)


def cpu_seconds(pids: Iterable[int]) -> float:
    """
    CPU time that processes have used so far, which says more than the clock where other programs run too.

    :param pids: ids of processes that are alive
    """
    ticks = 0
    for pid in pids:
        with open(f"/proc/{pid}/stat", encoding="ascii") as line:
            fields = line.read().rsplit(")", 1)[1].split()  # the name in front may have spaces
        ticks += int(fields[11]) + int(fields[12])  # in user and in kernel mode
    return ticks / os.sysconf("SC_CLK_TCK")


def step_at_random(env: gym.Env[Any, Any], n_steps: int) -> int:
    """
    Random actions and resets, nothing else.

    :param env: any environment
    :param n_steps: number of steps
    :return: the number of steps
    """
    env.reset()
    for _ in range(n_steps):
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            env.reset()
    return n_steps


def _step_when_asked(env_id: str, connection: Connection) -> None:
    env = gym.make(env_id)
    step_at_random(env, 100)
    connection.send(None)
    while (seconds := connection.recv()) is not None:
        n_steps, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            n_steps += step_at_random(env, 50)
        connection.send(n_steps / (time.perf_counter() - start))


class RandomProcesses:
    """
    Processes that step at random when asked: the physical limit of a machine.

    :param env_id: a registered environment
    :param n_processes: number of processes
    """

    def __init__(self, env_id: str, n_processes: int) -> None:
        context = mp.get_context("spawn")
        pipes = [context.Pipe() for _ in range(n_processes)]
        self._connections = [ours for ours, _ in pipes]
        self._processes = [context.Process(target=_step_when_asked, args=(env_id, theirs), daemon=True) for _, theirs in pipes]
        for process in self._processes:
            process.start()
        for connection in self._connections:
            connection.recv()

    @property
    def pids(self) -> list[int]:
        """Of the processes."""
        return [process.pid for process in self._processes if process.pid is not None]

    def rate(self, seconds: float) -> float:
        """
        Let all of them step.

        :param seconds: duration
        :return: steps per second of all together
        """
        for connection in self._connections:
            connection.send(seconds)
        rates: list[float] = [connection.recv() for connection in self._connections]
        return sum(rates)

    def close(self) -> None:
        """End the processes."""
        for connection in self._connections:
            connection.send(None)
        for process in self._processes:
            process.join()
