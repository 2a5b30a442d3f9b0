"""What the workers have brought: trajectories, read out of the arrays of a round, until they are taken."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable, Sequence

from sb3_nigt.messages import Arrival, Job, SamplingPoint, TrajectoryKey
from sb3_nigt.sampling.steps import StepTable, read_steps
from sb3_nigt.sampling.trajectory import Trajectory
from sb3_nigt.timing.clock import WallClock
from sb3_nigt.vec_env.base import Cancelled
from sb3_nigt.vec_env.pool import protocol
from sb3_nigt.vec_env.pool.arrays import WorkerArrays
from sb3_nigt.vec_env.pool.infos import read_infos


class Inbox:
    """
    Trajectories that have come.

    :param task_ids: the task of each worker
    :param clock: the workers' clock
    :ivar arrived: arrivals that have not been taken
    :ivar kept: trajectories that have been taken and not forgotten, by worker and key
    """

    def __init__(self, task_ids: Sequence[Hashable], clock: WallClock) -> None:
        self.kept: dict[tuple[int, TrajectoryKey], Trajectory] = {}
        self._task_ids, self._clock = task_ids, clock
        self.arrived: deque[tuple[Arrival, Trajectory]] = deque()
        self._discarded: list[Cancelled] = []

    def open(self, arrays: WorkerArrays, table: StepTable) -> None:
        """
        Take what comes from now on from here.

        :param arrays: the arrays to which the workers write their steps
        :param table: table of the steps of a trajectory
        """
        self._arrays, self._table = arrays, table
        self.kept.clear()

    # What comes in

    def deliver(self, job: Job, said: protocol.RemoteArrival) -> None:
        """Read a complete trajectory."""
        trajectory = self._read(job.worker, job.key, job.point, said)
        arrival = Arrival(
            worker=job.worker,
            task_id=self._task_ids[job.worker],
            key=job.key,
            n_steps=said.n_steps,
            episode_return=trajectory.episode_return,
            started_at=self._clock.at(said.started_at),
            finished_at=self._clock.at(said.finished_at),
            arrived_at=self._clock.now(),
            rejected=trajectory.rejected,
        )
        self.arrived.append((arrival, trajectory))

    def discard(self, worker: int, key: TrajectoryKey, point: SamplingPoint, said: protocol.RemoteArrival) -> None:
        """Read a trajectory that is no longer wanted."""
        trajectory = self._read(worker, key, point, said)
        started_at, stopped_at = self._clock.at(said.started_at), self._clock.at(said.finished_at)
        self._discarded.append(Cancelled(Job(worker, key, point), started_at, stopped_at, trajectory))

    def reject(self, job: Job, reason: str) -> None:
        """Put in an arrival without steps, which says that there will be none."""
        now = self._clock.now()
        nothing = protocol.RemoteArrival(0, 0, 0, 0, 0, 0, now, now)
        arrival = Arrival(job.worker, self._task_ids[job.worker], job.key, 0, 0.0, now, now, now, rejected=reason)
        self.arrived.append((arrival, self._read(job.worker, job.key, job.point, nothing)))

    def _read(self, worker: int, key: TrajectoryKey, point: SamplingPoint, said: protocol.RemoteArrival) -> Trajectory:
        """Copy a trajectory out of the arrays, which the worker's next one overwrites."""
        arrays, n = self._arrays.of(worker), said.n_steps
        return Trajectory(
            key=key,
            point=point,
            **read_steps({name: arrays[name] for name in self._table.fields}, n),
            terminated=bool(said.terminated),
            truncated=bool(said.truncated),
            infos=read_infos(arrays["infos"], 0, n),
            rejected=protocol.rejection_of(said.rejection),
        )

    # What is taken out

    def take(self) -> tuple[Arrival, Trajectory]:
        """Return the next arrival, and keep its trajectory for its gradient."""
        arrival, trajectory = self.arrived.popleft()
        self.kept[arrival.worker, arrival.key] = trajectory
        return arrival, trajectory

    def keep(self, taken: Iterable[tuple[Arrival, Trajectory]]) -> None:
        """
        Keep trajectories for their gradients.

        :param taken: trajectories that arrived another way
        """
        self.kept.update({(arrival.worker, arrival.key): trajectory for arrival, trajectory in taken})

    def void(self) -> None:
        """Discard what has arrived and was not taken."""
        for arrival, trajectory in self.arrived:
            job, times = Job(arrival.worker, arrival.key, trajectory.point), (arrival.started_at, arrival.finished_at)
            self._discarded.append(Cancelled(job, *times, trajectory))
        self.arrived.clear()

    def take_discarded(self) -> list[Cancelled]:
        """Return the discarded jobs."""
        discarded, self._discarded = self._discarded, []
        return discarded

    def forget(self, before_round: int) -> None:
        """Drop kept trajectories that earlier rounds count."""
        self.kept = {name: kept for name, kept in self.kept.items() if name[1].round >= before_round}
