"""Signals that end a run: what is saved, what is closed, how the process ends, and what else stays as it was."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import wait

import pytest
from envs import LengthFromSeedEnv, parameters, run_rounds, simulated, train_rounds
from paper import RennalaNIGT
from processes import Bell, descendants, ends_of, ring
from ranks import fork_server, make, rank_processes
from stable_baselines3.common.callbacks import BaseCallback, EveryNTimesteps
from stable_baselines3.common.vec_env import DummyVecEnv

import sb3_nigt
from sb3_nigt import ProcessVecEnv
from sb3_nigt.distributed import RoundCheckpoint, newest_checkpoint
from sb3_nigt.errors import Preempted

BOUND = 200  # seconds; it only turns a wait for ever into a failure
ROUND = 3  # in which the signal comes


class ClosingEnv(LengthFromSeedEnv):
    """Leaves a file when it is closed."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def close(self):
        self.path.touch()


class Swallows(LengthFromSeedEnv):
    """Nothing that Python can raise ends its step; it rings when something tries."""

    def __init__(self, bell):
        super().__init__()
        self.bell = bell

    def step(self, action):
        while True:
            try:
                ring(self.bell)
                time.sleep(1000)
            except BaseException:
                continue


class HangsAt(ClosingEnv):
    """Rings and hangs in a step."""

    def __init__(self, path, bell, at):
        super().__init__(path)
        self.bell, self.left = bell, at

    def step(self, action):
        self.left -= 1
        if self.left == 0:
            ring(self.bell)
            time.sleep(1000)
        return super().step(action)


class InRound(BaseCallback):
    """Does something at some place of one round."""

    def __init__(self, place, what):
        super().__init__()
        self.place, self.what, self.done = place, what, False

    def _at(self, place):
        if place == self.place and self.model.n_updates == ROUND and not self.done:
            self.done = True
            self.what()

    def _on_rollout_start(self):
        self._at("start")

    def _on_step(self):
        self._at("step")
        return True

    def _on_rollout_end(self):
        self._at("end")


def new_model(env):
    return RennalaNIGT("MlpPolicy", env, n_trajectories=7, policy_kwargs={"net_arch": [4]}, seed=0, device="cpu")


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


WORKERS = {"simulated": simulated, "processes": ProcessVecEnv, "lockstep": DummyVecEnv}

# In this process


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
@pytest.mark.parametrize("workers", WORKERS)
def test_the_last_complete_round_is_saved_and_the_environment_closed(workers, name, tmp_path):
    env = WORKERS[workers]([partial(ClosingEnv, tmp_path / f"closed{worker}") for worker in range(2)])
    checkpoint = RoundCheckpoint(tmp_path, every=1000)
    send = InRound("step", lambda: os.kill(os.getpid(), signal.Signals[name]))
    with pytest.raises(Preempted) as raised:
        new_model(env).learn(10**9, callback=[EveryNTimesteps(1, checkpoint), send])
    assert raised.value.code == 143
    assert raised.value.reason == name
    assert newest_checkpoint(tmp_path).name == f"round_{ROUND}.zip"
    assert sorted(path.name for path in tmp_path.glob("closed*")) == ["closed0", "closed1"]


@pytest.mark.parametrize(("place", "n_updates"), [("start", ROUND), ("step", ROUND), ("end", ROUND + 1)])
def test_a_run_that_goes_on_is_the_one_that_was_not_ended(place, n_updates, tmp_path):
    """The round that is cut short is repeated. A signal in an update waits until it is made."""
    env = simulated([LengthFromSeedEnv] * 2)
    with pytest.raises(Preempted):
        new_model(env).learn(10**9, callback=[RoundCheckpoint(tmp_path, every=1000), InRound(place, terminate)])
    loaded = RennalaNIGT.load(newest_checkpoint(tmp_path), env=env)
    assert loaded.n_updates == n_updates
    train_rounds(loaded, ROUND + 3)
    alone = new_model(simulated([LengthFromSeedEnv] * 2))
    run_rounds(alone, ROUND + 3)
    assert (parameters(loaded) == parameters(alone)).all()
    assert loaded.num_timesteps == alone.num_timesteps


def test_a_checkpoint_that_cannot_be_written_does_not_keep_the_run_from_its_end(tmp_path):
    """There may be another one in another folder, and the exit code says that the run can be continued."""
    env = simulated([partial(ClosingEnv, tmp_path / "closed")])
    (tmp_path / "file").touch()
    impossible, possible = RoundCheckpoint(tmp_path / "file", every=1000), RoundCheckpoint(tmp_path, every=1000)
    says = "RoundCheckpoint could not save the last round: FileExistsError: "
    with pytest.warns(UserWarning, match=says), pytest.raises(Preempted):
        new_model(env).learn(10**9, callback=[impossible, possible, InRound("step", terminate)])
    assert newest_checkpoint(tmp_path).name == f"round_{ROUND}.zip"
    assert (tmp_path / "closed").exists()


