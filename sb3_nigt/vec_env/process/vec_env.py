"""Workers as processes of this machine, on the wall clock."""

from __future__ import annotations

import multiprocessing as mp
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import gymnasium as gym

from sb3_nigt.timing.time_models import TimeModel
from sb3_nigt.vec_env.env_fns import checked_env_fns, packed
from sb3_nigt.vec_env.pool.pool import WorkerPool
from sb3_nigt.vec_env.pool.restarts import RestartLimits
from sb3_nigt.vec_env.pool.roster import Roster
from sb3_nigt.vec_env.process.life import check_files
from sb3_nigt.vec_env.process.transport import ProcessTransport


class ProcessVecEnv(WorkerPool):
    """
    Workers in separate operating-system processes, on the wall clock.

    Each worker acts with its own copy of the policy. Parameters, steps and gradients are in shared memory; the messages of
    a round have a few bytes. A worker that dies, hangs or raises is restarted. In rounds of trajectories it repeats its
    trajectory with the same random numbers, so nothing is lost and nothing counts twice.

    It also has Stable-Baselines3's synchronous API, so PPO works with it.

    :param env_fns: one function per worker that makes its environment
    :param task_ids: the task of each worker; workers with equal ids are exchangeable. None: unspecified
    :param start_method: "forkserver" or "spawn"; None: forkserver if available
    :param timeout: seconds without a completed step or reset after which a worker counts as hung; workers with slow steps
        get more
    :param max_restarts: restarts of one worker before it counts as lost
    :param max_restarts_per_minute: restarts of one worker within 60 seconds before it counts as lost; None: no limit
    :param time_model: ratios of the speeds until they are measured
    :param info_keys: entries of the info dicts that callbacks see for every step; ``episode`` and ``is_success`` of an
        episode's last step are always included. None: all
    :raises ValueError: if lengths differ from the number of workers, or spaces differ between workers
    """

    can_be_interrupted = True

    def __init__(
        self,
        env_fns: Sequence[Callable[[], gym.Env[Any, Any]]],
        task_ids: Sequence[Hashable] | None = None,
        start_method: str | None = None,
        timeout: float = 60.0,
        max_restarts: int = 10,
        max_restarts_per_minute: int | None = 10,
        time_model: TimeModel | None = None,
        info_keys: Sequence[str] | None = (),
    ) -> None:
        env_fns = checked_env_fns(env_fns)
        if getattr(mp.current_process(), "_inheriting", False):
            raise RuntimeError(
                "ProcessVecEnv was created while a worker was importing your script: create it below the line "
                'if __name__ == "__main__": of the script.'
            )
        if start_method not in (None, "forkserver", "spawn"):
            raise ValueError(f'start_method: cannot find context for {start_method!r}, give "forkserver", "spawn" or None.')
        limits = RestartLimits(max_restarts, max_restarts_per_minute)
        speeds = self._take_arguments(len(env_fns), task_ids, timeout, time_model, info_keys)
        check_files(len(env_fns))
        context = mp.get_context(start_method or ("forkserver" if "forkserver" in mp.get_all_start_methods() else "spawn"))
        if context.get_start_method() == "forkserver":
            context.set_forkserver_preload(["sb3_nigt.vec_env.process.preload"])
        transport = ProcessTransport(context, packed(env_fns), self._now, self.timeout, self.info_keys)
        self._assemble(Roster(self.task_ids, limits, speeds, self.timeout), transport)
        # in a child of multiprocessing, which leaves without atexit; before its workers are terminated or waited for
        mp.util.Finalize(self, self._finalizer, exitpriority=10)
        try:
            self._start_all()
            self._open(self._commands.wait_for_start())
        except BaseException:
            self.close()
            raise
