"""The worker inside a Ray actor: the worker of a process, on a separate thread, with Ray's calls instead of a pipe."""

from __future__ import annotations

import queue
import sys
import threading
import traceback
from concurrent.futures import Future
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch as th
from stable_baselines3.common.vec_env.patch_gym import _patch_env

from sb3_nigt.sampling.trajectory import Trajectory
from sb3_nigt.vec_env.pool import protocol
from sb3_nigt.vec_env.pool.arrays import CONTROL
from sb3_nigt.vec_env.pool.infos import used
from sb3_nigt.vec_env.pool.protocol import encode_error
from sb3_nigt.vec_env.pool.worker import Worker
from sb3_nigt.vec_env.ray.buffers import Buffer, BufferLayout

Answer = bytes | Buffer  # arrays come back without being copied or pickled

ANSWERS = {
    protocol.JOB: protocol.ARRIVAL,
    protocol.SEGMENT: protocol.SEGMENT,
    protocol.GRADIENT: protocol.GRADIENT,
    protocol.COMMAND: protocol.REPLY,
}


class Mailbox:
    """
    Takes the place of a worker's pipe: messages in the order in which they come, and each answer to the call that waits.

    :ivar payload: what the last message came with
    """

    def __init__(self) -> None:
        self._messages: queue.SimpleQueue[tuple[bytes, Any, Future[Answer]] | None] = queue.SimpleQueue()
        self._unanswered: dict[bytes, Future[Answer]] = {}
        self.payload: Any = None

    def put(self, message: bytes, payload: Any) -> Future[Answer]:
        """
        Leave a message; for any thread.

        :param message: first byte and body
        :param payload: what it comes with
        :return: will hold the answer
        """
        answer: Future[Answer] = Future()
        self._messages.put((message, payload, answer))
        return answer

    def hang_up(self) -> None:
        """Let the worker end when it has answered what came before."""
        self._messages.put(None)

    def recv_bytes(self) -> bytes:
        """
        Wait for the next message.

        :raises EOFError: if there will be none
        """
        received = self._messages.get()
        if received is None:
            raise EOFError
        message, self.payload, answer = received
        self._unanswered[ANSWERS[message[:1]]] = answer
        return message

    def send_bytes(self, answer: bytes, array: npt.NDArray[Any] | None = None) -> None:
        """
        Answer the call that waits for it; an error answers all that wait.

        :param answer: first byte and body
        :param array: an array to send with it, as bytes
        """
        kinds = list(self._unanswered) if answer[:1] == protocol.ERROR else [answer[:1]]
        whole: Answer = answer
        if array is not None:
            whole = np.concatenate([np.frombuffer(answer, np.uint8), np.ascontiguousarray(array).view(np.uint8)])
        for kind in kinds:
            self._unanswered.pop(kind).set_result(whole)


class ActorWorker(Worker):
    """
    The worker of a process, except that nothing is shared: parameters come and trajectories go with the messages.

    :param mailbox: mailbox to the parent
    :param env: the environment
    :param control: counters, see ``arrays.CONTROL``
    """

    def __init__(self, mailbox: Mailbox, env: gym.Env[Any, Any], control: dict[str, Any]) -> None:
        super().__init__(mailbox, env, control)
        self._mailbox = mailbox

    def _open_arrays(self, index: int, layout: BufferLayout) -> dict[str, npt.NDArray[Any]]:
        self._layout = layout
        self._arrays = layout.new_arrays()
        return self._arrays

    def _run(self, body: bytes) -> None:
        self._open_payload()
        super()._run(body)

    def _run_segment(self, body: bytes) -> None:
        self._open_payload()
        super()._run_segment(body)

    def _open_payload(self) -> None:
        self._job_parameters, context = self._mailbox.payload
        if context is not None:
            self._set_context(context)

    def _parameters(self) -> npt.NDArray[np.float32]:
        return np.array(self._job_parameters)

    def _send_arrival(self, trajectory: Trajectory, message: bytes) -> None:
        self._mailbox.send_bytes(message, self._layout.pack(trajectory, used(self._arrays["infos"])))

    def _send_segment(self, said: protocol.SegmentArrival, message: bytes) -> None:
        self._mailbox.send_bytes(message, self._layout.pack_segment(self._arrays, said.n_steps, said.n_pieces))

    def _send_gradient(self, total: npt.NDArray[np.float32], message: bytes) -> None:
        self._mailbox.send_bytes(message, total)


class ServingThread:
    """
    A worker on a thread, and what the actor's calls do with it.

    :param env_fn: cloudpickled function that makes the environment
    """

    def __init__(self, env_fn: bytes) -> None:
        self._control = {name: np.zeros(shape, dtype) for name, (shape, dtype) in CONTROL.items()}
        self._mailbox = Mailbox()
        self._made: Future[bytes] = Future()
        # a daemon, since an environment that hangs must not keep the process
        self._thread = threading.Thread(target=self._serve, args=(env_fn,), name="worker", daemon=True)
        self._thread.start()

    def _serve(self, env_fn: bytes) -> None:
        th.set_num_threads(1)
        number = protocol.NUMBER_FORMAT.pack(protocol.FIRST_COMMAND)
        try:
            worker = ActorWorker(self._mailbox, _patch_env(cloudpickle.loads(env_fn)()), self._control)
            self._made.set_result(protocol.REPLY + number + cloudpickle.dumps(worker.describe()))
        except Exception as error:
            self._made.set_result(protocol.ERROR + number + encode_error(error))
            return
        try:
            worker.serve()
        except EOFError:
            worker.env.close()

    def made(self) -> bytes:
        """Wait until the environment is there; return what it is, or the error."""
        return self._made.result()

    def ask(self, message: bytes, payload: Any) -> Answer:
        """
        Pass a message on and wait for its answer.

        :param message: first byte and body
        :param payload: payload of a job: parameters, and the context if it is new
        """
        answer = self._mailbox.put(message, payload)
        if message[:1] == protocol.GRADIENT:  # after the message: who sees it reads the message at once
            (self._control["requested"][0],) = protocol.NUMBER_FORMAT.unpack_from(message, 1)
        return answer.result()

    def counters(self) -> tuple[int, int]:
        """Return how many steps were begun or done, and the number of the last gradient that was begun."""
        return int(self._control["steps"][0]), int(self._control["answering"][0])

    def cancel(self, job_number: int) -> None:
        """Stop a job after its current step."""
        self._control["cancelled"][0] = job_number

    def stack(self) -> str:
        """Say where the worker is."""
        frame = sys._current_frames().get(self._thread.ident or 0)
        return "".join(traceback.format_stack(frame)) if frame is not None else "(It has ended.)"

    def close(self) -> None:
        """Close the environment, after what is in progress."""
        self._mailbox.hang_up()
        self._thread.join()
