"""One round and its book, on workers that only take time: every number of the report worked out by hand."""

import itertools
from collections import Counter

import numpy as np
import pytest

from sb3_nigt.aggregators import Malenia, Rennala, Synchronous
from sb3_nigt.algorithms.book import BetweenRounds, Book, LengthEstimate, RoundResult, stop_if_hopeless
from sb3_nigt.algorithms.round import RESET_IN_A_ROUND, abandon, check_lost, run_round
from sb3_nigt.errors import LostWorkerError, WorkerError
from sb3_nigt.messages import RETURNED, Arrival, Discarded, Job, SamplingPoint, TrajectoryKey
from sb3_nigt.planning.simulation import PacedWorkers, Workload
from sb3_nigt.sampling.trajectory import Trajectory
from sb3_nigt.schedules import FirstFinished, Immediate, Pipelined, Planned
from sb3_nigt.vec_env.base import Cancelled

LENGTH = 10


def point(round_=0):
    return SamplingPoint(round_, np.zeros(0, dtype=np.float32))


def memory(mean=LENGTH, seen=True):
    return BetweenRounds(LengthEstimate(mean, seen))


def always(trajectory):
    return True


class ScriptedWorkers(PacedWorkers):
    """
    Workers that take so many seconds per step, for trajectories of 10 steps.

    :param step_times: seconds
    :param message_times: seconds
    :param rejected: by number of the arrival, counted from 0, why it is rejected
    :param lost: workers that are lost, from the arrival of this number on
    """

    def __init__(self, step_times, message_times=0.0, rejected=None, lost=(), lost_from=0, task_ids=None):
        h = np.array(step_times, dtype=float)
        kappa = np.broadcast_to(np.asarray(message_times, dtype=float), h.shape)
        super().__init__(Workload(h, kappa, (LENGTH,), tuple(task_ids or range(len(h)))))
        self.rejected, self.n_arrived, self.submitted, self.messages_of = rejected or {}, 0, [], []
        self._lost, self._lost_from = frozenset(lost), lost_from

    def submit(self, job):
        self.submitted.append(job)
        super().submit(job)

    def next_arrival(self):
        arrival, trajectory = super().next_arrival()
        reason = self.rejected.get(self.n_arrived)
        self.n_arrived += 1
        if reason is not None:
            arrival = Arrival(*(getattr(arrival, name) for name in list(arrival.__slots__)[:-1]), rejected=reason)
        return arrival, trajectory

    def lost(self):
        return self._lost if self.n_arrived >= self._lost_from else frozenset()

    def last_failure(self, worker):
        return f"; worker {worker} is out of paper"

    def aggregate_messages(self, workers):
        self.messages_of.append(list(workers))
        super().aggregate_messages(workers)


# One round


def test_a_round_of_the_paper_by_hand():
    """
    Trajectories take 10 and 30 s, messages 5 and 7 s, M = 2: worker 0 arrives at 10 and at 20, which completes the round.

    Worker 1, at work since 0, has made ⌊20/3⌋ = 6 of its steps, which are dropped. It has nothing to send, so the aggregation
    takes the 5 s of worker 0. The next round begins at 25 and takes as long; worker 1 begins anew in it.
    """
    workers, schedule, between = ScriptedWorkers([1.0, 3.0], [5.0, 7.0]), FirstFinished(), memory()
    for round_ in range(2):
        begin, rule = 25.0 * round_, Rennala(2)
        report = run_round(workers, schedule, rule, rule, point(round_), always, between).report
        assert report.round == round_
        assert report.counts.tolist() == [2, 0]
        assert report.weights.tolist() == [0.5, 0.0]
        assert [(a.worker, a.started_at, a.arrived_at) for a in report.arrivals] == [
            (0, begin, begin + 10),
            (0, begin + 10, begin + 20),
        ]
        assert [arrival.staleness for arrival in report.arrivals] == [0, 0]
        assert report.discarded == (Discarded(1, 6, begin, begin + 20),)
        assert report.rejected == ()
        assert (report.used_steps, report.discarded_steps) == (20, 6)
        assert (report.started_at, report.finished_at) == (begin, begin + 25)
    assert workers.messages_of == [[0], [0]]
    first = [(job.worker, job.key, job.point.round) for job in workers.submitted[:3]]
    assert first == [(0, TrajectoryKey(0, 0, 0), 0), (1, TrajectoryKey(0, 1, 0), 0), (0, TrajectoryKey(0, 0, 1), 0)]


