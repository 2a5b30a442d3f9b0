"""A worker apart from the learner: serves commands, runs trajectories, sums gradients. A subclass says how data travels."""

from __future__ import annotations

import pickle
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from stable_baselines3.common.env_util import is_wrapped

from sb3_nigt.messages import SamplingPoint, SegmentStart, TrajectoryKey
from sb3_nigt.replica.replica import PolicyReplica
from sb3_nigt.sampling.infos import InfoCopies
from sb3_nigt.sampling.sampler import FreshNoise, Sampler
from sb3_nigt.sampling.seeding import trajectory_seeds
from sb3_nigt.sampling.segments import SegmentSampler, longest_episode
from sb3_nigt.sampling.steps import StepTable
from sb3_nigt.sampling.trajectory import Trajectory, copied
from sb3_nigt.vec_env.pool import protocol
from sb3_nigt.vec_env.pool.infos import InfoKeys, InfoWriter
from sb3_nigt.vec_env.pool.packing import pack, unpack
from sb3_nigt.vec_env.pool.pieces import PieceWriter

now = time.monotonic  # the same in all processes of a machine


class Line(Protocol):
    """Messages to and from the parent, in order."""

    def recv_bytes(self) -> bytes:
        """Wait for the next message; EOFError if there will be none."""
        ...

    def send_bytes(self, message: bytes, /) -> None:
        """Send a message."""
        ...


