"""One worker's environment, whose episodes continue across rounds: a segment of steps a round, cut into pieces of episodes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from sb3_nigt.messages import SamplingPoint, SegmentStart, TrajectoryKey
from sb3_nigt.sampling.heads import Head, Network
from sb3_nigt.sampling.noise import NoiseStream
from sb3_nigt.sampling.sampler import Sampler
from sb3_nigt.sampling.seeding import action_stream, episode_seed, stagger_age
from sb3_nigt.sampling.steps import Arrays
from sb3_nigt.sampling.trajectory import Trajectory

LIMIT = "_max_episode_steps"  # of a TimeLimit, which has no other name for it
UNLIMITED = 2**62
MAX_BAD_EPISODES = 5  # in a row; then the environment is no longer stepped in this round


class PieceLog(Protocol):
    """Where the steps of a segment go, for a worker that is watched while it makes them."""

    def room(self) -> int:
        """Steps that a new piece has room for."""
        ...

    def open(self, age: int) -> Arrays:
        """
        Return the arrays of a new piece.

        :param age: steps of the episode before the piece
        """
        ...

    def close(self, piece: Trajectory) -> None:
        """
        Note how a piece has ended, before ``after_step`` is called for its last step if that has ended an episode.

        :param piece: the steps that were made
        """
        ...


class SegmentSampler:
    """
    Steps one environment continuously; an episode that ends is followed by the next one.

    A round's segment comes out as pieces, each within one episode: ``terminated`` or ``truncated`` say how the episode ended,
    neither that the piece was cut at the end of the round. Actions are drawn from the stream (seed, worker), the e-th episode
    is seeded with (seed, worker, e), so a run is a function of the seed and of the number of steps in each round.

    :param env: the environment
    :param head: turns distribution parameters and noise into actions
    :param seed: root seed of the run
    :param worker: index of the worker
    :param max_age: with ``stagger``, the first episode is cut at an age drawn uniformly from 1 to this; None: never
    :param after_step: called after every step; False interrupts ``advance``
    :param log: the log that takes the steps, and ends a segment when it is full; None: separate arrays
    :param keep_info: see ``Sampler``
    :param stream: number of its random numbers in the run; None: ``worker``
    :ivar n_made: steps made in all rounds, each with its own row of random numbers
    :ivar n_episodes: episodes begun
    :ivar n_done: steps of the current segment
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        head: Head,
        seed: int,
        worker: int,
        max_age: int | None = None,
        after_step: Callable[[], bool] | None = None,
        log: PieceLog | None = None,
        keep_info: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
        stream: int | None = None,
    ) -> None:
        self._head, self._seed, self._worker, self._stream = head, seed, worker, worker if stream is None else stream
        self._begin_noise_anew()
        self._sampler = Sampler(env, head, n_steps=UNLIMITED, after_step=after_step, keep_info=keep_info)
        self._after_step, self._log = after_step, log
        self._first_age = None if max_age is None else stagger_age(seed, self._stream, max_age)
        self.n_made = self.n_episodes = self.n_done = 0
        self._pieces: list[Trajectory] = []
        self._episode_return, self._episode_steps = 0.0, 0
        self._in_episode = self._is_open = self._is_full = False
        self._n_bad = 0  # episodes in a row that a number which is not finite has ended

    def begin(self, point: SamplingPoint, network: Network) -> None:
        """
        Start the segment of a round.

        :param point: the parameters and statistics that it is sampled with; its number is that of the round
        :param network: the policy at that point
        """
        self._point, self._network = point, network
        self._pieces, self.n_done, self._is_open, self._is_full, self._n_bad = [], 0, False, False, 0

    def leave_episode(self) -> None:
        """Start with a new episode next, since the environment was reset by something else."""
        if self._is_open:  # ``advance`` was interrupted: random numbers were taken for steps that do not count
            self._begin_noise_anew()
            self._noise.skip(self.n_made)
        self._in_episode = self._is_open = False

    @property
    def in_episode(self) -> bool:
        """Whether the next segment continues an episode."""
        return self._in_episode

    @property
    def observation(self) -> Any:
        """The last one of the environment."""
        return self._sampler.observation

    def go_on_from(self, start: SegmentStart, actions: npt.NDArray[Any] | None) -> bool:
        """
        Be where another sampler of this seed and worker was; this one has made no step yet.

        :param start: where to start
        :param actions: the actions that the environment received in the episode in progress; None: begin with a new one
        :return: False if the episode ended while it was repeated, or there was none
        """
        self._noise.skip(start.n_steps)
        self.n_made, self.n_episodes = start.n_steps, start.n_episodes
        if actions is None:
            return False
        rewards = self._sampler.repeat(episode_seed(self._seed, self._stream, start.n_episodes - 1), actions)
        if rewards is None:
            return False
        self._episode_return = float(np.add.accumulate([0.0, *rewards])[-1])
        self._episode_steps, self._in_episode = len(actions), True
        return True

    def go_to(self, start: SegmentStart) -> None:
        """
        Be where the next segment begins, before ``begin``: at another place than now only in a new process or in a replay.

        :param start: where to start; steps that are missing are made at the point of the last segment
        """
        if start.new_episode:
            self.leave_episode()
            if start.n_steps < self.n_made:  # those in between count for nothing
                self._begin_noise_anew()
                self.n_made = 0
            self._noise.skip(start.n_steps - self.n_made)
            self.n_made = start.n_steps
        elif self.n_made < start.n_steps:
            self.advance(start.n_steps - self.n_made)
            self.end()
        if not self._in_episode:
            self.n_episodes = start.n_episodes

    def advance(self, n_steps: int) -> None:
        """
        Make further steps, fewer if ``after_step`` says so or there is no more room.

        :param n_steps: number of environment steps
        """
        until = self.n_done + n_steps
        while self.n_done < until and not self.is_hopeless and not self._is_full:
            if not self._is_open:
                self._open()
            asked, before = min(until - self.n_done, self._left_of_first_episode(), self._room), self._sampler.n_done
            self._sampler.advance(asked)
            made = self._sampler.n_done - before
            self.n_done += made
            self.n_made += made
            self._episode_steps += made
            self._room -= made
            goes_on = made == asked
            if self._sampler.finished:
                self._close_episode()
                goes_on = made == 0 or self._after_step is None or self._after_step()
            elif self._left_of_first_episode() == 0:
                self._close_episode()
            elif self._room == 0:
                self.end()
            if not goes_on:
                return

    def end(self) -> None:
        """Close the piece that is open; the episode continues in the next one."""
        if self._is_open:
            self._close_piece()

    def split(self, n_steps: int) -> tuple[list[Trajectory], list[Trajectory]]:
        """
        End the segment; return its first steps and the rest, as pieces.

        :param n_steps: number of steps that count
        """
        self.end()
        counted: list[Trajectory] = []
        rest: list[Trajectory] = []
        for piece in self._pieces:
            if piece.n_steps <= n_steps:
                counted.append(piece)
            elif n_steps > 0:
                counted.append(piece.part(0, n_steps))
                rest.append(piece.part(n_steps, piece.n_steps))
            else:
                rest.append(piece)
            n_steps = max(0, n_steps - piece.n_steps)
        return counted, rest

    @property
    def age(self) -> int:
        """Steps of the episode, also if the environment has raised in the middle of ``advance``."""
        return self._episode_steps - self._sampler.n_done + self._sampler.n_begun

    @property
    def n_rejected(self) -> int:
        """Steps of the segment that cannot be used, because a number was not finite."""
        return sum(piece.n_steps for piece in self._pieces if piece.rejected)

    @property
    def is_hopeless(self) -> bool:
        """Whether so many episodes in a row were rejected that the environment is no longer stepped in this round."""
        return self._n_bad >= MAX_BAD_EPISODES

    def _begin_noise_anew(self) -> None:
        self._noise = NoiseStream(self._head, action_stream(self._seed, self._stream))

    def _left_of_first_episode(self) -> int:
        if self._first_age is None or self.n_episodes > 1:
            return UNLIMITED
        return self._first_age - self._episode_steps

    def _open(self) -> None:
        key = TrajectoryKey(self._point.round, self._worker, len(self._pieces))
        is_new = not self._in_episode
        if is_new:
            self._in_episode, self._episode_return, self._episode_steps = True, 0.0, 0
            self.n_episodes += 1
        self._is_open = True  # before the reset, which may be interrupted
        self._room, arrays = UNLIMITED, None
        if self._log is not None:
            self._room, arrays = self._log.room(), self._log.open(self._episode_steps)
        if is_new:
            seed = episode_seed(self._seed, self._stream, self.n_episodes - 1)
            self._sampler.begin(key, self._point, self._network, seed, self._noise, arrays)
        else:
            self._sampler.go_on(key, self._point, self._network, self._noise, arrays)

    def _close_piece(self) -> None:
        sampler = self._sampler
        sampler.end()
        piece = dataclasses.replace(sampler.trajectory(), age=self._episode_steps - sampler.n_done)
        # one after the other, so that the sum does not depend on where pieces were cut
        self._episode_return = float(np.add.accumulate([self._episode_return, *piece.rewards])[-1])
        self._is_open = False
        piece = sampler.with_report(piece, self._episode_return, self._episode_steps)
        if piece.n_steps or piece.rejected:
            self._pieces.append(piece)
        if self._log is not None:
            self._log.close(piece)
            self._is_full = self._log.room() < 1
        self._n_bad = self._n_bad + 1 if piece.rejected else self._n_bad

    def _close_episode(self) -> None:
        self._close_piece()
        self._in_episode = False
        if not self._pieces[-1].rejected:
            self._n_bad = 0


def longest_episode(env: gym.Env[Any, Any]) -> int | None:
    """
    Return the steps of the longest episode; None if the environment does not say.

    :param env: an environment, made by ``gym.make`` or with a ``TimeLimit`` of its own
    """
    limit = None if env.spec is None else env.spec.max_episode_steps
    if limit is None and env.has_wrapper_attr(LIMIT):
        limit = env.get_wrapper_attr(LIMIT)
    return None if limit is None else int(limit)