@pytest.mark.parametrize(
    ("schedule", "upload", "committed"),
    [(FirstFinished(), False, False), (Planned(), False, True), (Immediate(), True, True)],
)
def test_what_a_job_says(schedule, upload, committed):
    """Only what a schedule never cancels is committed; only AFedPG sends each gradient on its own."""
    workers = ScriptedWorkers([1.0, 1.0], 2.0)
    run_round(workers, schedule, Rennala(1), Rennala(1), point(), always, memory())
    assert {(job.upload, job.committed) for job in workers.submitted} == {(upload, committed)}
    assert workers.messages_of == ([] if upload else [[0]])
    # 10 s, and 2 s of the message of worker 0, which is part of the arrival or follows it
    assert workers.clock.now() == 12.0
    assert sorted(workers._flights) == ([1] if upload else [])  # only AFedPG lets others go on here


def test_planned_starts_nothing_that_is_not_needed():
    """M = 1 and trajectories of 30 and 10 s: worker 1 has the only ticket, and worker 0 is not sent for anything."""
    workers = ScriptedWorkers([3.0, 1.0], [7.0, 5.0])
    report = run_round(workers, Planned(), Rennala(1), Rennala(1), point(), always, memory()).report
    assert report.counts.tolist() == [0, 1]
    assert report.discarded == ()
    assert report.discarded_steps == 0
    assert workers.messages_of == [[1]]
    assert report.finished_at == 15.0


def test_what_has_begun_early_counts_in_its_round():
    """
    M = 1, one ticket a round; trajectories of 10 and 12 s. Worker 0 has the ticket of round 0, worker 1 that of round 1.

    Round 0 ends at 10. Worker 1 goes on until 12, and its trajectory is the whole of round 1, one update old. It is on its way
    while worker 0 makes that of round 2, from 10 on, which is ready at 20 and begun at the point of round 1: one update old.
    """
    workers, schedule, between, results = ScriptedWorkers([1.0, 1.2]), Pipelined(), memory(), []
    for round_ in range(3):
        results.append(run_round(workers, schedule, Rennala(1), Rennala(1), point(round_), always, between).report)
    assert [report.counts.tolist() for report in results] == [[1, 0], [0, 1], [1, 0]]
    assert [(a.started_at, a.arrived_at, a.staleness) for r in results for a in r.arrivals] == [
        (0.0, 10.0, 0),
        (0.0, 12.0, 1),
        (10.0, 20.0, 1),
    ]
    assert [report.finished_at for report in results] == [10.0, 12.0, 20.0]
    assert [(report.used_steps, report.discarded_steps) for report in results] == [(10, 0)] * 3


def test_the_rule_of_the_next_round_is_the_one_that_is_announced():
    """M_init = 1 and then M = 2: worker 1 takes one of the two tickets of round 1, which is what the schedule expects."""
    workers, schedule, between = ScriptedWorkers([1.0, 1.0]), Pipelined(), memory()
    run_round(workers, schedule, Rennala(1), Rennala(2), point(0), always, between)
    second = run_round(workers, schedule, Rennala(2), Rennala(2), point(1), always, between).report
    assert second.counts.sum() == 2


def test_lengths_are_learned_and_predict_durations():
    """1 s and 2 s a step. The first trajectory, of 10 steps, replaces the guess of 1000; predictions are 10 and 20 s then."""

    class Watched(Planned):
        def accepted(self, worker, now, durations):
            told.append((worker, now, durations.tolist()))
            return super().accepted(worker, now, durations)

        def begin(self, aggregator, round_, now, durations, busy, following=None):
            told.append((round_, now, durations.tolist(), list(busy)))
            return super().begin(aggregator, round_, now, durations, busy, following)

    told, between = [], memory(1000.0, seen=False)
    run_round(ScriptedWorkers([1.0, 2.0]), Watched(), Rennala(2), Rennala(2), point(5), always, between)
    # worker 1 is left out: worker 0 alone is done with both by 2000, which worker 1 needs for its first
    assert told[0] == (5, 0.0, [1000.0, 2000.0], [])
    assert told[1] == (0, 10.0, [10.0, 20.0])
    assert between.lengths == LengthEstimate(10.0, seen=True)


