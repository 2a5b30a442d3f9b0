"""The link between roster and workers, over workers made of lists and a clock that is moved by hand."""

import numpy as np
import pytest
from gymnasium import spaces
from processes import FAILED

from sb3_nigt.errors import WorkerError
from sb3_nigt.messages import Contribution, Job, SamplingPoint, TrajectoryKey
from sb3_nigt.vec_env.pool import protocol
from sb3_nigt.vec_env.pool.commands import Commands
from sb3_nigt.vec_env.pool.driver import Driver
from sb3_nigt.vec_env.pool.handle import WorkerHandle
from sb3_nigt.vec_env.pool.restarts import RestartLimits
from sb3_nigt.vec_env.pool.roster import Roster
from sb3_nigt.vec_env.pool.slot import State
from sb3_nigt.vec_env.pool.speeds import Speeds
from sb3_nigt.vec_env.pool.transport import Transport

SPACES = spaces.Box(-1.0, 1.0, (2,), np.float32), spaces.Discrete(2)
DESCRIBED = (*SPACES, None, {})
POINT = SamplingPoint(0, np.zeros(1, np.float32))
COMPLETE = protocol.RemoteArrival(1, 4, 1, 0, 0, 0, 1.0, 3.0)


class ScriptedHandle(WorkerHandle):
    """Says what is in ``messages``, and notes what it is told."""

    steps = 0
    has_begun_gradient = False

    def __init__(self, index):
        self.index, self.pid, self.messages, self.told, self.alive = index, None, [], [], True

    def receive(self, seconds=0.0):
        if self.messages:
            return self.messages.pop(0)
        if not self.alive:
            raise EOFError
        return None

    def is_alive(self):
        return self.alive

    def how_it_ended(self):
        return "its process ended"

    def stack(self):
        return "in step"

    def kill(self, dump_stack=False):
        self.alive = False

    def run(self, job_number, point_number, round_, key):
        self.told.append(key)

    def request_gradient(self, contributions):
        self.told.append("gradient")

    def drop_gradient(self):
        self.told.append("no gradient")

    def _note(self, *args):
        self.told.append(args[0] if args else None)

    cancel = send_context = send_call = close = hang_up = run_segment = _note


class ScriptedTransport(Transport):
    """``now`` moves only during a wait."""

    def __init__(self, n_workers):
        self.time, self.cannot_start, self.starts = 0.0, None, []
        super().__init__(n_workers, lambda: self.time)

    def _new_handle(self, worker):
        if self.cannot_start is not None:
            raise self.cannot_start
        self.starts.append((worker, round(self.time, 3)))
        return ScriptedHandle(worker)

    def ready(self, workers, seconds):
        speaking = [w for w in workers if self.handles[w].messages or not self.handles[w].alive]
        self.time += 0.0 if speaking else seconds
        return speaking

    def send_point(self, worker, point):
        pass

    def _new_arrays(self, table, horizon, layout):
        raise NotImplementedError

    def end(self):
        pass


class Notes(list):
    """Takes the place of the inbox."""

    def deliver(self, job, said):
        self.append(job.key)

    def reject(self, job, reason):
        self.append((job.key, reason))

    def lose(self, worker):
        """As the book of segments: nothing of them counts, and there are none here."""


@pytest.fixture
def driver():
    transport = ScriptedTransport(2)
    roster = Roster("ab", RestartLimits(10), Speeds(np.ones(2)), timeout=60.0)
    driver = Driver(roster, transport, Notes(), Notes(), "ab")
    transport.start_all()
    for worker in range(2):
        roster.launched(worker, 0, 0.0)
        driver.carry_out(roster.replied(worker, 0, 0.0))
    driver.open(*SPACES)
    roster.jobs.ever_arrived = True
    return driver


def submit(driver, worker=0):
    job = Job(worker, TrajectoryKey(0, worker, 0), POINT)
    driver.carry_out(driver.roster.jobs.submit(job, 0, driver.now()))
    return job


def test_a_worker_that_dies_repeats_its_trajectory(driver):
    job, (first, _) = submit(driver), driver.transport.handles
    first.alive = False
    with pytest.warns(UserWarning, match=r"Worker 0 \(task 'a'\) failed: its process ended. It is restarted"):
        driver.pump(0.0)
    while driver.transport.handles[0] is first:
        driver.pump(0.01)
    second = driver.transport.handles[0]
    assert driver.transport.starts[2:] == [(0, pytest.approx(0.1, abs=0.02))]
    second.messages += [(protocol.REPLY, DESCRIBED), (protocol.ARRIVAL, COMPLETE)]
    driver.pump(0.0)
    driver.pump(0.0)
    assert first.told == second.told == [job.key]
    assert driver.inbox == [job.key]


