"""Rounds of steps on simulated workers: who steps how often follows from the speeds, then the steps are executed."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from sb3_nigt.messages import Arrival, Job, SamplingPoint, TrajectoryKey
from sb3_nigt.sampling.heads import Head, Network
from sb3_nigt.sampling.seeding import trajectory_seeds
from sb3_nigt.sampling.segments import SegmentSampler, longest_episode
from sb3_nigt.sampling.trajectory import Trajectory
from sb3_nigt.timing.clock import SimulatedClock
from sb3_nigt.timing.segments import round_of_steps
from sb3_nigt.timing.time_models import TimeModel
from sb3_nigt.vec_env.base import Segments, piece_arrival

IntArray = npt.NDArray[np.int64]


class SimulatedSegments:
    """
    The environments of simulated workers between and in rounds of steps.

    Worker i makes one step after the other, h_i seconds each. A step that is under way when the round ends is finished: it
    moves the environment and counts for nothing, and the worker begins the next round when it has ended.

    :param envs: one a worker
    :param head: turns distribution parameters and noise into actions
    :param seed: root seed of the run
    :param stagger: cut the first episode of each worker at a random age
    :param task_ids: one a worker
    :param episode_steps: over which a time per trajectory is spread
    """

    def __init__(
        self,
        envs: Sequence[gym.Env[Any, Any]],
        head: Head,
        seed: int,
        stagger: bool,
        task_ids: Sequence[Hashable],
        episode_steps: int,
    ) -> None:
        self._seed, self._task_ids, self._episode_steps = seed, task_ids, episode_steps
        self._samplers = [
            SegmentSampler(env, head, seed, worker, longest_episode(env) if stagger else None)
            for worker, env in enumerate(envs)
        ]
        self._free_at = np.zeros(len(envs))  # when the step that is under way will have ended

    def leave_episodes(self) -> None:
        """The environments were reset: everything that is under way is void."""
        self._free_at[:] = 0.0
        for sampler in self._samplers:
            sampler.leave_episode()

    def run(
        self,
        point: SamplingPoint,
        network: Network,
        clock: SimulatedClock,
        time_model: TimeModel,
        is_complete: Callable[[IntArray], bool],
    ) -> Segments:
        """
        Run one round; the clock moves to its end.

        :param point: θ̃ with its number
        :param network: the policy at that point
        :param clock: of the workers
        :param time_model: their speeds
        :param is_complete: of the steps of each worker that count
        """
        starts = np.maximum(clock.now(), self._free_at)
        units = self._unit_times(point.round, starts, time_model)
        for sampler in self._samplers:
            sampler.begin(point, network)
        bad, end, counts = np.zeros(len(starts), dtype=np.int64), 0.0, np.zeros(len(starts), dtype=np.int64)
        while True:
            end, counts = round_of_steps(starts, units, lambda counts: is_complete(counts - bad))  # noqa: B023
            for sampler, count in zip(self._samplers, counts.tolist(), strict=True):
                sampler.advance(count - sampler.n_done)
            before, bad = bad, np.array([sampler.n_rejected for sampler in self._samplers])
            if (bad == before).all() or any(sampler.is_hopeless for sampler in self._samplers):
                break  # else more steps are needed in place of those that cannot be used
        in_flight = starts + counts * units < end
        for sampler, one_more in zip(self._samplers, in_flight.tolist(), strict=True):
            sampler.advance(int(one_more))
        self._free_at = starts + (counts + in_flight) * units
        clock.advance_to(end)
        return self._segments(point, starts, units, counts)

    def _unit_times(self, round_: int, starts: npt.NDArray[np.float64], time_model: TimeModel) -> npt.NDArray[np.float64]:
        seeds = [trajectory_seeds(self._seed, TrajectoryKey(round_, worker, 0)).time for worker in range(len(starts))]
        units = [time_model.unit_time(worker, float(starts[worker]), seed) for worker, seed in enumerate(seeds)]
        return np.array(units) / (1 if time_model.per == "step" else self._episode_steps)

    def _segments(
        self, point: SamplingPoint, starts: npt.NDArray[np.float64], units: npt.NDArray[np.float64], counts: IntArray
    ) -> Segments:
        pieces: list[tuple[Arrival, Trajectory]] = []
        discarded: list[tuple[Job, float, Trajectory]] = []
        accepted = np.zeros_like(counts)
        for worker, sampler in enumerate(self._samplers):
            counted, rest = sampler.split(int(counts[worker]))
            began, step = float(starts[worker]), float(units[worker])
            for piece in counted:
                ended = began + piece.n_steps * step
                pieces.append((piece_arrival(worker, self._task_ids[worker], piece, began, ended), piece))
                accepted[worker] += 0 if piece.rejected else piece.n_steps
                began = ended
            discarded += [(Job(worker, piece.key, point), began, piece) for piece in rest]
        return Segments(accepted, pieces, discarded)
