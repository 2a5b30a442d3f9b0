"""
The tick rule: one ``callback.on_step()`` represents exactly n environment steps, whichever workers made them.

Workers deliver whole trajectories, so their steps are replayed in portions of n (the number of workers). What is left over
waits for the next trajectory, also across rounds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from sb3_nigt.sampling.trajectory import Trajectory, map_observation


@dataclass(frozen=True)
class Tick:
    """
    One step of all environments, as callbacks see it.

    :param new_obs: observations after the step, leading dimension n
    :param rewards: shape (n,)
    :param dones: shape (n,)
    :param infos: one dict per environment
    :param actions: what the environments received, leading dimension n
    :param raw_obs: ``new_obs`` as the environments gave them; None where their wrappers have seen the step themselves
    :param raw_rewards: ``rewards`` as the environments gave them, or None
    """

    new_obs: Any
    rewards: npt.NDArray[Any]
    dones: npt.NDArray[np.bool_]
    infos: list[dict[str, Any]]
    actions: npt.NDArray[Any]
    raw_obs: Any = None
    raw_rewards: npt.NDArray[Any] | None = None

    def as_locals(self) -> dict[str, Any]:
        """Return what callbacks know, under the names that they know."""
        names = ("new_obs", "rewards", "dones", "infos", "actions")
        return {**{name: getattr(self, name) for name in names}, "clipped_actions": self.actions}


_FIELDS = attrgetter(*(field.name for field in dataclasses.fields(Tick)))


class TickAssembler:
    """
    Cuts trajectories into ticks.

    :param n_envs: n, environment steps in a tick
    :param rest: steps left over from before, fewer than n
    """

    def __init__(self, n_envs: int, rest: Tick | None = None) -> None:
        self.n_envs = n_envs
        self.rest = rest

    def feed(self, trajectory: Trajectory) -> Iterator[Tick]:
        """
        Add the steps of a trajectory, complete or cancelled.

        :param trajectory: what a worker did
        :return: the ticks that are full now, in order
        """
        if trajectory.n_steps == 0:
            return
        steps = _as_tick(trajectory)
        if self.rest is not None:
            steps = _joined(self.rest, steps)
        n_full = len(steps.rewards) // self.n_envs * self.n_envs
        self.rest = _cut(steps, n_full, len(steps.rewards)) if n_full < len(steps.rewards) else None
        for start in range(0, n_full, self.n_envs):
            yield _cut(steps, start, start + self.n_envs)


def _as_tick(trajectory: Trajectory) -> Tick:
    """All steps of a trajectory as if they were the environments of one long step."""
    transform = trajectory.point.transform_obs
    raw_obs = map_observation(_shifted, trajectory.observations, trajectory.final_observation)
    new_obs = raw_obs if transform is None else transform(raw_obs)
    n_steps = trajectory.n_steps
    dones = np.zeros(n_steps, dtype=bool)
    infos = trajectory.infos
    if trajectory.terminated or trajectory.truncated:
        dones[-1] = True
        last = dict(infos[-1])
        last["terminal_observation"] = map_observation(lambda x: x[-1], new_obs)
        last["TimeLimit.truncated"] = trajectory.truncated and not trajectory.terminated
        infos = [*infos[:-1], last]
    with np.errstate(over="ignore"):  # callbacks get float32, as from any VecEnv
        rewards, raw_rewards = trajectory.learning_rewards.astype(np.float32), trajectory.rewards.astype(np.float32)
    return Tick(new_obs, rewards, dones, infos, trajectory.actions, raw_obs, raw_rewards)


def _shifted(observations: npt.NDArray[Any], final: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """s_1 … s_L from s_0 … s_{L-1} and s_L."""
    shifted = np.empty_like(observations)
    shifted[:-1] = observations[1:]
    shifted[-1] = final
    return shifted


def _cut(tick: Tick, start: int, stop: int) -> Tick:
    return _map(lambda x: x[start:stop], tick)


def _joined(first: Tick, second: Tick) -> Tick:
    return _map(lambda a, b: a + b if isinstance(a, list) else np.concatenate([a, b]), first, second)


def _map(function: Callable[..., Any], *ticks: Tick) -> Tick:
    """Apply a function to each field, whose first dimension is n."""
    return Tick(*(map_observation(function, *values) for values in zip(*map(_FIELDS, ticks), strict=True)))
