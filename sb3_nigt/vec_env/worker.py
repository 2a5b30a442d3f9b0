"""The worker process: serves commands, runs trajectories, sums gradients. Only tiny messages and shared arrays in a round."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import pickle
import signal
import struct
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import cloudpickle
import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch as th
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.vec_env.patch_gym import _patch_env

from sb3_nigt.messages import SamplingPoint, TrajectoryKey
from sb3_nigt.replica import PolicyReplica
from sb3_nigt.rollout import Sampler
from sb3_nigt.seeding import trajectory_seeds
from sb3_nigt.trajectory import Trajectory
from sb3_nigt.vec_env.base import RolloutSpec
from sb3_nigt.vec_env.packing import pack, unpack
from sb3_nigt.vec_env.shared import SharedArrays, SharedLayout

# First byte of a message. Parent to worker:
JOB, TRANSFORMS, GRADIENT, COMMAND = b"J", b"T", b"G", b"C"
# Worker to parent (GRADIENT too, when it is ready):
ARRIVAL, REPLY, ERROR = b"A", b"R", b"E"

JOB_FORMAT = struct.Struct("<6q")  # job number, point number, round of the point, key
KEY_FORMAT = struct.Struct("<3q")
NUMBER_FORMAT = struct.Struct("<q")  # of a command, echoed in its answer, so that an answer nobody took is recognised
FIRST_COMMAND, NO_COMMAND = 0, -1  # the first answer comes unasked; errors of jobs belong to no command
ARRIVAL_FORMAT = struct.Struct("<2q4B2d4d")
REJECTIONS = (None, "reward", "observation")


class RemoteArrival(NamedTuple):
    """What a worker says of a trajectory that has ended or was cancelled; its steps lie in shared memory."""

    job_number: int
    n_steps: int
    terminated: int
    truncated: int
    rejection: int  # index into REJECTIONS
    cancelled: int
    started_at: float
    finished_at: float
    episode_return: float  # Monitor's, NaN without
    episode_length: float
    episode_time: float
    is_success: float  # NaN without


class WorkerProcess:
    """
    One worker inside its process.

    :param connection: to the parent
    :param env: the environment
    :param control: shared counters, see ``shared.CONTROL``
    """

    def __init__(self, connection: Connection, env: gym.Env[Any, Any], control: dict[str, Any]) -> None:
        self.connection, self.env = connection, env
        self._observation_space, self._action_space = env.observation_space, env.action_space
        self._steps, self._cancelled = memoryview(control["steps"]), memoryview(control["cancelled"])
        self._requested, self._answering = memoryview(control["requested"]), memoryview(control["answering"])
        self._kept: dict[TrajectoryKey, Trajectory] = {}
        self._transforms: tuple[Any, Any] = (None, None)
        self._point: SamplingPoint | None = None
        self._point_number = 0
        self._block: SharedArrays | None = None

    def serve(self) -> None:
        """Answer messages until the parent hangs up."""
        handlers: dict[bytes, Callable[[bytes], None]] = {
            JOB: self._run,
            TRANSFORMS: self._set_transforms,
            GRADIENT: self._gradient,
            COMMAND: self._command,
        }
        while True:
            message = self.connection.recv_bytes()
            self._command_number = NO_COMMAND
            try:
                handlers[message[:1]](message[1:])
            except Exception as error:
                self.connection.send_bytes(ERROR + NUMBER_FORMAT.pack(self._command_number) + encode_error(error))

    def prepare(self, index: int, spec: RolloutSpec, layout: Any) -> None:
        """
        Take new settings.

        :param index: which worker this is
        :param spec: policy, horizon, discount and seed
        :param layout: of the arrays of rounds
        """
        self._open_arrays(index, layout)
        self._seed = spec.seed
        self._replica = PolicyReplica(spec.policy, spec.gamma)
        self._sampler = Sampler(self.env, self._replica.head, spec.n_steps, self._after_step)
        self._kept.clear()
        self._point, self._transforms = None, (None, None)

    def _open_arrays(self, index: int, layout: SharedLayout) -> None:
        if self._block is not None:
            self._block.close()
        self._block = SharedArrays.attach(layout)
        self._arrays = self._block.of(index)

    def _parameters(self) -> npt.NDArray[np.float32]:
        """Return a copy of what the next job is to be sampled with."""
        return self._arrays["parameters"].copy()

    def _set_transforms(self, body: bytes) -> None:
        self._transforms = pickle.loads(body)

    def _run(self, body: bytes) -> None:
        self._job_number, point_number, round_, *key_parts = JOB_FORMAT.unpack(body)
        key, started_at = TrajectoryKey(*key_parts), time.monotonic()
        if self._point is None or self._point_number != point_number:
            self._kept = {kept: trajectory for kept, trajectory in self._kept.items() if kept.round >= round_}
            self._point_number = point_number
            self._point = SamplingPoint(round_, self._parameters(), *self._transforms)
            self._network = self._replica.network(self._point)
        sampler = self._sampler
        self._steps[0] += 1  # a reset has begun
        sampler.begin(key, self._point, self._network, trajectory_seeds(self._seed, key))
        if self._after_step():
            sampler.advance(sampler.n_steps)
        trajectory = sampler.trajectory()
        if sampler.finished and trajectory.rejected is None:
            self._kept[key] = trajectory
        self._send_arrival(trajectory, ARRIVAL + ARRIVAL_FORMAT.pack(*self._arrival(trajectory, started_at, sampler.finished)))

    def _after_step(self) -> bool:
        self._steps[0] += 1
        if self._requested[0] != self._answering[0]:  # nobody shall wait for the end of this trajectory
            self._gradient(self.connection.recv_bytes()[1:])
        return bool(self._cancelled[0] < self._job_number)

    def _send_arrival(self, trajectory: Trajectory, message: bytes) -> None:
        n, arrays = trajectory.n_steps, self._arrays
        arrays["rewards"][:n] = trajectory.rewards
        arrays["samples"][:n] = trajectory.samples
        arrays["actions"][:n] = trajectory.actions
        observations, final = trajectory.observations, trajectory.final_observation
        if not isinstance(observations, dict):
            observations, final = {"": observations}, {"": final}
        for name, rows in observations.items():
            arrays[f"observation/{name}"][:n] = rows
            arrays[f"observation/{name}"][n] = final[name]
        self.connection.send_bytes(message)

    def _arrival(self, trajectory: Trajectory, started_at: float, finished: bool) -> RemoteArrival:
        last = trajectory.infos[-1] if trajectory.infos else {}
        episode = last.get("episode", {})
        nan = float("nan")
        return RemoteArrival(
            self._job_number,
            trajectory.n_steps,
            trajectory.terminated,
            trajectory.truncated,
            REJECTIONS.index(trajectory.rejected),
            not finished,
            started_at,
            time.monotonic(),
            float(episode.get("r", nan)),
            float(episode.get("l", nan)),
            float(episode.get("t", nan)),
            float(last.get("is_success", nan)),
        )

    def _gradient(self, body: bytes) -> None:
        (number,) = NUMBER_FORMAT.unpack_from(body)
        self._answering[0] = number
        keys = [TrajectoryKey(*parts) for parts in KEY_FORMAT.iter_unpack(body[NUMBER_FORMAT.size :])]
        total = self._replica.gradient([self._kept.pop(key) for key in keys], [1.0] * len(keys))
        self._send_gradient(total.cpu().numpy(), GRADIENT + NUMBER_FORMAT.pack(number))

    def _send_gradient(self, total: npt.NDArray[np.float32], message: bytes) -> None:
        self._arrays["gradient"][:] = total
        self.connection.send_bytes(message)

    # Stable-Baselines3's synchronous API

    def _command(self, body: bytes) -> None:
        (self._command_number,) = NUMBER_FORMAT.unpack_from(body)
        name, args = pickle.loads(body[NUMBER_FORMAT.size :])
        self._steps[0] += 1
        result = getattr(self, name)(*args)
        self._steps[0] += 1
        self.connection.send_bytes(REPLY + NUMBER_FORMAT.pack(self._command_number) + encode_result(result))

    def describe(self) -> tuple[Any, ...]:
        """Return both spaces, the render mode and the metadata."""
        return self._observation_space, self._action_space, self.env.render_mode, self.env.metadata

    def step(self, action: Any) -> tuple[Any, ...]:
        """
        Step, and reset where an episode ends.

        :param action: for the environment, packed
        """
        action = unpack(self._action_space, action)
        observation, reward, terminated, truncated, info = self.env.step(action)
        reset_info: dict[str, Any] | None = None
        info["TimeLimit.truncated"] = truncated and not terminated
        if terminated or truncated:
            info["terminal_observation"] = observation
            observation, reset_info = self.env.reset()
        packed = pack(self._observation_space, observation)
        return packed, float(reward), bool(terminated or truncated), info, reset_info

    def reset(self, seed: int | None, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """
        Reset.

        :param seed: for the environment
        :param options: for the environment
        """
        observation, info = self.env.reset(seed=seed, **({"options": options} if options else {}))
        return pack(self._observation_space, observation), info

    def get_attr(self, name: str) -> Any:
        """Return an attribute of the environment or of a wrapper."""
        return self.env.get_wrapper_attr(name)

    def has_attr(self, name: str) -> bool:
        """Tell whether there is such an attribute."""
        try:
            self.env.get_wrapper_attr(name)
        except AttributeError:
            return False
        return True

    def set_attr(self, name: str, value: Any) -> None:
        """Set an attribute of the outermost wrapper."""
        setattr(self.env, name, value)

    def env_method(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a method of the environment or of a wrapper."""
        return self.env.get_wrapper_attr(name)(*args, **kwargs)

    def is_wrapped(self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]]) -> bool:
        """Tell whether the environment has such a wrapper."""
        return is_wrapped(self.env, wrapper_class)

    def render(self) -> Any:
        """Return a picture."""
        return self.env.render()


