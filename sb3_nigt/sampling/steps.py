"""What a step leaves behind, as one table: all code that moves trajectories from one place to another loops over it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from sb3_nigt.sampling.heads import Head
from sb3_nigt.sampling.trajectory import Trajectory, map_observation

Arrays = Mapping[str, npt.NDArray[Any]]

OBSERVATION = "observation/"  # then the key of a Dict observation, or nothing


@dataclass(frozen=True)
class StepField:
    """
    One array of a trajectory.

    :param shape: shape of one row
    :param dtype: dtype of the numbers
    :param n_extra: number of rows in addition to one per step; an observation has one more, after the last step
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    n_extra: int = 0


@dataclass(frozen=True)
class StepTable:
    """
    All arrays of a trajectory, by name.

    :param fields: the fields, in the order in which they are written
    """

    fields: Mapping[str, StepField]

    @classmethod
    def of(cls, observation_space: spaces.Space[Any], head: Head) -> StepTable:
        """
        Make the table of a worker.

        :param observation_space: its environment's space, without nesting beyond one Dict
        :param head: the head, which determines the layout of samples and actions
        """
        parts = observation_space.spaces if isinstance(observation_space, spaces.Dict) else {"": observation_space}
        return cls(
            {
                "rewards": StepField((), np.dtype(np.float64)),
                "samples": StepField(tuple(head.sample_shape), np.dtype(head.sample_dtype)),
                "actions": StepField(tuple(head.action_shape), np.dtype(head.action_dtype)),
                **{
                    OBSERVATION + key: StepField(tuple(part.shape or ()), np.dtype(part.dtype), n_extra=1)
                    for key, part in parts.items()
                },
            }
        )

    def shapes(self, n_steps: int) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """
        Return shape and dtype of each array.

        :param n_steps: steps of the trajectory
        """
        return {name: ((n_steps + field.n_extra, *field.shape), field.dtype) for name, field in self.fields.items()}


def write_steps(trajectory: Trajectory, arrays: Arrays) -> None:
    """
    Copy a trajectory into arrays that have room for it.

    :param trajectory: a complete or cancelled trajectory
    :param arrays: arrays by name, with at least as many rows as ``StepTable.shapes`` says
    """
    n = trajectory.n_steps
    for name, rows, last in _pieces(trajectory):
        arrays[name][:n] = rows
        if last is not None:
            arrays[name][n] = last


def step_arrays(trajectory: Trajectory) -> dict[str, npt.NDArray[Any]]:
    """
    Return the arrays of a trajectory, by name.

    :param trajectory: a complete or cancelled trajectory
    """
    return {
        name: rows if last is None else np.concatenate([rows, np.asarray(last)[None]])
        for name, rows, last in _pieces(trajectory)
    }


def read_steps(arrays: Arrays, n_steps: int) -> dict[str, Any]:
    """
    Copy a trajectory out of arrays; return the arguments of ``Trajectory`` that hold its steps.

    :param arrays: arrays by name, written by ``write_steps``
    :param n_steps: steps of the trajectory
    """
    steps = {name: array[:n_steps].copy() for name, array in arrays.items() if not name.startswith(OBSERVATION)}
    observations = observations_in(arrays)
    return {
        **steps,
        "observations": map_observation(lambda rows: rows[:n_steps].copy(), observations),
        "final_observation": map_observation(lambda rows: rows[n_steps].copy(), observations),
    }


def observations_in(arrays: Arrays) -> Any:
    """
    Return the observations among the arrays: one array, or a dict of arrays where the observation is a Dict.

    :param arrays: arrays by name
    """
    parts = {name[len(OBSERVATION) :]: array for name, array in arrays.items() if name.startswith(OBSERVATION)}
    return parts.get("", parts)


def _pieces(trajectory: Trajectory) -> Iterator[tuple[str, npt.NDArray[Any], Any]]:
    """Name, one row per step, and the row after the last step where there is one."""
    for name in ("rewards", "samples", "actions"):
        yield name, getattr(trajectory, name), None
    observations, final = trajectory.observations, trajectory.final_observation
    if not isinstance(observations, dict):
        observations, final = {"": observations}, {"": final}
    for key, rows in observations.items():
        yield OBSERVATION + key, rows, final[key]