def test_busy_workers_are_named_to_the_schedule():
    """AFedPG: after the arrival of worker 0, which completes the round, worker 1 and 2 are still at work."""
    workers, schedule, between = ScriptedWorkers([1.0, 3.0, 3.0]), Immediate(), memory()
    for round_ in range(2):
        run_round(workers, schedule, Rennala(1), Rennala(1), point(round_), always, between)
    assert [(job.worker, job.point.round) for job in workers.submitted] == [(0, 0), (1, 0), (2, 0), (0, 1)]


# What stops a round


def test_a_callback_that_says_stop_ends_the_round():
    """At an arrival, or while the steps that were cancelled are shown."""
    workers = ScriptedWorkers([1.0, 3.0, 3.0])
    assert run_round(workers, FirstFinished(), Rennala(2), Rennala(2), point(), lambda t: False, memory()) is None
    assert workers.n_arrived == 1
    workers = ScriptedWorkers([1.0, 3.0, 3.0])
    # 10 steps of worker 0, then what 1 and 2 have made in 10 s: 3 each; the first one shown says stop, or the second one
    for answers in ([True, False, True], [True, True, False]):
        shown = iter(answers)
        workers = ScriptedWorkers([1.0, 3.0, 3.0])
        assert run_round(workers, FirstFinished(), Rennala(1), Rennala(1), point(), lambda t: next(shown), memory()) is None  # noqa: B023
        assert workers.messages_of == []


def test_workers_that_give_up_waiting_end_the_round():
    class Interrupted(ScriptedWorkers):
        def next_arrival(self):
            return None

    assert run_round(Interrupted([1.0]), Planned(), Rennala(1), Rennala(1), point(), always, memory()) is None


def test_a_reset_in_the_middle_of_a_round_is_an_error():
    workers = ScriptedWorkers([1.0])
    workers.n_resets = 3  # before the round, which is no fault

    def reset(trajectory):
        workers.n_resets += 1
        return True

    run_round(workers, Planned(), Rennala(1), Rennala(1), point(), always, memory())
    with pytest.raises(RuntimeError) as error:
        run_round(workers, Planned(), Rennala(1), Rennala(1), point(), reset, memory())
    assert str(error.value) == RESET_IN_A_ROUND


def test_abandon_forgets_everything():
    """Worker 1 has delivered its trajectory of round 1 early: the schedule must not count it either, since it is dropped."""
    workers, schedule, between = ScriptedWorkers([1.0, 1.0]), Pipelined(), memory()
    for start in schedule.begin(Rennala(1), 0, 0.0, np.ones(2), []):
        workers.submit(Job(start.worker, start.key, point()))
    schedule.accepted(1, 0.5, np.ones(2))
    between.early, between.announced = [(arrival(1, TrajectoryKey(1, 0, 0)), trajectory())], Rennala(1)
    abandon(workers, schedule, between)
    assert not any(workers.busy(worker) for worker in range(2))
    assert (between.early, between.announced) == ([], None)
    starts = schedule.begin(Rennala(1), 1, 1.0, np.ones(2), [])
    assert starts[0].key == TrajectoryKey(1, 0, 0)
    assert not schedule.complete
    assert schedule.counts.tolist() == [0, 0]


# Rejected and returned


def test_a_rejected_trajectory_is_reported_and_made_up_for():
    """10 s each: the first is rejected at 10, the second accepted at 20, with the random numbers of ticket 1."""
    workers = ScriptedWorkers([1.0], rejected={0: "reward"})
    report = run_round(workers, Planned(), Rennala(1), Rennala(1), point(), always, memory()).report
    assert [(a.key, a.rejected) for a in report.rejected] == [(TrajectoryKey(0, 0, 0), "reward")]
    assert [a.key for a in report.arrivals] == [TrajectoryKey(0, 0, 1)]
    assert (report.used_steps, report.discarded_steps, report.finished_at) == (10, 10, 20.0)


