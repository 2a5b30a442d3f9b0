"""Environments that start processes: they may, and all of it ends with the worker and with the process that made it."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from multiprocessing import get_context

import gymnasium as gym
import pytest
from envs import LengthFromSeedEnv, job, prepared
from paper import RennalaNIGT
from processes import FAILED, Bell, descendants, ends_of, hang, ring, worker_processes

from sb3_nigt import ProcessVecEnv
from sb3_nigt.errors import WorkerError
from sb3_nigt.vec_env.process import life, transport

TESTS = os.path.dirname(__file__)


@pytest.fixture
def make():
    with worker_processes() as make:
        yield make


class StartsProcesses(LengthFromSeedEnv):
    """Starts processes in its constructor, in one of the usual ways."""

    def __init__(self, how):
        super().__init__()
        if how == "pool":
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                pool.submit(time.sleep, 0).result()
        elif how == "vector":
            gym.make_vec("CartPole-v1", 2, vectorization_mode="async").close()
        else:
            process = get_context(how).Process(target=time.sleep, args=(0,))
            process.start()
            process.join()
            assert process.exitcode == 0


@pytest.mark.parametrize("how", ["spawn", "forkserver", "fork", "pool", "vector"])
def test_an_environment_may_start_processes(make, how):
    env = make(partial(StartsProcesses, how))
    RennalaNIGT("MlpPolicy", env, n_trajectories=2, seed=0).learn(5)
    assert env.restarts == 0


@pytest.mark.slow
def test_an_environment_may_hand_on_what_its_script_defines(tmp_path):
    """The script's class comes to the worker by value, and its processes find the script's function by name."""
    (tmp_path / "script.py").write_text(
        textwrap.dedent(
            f"""
            import sys
            from functools import partial
            from multiprocessing import get_context
            sys.path.insert(0, {TESTS!r})
            from envs import LengthFromSeedEnv
            from sb3_nigt import ProcessVecEnv

            def answer(queue):
                queue.put(number)

            number = 42

            class Env(LengthFromSeedEnv):
                def __init__(self, how):
                    super().__init__()
                    queue = get_context(how).SimpleQueue()
                    process = get_context(how).Process(target=answer, args=(queue,))
                    process.start()
                    self.answer = queue.get()
                    process.join()

            if __name__ == "__main__":
                number = 43  # only here
                env = ProcessVecEnv([partial(Env, "spawn"), lambda: Env("fork")])
                print(env.get_attr("answer"))
                env.close()
            """
        )
    )
    run = [sys.executable, "script.py"]
    assert subprocess.run(run, cwd=tmp_path, stdout=subprocess.PIPE, text=True, check=True).stdout == "[42, 43]\n"


class Parent(LengthFromSeedEnv):
    """Has two processes that would sleep for an hour: one of another program, one of multiprocessing."""

    def __init__(self, folder, bell=None, does=None):
        super().__init__()
        self.bell, self.does = bell, does
        program = subprocess.Popen(["sleep", "3600"])
        process = get_context("fork").Process(target=hang)
        process.start()
        self.children = program, process
        for pid in (program.pid, process.pid):
            (folder / str(pid)).touch()

    def step(self, action):
        if self.does:
            ring(self.bell)
            self.does()
        return super().step(action)


def children(folder):
    return [int(path.name) for path in folder.iterdir()]


def test_children_end_when_the_environment_is_closed(tmp_path):
    env = ProcessVecEnv([partial(Parent, tmp_path)] * 2)
    assert len(children(tmp_path)) == 4
    with ends_of(children(tmp_path)):
        env.close()


@pytest.mark.one_in(2)
@pytest.mark.filterwarnings(FAILED)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_children_end_with_a_worker_that_is_killed(make, tmp_path, number):
    """Its children are not left to the restart, which makes new ones."""
    env, point = prepared(make(partial(Parent, tmp_path), LengthFromSeedEnv))
    env.submit(job(point, 1))
    env.next_arrival()
    before = children(tmp_path)
    with ends_of(before):
        os.kill(env.worker_pids[0], number)
        env.submit(job(point, 0))
        env.next_arrival()
    assert env.restarts == 1
    assert len(children(tmp_path)) == 4


@pytest.mark.filterwarnings(FAILED)
def test_children_end_with_a_worker_that_hangs(make, tmp_path):
    folder = tmp_path / "children"
    folder.mkdir()
    with Bell(tmp_path / "stuck") as bell:
        env, point = prepared(make(partial(Parent, folder, bell.path, hang), timeout=1.0, max_restarts=0))
        with ends_of(children(folder)):
            env.submit(job(point, 0))
            bell.wait()
            with pytest.raises(WorkerError, match="no sign of life"):
                env.next_arrival()


# The parent ends

SCRIPT = """
import os, sys
from functools import partial
from pathlib import Path
sys.path.insert(0, {tests!r})
from processes import hang, ring
from test_process_children import Parent
from sb3_nigt import ProcessVecEnv, RennalaNIGT

