"""Trajectories out of the steps of environments that step together: none of them can be reset alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sb3_nigt.messages import SamplingPoint, TrajectoryKey
from sb3_nigt.sampling.actions import are_finite
from sb3_nigt.sampling.observations import is_finite
from sb3_nigt.sampling.segments import MAX_BAD_EPISODES
from sb3_nigt.sampling.ticks import Tick
from sb3_nigt.sampling.trajectory import Trajectory, map_observation

Step = tuple[Any, Any, Tick]  # observations before it, samples, and what came of it; all of them for all environments


def pieces_of(worker: int, point: SamplingPoint, steps: Sequence[Step], age: int) -> list[Trajectory]:
    """
    Cut the steps of one environment where its episodes ended, and after each number that is not finite.

    The episode continues after such a number, and so do its usable pieces.

    :param worker: index of the environment
    :param point: the point at which they were sampled
    :param steps: the steps of the round, at least one
    :param age: steps of the episode before them
    """
    dones = [bool(tick.dones[worker]) for _, _, tick in steps]
    pieces = _cut(worker, point, steps, dones, age)
    if any(piece.rejected for piece in pieces):  # the steps are looked at one by one only then
        pieces = _cut(
            worker, point, steps, [done or is_bad(worker, step) for done, step in zip(dones, steps, strict=True)], age
        )
    return pieces


def _cut(worker: int, point: SamplingPoint, steps: Sequence[Step], is_end: Sequence[bool], age: int) -> list[Trajectory]:
    pieces: list[Trajectory] = []
    start = 0
    for end, ends in enumerate(is_end, start=1):
        if ends or end == len(steps):
            key = TrajectoryKey(point.round, worker, len(pieces))
            pieces.append(trajectory_of(worker, key, point, steps[start:end], age))
            age = 0 if steps[end - 1][2].dones[worker] else age + end - start
            start = end
    return pieces


def trajectory_of(worker: int, key: TrajectoryKey, point: SamplingPoint, steps: Sequence[Step], age: int = 0) -> Trajectory:
    """
    Return steps of one environment, within one episode, as a trajectory.

    :param worker: index of the environment
    :param key: its name
    :param point: the point at which it was sampled
    :param steps: its steps, at least one
    :param age: steps of the episode before them
    """
    tick = steps[-1][2]
    observations = map_observation(
        lambda *rows: np.stack(rows), *(map_observation(lambda x: x[worker], before) for before, _, _ in steps)
    )
    rewards = np.array([t.rewards[worker] for _, _, t in steps], dtype=np.float64)
    final = _after(worker, tick)
    info = tick.infos[worker]
    # without the last observation there is no value after it, and the next one is that of another episode
    truncated = bool(info.get("TimeLimit.truncated", False)) and "terminal_observation" in info
    actions = np.stack([t.actions[worker] for _, _, t in steps])
    return Trajectory(
        key=key,
        point=point,
        observations=observations,
        final_observation=final,
        samples=np.stack([samples[worker] for _, samples, _ in steps]),
        actions=actions,
        rewards=rewards,
        terminated=bool(tick.dones[worker]) and not truncated,
        truncated=truncated,
        infos=[t.infos[worker] for _, _, t in steps],
        rejected=_what_is_bad(observations, final, actions, rewards),
        age=age,
    )


def _what_is_bad(observations: Any, final: Any, actions: npt.NDArray[Any], rewards: npt.NDArray[Any]) -> str | None:
    """Where a number is not finite, the first cause; None: nowhere."""
    is_bad = None
    if not np.isfinite(rewards).all():
        is_bad = "reward"
    elif not (is_finite(final) and is_finite(observations)):
        is_bad = "observation"
    return "action" if is_bad and not are_finite(actions) else is_bad


def is_bad(worker: int, step: Step) -> bool:
    """
    Tell whether what came of a step is not finite.

    :param worker: index of the environment
    :param step: the step of all environments
    """
    _, _, tick = step
    return not (bool(np.isfinite(tick.rewards[worker])) and is_finite(_after(worker, tick)))


def is_hopeless(pieces: Sequence[Trajectory]) -> bool:
    """
    Tell whether so many pieces, or episodes, in a row had a fault that it makes no sense to wait for better ones.

    What goes on, without a fault so far, says nothing: the fault may still come.

    :param pieces: the pieces of one worker in a round, in order
    """
    episodes: list[list[Trajectory]] = []
    for piece in pieces:
        if piece.age == 0 or not episodes:
            episodes.append([])
        episodes[-1].append(piece)
    return _are_all_bad([[piece] for piece in pieces]) or _are_all_bad(episodes)


def _are_all_bad(parts: Sequence[Sequence[Trajectory]]) -> bool:
    """Whether each of the last ones has a fault, of those that have ended or have one."""
    is_bad = [any(piece.rejected for piece in part) for part in parts]
    has_ended = [part[-1].terminated or part[-1].truncated for part in parts]
    last = [bad for bad, ended in zip(is_bad, has_ended, strict=True) if bad or ended][-MAX_BAD_EPISODES:]
    return len(last) == MAX_BAD_EPISODES and all(last)


def finite_part(observation: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """
    Return what the policy acts on: a trajectory with a number that is not finite is lost, but its environment must go on.

    :param observation: the observation of all environments
    """
    return observation if is_finite(observation) else np.nan_to_num(observation)


def _after(worker: int, tick: Tick) -> Any:
    """The observation after the step, not yet that of the next episode."""
    following, info = map_observation(lambda x: x[worker], tick.new_obs), tick.infos[worker]
    if not tick.dones[worker] or "terminal_observation" not in info:
        return following
    try:
        return map_observation(_fitted, following, info["terminal_observation"])
    except (TypeError, ValueError, KeyError, IndexError) as error:
        if not info.get("TimeLimit.truncated", False):
            return following  # nothing depends on it
        raise ValueError(
            "env: infos[...]['terminal_observation'] does not fit the observation space: a VecEnvWrapper that changes "
            "observations must change it as well."
        ) from error


def _fitted(like: npt.NDArray[Any], last: Any) -> npt.NDArray[Any]:
    """A VecEnv fits observations into its arrays, but hands the last one of an episode on as the environment gave it."""
    fitted = np.empty_like(like)
    fitted[...] = last
    return fitted
