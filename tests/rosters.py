"""
What a pool of workers decides, as tables: the time, what happens, what is to be done. No process and no clock.

A row is (seconds, event, arguments, instructions); the events are in ``EVENTS``.
"""

import numpy as np

from sb3_nigt.messages import Contribution, Job, SamplingPoint, TrajectoryKey
from sb3_nigt.vec_env.pool.instructions import Run, SendPrepare, StartWorker, Warn
from sb3_nigt.vec_env.pool.protocol import RemoteArrival
from sb3_nigt.vec_env.pool.restarts import RestartLimits
from sb3_nigt.vec_env.pool.roster import Roster
from sb3_nigt.vec_env.pool.slot import State
from sb3_nigt.vec_env.pool.speeds import Speeds

POINT = SamplingPoint(0, np.zeros(1, np.float32))
NEXT_POINT = SamplingPoint(1, np.zeros(1, np.float32))
TIMEOUT = 60.0


def said(n_steps=4, cancelled=0, seconds=2.0):
    return RemoteArrival(1, n_steps, 1, 0, 0, cancelled, 10.0, 10.0 + seconds)


COMPLETE, CANCELLED = said(), said(cancelled=1)


def job(worker, number=0, point=POINT, committed=False):
    return Job(worker, TrajectoryKey(point.round, worker, number), point, committed=committed)


def run(one_job, job_number, point_number=1):
    return Run(one_job, job_number, point_number)


def failed(worker, reason, what_next):
    return Warn(f"Worker {worker} (task {'abc'[worker]!r}) failed: {reason}. It is {what_next}.")


def contributions(*jobs):
    return [Contribution(one_job.worker, one_job.key, np.ones(4)) for one_job in jobs]


EVENTS = {
    "submitted": lambda roster, now, one_job: roster.jobs.submit(one_job, 0, now),
    "arrives": lambda roster, now, worker, what=COMPLETE: roster.jobs.arrived(worker, what, 0, now),
    "is taken": lambda roster, now, worker: roster.jobs.delivered(worker),
    "all cancelled": lambda roster, now: roster.jobs.cancel(),
    "fails": lambda roster, now, worker, reason="exit code -9": roster.failed(worker, reason, now),
    "hangs": lambda roster, now, worker, silent: roster.hung(worker, silent, "in step", now),
    "node leaves": lambda roster, now, worker: roster.node_left(worker),
    "time passes": lambda roster, now: roster.tick(now),
    "is launched": lambda roster, now, worker: roster.launched(worker, 0, now),
    "replies": lambda roster, now, worker: roster.replied(worker, 0, now),
    "is looked at": lambda roster, now, worker, steps: roster.look(worker, steps, now),
    "has no place": lambda roster, now, worker: roster.unplaced(worker, now),
    "has a place": lambda roster, now, worker: roster.placed(worker, 0, now),
    "is not heard": lambda roster, now, worker: roster.unheard(worker, 0, now),
    "settings": lambda roster, now: roster.new_settings(),
    "is prepared": lambda roster, now, worker: roster.prepare(worker, 0, now),
    "gradients": lambda roster, now: roster.jobs.begin_gradients(now),
    "is asked": lambda roster, now, worker, wanted: roster.jobs.ask_for_gradient(worker, wanted, 0, now),
    "gradient comes": lambda roster, now, worker: roster.jobs.gradient_came(worker, 0, now),
    "gradient is dropped": lambda roster, now, worker: roster.jobs.drop_gradient(worker),
}


def play(roster, *table):
    for now, event, arguments, expected in table:
        done = EVENTS[event](roster, now, *arguments)
        assert (done or []) == expected, (now, event)


def started(n_workers=2, limits=None, opened=True, **kwargs):
    """Workers that have made their environments and taken their settings; all wait for messages at time 0."""
    speeds = Speeds(np.ones(n_workers))
    roster = Roster("abc"[:n_workers], limits or RestartLimits(10, 10), speeds, TIMEOUT, **kwargs)
    for worker in range(n_workers):
        play(roster, (0, "is launched", (worker,), []))
        if opened:
            play(roster, (0, "replies", (worker,), []))
    if opened:
        roster.open()
        roster.new_settings()
        for worker in range(n_workers):
            play(roster, (0, "is prepared", (worker,), [SendPrepare(worker)]), (0, "replies", (worker,), []))
    assert set(states(roster)) == {State.IDLE if opened else State.STARTING}
    return roster


def experienced(*args, **kwargs):
    """As ``started``, and a trajectory has arrived, so that failures are no configuration error."""
    roster = started(*args, **kwargs)
    roster.jobs.ever_arrived = True
    return roster


def states(roster):
    return [slot.state for slot in roster.slots]


def restart(roster, now, worker, expected):
    """Play what brings a worker back whose restart is due."""
    play(
        roster,
        (now, "time passes", (), [StartWorker(worker)]),
        (now, "is launched", (worker,), []),
        (now, "replies", (worker,), [SendPrepare(worker)]),
        (now, "replies", (worker,), expected),
    )
