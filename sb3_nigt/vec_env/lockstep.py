"""Trajectories on any Stable-Baselines3 VecEnv, whose environments step together: workers of equal speed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch as th
from stable_baselines3.common.vec_env import VecEnv

from sb3_nigt.messages import Arrival, Contribution, Job, SamplingPoint
from sb3_nigt.replica.replica import PolicyReplica
from sb3_nigt.sampling.actions import blame_policy
from sb3_nigt.sampling.heads import Network
from sb3_nigt.sampling.infos import InfoCopies, reported_return
from sb3_nigt.sampling.noise import NoiseStream
from sb3_nigt.sampling.seeding import action_stream, trajectory_seeds
from sb3_nigt.sampling.ticks import Tick
from sb3_nigt.sampling.together import Step, finite_part, is_bad, is_hopeless, pieces_of, trajectory_of
from sb3_nigt.sampling.trajectory import Trajectory, copied, map_observation
from sb3_nigt.timing.clock import SimulatedClock
from sb3_nigt.timing.time_models import TimePer
from sb3_nigt.vec_env.base import Cancelled, RolloutSpec, Segments, TrajectoryWorkers, piece_arrival


@dataclass(eq=False)
class _Run:
    """A job on its environment; ``first`` is the vec-step at which it began, None while it waits for an episode start."""

    job: Job
    rng: np.random.Generator
    submitted: int
    first: int | None = None


class LockstepWorkers(TrajectoryWorkers):
    """
    The environments of a plain ``VecEnv`` as workers; one simulated second is one step of all of them.

    A trajectory starts with an episode. There is no way to reset one environment of a ``VecEnv`` alone, so a worker whose
    trajectory was cut at H waits until its episode ends, or until no worker is busy and all can be reset together.

    :param env: any VecEnv with any wrappers
    """

    clock: SimulatedClock
    shows_steps = True
    sums_by_worker = False  # one sweep over all trajectories is quicker in one process

    def __init__(self, env: VecEnv) -> None:
        self.env, self.n = env, env.num_envs
        self.clock = SimulatedClock()
        self._on_tick: Callable[[Tick], bool] = lambda tick: True
        self.task_ids = tuple(range(self.n))
        self.observation: Any = None
        self.at_start = np.zeros(self.n, dtype=bool)
        self._ages = np.zeros(self.n, dtype=np.int64)  # steps of the current episodes, between rounds of steps
        self._runs: dict[int, _Run] = {}
        self._arrived: deque[tuple[Arrival, Trajectory]] = deque()
        self._kept: dict[tuple[int, Any], Trajectory] = {}
        self._steps: list[Step] = []  # since _first_step
        self._first_step = self._n_steps_done = 0

    @property
    def time_per(self) -> TimePer:
        """See ``TrajectoryWorkers``."""
        return "step"

    def resume(self, observation: Any, at_start: Any, on_tick: Callable[[Tick], bool]) -> None:
        """See ``TrajectoryWorkers``; if the observation is not ours the environment was reset and all jobs are void."""
        self._on_tick = on_tick
        if observation is not self.observation:
            self._void()
            self.observation, self.at_start = copied(observation), np.array(at_start, dtype=bool)
            self._ages = np.where(self.at_start, 0, self._ages)

    def standing(self) -> tuple[Any, Any]:
        """See ``TrajectoryWorkers``."""
        return self.observation, self.at_start

    def prepare(self, spec: RolloutSpec) -> None:
        """See ``TrajectoryWorkers``."""
        self._void()
        self.rollout_spec = self._spec = spec
        self._replica = PolicyReplica(spec.policy)
        self._idle_rng = np.random.default_rng(spec.seed)
        self._noise = [NoiseStream(self._replica.head, action_stream(spec.seed, worker)) for worker in range(self.n)]
        self._ages[:] = 0
        self._keep_info = [InfoCopies() for _ in range(self.n)]

    def busy(self, worker: int) -> bool:
        """See ``TrajectoryWorkers``."""
        return worker in self._runs

    def submit(self, job: Job) -> None:
        """See ``TrajectoryWorkers``."""
        assert job.worker not in self._runs, f"worker {job.worker} is busy"
        self._runs[job.worker] = _Run(job, trajectory_seeds(self._spec.seed, job.key).actions, self._n_steps_done)
        self._point = job.point

    def next_arrival(self) -> tuple[Arrival, Trajectory] | None:
        """See ``TrajectoryWorkers``; steps all environments until a trajectory ends."""
        while not self._arrived:
            self._start_waiting()
            if not self._step():
                return None
        arrival, trajectory = self._arrived.popleft()
        del self._runs[arrival.worker]
        self._kept[arrival.worker, arrival.key] = trajectory
        self.steps_executed += trajectory.n_steps
        return arrival, trajectory

    def cancel(self) -> list[Cancelled]:
        """See ``TrajectoryWorkers``; the steps have been shown to callbacks already."""
        for run in self._runs.values():
            self.steps_executed += 0 if run.first is None else self._n_steps_done - run.first
        self._void()
        return []

    def gradient(self, contributions: Sequence[Contribution], weights: npt.NDArray[np.float64]) -> th.Tensor:
        """See ``TrajectoryWorkers``."""
        return self._replica.aggregate(self._kept, contributions, weights)

    def forget(self, before_round: int) -> None:
        """See ``TrajectoryWorkers``."""
        self._kept = {name: kept for name, kept in self._kept.items() if name[1].round >= before_round}

    def predicted_durations(self, n_steps: float) -> npt.NDArray[np.float64]:
        """See ``TrajectoryWorkers``."""
        return np.full(self.n, n_steps)

    def aggregate_messages(self, workers: Sequence[int]) -> None:
        """Messages take no time."""

    def _start_waiting(self) -> None:
        """Begin the trajectories whose environment is at an episode start; reset all if that helps and does no harm."""
        waiting = {worker: run for worker, run in self._runs.items() if run.first is None}
        if len(waiting) == len(self._runs) and not all(self.at_start[worker] for worker in waiting):
            self.observation = copied(self.env.reset())
            self.at_start[:] = True
        patience = self._spec.n_steps  # then no other worker starts either, until all can be reset together
        if any(self._n_steps_done - run.submitted >= patience and not self.at_start[w] for w, run in waiting.items()):
            return
        for worker, run in waiting.items():
            if self.at_start[worker]:
                run.first = self._n_steps_done

    def _step(self) -> bool:
        self.steps_executed += self.n - sum(run.first is not None for run in self._runs.values())  # steps without a job
        tick = self._advance(*self._act())
        if tick is None:
            return False
        for worker in range(self.n):
            run = self._runs.get(worker)
            if run is not None and run.first is not None:
                self._check_end(worker, run, run.first, tick)
        self._drop_old_steps()
        return True

    def _advance(self, samples: npt.NDArray[Any], actions: npt.NDArray[Any]) -> Tick | None:
        """Step all environments and keep the step; None if a callback said stop."""
        # copies, since the environments may write to all of these at their next step, and to the actions now
        try:
            new_obs, rewards, dones, infos = self.env.step(actions.copy())
        except Exception:
            blame_policy(actions, self._point.round)
            raise
        kept = [keep(info) for keep, info in zip(self._keep_info, infos, strict=True)]
        tick = Tick(copied(new_obs), np.array(rewards), np.array(dones), kept, actions)
        self._steps.append((self.observation, samples, tick))
        self._n_steps_done += 1
        self.clock.advance_to(self.clock.now() + 1.0)
        self.observation, self.at_start = tick.new_obs, tick.dones.astype(bool)
        return tick if self._on_tick(tick) else None

    def run_segments(
        self, point: SamplingPoint, is_complete: Callable[[npt.NDArray[np.int64]], bool], meanwhile: Callable[[], None]
    ) -> Segments | None:
        """See ``TrajectoryWorkers``; every worker makes the same number of steps."""
        meanwhile()
        network, self._point = self._replica.batch_network(point), point
        self._void()
        made, bad, is_over = 0, np.zeros(self.n, dtype=np.int64), False
        while not is_over:
            while not is_complete(made - bad):
                if not self._step_on(network):
                    self._grow_older(self._pieces(point))
                    return None
                made += 1
            pieces = self._pieces(point)
            before, bad = bad, np.array([sum(piece.n_steps for piece in own if piece.rejected) for own in pieces])
            # else more steps are needed to replace those that cannot be used
            is_over = bool((bad == before).all()) or any(is_hopeless(own) for own in pieces)
        self.steps_executed += self.n * made
        self._grow_older(pieces)
        arrived = [pair for worker, own in enumerate(pieces) for pair in self._arrivals(worker, own, made)]
        self._kept.update({(arrival.worker, arrival.key): piece for arrival, piece in arrived})
        return Segments(made - bad, arrived, [])

    def _pieces(self, point: SamplingPoint) -> list[list[Trajectory]]:
        """The steps of the round so far, of each worker."""
        return [pieces_of(worker, point, self._steps, int(self._ages[worker])) for worker in range(self.n)]

    def _grow_older(self, pieces: list[list[Trajectory]]) -> None:
        self._ages = np.where(self.at_start, 0, [own[-1].age + own[-1].n_steps for own in pieces])

    def _step_on(self, network: Network) -> bool:
        """Step all environments at the point of the round; False if a callback said stop."""
        parameters = network(map_observation(finite_part, self.observation))
        noise = np.concatenate([stream.take(1) for stream in self._noise])
        return self._advance(*self._replica.head.draw(parameters, noise)) is not None

    def _arrivals(self, worker: int, pieces: Sequence[Trajectory], made: int) -> Iterator[tuple[Arrival, Trajectory]]:
        began = self.clock.now() - made
        for piece in pieces:
            yield piece_arrival(worker, self.task_ids[worker], piece, began, began + piece.n_steps), piece
            began += piece.n_steps

    def _act(self) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Sample actions for all environments; those without a job act as well, their steps count for nothing."""
        points: dict[int, SamplingPoint] = {}
        rngs = [self._idle_rng] * self.n
        at = [self._point] * self.n
        for worker, run in self._runs.items():
            if run.first is not None:
                rngs[worker], at[worker] = run.rng, run.job.point
        for point in at:
            points[id(point)] = point
        parameters: Any = None
        for point in points.values():
            batch = self._replica.batch_network(point)(map_observation(finite_part, self.observation))
            mine = np.array([p is point for p in at])
            parameters = batch if parameters is None else np.where(mine[:, None], batch, parameters)
        head = self._replica.head
        noise = np.concatenate([head.noise(rng, 1) for rng in rngs])
        return head.draw(parameters, noise)

    def _check_end(self, worker: int, run: _Run, first: int, tick: Tick) -> None:
        length = self._n_steps_done - first
        if not (tick.dones[worker] or length == self._spec.n_steps or is_bad(worker, self._steps[-1])):
            return
        trajectory = trajectory_of(worker, run.job.key, run.job.point, self._steps[first - self._first_step :])
        now, reported = self.clock.now(), reported_return(tick.infos[worker])
        arrival = Arrival(
            worker=worker,
            task_id=worker,
            key=run.job.key,
            n_steps=length,
            # under VecNormalize the rewards seen here are not the raw ones, Monitor's are
            episode_return=trajectory.episode_return if reported is None else reported,
            started_at=now - length,
            finished_at=now,
            arrived_at=now,
            rejected=trajectory.rejected,
        )
        self._arrived.append((arrival, trajectory))

    def _drop_old_steps(self) -> None:
        """Forget the steps before the oldest running trajectory."""
        oldest = min((r.first for r in self._runs.values() if r.first is not None), default=self._n_steps_done)
        if oldest - self._first_step > 1000 or oldest == self._n_steps_done:
            del self._steps[: oldest - self._first_step]
            self._first_step = oldest

    def _void(self) -> None:
        self._runs.clear()
        self._arrived.clear()
        self._steps.clear()
        self._first_step = self._n_steps_done