if __name__ == "__main__":
    folder, bell = Path("children"), Path("stuck").resolve()
    env_fns = [partial(Parent, folder.resolve(), bell, hang), partial(Parent, folder.resolve())]
    env = ProcessVecEnv(env_fns, start_method={start_method!r})
    for pid in env.worker_pids:
        (folder / str(pid)).touch()
    if os.fork() == 0:  # a process of the script's own, which outlives it
        Path("forked").write_text(str(os.getpid()))
        ring(bell)
        hang()
    RennalaNIGT("MlpPolicy", env, n_trajectories=4, schedule="first_finished", seed=0).learn(10**9)
"""


@pytest.mark.parametrize(
    ("number", "start_method"),
    [
        (signal.SIGKILL, "forkserver"),
        pytest.param(signal.SIGTERM, "spawn", marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, "spawn", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, "forkserver", marks=pytest.mark.slow),
    ],
)
def test_all_ends_with_the_parent(tmp_path, number, start_method):
    """However it ends, while one environment hangs, and although a process that the parent has forked lives on."""
    folder = tmp_path / "children"
    folder.mkdir()
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT.format(tests=TESTS, start_method=start_method)))
    with Bell(tmp_path / "stuck") as bell, ExitStack() as stack:
        script = subprocess.Popen([sys.executable, "script.py"], cwd=tmp_path, start_new_session=True)
        stack.callback(os.killpg, script.pid, signal.SIGKILL)
        bell.wait(times=2)  # the environment that hangs, and the forked process
        forked = int((tmp_path / "forked").read_text())
        assert len(children(folder)) == 6
        with ends_of(children(folder)):
            os.kill(script.pid, number)
            script.wait()
        os.kill(forked, 0)


@pytest.mark.slow
def test_a_stopped_worker_ends_with_the_parent(tmp_path):
    """It can run none of its threads; the kernel ends it, when the fork server has ended."""
    (tmp_path / "script.py").write_text(
        textwrap.dedent(
            f"""
            import os, signal, sys
            sys.path.insert(0, {TESTS!r})
            from envs import LengthFromSeedEnv
            from sb3_nigt import ProcessVecEnv

            if __name__ == "__main__":
                env = ProcessVecEnv([LengthFromSeedEnv] * 2)
                os.kill(env.worker_pids[0], signal.SIGSTOP)
                print(*env.worker_pids, flush=True)
                signal.pause()
            """
        )
    )
    with subprocess.Popen([sys.executable, "script.py"], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as script:
        pids = [int(pid) for pid in script.stdout.readline().split()]
        with ends_of(pids):
            script.kill()
    assert len(pids) == 2


STOPPED_SCRIPT = """
import sys, time
sys.path.insert(0, {tests!r})
from envs import LengthFromSeedEnv
from processes import ring
from sb3_nigt import ProcessVecEnv, RennalaNIGT

class SlowEnv(LengthFromSeedEnv):
    n_made = 0

    def step(self, action):
        self.n_made += 1
        if self.n_made == 8:
            for part in range(4):  # one by one, so that some are left when it goes on
                if part == 2:
                    ring("step")
                time.sleep(0.5)
        return super().step(action)

if __name__ == "__main__":
    env = ProcessVecEnv([SlowEnv] * 2, timeout={timeout})
    RennalaNIGT("MlpPolicy", env, n_steps=5).learn(40)
    print(env.restarts)
    env.close()
