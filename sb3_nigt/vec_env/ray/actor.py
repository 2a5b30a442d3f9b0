"""The class of the actors. It travels by value, so that a node without this package can say so."""

from __future__ import annotations

from typing import Any

N_CALLS = 16  # at a time: a job, a gradient, a command and questions about them, some of which are no longer waited for


def make_actor_class() -> type[Any]:
    """Return the class; made in a function, since a class of a module would be imported where it is unpickled."""

    class SB3NigtWorker:
        """A worker of sb3_nigt."""

        def __init__(self) -> None:
            self.thread: Any = None

        def where(self) -> tuple[str, int]:
            """Id of the node, id of the process: nothing that takes time, so that the answer says that there is a place."""
            import os

            import ray

            return ray.get_runtime_context().get_node_id(), os.getpid()

        def start(self, env_fn: bytes) -> Any:
            """Make the environment."""
            from sb3_nigt.vec_env.ray.worker import ServingThread

            self.thread = ServingThread(env_fn)
            return self.thread.made()

        def ask(self, message: bytes, parameters: Any = None, context: bytes | None = None) -> Any:
            """Pass a message to the worker; parameters come as an array out of the object store."""
            return self.thread.ask(message, (parameters, context))

        def counters(self) -> tuple[int, int]:
            """See ``ServingThread``; the imports before it are no steps."""
            return self.thread.counters() if self.thread is not None else (0, 0)

        def cancel(self, job_number: int) -> None:
            """See ``ServingThread``."""
            self.thread.cancel(job_number)

        def stack(self) -> str:
            """See ``ServingThread``."""
            return self.thread.stack() if self.thread is not None else "(It imports its packages.)"

        def close(self) -> None:
            """See ``ServingThread``."""
            self.thread.close()

    return SB3NigtWorker
