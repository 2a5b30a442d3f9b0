"""Ranks of a process group as processes of this machine, for tests: each runs a function and returns what it gives."""

import faulthandler
import multiprocessing as mp
import os
import signal
import sys
import time
import traceback
import zlib
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing import forkserver
from multiprocessing.connection import wait

import pytest
import torch as th
import torch.distributed as dist
from envs import FixedLengthEnv, parameters
from gymnasium import spaces

from sb3_nigt.distributed import AllReduceGroup

SECONDS = 240  # bound of every wait here; it only turns a wait for ever into a failure
GROUP_SECONDS = 60
SIZE = 3  # ranks
N_WORKERS = 2  # of each rank


class Died:
    """In place of a result: the process has ended without one."""

    def __repr__(self):
        return "Died()"


class Failed:
    """In place of a result: the function has raised."""

    def __init__(self, error):
        self.type, self.text, self.traceback = type(error).__name__, str(error), traceback.format_exc()

    def __repr__(self):
        return f"Failed({self.type}: {self.text})\n{self.traceback}"


def _main(connection, port, host, rank, size, function, args):
    th.set_num_threads(1)
    faulthandler.register(signal.SIGUSR1)
    group = {"rank": rank, "world_size": size, "timeout": timedelta(seconds=GROUP_SECONDS)}
    try:
        if host is None:
            store = dist.TCPStore("127.0.0.1", port, is_master=False, wait_for_workers=False)
            dist.init_process_group("gloo", store=store, **group)
        else:
            host.enter()
            dist.init_process_group("gloo", init_method=host.meeting_point, **group)
        result = function(rank, *args)
    except Exception as error:
        result = Failed(error)
    connection.send(result)
    connection.recv()  # until everybody has a result: a rank that ends takes its connections with it
    os._exit(0)  # what torch does at the end takes longer than most of these tests


def fork_server():
    """Start the fork server with everything imported; it does not get this process's sys.path, only its environment."""
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(["sb3_nigt.vec_env.process.preload", "ranks_preload"])
    usual = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    try:
        forkserver.ensure_running()
    finally:
        if usual is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = usual
    return context


class RankProcesses:
    """
    Processes that run ``function(rank, *args)`` as ranks of one process group.

    Their store is kept by this process, as torchrun keeps it, so that it outlives every rank. On hosts of their own, see
    ``namespaces``, rank 0 keeps it, as without torchrun.
    """

    def __init__(self, size, function, *args, hosts=None):
        context = fork_server()
        self.store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self.processes, self.connections = [], []
        for rank in range(size):
            connection, child = context.Pipe()
            host = None if hosts is None else hosts[rank]
            process = context.Process(target=_main, args=(child, self.store.port, host, rank, size, function, args))
            process.start()
            child.close()
            self.processes.append(process)
            self.connections.append(connection)

    @property
    def pids(self):
        return [process.pid for process in self.processes]

    def result(self, rank, seconds=SECONDS):
        """Wait for the result of one rank."""
        connection = self.connections[rank]
        if not wait([connection], seconds):
            os.kill(self.processes[rank].pid, signal.SIGUSR1)  # it shows on stderr where it is
            wait([connection], 1)
            pytest.fail(f"rank {rank} has given no result within {seconds} s")
        try:
            return connection.recv()
        except (EOFError, ConnectionResetError):
            return Died()

    def results(self, seconds=SECONDS):
        return [self.result(rank, seconds) for rank in range(len(self.processes))]

    def close(self):
        for process in self.processes:
            process.kill()
            process.join(SECONDS)
            process.close()


@contextmanager
def rank_processes(size, function, *args, hosts=None):
    processes = RankProcesses(size, function, *args, hosts=hosts)
    try:
        yield processes
    finally:
        processes.close()


def on_ranks(size, function, *args, seconds=SECONDS):
    """Run a function on some ranks; return their results, in order."""
    with rank_processes(size, function, *args) as processes:
        results = processes.results(seconds)
    failed = [result for result in results if isinstance(result, (Failed, Died))]
    assert not failed, failed
    return results


# What the ranks train


def make(algorithm, env, group=True, **kwargs):
    timeout = kwargs.pop("timeout", 20.0)
    chosen = settings(timeout) if group else False
    kwargs = {"n_trajectories": 7, "policy_kwargs": {"net_arch": [4]}, **kwargs}
    return algorithm("MlpPolicy", env, seed=0, device="cpu", group=chosen, **kwargs)


SMALL = {"n_steps": 20, "fisher_samples": 30, "policy_kwargs": {"net_arch": [8]}, "seed": 3, "device": "cpu"}


def make_steps(algorithm, env, group=None, timeout=20.0, **kwargs):
    """A model whose arguments are the defaults, apart from sizes."""
    policy = "MultiInputPolicy" if isinstance(env.observation_space, spaces.Dict) else "MlpPolicy"
    return algorithm(policy, env, group=settings(timeout) if group is None else group, **{**SMALL, **kwargs})


def settings(timeout=20.0):
    return AllReduceGroup(timeout=timeout, debug=True)


def checksum(model):
    return zlib.crc32(parameters(model).tobytes())


class SlowEnv(FixedLengthEnv):
    """Sleeps in every step and notes when each one begins."""

    def __init__(self, length=1000):
        super().__init__(length)
        self.began = []

    def step(self, action):
        self.began.append(time.monotonic())
        time.sleep(0.05)
        return super().step(action)