"""


@pytest.mark.slow
def test_a_run_that_is_stopped_as_a_whole_for_a_while(tmp_path):
    """As a scheduler does that gives its nodes to another job; the time is not taken for silence of the workers."""
    timeout = 5.0
    (tmp_path / "script.py").write_text(STOPPED_SCRIPT.format(tests=TESTS, timeout=timeout))
    with Bell(tmp_path / "step") as bell, ExitStack() as stack:
        script = subprocess.Popen(
            [sys.executable, "script.py"], cwd=tmp_path, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        stack.callback(os.killpg, script.pid, signal.SIGKILL)
        bell.wait(times=2)
        processes = [script.pid, *descendants(script.pid)]
        for pid in processes:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(2 * timeout)  # this is the scheduler, which gives the machine to others
        for pid in processes:
            os.kill(pid, signal.SIGCONT)
        said, _ = script.communicate()
        assert script.returncode == 0
        assert said.splitlines()[-1] == "0"
        stack.pop_all()


# Where the parent is a process of others


def train_in_a_pool(_):
    env = ProcessVecEnv([LengthFromSeedEnv] * 2)
    RennalaNIGT("MlpPolicy", env, n_trajectories=2, seed=0).learn(10)
    pids, restarts = env.worker_pids, env.restarts
    env.close()
    return len(pids), restarts, get_context().current_process().daemon


@pytest.mark.slow
def test_in_a_pool_of_multiprocessing():
    """Its workers are daemons, which may not have processes of their own; these ones end with it."""
    with get_context("spawn").Pool(1) as pool:
        assert pool.map(train_in_a_pool, [0]) == [(2, 0, True)]


@pytest.mark.slow
def test_in_a_process_that_was_forked_from_one_with_workers(make):
    """It has a fork server of its own, and its end leaves the workers of the other one alone."""
    env, point = prepared(make(LengthFromSeedEnv))
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
        assert pool.submit(train_in_a_pool, 0).result() == (2, 0, False)
    env.submit(job(point, 0))
    assert env.next_arrival()[0].rejected is None
    assert env.restarts == 0


class DeafParent(Parent):
    """Ignores the signal with which multiprocessing ends its daemons."""

    def __init__(self, folder):
        super().__init__(folder)
        signal.signal(signal.SIGTERM, lambda *_: None)


def train_and_leave(folder, env_class):
    """Without ``close``; the model and its environment refer to each other."""
    env = ProcessVecEnv([partial(env_class, folder)])
    RennalaNIGT("MlpPolicy", env, n_trajectories=2, seed=0).learn(10)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("method", ["fork", "forkserver"])
@pytest.mark.parametrize("env_class", [Parent, DeafParent])
def test_children_end_with_a_process_of_multiprocessing(tmp_path, method, env_class):
    """It leaves without the functions that are registered for the end of an interpreter."""
    process = get_context(method).Process(target=train_and_leave, args=(tmp_path, env_class))
    process.start()
    process.join(120)
    assert process.exitcode == 0
    with ends_of(children(tmp_path)):
        pass


# Open files


def test_files_of_a_worker(make):
    make(LengthFromSeedEnv)  # the fork server stays, with its files

    def n_files():
        return len(os.listdir("/dev/fd"))

    before, counts = n_files(), []
    for n_workers in (1, 4):
        env = make(*[LengthFromSeedEnv] * n_workers)
        counts.append(n_files() - before)
        env.close()
        assert n_files() == before
    assert counts[1] - counts[0] == 3 * life.FILES_PER_WORKER


@pytest.mark.parametrize(("most", "told"), [(4096, "type: ulimit -n"), (100, "the hard limit, which is 100")])
def test_too_few_files_are_noticed_before_anything_starts(monkeypatch, most, told):
    monkeypatch.setattr(life.resource, "getrlimit", lambda limit: (100, most))
    monkeypatch.setattr(transport, "RemoteWorker", None)  # what a start would need
    with pytest.raises(
        ValueError, match=rf"40 workers need 120 open files, this process has .*\(ulimit -n\) is 100\. .*{told}"
    ):
        ProcessVecEnv([LengthFromSeedEnv] * 40)


@pytest.mark.parametrize(("number", "told"), [(errno.EAGAIN, "ulimit -u"), (errno.EMFILE, "ulimit -n"), (errno.EIO, "Input")])
def test_a_start_that_fails_says_which_limit(make, monkeypatch, number, told):
    def refuse(process):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(get_context("spawn").Process, "start", refuse)
    with pytest.raises(OSError, match=f"worker 0 could not be started: .*{told}"):
        ProcessVecEnv([LengthFromSeedEnv], start_method="spawn")