class Catches(LengthFromSeedEnv):
    """Catches everything once, as careless code does, after it has sent the signal itself."""

    sent = False

    def step(self, action):
        try:
            if not Catches.sent:
                Catches.sent = True
                terminate()
        except BaseException:
            pass
        return super().step(action)


def test_a_signal_that_an_environment_has_caught_ends_the_next_round(tmp_path, monkeypatch):
    monkeypatch.setattr(Catches, "sent", False)
    with pytest.raises(Preempted):
        new_model(simulated([Catches])).learn(500, callback=RoundCheckpoint(tmp_path))
    assert newest_checkpoint(tmp_path).name == "round_1.zip"


def test_a_signal_does_not_end_the_fit_of_a_critic_in_its_middle(tmp_path):
    """It is fitted while workers sample, so the signal comes in a round; the file must not hold half of a fit."""
    model, ended = sb3_nigt.RennalaNIGT("MlpPolicy", simulated([LengthFromSeedEnv] * 2), n_steps=20, seed=0, device="cpu"), []
    fit = model._estimator.critic.fit

    def fit_and_terminate(*args):
        if model.n_updates == ROUND:
            terminate()
        result = fit(*args)
        ended.append(model.n_updates)
        return result

    model._estimator.critic.fit = fit_and_terminate
    with pytest.raises(Preempted):
        model.learn(10**9, callback=RoundCheckpoint(tmp_path, every=1000))
    assert ended[-1] == ROUND
    assert newest_checkpoint(tmp_path).name == f"round_{ROUND}.zip"


def test_a_signal_in_the_last_round_ends_the_run_as_well(tmp_path):
    model = new_model(simulated([LengthFromSeedEnv] * 2))
    train_rounds(model, ROUND)
    with pytest.raises(Preempted):
        model.learn(1, callback=[RoundCheckpoint(tmp_path, every=1000), InRound("end", terminate)], reset_num_timesteps=False)
    assert newest_checkpoint(tmp_path).name == f"round_{ROUND + 1}.zip"


@contextmanager
def handler(number, chosen):
    usual = signal.signal(number, chosen)
    try:
        yield
    finally:
        signal.signal(number, usual)


def test_a_handler_of_the_user_stays(tmp_path):
    came = []
    with handler(signal.SIGTERM, lambda *_: came.append(1)):
        own = signal.getsignal(signal.SIGTERM)
        model, seen = new_model(simulated([LengthFromSeedEnv])), []
        look = InRound("step", lambda: (terminate(), seen.append(signal.getsignal(signal.SIGTERM))))
        run_rounds(model, ROUND + 1, RoundCheckpoint(tmp_path), look)
        assert came == [1]
        assert seen == [own] == [signal.getsignal(signal.SIGTERM)]


def handlers():
    return [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)]


@pytest.mark.parametrize("signals", [("SIGTERM", "SIGUSR1"), ("SIGUSR1",), ()])
def test_the_usual_handlers_are_back_afterwards(signals, tmp_path):
    """Also the descriptor that Python writes numbers of signals to; without signals nothing is changed at any time."""
    before, seen = handlers(), []
    run_rounds(
        new_model(simulated([LengthFromSeedEnv])),
        ROUND + 1,
        RoundCheckpoint(tmp_path, signals=signals),
        InRound("step", lambda: seen.extend(handlers())),
    )
    assert [one == other for one, other in zip(before, seen, strict=True)] == [
        name not in signals for name in ("SIGTERM", "SIGUSR1")
    ]
    assert handlers() == before
    assert signal.set_wakeup_fd(-1) == -1


def test_another_thread_changes_nothing(tmp_path):
    before, seen = handlers(), []
    look = InRound("step", lambda: seen.extend(handlers()))
    thread = threading.Thread(
        target=run_rounds, args=(new_model(simulated([LengthFromSeedEnv])), ROUND + 1, RoundCheckpoint(tmp_path), look)
    )
    thread.start()
    thread.join(BOUND)
    assert seen == before


@pytest.fixture
def usual_sigterm():
    """The system's own: a library that another test has started, as Ray, may have left its handler."""
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)


@pytest.mark.usefixtures("usual_sigterm")
def test_a_forked_process_has_the_usual_handlers(tmp_path):
    """An environment that ends a process of its own by SIGTERM does not end the run."""
    codes = []

    def fork_and_terminate():
        child = os.fork()
        if child == 0:
            signal.pause()
            os._exit(0)
        os.kill(child, signal.SIGTERM)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    run_rounds(
        new_model(simulated([LengthFromSeedEnv])), ROUND + 1, RoundCheckpoint(tmp_path), InRound("step", fork_and_terminate)
    )
    assert codes == [-signal.SIGTERM]


