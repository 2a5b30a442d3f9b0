"""Schedules as state machines: scripted arrivals in, starts out; no environment, no policy."""

import heapq
import itertools

import numpy as np
from hypothesis import strategies as st

from sb3_nigt.aggregators import Malenia, Rennala, Synchronous


class Round:
    """
    One round on simulated workers that are as fast as a function says.

    :param schedule: under test
    :param rule: aggregator
    :param predicted: durations that the schedule is told
    :param real: function (worker, how many it has run) -> real duration; the predicted ones by default
    :param fails: arrivals, counted from 0, that are rejected
    """

    def __init__(self, schedule, rule, predicted, real=None, fails=(), start=0.0):
        self.schedule, self.predicted = schedule, np.array(predicted, dtype=float)
        self.real = real or (lambda worker, k: float(self.predicted[worker]))
        self.order, self.in_flight = itertools.count(), []
        self.n_run = [0] * len(predicted)
        self.now, self.keys, self.accepted, self.rejected = start, [], [], []
        self.runners = {}
        self._start(schedule.begin(rule, 4, start, self.predicted, []))
        while not schedule.complete:
            assert self.in_flight, "deadlock: the round is not complete and no worker is busy"
            self.now, _, worker, key = heapq.heappop(self.in_flight)
            if len(self.accepted) + len(self.rejected) in fails:
                self.rejected.append(key)
                self._start(schedule.rejected(worker, self.now, self.predicted))
            else:
                self.accepted.append(key)
                self._start(schedule.accepted(worker, self.now, self.predicted))

    def _start(self, starts):
        for start in starts:
            assert start.worker not in [worker for _, _, worker, _ in self.in_flight], "started on a busy worker"
            self.keys.append(start.key)
            self.runners[start.key] = start.worker
            end = self.now + self.real(start.worker, self.n_run[start.worker])
            heapq.heappush(self.in_flight, (end, next(self.order), start.worker, start.key))
            self.n_run[start.worker] += 1

    @property
    def counts(self):
        return self.schedule.counts.tolist()


def pool_rules(n_workers, m):
    """One rule of each kind; Malenia with tasks 0, 1, 0, 1, …."""
    tasks = tuple(worker % 2 for worker in range(n_workers)) if n_workers > 1 else (0,)
    return [Rennala(m), Synchronous(m), Malenia(m, tasks)]


FLOATS = st.floats(0.5, 20.0)


@st.composite
def rounds(draw, durations=FLOATS):
    n_workers = draw(st.integers(1, 6))
    rule = draw(st.sampled_from(pool_rules(n_workers, draw(st.integers(1, 25)))))
    return rule, draw(st.lists(durations, min_size=n_workers, max_size=n_workers))


some_fail = st.sets(st.integers(0, 20), max_size=6)
surprises = st.lists(st.sampled_from([1e-3, 0.3, 1.0, 1.0, 3.0, 1000.0]), min_size=1, max_size=12)