def test_a_worker_that_hangs_is_examined(driver):
    submit(driver)
    while driver.now() < 60.0:
        driver.pump(0.25)
    assert driver.roster.slots[0].state is State.BUSY
    with pytest.warns(
        UserWarning,
        match=r"no sign of life for 60\.\d s \(timeout=60\)\. It is restarted, for the 1st time\.\nIt was here:\nin step",
    ):
        driver.pump(0.5)


@pytest.mark.filterwarnings("error")
def test_a_warning_that_is_an_error_leaves_nothing_undone(driver):
    """The trajectory that is given up says so, although the exception came in between."""
    job = submit(driver)
    for _ in range(2):
        driver.roster.jobs.failed(0, is_lost=False, was_running=True)
    with pytest.raises(UserWarning, match="failed"):
        driver.fail(0, "boom")
    driver.pump(0.0)
    assert (job.key, "crash") in driver.inbox
    assert driver.roster.slots[0].state is State.WAITING


def test_what_an_exception_leaves_undone_is_done_next_time(driver):
    job = Job(0, TrajectoryKey(0, 0, 0), POINT)
    driver.transport.send_point = lambda worker, point: 1 / 0
    with pytest.raises(ZeroDivisionError):
        submit(driver)
    assert driver.transport.handles[0].told == []
    driver.pump(0.0)
    assert driver.transport.handles[0].told == [job.key]


@pytest.mark.filterwarnings(FAILED)
def test_a_restart_that_does_not_succeed_is_tried_again(driver):
    """There may be more descriptors, or more processes, a little later."""
    driver.transport.handles[0].alive = False
    submit(driver)
    driver.pump(0.0)
    driver.transport.cannot_start = OSError("too many open files")
    while driver.roster.slots[0].history.failures < 2:
        driver.pump(0.01)
    assert driver.roster.last_failure(0).endswith("it could not be started again: too many open files")
    driver.transport.cannot_start = None
    while len(driver.transport.starts) < 3:
        driver.pump(0.01)
    assert driver.transport.starts[2] == (0, pytest.approx(0.3, abs=0.02))


@pytest.mark.filterwarnings(FAILED)
def test_a_worker_that_comes_back_with_other_spaces(driver):
    driver.fail(0, "boom")
    while len(driver.transport.starts) < 3:
        driver.pump(0.01)
    other = spaces.Box(-1.0, 1.0, (3,), np.float32)
    driver.transport.handles[0].messages.append((protocol.REPLY, (other, *DESCRIBED[1:])))
    with pytest.raises(ValueError, match=r"env_fns: the spaces of worker 0 are .*\(3,\).*those of the others are .*\(2,\)"):
        driver.pump(0.0)


@pytest.mark.parametrize("has_begun", [True, False])
def test_a_gradient_is_waited_for_if_the_worker_has_begun_with_it(driver, has_begun):
    """It is in the middle of a trajectory; after 50 ms without an answer the wait ends."""
    transport, handle = driver.transport, driver.transport.handles[0]
    submit(driver)
    handle.has_begun_gradient = has_begun
    ready = transport.ready

    def answers_late(workers, seconds):
        if transport.time > 0.1 and "no gradient" not in handle.told:
            handle.messages.append((protocol.GRADIENT, None))
        return ready(workers, seconds)

    transport.ready = answers_late
    driver.roster.slots[0].held.add(TrajectoryKey(0, 0, 9))
    driver.collect_gradients({0: [Contribution(0, TrajectoryKey(0, 0, 9), np.ones(1))]})
    assert driver.roster.jobs.gradients_here == ({0} if has_begun else set())
    assert ("no gradient" in handle.told) == (not has_begun)
    assert transport.time == pytest.approx(0.3 if has_begun else 0.05)


@pytest.mark.filterwarnings(FAILED)
def test_a_command_is_waited_for_until_the_timeout(driver):
    """Worker 1 has answered; its answer is taken in, although the first one fails."""
    commands, (silent, quick) = Commands(driver, timeout=5.0), driver.transport.handles

    def receive(seconds=0.0):
        driver.transport.time += seconds

    silent.receive = receive
    quick.messages.append((protocol.REPLY, 3))
    with pytest.raises(WorkerError, match=r"Worker 0 \(task 'a'\): no answer within 5 s; its stack is on stderr"):
        commands.call("get_attr", [("x",)] * 2, range(2))
    assert driver.now() == pytest.approx(5.0)
    assert quick.messages == []
    assert driver.roster.slots[0].state is State.WAITING