def test_a_returned_trajectory_is_run_again_with_the_same_random_numbers():
    workers = ScriptedWorkers([1.0], rejected={0: RETURNED})
    report = run_round(workers, Planned(), Rennala(1), Rennala(1), point(), always, memory()).report
    assert report.rejected == ()
    assert [job.key for job in workers.submitted] == [TrajectoryKey(0, 0, 0)] * 2


def test_five_in_a_row_of_one_worker_are_too_many():
    """Four of worker 0 are borne, and an accepted one begins the count again; what is returned does not count at all."""
    for bad in ([0, 1, 2, 3], [0, 1, 2, 3, 5, 6, 7, 8]):
        rejected = dict.fromkeys(bad, "reward")
        run_round(ScriptedWorkers([1.0], rejected=rejected), Planned(), Rennala(2), Rennala(2), point(), always, memory())
    returned = dict.fromkeys(range(9), RETURNED)
    run_round(ScriptedWorkers([1.0], rejected=returned), Planned(), Rennala(1), Rennala(1), point(), always, memory())
    workers = ScriptedWorkers([1.0], rejected=dict.fromkeys(range(5), "reward"))
    with pytest.raises(WorkerError, match=r"5 trajectories in a row ended with a non-finite reward, .* after 10 steps"):
        run_round(workers, Planned(), Rennala(1), Rennala(1), point(), always, memory())


@pytest.mark.parametrize(
    ("reason", "says"),
    [
        ("reward", "ended with a non-finite reward, the"),
        ("observation", "ended with a non-finite observation, the"),
        ("crash", r"ended with its failure \(crash\), the"),
    ],
)
def test_the_error_says_what_they_ended_with(reason, says):
    failures = Counter({1: 4, 0: 4})
    with pytest.raises(WorkerError, match=f"^Worker 1 .*5 trajectories in a row {says}"):
        stop_if_hopeless(arrival(1, rejected=reason), failures)
    assert failures == {1: 5, 0: 4}


# Lost workers


def test_a_lost_worker_gets_no_job():
    workers = ScriptedWorkers([1.0, 1.0], lost=[0])
    report = run_round(workers, FirstFinished(), Rennala(1), Rennala(1), point(), always, memory()).report
    assert report.counts.tolist() == [0, 1]
    assert [job.worker for job in workers.submitted] == [1]


def test_a_round_that_needs_a_lost_worker_does_not_begin():
    workers = ScriptedWorkers([1.0, 1.0], lost=[1], task_ids=["a", "b"])
    with pytest.raises(LostWorkerError, match=r"Worker 1 \(task 'b'\): it is lost after too many restarts .*Malenia cannot"):
        run_round(workers, FirstFinished(), Malenia(2, (0, 1)), Malenia(2, (0, 1)), point(), always, memory())
    assert workers.submitted == []


def test_a_round_that_loses_a_worker_it_needs_does_not_go_on():
    """The worker reports what it had as returned; before that it is not known to be lost."""
    rule = Synchronous(2)
    workers = ScriptedWorkers([1.0, 2.0], rejected={1: RETURNED}, lost=[1], lost_from=2)
    with pytest.raises(LostWorkerError, match=r"Worker 1 .*it is lost"):
        run_round(workers, Planned(), rule, rule, point(), always, memory())


def test_the_error_names_the_last_one_and_its_failure():
    reasons = {0: "; zero", 1: "; one", 2: "; two"}
    check_lost({0, 1}, Rennala(1), (0, 1, 2), reasons.get)  # one is enough
    with pytest.raises(LostWorkerError, match=r"^Worker 2 \(task 7\): all 3 workers are lost after .*without it; two$"):
        check_lost({0, 1, 2}, Rennala(1), (5, 6, 7), reasons.get)
    with pytest.raises(LostWorkerError, match=r"^Worker 1 .*: it is lost after .*without it; one$"):
        check_lost({0, 1}, Synchronous(3), (5, 6, 7), reasons.get)


# The book