def encode_result(result: Any) -> bytes:
    """
    Pack what a command returns.

    :param result: anything
    """
    try:
        return pickle.dumps(result)  # several times faster
    except Exception:  # a function or a class that exists here only; there is no common type of these errors
        encoded: bytes = cloudpickle.dumps(result)
        return encoded


def encode_error(error: BaseException) -> bytes:
    """
    Pack an exception for the parent, with its traceback as text.

    :param error: any exception; if it cannot be pickled its type and text travel, or at least their names
    """
    text = traceback.format_exc()
    try:
        encoded = cloudpickle.dumps(error)
        pickle.loads(encoded)  # fails if __init__ takes other arguments than it hands on, which is common
    except Exception:
        try:
            encoded = cloudpickle.dumps((type(error), str(error)))
        except Exception:
            encoded = None
    packed: bytes = cloudpickle.dumps((encoded, type(error).__name__, text))
    return packed


def main(
    connection: Connection, lifeline: Connection, stack: Connection, env_fn: bytes, index: int, control: SharedLayout
) -> None:
    """
    Entry point of the process.

    :param connection: to the parent
    :param lifeline: nothing is ever sent; it closes when the parent is gone
    :param stack: takes the stacks of all threads when the parent asks with SIGUSR1 where a hung worker is
    :param env_fn: cloudpickled function that makes the environment
    :param index: which worker this is
    :param control: shared counters
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    faulthandler.register(signal.SIGUSR1, file=stack.fileno())
    threading.Thread(target=_exit_with_parent, args=(lifeline,), daemon=True).start()
    th.set_num_threads(1)
    block = SharedArrays.attach(control)
    try:
        worker = WorkerProcess(connection, _patch_env(cloudpickle.loads(env_fn)()), block.of(index))
        connection.send_bytes(REPLY + NUMBER_FORMAT.pack(FIRST_COMMAND) + cloudpickle.dumps(worker.describe()))
    except Exception as error:
        connection.send_bytes(ERROR + NUMBER_FORMAT.pack(FIRST_COMMAND) + encode_error(error))
        return
    with contextlib.suppress(EOFError, OSError):
        worker.serve()
    worker.env.close()


def _exit_with_parent(lifeline: Connection) -> None:
    """Wait for the end of the parent, however it comes, also while the environment hangs."""
    try:
        lifeline.recv_bytes()
    except (EOFError, OSError):
        os._exit(1)