class Worker(ABC):
    """
    One worker at its own end: in a process, or in an actor.

    :param connection: connection to the parent
    :param env: the environment
    :param control: shared counters, see ``arrays.CONTROL``
    """

    def __init__(self, connection: Line, env: gym.Env[Any, Any], control: dict[str, Any]) -> None:
        self.connection, self.env = connection, env
        self._observation_space, self._action_space = env.observation_space, env.action_space
        self._steps, self._cancelled = memoryview(control["steps"]), memoryview(control["cancelled"])
        self._requested, self._answering = memoryview(control["requested"]), memoryview(control["answering"])
        self._control, self._made = control, memoryview(control["made"])
        self._kept: dict[TrajectoryKey, Trajectory] = {}
        self._context: tuple[Any, Any] = (None, None)
        self._point: SamplingPoint | None = None
        self._point_number, self._keep_info = 0, InfoCopies()
        self._place: Callable[[], tuple[int, int]] = lambda: protocol.NO_PLACE  # episode and age in the last job
        self._put_back: bytes | None = None  # a message that has been read too early

    def serve(self) -> None:
        """Answer messages until the parent says that it is enough; EOFError if the connection ends without that."""
        handlers: dict[bytes, Callable[[bytes], None]] = {
            protocol.JOB: self._run,
            protocol.SEGMENT: self._run_segment,
            protocol.CONTEXT: self._set_context,
            protocol.GRADIENT: self._gradient,
            protocol.COMMAND: self._command,
        }
        while True:
            message, self._put_back = self._put_back or self.connection.recv_bytes(), None
            self._command_number = protocol.NO_COMMAND
            if message[:1] == protocol.CLOSE:
                return
            try:
                handlers[message[:1]](message[1:])
            except Exception as error:
                number = protocol.NUMBER_FORMAT.pack(self._command_number)
                self.connection.send_bytes(protocol.ERROR + number + protocol.encode_error(error, self._place()))

    # How data travels

    @abstractmethod
    def _open_arrays(self, index: int, layout: Any) -> dict[str, npt.NDArray[Any]]:
        """Take the layout of what is exchanged in a round; return the arrays that the steps of a segment go to."""

    @abstractmethod
    def _parameters(self) -> npt.NDArray[np.float32]:
        """Return a copy of what the next job is to be sampled with."""

    @abstractmethod
    def _send_arrival(self, trajectory: Trajectory, message: bytes) -> None:
        """Send a trajectory, complete or cancelled."""

    @abstractmethod
    def _send_segment(self, said: protocol.SegmentArrival, message: bytes) -> None:
        """Send the part of a segment that is in the arrays."""

    @abstractmethod
    def _send_gradient(self, total: npt.NDArray[np.float32], message: bytes) -> None:
        """Send a local sum."""

    # Rounds

    def prepare(
        self, index: int, policy: bytes, n_steps: int, seed: int, stagger: bool, info_keys: InfoKeys, stream: int, layout: Any
    ) -> None:
        """
        Take new settings.

        :param index: index of the worker
        :param policy: a pickled copy of the learner's policy
        :param n_steps: H, where a trajectory is cut
        :param seed: root seed of all trajectories
        :param stagger: whether to cut the first episode at a random length, in rounds of steps
        :param info_keys: names of the entries of infos that are sent for every step; None: all
        :param stream: number of the worker's random numbers in rounds of steps
        :param layout: layout of the arrays of rounds
        """
        arrays = self._open_arrays(index, layout)
        self._seed = seed
        self._replica = PolicyReplica(pickle.loads(policy))
        head = self._replica.head
        infos = self._infos = InfoWriter(arrays["infos"], info_keys)
        self._writer = PieceWriter(arrays, StepTable.of(self._observation_space, head), self._control, infos)
        keep, keep_in_piece = (infos.selected, self._writer.keep_info) if infos.wants_all_steps else (None, None)
        self._sampler = Sampler(self.env, head, n_steps, self._after_step, keep)
        max_age = longest_episode(self.env) if stagger else None
        self._segments = SegmentSampler(
            self.env, head, seed, index, max_age, self._after_segment_step, self._writer, keep_in_piece, stream
        )
        self._kept.clear()
        self._point, self._context = None, (None, None)

    def _set_context(self, body: bytes) -> None:
        self._context = pickle.loads(body)

    def _run(self, body: bytes) -> None:
        self._job_number, point_number, round_, *key_parts = protocol.JOB_FORMAT.unpack(body)
        key, started_at, sampler = TrajectoryKey(*key_parts), now(), self._sampler
        point = self._take_point(point_number, round_)
        self._place = lambda: (protocol.NO_EPISODE, sampler.n_begun)
        self._steps[0] += 1  # a reset has begun
        seeds = trajectory_seeds(self._seed, key)
        sampler.begin(key, point, self._network, seeds.env, FreshNoise(sampler.head, seeds.actions))
        if self._after_step():
            sampler.advance(sampler.n_steps)
        trajectory = sampler.episode()
        if sampler.finished and trajectory.rejected is None:
            self._kept[key] = trajectory
        self._infos.write_trajectory(trajectory.infos)
        self._send_arrival(
            trajectory,
            protocol.ARRIVAL + protocol.ARRIVAL_FORMAT.pack(*self._arrival(trajectory, started_at, sampler.finished)),
        )

    def _take_point(self, point_number: int, round_: int) -> SamplingPoint:
        if self._point is None or self._point_number != point_number:
            self._kept = {kept: trajectory for kept, trajectory in self._kept.items() if kept.round >= round_}
            self._point_number = point_number
            transform_obs, buffers = self._context
            self._point = SamplingPoint(round_, self._parameters(), transform_obs, buffers=buffers or {})
            self._network = self._replica.network(self._point)
        return self._point

    def _run_segment(self, body: bytes) -> None:
        self._job_number, point_number, round_, *start, n_steps = protocol.SEGMENT_FORMAT.unpack(body)
        started_at, segments = now(), self._segments
        point = self._take_point(point_number, round_)
        self._place = lambda: (segments.n_episodes - 1, segments.age)
        self._steps[0] += 1  # a reset may begin
        self._made[0] = 0
        self._writer.begin()
        segments.go_to(SegmentStart(*start))
        segments.begin(point, self._network)
        if self._after_step():
            segments.advance(n_steps)
            segments.end()
        said = protocol.SegmentArrival(
            self._job_number,
            segments.n_done,
            self._writer.n_pieces,
            segments.n_made,
            segments.n_episodes,
            self._cancelled[0] >= self._job_number,
            segments.is_hopeless,
            started_at,
            now(),
        )
        self._send_segment(said, protocol.SEGMENT + protocol.SEGMENT_ARRIVAL_FORMAT.pack(*said))

    def _after_segment_step(self) -> bool:
        self._made[0] += 1
        return self._after_step()

    def _after_step(self) -> bool:
        self._steps[0] += 1
        if self._requested[0] != self._answering[0]:  # the learner does not wait for the end of this trajectory
            message = self.connection.recv_bytes()
            if message[:1] == protocol.GRADIENT:
                self._gradient(message[1:])
            else:  # the learner was interrupted before it could ask, and has gone on with something else
                self._answering[0], self._put_back = self._requested[0], message
        return bool(self._cancelled[0] < self._job_number)

    def _arrival(self, trajectory: Trajectory, started_at: float, finished: bool) -> protocol.RemoteArrival:
        return protocol.RemoteArrival(
            self._job_number,
            trajectory.n_steps,
            trajectory.terminated,
            trajectory.truncated,
            protocol.rejection_number(trajectory.rejected),
            not finished,
            started_at,
            now(),
        )

    def _gradient(self, body: bytes) -> None:
        number, wanted = protocol.decode_contributions(body)
        self._answering[0] = number
        total = self._replica.gradient(
            [self._kept.pop(key) for key, _ in wanted], [coefficients for _, coefficients in wanted]
        )
        self._send_gradient(total.cpu().numpy(), protocol.GRADIENT + protocol.NUMBER_FORMAT.pack(number))

    # Stable-Baselines3's synchronous API

    def _command(self, body: bytes) -> None:
        (self._command_number,) = protocol.NUMBER_FORMAT.unpack_from(body)
        name, args = pickle.loads(body[protocol.NUMBER_FORMAT.size :])
        self._steps[0] += 1
        result = getattr(self, name)(*args)
        self._steps[0] += 1
        self.connection.send_bytes(
            protocol.REPLY + protocol.NUMBER_FORMAT.pack(self._command_number) + protocol.encode_result(result)
        )

    def describe(self) -> tuple[Any, ...]:
        """Return both spaces, the render mode and the metadata."""
        return self._observation_space, self._action_space, self.env.render_mode, self.env.metadata

    def step(self, action: Any) -> tuple[Any, ...]:
        """
        Step, and reset where an episode ends.

        :param action: action for the environment, packed
        """
        action = unpack(self._action_space, action)
        observation, reward, terminated, truncated, info = self.env.step(action)
        reset_info: dict[str, Any] | None = None
        info = {**info, "TimeLimit.truncated": truncated and not terminated}
        if terminated or truncated:
            # copies, since the reset may write to the same arrays
            info = {**self._keep_info(info), "terminal_observation": copied(observation)}
            observation, reset_info = self.env.reset()
        packed = pack(self._observation_space, observation)
        return packed, float(reward), bool(terminated or truncated), info, reset_info

    def reset(self, seed: int | None, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """
        Reset.

        :param seed: seed for the environment
        :param options: options for the environment
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
