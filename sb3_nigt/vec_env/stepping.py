"""Rounds of steps on simulated workers: who steps how often follows from the speeds, then the steps are executed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from sb3_nigt.errors import warn_user
from sb3_nigt.messages import Arrival, Job, SamplingPoint, Segment, SegmentStart, TrajectoryKey
from sb3_nigt.sampling.heads import Head, Network
from sb3_nigt.sampling.infos import InfoCopies
from sb3_nigt.sampling.seeding import trajectory_seeds
from sb3_nigt.sampling.segments import SegmentSampler, longest_episode
from sb3_nigt.sampling.trajectory import Trajectory
from sb3_nigt.timing.clock import SimulatedClock
from sb3_nigt.timing.segments import round_of_steps, steps_by
from sb3_nigt.timing.time_models import TimeModel
from sb3_nigt.vec_env.base import Cancelled, Segments, piece_arrival
from sb3_nigt.vec_env.positions import EpisodePosition, same_observation

LONGEST_REPEATED = 100_000  # steps of an episode that new workers repeat to go on with it
IntArray = npt.NDArray[np.int64]


class SimulatedSegments:
    """
    The environments of simulated workers between and in rounds of steps.

    Worker i makes one step after the other, h_i seconds each. A step that is in progress when the round ends is finished: it
    moves the environment but does not count, and the worker begins the next round when it has ended.

    :param envs: one environment per worker
    :param head: turns distribution parameters and noise into actions
    :param seed: root seed of the run
    :param stagger: whether to cut the first episode of each worker at a random length
    :param task_ids: one task id per worker
    :param episode_steps: number of steps over which a time per trajectory is spread
    :param first_worker: number of the first worker in the run
    """

    def __init__(
        self,
        envs: Sequence[gym.Env[Any, Any]],
        head: Head,
        seed: int,
        stagger: bool,
        task_ids: Sequence[Hashable],
        episode_steps: int,
        first_worker: int = 0,
    ) -> None:
        self._seed, self._task_ids, self._episode_steps = seed, task_ids, episode_steps
        self._samplers = [
            SegmentSampler(
                env,
                head,
                seed,
                worker,
                longest_episode(env) if stagger else None,
                keep_info=InfoCopies(),
                stream=first_worker + worker,
            )
            for worker, env in enumerate(envs)
        ]
        self._free_at = np.zeros(len(envs))  # when the step in progress will have ended
        self._left = np.ones(len(envs), dtype=bool)  # whose episode was left since its last segment
        # of the episodes in progress, one array a piece; None where they would be too many to repeat
        self._actions: list[list[npt.NDArray[Any]] | None] = [[] for _ in envs]

    def leave_episodes(self) -> None:
        """The environments were reset: everything that is in flight is void."""
        self._free_at[:], self._left[:] = 0.0, True
        for sampler in self._samplers:
            sampler.leave_episode()

    def positions(self) -> tuple[EpisodePosition, ...]:
        """Return where the workers are between two rounds."""
        positions = []
        for worker, sampler in enumerate(self._samplers):
            start = SegmentStart(sampler.n_made, sampler.n_episodes, bool(self._left[worker]))
            parts, actions, observation = self._actions[worker], None, None
            if sampler.in_episode and parts is not None:
                actions, observation = np.concatenate(parts), sampler.observation
            elif sampler.in_episode:
                start = dataclasses.replace(start, new_episode=True)
            positions.append(EpisodePosition(start, float(self._free_at[worker]), actions, observation))
        return tuple(positions)

    def go_on_from(self, positions: Sequence[EpisodePosition], shift: float) -> None:
        """
        Be where other workers were, before the first round.

        :param positions: one position per worker
        :param shift: seconds by which this clock is ahead of theirs
        """
        for worker, (sampler, position) in enumerate(zip(self._samplers, positions, strict=True)):
            is_in_episode = sampler.go_on_from(position.start, position.actions)
            self._free_at[worker] = position.free_at + shift
            self._left[worker] = position.start.new_episode
            if position.actions is None:
                continue
            self._actions[worker] = [position.actions]
            if not (is_in_episode and same_observation(position.observation, sampler.observation)):
                warn_user(
                    f"The environment of worker {worker} did not reach its previous state when its episode was repeated with "
                    "the same seed and actions, so it starts a new episode: the run continues, but not bit for bit. For that, "
                    "reset(seed=...) must determine everything that follows."
                )
                sampler.leave_episode()
                self._left[worker] = True

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
        :param clock: the workers' clock
        :param time_model: their speeds
        :param is_complete: the rule of the round, a function of the steps of each worker that count
        """
        starts, units, places = self._begin(point, network, clock, time_model)
        bad, end, counts = np.zeros(len(starts), dtype=np.int64), 0.0, np.zeros(len(starts), dtype=np.int64)
        while True:
            # at earlier times than before not all of the bad steps have been made
            end, counts = round_of_steps(starts, units, lambda made: is_complete(np.maximum(made - bad, 0)))  # noqa: B023
            for sampler, count in zip(self._samplers, counts.tolist(), strict=True):
                sampler.advance(count - sampler.n_done)
            before, bad = bad, np.array([sampler.n_rejected for sampler in self._samplers])
            if (bad == before).all() or any(sampler.is_hopeless for sampler in self._samplers):
                break  # else more steps are needed to replace those that cannot be used
        in_flight = starts + counts * units < end
        for sampler, one_more in zip(self._samplers, in_flight.tolist(), strict=True):
            sampler.advance(int(one_more))
        self._free_at = starts + (counts + in_flight) * units
        clock.advance_to(end)
        segments = (Segment(worker, place, int(counts[worker])) for worker, place in enumerate(places))
        return self._segments(point, starts, units, tuple(segments))

    def run_part(
        self,
        point: SamplingPoint,
        network: Network,
        clock: SimulatedClock,
        time_model: TimeModel,
        steps_left: Callable[[IntArray], int],
    ) -> Segments:
        """
        Run a round of which these workers are only a part, so that its end is known from outside and in real time.

        The speeds of these workers keep their ratios; every step that is made counts, none is in flight at the end.

        :param point: θ̃ with its number
        :param network: the policy at that point
        :param clock: the workers' clock
        :param time_model: their speeds
        :param steps_left: see ``TrajectoryWorkers``
        """
        starts, units, places = self._begin(point, network, clock, time_model)
        rate, now = float((1 / units).sum()), float(starts.min())
        while (left := steps_left(self._accepted_steps())) and not any(sampler.is_hopeless for sampler in self._samplers):
            made = self._steps_made()
            now = max(now + left / rate, float((starts + (made + 1) * units).min()))  # at least one step
            for sampler, count in zip(self._samplers, steps_by(now, starts, units).tolist(), strict=True):
                if count > sampler.n_done:
                    sampler.advance(count - sampler.n_done)
                    if not steps_left(self._accepted_steps()):
                        break  # a step may take longer than the others have to wait
        made = self._steps_made()
        self._free_at = starts + made * units
        clock.advance_to(max(clock.now(), float(self._free_at.min())))
        segments = (Segment(worker, place, int(made[worker])) for worker, place in enumerate(places))
        return self._segments(point, starts, units, tuple(segments))

    def _begin(
        self, point: SamplingPoint, network: Network, clock: SimulatedClock, time_model: TimeModel
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], list[SegmentStart]]:
        """Begin a round: when each worker starts, its seconds per step, and where its environment is."""
        starts = np.maximum(clock.now(), self._free_at)
        units = self._unit_times(point.round, starts, time_model)
        places = [
            SegmentStart(sampler.n_made, sampler.n_episodes, left)
            for sampler, left in zip(self._samplers, self._left.tolist(), strict=True)
        ]
        self._left[:] = False
        for sampler in self._samplers:
            sampler.begin(point, network)
        return starts, units, places

    def _steps_made(self) -> IntArray:
        return np.array([sampler.n_done for sampler in self._samplers])

    def _accepted_steps(self) -> IntArray:
        return np.array([sampler.n_done - sampler.n_rejected for sampler in self._samplers])

    def repeat(self, point: SamplingPoint, network: Network, segments: Sequence[Segment], now: float) -> Segments:
        """
        Make the steps of a round that was run elsewhere.

        :param point: θ̃ with its number
        :param network: the policy at that point
        :param segments: segments of the round; those of earlier rounds have been repeated
        :param now: current time in seconds on the workers' clock, which does not move
        """
        for segment in segments:
            sampler = self._samplers[segment.worker]
            sampler.go_to(segment.start)
            sampler.begin(point, network)
            sampler.advance(segment.n_steps)
        n = len(self._samplers)
        return self._segments(point, np.full(n, now), np.zeros(n), segments)

    def _unit_times(self, round_: int, starts: npt.NDArray[np.float64], time_model: TimeModel) -> npt.NDArray[np.float64]:
        seeds = [trajectory_seeds(self._seed, TrajectoryKey(round_, worker, 0)).time for worker in range(len(starts))]
        units = [time_model.unit_time(worker, float(starts[worker]), seed) for worker, seed in enumerate(seeds)]
        return np.array(units) / (1 if time_model.per == "step" else self._episode_steps)

    def _segments(
        self,
        point: SamplingPoint,
        starts: npt.NDArray[np.float64],
        units: npt.NDArray[np.float64],
        segments: Sequence[Segment],
    ) -> Segments:
        pieces: list[tuple[Arrival, Trajectory]] = []
        discarded: list[Cancelled] = []
        accepted = np.zeros(len(self._samplers), dtype=np.int64)
        for segment in segments:
            worker = segment.worker
            counted, rest = self._samplers[worker].split(segment.n_steps)
            self._follow(worker, [*counted, *rest])
            start, step, n_steps = float(starts[worker]), float(units[worker]), 0
            for number, piece in enumerate([*counted, *rest]):
                # by the number of steps, as the end of the round: a sum of times would sometimes be a bit later
                began, n_steps = start + n_steps * step, n_steps + piece.n_steps
                ended = start + n_steps * step
                if number < len(counted):
                    pieces.append((piece_arrival(worker, self._task_ids[worker], piece, began, ended), piece))
                    accepted[worker] += 0 if piece.rejected else piece.n_steps
                else:
                    discarded.append(Cancelled(Job(worker, piece.key, point), began, ended, piece))
        return Segments(accepted, pieces, discarded, tuple(segments))

    def _follow(self, worker: int, pieces: Sequence[Trajectory]) -> None:
        for piece in pieces:
            parts = [] if piece.age == 0 else self._actions[worker]
            is_short = piece.age + piece.n_steps <= LONGEST_REPEATED
            self._actions[worker] = [*parts, np.array(piece.actions)] if is_short and parts is not None else None
