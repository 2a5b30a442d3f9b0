"""What each worker runs, holds and owes: events in, instructions out. No I/O and no clock; see ``roster`` for the style."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sb3_nigt.messages import Contribution, Job, SegmentStart, TrajectoryKey
from sb3_nigt.vec_env.pool import instructions as do
from sb3_nigt.vec_env.pool.instructions import Instruction
from sb3_nigt.vec_env.pool.protocol import NO_EPISODE, RemoteArrival, RemoteFailure, SegmentArrival
from sb3_nigt.vec_env.pool.slot import FIRST_STEP, Place, Slot, State
from sb3_nigt.vec_env.pool.speeds import Speeds

LONG_REQUEST = 4000  # steps of a request for a gradient that a connection may not take until the worker reads
GRADIENT_SECONDS = 0.05  # how long a gradient waits for a busy worker to notice; then it is computed here
RETRIES = 2  # of a trajectory whose worker dies; then it counts as rejected, since its content may be what kills


class Jobs:
    """
    Trajectories and gradients of workers that are there: idle, busy or cancelling.

    :param slots: one slot per worker
    :param speeds: speeds of the workers, measured here
    :ivar ever_arrived: whether any trajectory has arrived
    :ivar gradients_owed: workers whose gradient has not arrived yet
    :ivar gradients_here: workers whose gradient has arrived since gradients were last requested
    """

    def __init__(self, slots: Sequence[Slot], speeds: Speeds) -> None:
        self._slots, self._speeds = slots, speeds
        self.ever_arrived = False
        self.gradients_owed: set[int] = set()
        self.gradients_here: set[int] = set()
        self._failures: dict[TrajectoryKey, int] = {}  # of trajectories in flight
        self._undelivered: set[int] = set()  # workers whose arrival has not been taken yet
        self._patient_until = 0.0

    def is_busy(self, worker: int) -> bool:
        """Whether a job of the worker has not been taken yet."""
        return self._slots[worker].job is not None or worker in self._undelivered

    def under_way(self) -> list[int]:
        """Workers whose job has not arrived."""
        return [worker for worker, slot in enumerate(self._slots) if slot.job is not None]

    # Trajectories

    def submit(self, job: Job, steps: int, now: float) -> list[Instruction]:
        """Have a trajectory run; a worker that is still stopping or restarting begins as soon as it can."""
        assert not self.is_busy(job.worker), f"worker {job.worker} is busy"
        slot = self._slots[job.worker]
        slot.job = job
        return self._run(job.worker, slot, steps, now) if slot.state is State.IDLE else []

    def idle(self, worker: int, steps: int, now: float) -> list[Instruction]:
        """It waits for messages; if there is a job for it, it gets that."""
        slot = self._slots[worker]
        slot.state = State.IDLE
        return self._run(worker, slot, steps, now)

    def _run(self, worker: int, slot: Slot, steps: int, now: float) -> list[Instruction]:
        job = slot.job
        if job is None:
            return []
        told: list[Instruction] = []
        if slot.point is not job.point:
            told.append(do.SendPoint(worker, job.point))
            context = (job.point.transform_obs, job.point.buffers or None)
            if any(new is not old for new, old in zip(context, slot.context, strict=True)):
                slot.context = context
                told.append(do.SendContext(worker, context))
            slot.point = job.point
            slot.point_number += 1
            slot.held = {key for key in slot.held if key.round >= job.point.round}
        slot.job_number += 1
        slot.state = State.BUSY
        slot.heartbeat.begin(steps, now)
        if job.segment_steps:
            told.append(do.RunSegment(job, slot.job_number, slot.point_number, slot.progress))
            slot.progress = replace(slot.progress, new_episode=False)
        else:
            told.append(do.Run(job, slot.job_number, slot.point_number))
        return told

    def arrived(self, worker: int, said: RemoteArrival | SegmentArrival, steps: int, now: float) -> list[Instruction]:
        """A trajectory has ended, or was cancelled; or a part of a segment."""
        slot = self._slots[worker]
        job, point = slot.job, slot.point
        assert point is not None
        slot.history.succeeded()
        if said.n_steps and slot.raised is not None and slot.raised.job == FIRST_STEP:
            slot.raised = None
        if said.n_steps:
            self._speeds.note(worker, said.finished_at - said.started_at, said.n_steps, now)
        taken: Instruction
        is_wanted = slot.state is State.BUSY and job is not None and not said.cancelled
        if isinstance(said, SegmentArrival):
            taken = self._segment_arrived(worker, slot, said, is_wanted)
        elif job is None or not is_wanted:
            taken = do.Discard(worker, TrajectoryKey(point.round, worker, 0), point, said)
        else:
            self.ever_arrived = True
            slot.held.add(job.key)
            slot.raised = None
            self._end(slot, job)
            taken = do.Deliver(job, said)
        return [taken, *self.idle(worker, steps, now)]

    def _segment_arrived(self, worker: int, slot: Slot, said: SegmentArrival, is_wanted: bool) -> Instruction:
        job, point = slot.job, slot.point
        assert point is not None
        self.ever_arrived = self.ever_arrived or said.n_steps > 0
        slot.progress = SegmentStart(said.n_made, said.n_episodes, slot.progress.new_episode)
        if job is None or not is_wanted:
            return do.DropSegment(worker, point, said)
        slot.job = None
        return do.TakeSegment(job, said)

    def _end(self, slot: Slot, job: Job) -> None:
        slot.job = None
        self._failures.pop(job.key, None)
        self._undelivered.add(job.worker)

    def delivered(self, worker: int) -> None:
        """Its arrival has been taken, and it may get another job."""
        self._undelivered.discard(worker)

    def cancel(self) -> list[Instruction]:
        """Cancel all jobs in flight and drop the arrivals that were not taken."""
        told: list[Instruction] = [do.DropGradient(worker) for worker in sorted(self.gradients_owed)]
        self.gradients_owed.clear()
        self._undelivered.clear()
        for worker, slot in enumerate(self._slots):
            slot.job = None
            if slot.state is State.BUSY:
                slot.state = State.CANCELLING
                told.append(do.CancelJob(worker, slot.job_number))
        return told

    # Segments

    def counted(self, worker: int, progress: SegmentStart) -> None:
        """So many of its steps count; what it has done since then will be known when it has stopped."""
        self._slots[worker].progress = progress

    def leave_episodes(self) -> None:
        """The environments are reset by something else."""
        for worker in range(len(self._slots)):
            self.leave_episode(worker)

    def leave_episode(self, worker: int) -> None:
        """Its environment is reset by something else, or in a state that is not known."""
        slot = self._slots[worker]
        slot.progress = replace(slot.progress, new_episode=True)

    def unheard(self, worker: int) -> list[Instruction]:
        """What it has done in its last job is not known."""
        self.leave_episode(worker)
        return self._lose(self._slots[worker])

    def _lose(self, slot: Slot) -> list[Instruction]:
        return [do.LoseSegment(slot.job.worker)] if slot.job is not None and slot.job.segment_steps else []

    # Failures

    def failed(self, worker: int, is_lost: bool, was_running: bool) -> list[Instruction]:
        """
        Its process has gone; the job stays its own, with the same random numbers, unless that has been tried enough.

        :param worker: index of the worker
        :param is_lost: it will not be restarted
        :param was_running: its job, which may have waited for a process that could not be started
        """
        slot = self._slots[worker]
        told = self.gone(worker)
        if slot.job is None:
            return told
        if slot.job.segment_steps:
            slot.job = None if is_lost else slot.job
            return told
        key = slot.job.key
        self._failures[key] = self._failures.get(key, 0) + was_running
        if is_lost or self._failures[key] > RETRIES:
            return self.give_up(worker, "lost" if is_lost else "crash")
        return []

    def place_of(self, worker: int, failure: RemoteFailure) -> Place | None:
        """Return where a worker has raised an exception; None if in no job."""
        slot = self._slots[worker]
        if slot.state is State.PREPARING:
            return Place(None, failure.type_name, 0)
        job: TrajectoryKey | int
        if failure.episode != NO_EPISODE and slot.state in (State.BUSY, State.CANCELLING):
            job = failure.episode
        elif slot.state is State.BUSY and slot.job is not None:
            job = slot.job.key
        else:
            return None
        return Place(job if failure.age else FIRST_STEP, failure.type_name, failure.age)

    def begin_again(self, worker: int, episode: int) -> None:
        """
        The next segment begins with the episode that has raised, to see whether it does so again.

        :param worker: index of the worker
        :param episode: number of the episode
        """
        if episode != NO_EPISODE:
            slot = self._slots[worker]
            slot.progress = replace(slot.progress, n_episodes=episode)

    def gone(self, worker: int) -> list[Instruction]:
        """Its process has gone with everything that it held and owed; its next episode is one that was not tried yet."""
        slot = self._slots[worker]
        slot.held.clear()
        slot.point = None
        slot.progress = SegmentStart(slot.progress.n_steps, slot.progress.n_episodes + 1)
        self.gradients_owed.discard(worker)
        return self._lose(slot)

    def give_up(self, worker: int, reason: str) -> list[Instruction]:
        """Its job has to be planned again."""
        slot = self._slots[worker]
        job = slot.job
        if job is None:
            return []
        self._end(slot, job)
        return [do.Reject(job, reason)]

    def new_settings(self) -> None:
        """Trajectories of the same name are other ones from now on, and all streams of random numbers start again."""
        self._failures.clear()
        for slot in self._slots:
            slot.progress, slot.raised = SegmentStart(), None

    # Gradients

    def begin_gradients(self, now: float) -> None:
        """Gradients are about to be asked for."""
        self.gradients_here.clear()
        self._patient_until = now + GRADIENT_SECONDS

    def ask_for_gradient(
        self, worker: int, contributions: Sequence[Contribution], steps: int, now: float
    ) -> list[Instruction]:
        """
        Ask for a local sum, if the worker is there and still holds what that needs.

        A worker in the middle of a step, which may hang, is not asked for a long one: sending it would wait for the worker.
        """
        slot, keys = self._slots[worker], {contribution.key for contribution in contributions}
        if slot.state not in (State.IDLE, State.BUSY, State.CANCELLING) or not slot.held.issuperset(keys):
            return []
        n_steps = sum(len(contribution.coefficients) for contribution in contributions)
        if slot.state is not State.IDLE and n_steps > LONG_REQUEST:
            return []
        slot.held.difference_update(keys)
        slot.heartbeat.begin(steps, now)
        self.gradients_owed.add(worker)
        return [do.RequestGradient(worker, contributions)]

    def gradient_came(self, worker: int, steps: int, now: float) -> None:
        """Its gradient can be read."""
        self._slots[worker].heartbeat.begin(steps, now)
        self.gradients_owed.discard(worker)
        self.gradients_here.add(worker)

    def patience(self, now: float) -> float:
        """Seconds for which busy workers may still leave a request for a gradient unread."""
        return max(0.0, self._patient_until - now)

    def hesitating(self, now: float) -> list[int]:
        """Workers that owe a gradient and are in the middle of something else for too long, unless they have begun with it."""
        if self.patience(now) > 0:
            return []
        return [worker for worker in sorted(self.gradients_owed) if self._slots[worker].state is not State.IDLE]

    def drop_gradient(self, worker: int) -> list[Instruction]:
        """Do without the gradient that it owes."""
        self.gradients_owed.discard(worker)
        return [do.DropGradient(worker)]