def arrival(worker, key=None, n_steps=LENGTH, rejected=None):
    return Arrival(worker, worker, key or TrajectoryKey(0, worker, 0), n_steps, 0.0, 0.0, 1.0, 1.0, rejected=rejected)


def trajectory(round_=0, n_steps=LENGTH):
    nothing = np.zeros(0)
    return Trajectory(
        TrajectoryKey(round_, 0, 0), point(round_), nothing, nothing, nothing, nothing, np.zeros(n_steps), False, False, []
    )


def test_the_book_counts_every_step_once():
    """
    100 steps were executed before the round, the 7 of an early trajectory among them, which this round uses.

    In the round 60 are executed: 10 that this round uses, 20 for the next one, the other 30 for nothing.
    """
    workers, between = ScriptedWorkers([1.0, 1.0]), memory()
    between.early = [(arrival(0, TrajectoryKey(3, 0, 0), 7), trajectory(2, 7))]
    workers.steps_executed = 100
    workers.clock.advance_to(4.0)
    book = Book(workers, point(3), between)
    assert between.early == []
    book.accept(arrival(1, TrajectoryKey(3, 1, 0), 10), trajectory(3, 10))
    book.accept(arrival(0, TrajectoryKey(4, 0, 0), 20), trajectory(3, 20))
    assert [a.key.round for a, _ in between.early] == [4]
    workers.steps_executed = 160
    workers.clock.advance_to(9.0)
    counts = np.array([1, 1])
    result = book.close(counts, np.array([0.5, 0.5]))
    report = result.report
    assert [(a.key, a.staleness) for a in report.arrivals] == [(TrajectoryKey(3, 0, 0), 1), (TrajectoryKey(3, 1, 0), 0)]
    assert (report.used_steps, report.discarded_steps) == (17, 30)
    assert (report.started_at, report.finished_at) == (4.0, 9.0)
    assert [len(t.rewards) for _, t in result.accepted] == [7, 10]
    counts += 1  # the schedule goes on counting; the report does not
    assert report.counts.tolist() == [1, 1]


def test_cancelled_jobs_are_discarded_until_their_workers_stopped():
    """Which is before the round is closed, at 8."""
    workers = ScriptedWorkers([1.0, 1.0, 1.0])
    book = Book(workers, point(), memory())
    workers.clock.advance_to(8.0)
    for worker in (2, 1):
        book.discard([Cancelled(Job(worker, TrajectoryKey(0, worker, 0), point()), 2.0, 7.0, trajectory(0, 6))])
    report = book.close(np.zeros(3), np.zeros(3)).report
    assert report.discarded == (Discarded(2, 6, 2.0, 7.0), Discarded(1, 6, 2.0, 7.0))


def test_running_mean_of_lengths():
    """The first one replaces the guess; then 0.9 · 10 + 0.1 · 20 = 11 and 0.9 · 11 + 0.1 · 1 = 10."""
    lengths, means = LengthEstimate(1000.0), []
    for n_steps in (10, 20, 1):
        lengths.add(n_steps)
        means.append(lengths.mean)
    assert means == pytest.approx([10.0, 11.0, 10.0])
    known = LengthEstimate(10.0, seen=True)
    known.add(20)
    assert known.mean == pytest.approx(11.0)


def test_worker_order_is_by_worker_and_then_by_key():
    keys = [(1, (0, 1, 0)), (0, (1, 0, 0)), (1, (0, 0, 1)), (0, (0, 2, 0)), (1, (0, 0, 0))]
    pairs = [(arrival(worker, TrajectoryKey(*key)), trajectory()) for worker, key in keys]
    expected = [(0, (0, 2, 0)), (0, (1, 0, 0)), (1, (0, 0, 0)), (1, (0, 0, 1)), (1, (0, 1, 0))]
    for order in itertools.permutations(pairs):
        result = RoundResult(None, list(order)).in_worker_order()
        assert [(a.worker, tuple(a.key)) for a, _ in result] == expected


def test_nothing_is_left_by_a_run_that_has_not_begun():
    """Two models share nothing."""
    one, other = memory(), memory()
    one.failures[0] += 1
    one.early.append((arrival(0), trajectory()))
    assert (other.failures, other.early, other.announced) == (Counter(), [], None)