@pytest.mark.parametrize("signals", ["SIGTERM", ["SIGKILL"], [15]])
def test_signals_are_checked(signals, tmp_path):
    with pytest.raises(ValueError, match=r"signals=.* is not allowed: give a list of names such as \['SIGTERM'\]"):
        RoundCheckpoint(tmp_path, signals=signals)


# Processes that are sent signals


@contextmanager
def process(function, *args):
    started = fork_server().Process(target=function, args=args)
    started.start()
    try:
        yield started
    finally:
        started.kill()
        started.join(BOUND)


def train_processes(folder, bell):
    env = ProcessVecEnv([partial(HangsAt, folder / "closed", bell, 60)])
    new_model(env).learn(10**9, callback=RoundCheckpoint(folder, every=1000))


@pytest.mark.slow
def test_a_process_that_waits_for_its_workers(tmp_path):
    """Its worker hangs when the signal comes. It ends with it, and so does everything below it."""
    with Bell(tmp_path / "bell") as bell, process(train_processes, tmp_path, bell.path) as started:
        bell.wait()
        with ends_of(descendants(started.pid)):
            os.kill(started.pid, signal.SIGTERM)
            started.join(BOUND)
            assert started.exitcode == 143
    assert newest_checkpoint(tmp_path) is not None


def train_swallowing(folder, bell, grace):
    new_model(simulated([partial(Swallows, bell)])).learn(10**9, callback=RoundCheckpoint(folder, grace=grace))


def test_the_process_ends_within_the_grace_whatever_it_does(tmp_path):
    with Bell(tmp_path / "bell") as bell, process(train_swallowing, tmp_path, bell.path, 2.0) as started:
        bell.wait()
        os.kill(started.pid, signal.SIGTERM)
        started.join(BOUND)
        assert started.exitcode == 143


def test_a_second_signal_ends_it_at_once(tmp_path):
    """Those that follow the first one closely are the same request."""
    with Bell(tmp_path / "bell") as bell, process(train_swallowing, tmp_path, bell.path, 10_000.0) as started:
        bell.wait()
        os.kill(started.pid, signal.SIGUSR1)
        bell.wait()
        os.kill(started.pid, signal.SIGTERM)
        while not wait([started.sentinel], 0.2):
            os.kill(started.pid, signal.SIGTERM)
        started.join(BOUND)
        assert started.exitcode == 143


# Ranks


def train_ranks(rank, folder, bell):
    env = simulated([partial(ClosingEnv, folder / f"closed{rank}")])
    make(RennalaNIGT, env).learn(10**9, callback=[RoundCheckpoint(folder, every=1000), InRound("start", partial(ring, bell))])


@pytest.mark.parametrize("told", [[0], [1], [0, 1]])
def test_a_signal_to_one_rank_ends_all(told, tmp_path):
    """Rank 0 saves, whichever one got it, and all end with the same code."""
    with Bell(tmp_path / "bell") as bell, rank_processes(2, train_ranks, tmp_path, bell.path) as ranks:
        bell.wait(2)
        for rank in told:
            os.kill(ranks.pids[rank], signal.SIGTERM)
        for started in ranks.processes:
            started.join(BOUND)
            assert started.exitcode == 143
    assert newest_checkpoint(tmp_path) is not None
    assert sorted(path.name for path in tmp_path.glob("closed*")) == ["closed0", "closed1"]


# Ray

RAY_SCRIPT = """
import sys
from pathlib import Path
from sb3_nigt import PAPER, RayVecEnv, RennalaNIGT, make_worker_vec_env
from sb3_nigt.distributed import RoundCheckpoint
from test_preemption import InRound
from processes import ring
folder = Path(sys.argv[1])
env = make_worker_vec_env("CartPole-v1", n_workers=1, vec_env_cls=RayVecEnv, vec_env_kwargs={"num_cpus": 0.5})
model = RennalaNIGT("MlpPolicy", env, **PAPER, n_trajectories=2, seed=0, device="cpu")
model.learn(10**9, callback=[RoundCheckpoint(folder, every=1000), InRound("step", lambda: ring(folder / "bell"))])
"""


@pytest.mark.slow
def test_ray_script(tmp_path):
    """Ray has a handler for SIGTERM itself, which ends the process with code 15 and saves nothing."""
    pytest.importorskip("ray")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path])}
    command = [sys.executable, "-c", textwrap.dedent(RAY_SCRIPT), str(tmp_path)]
    with Bell(tmp_path / "bell") as bell:
        script = subprocess.Popen(command, env=environment)
        try:
            bell.wait()
            script.send_signal(signal.SIGTERM)
            assert script.wait(BOUND) == 143
        finally:
            script.kill()
            script.wait()
    assert newest_checkpoint(tmp_path) is not None
