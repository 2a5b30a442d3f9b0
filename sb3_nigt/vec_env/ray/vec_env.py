"""Workers as actors of a Ray cluster, which may come and go."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import gymnasium as gym
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices

from sb3_nigt.errors import WorkerError
from sb3_nigt.timing.time_models import TimeModel
from sb3_nigt.validation import check_bool, check_integer, check_interval
from sb3_nigt.vec_env.env_fns import checked_env_fns, packed
from sb3_nigt.vec_env.pool import protocol
from sb3_nigt.vec_env.pool.pool import WorkerPool
from sb3_nigt.vec_env.pool.protocol import raise_remote
from sb3_nigt.vec_env.pool.restarts import RestartLimits
from sb3_nigt.vec_env.pool.roster import POLL_SECONDS, START_SECONDS, Roster
from sb3_nigt.vec_env.pool.slot import State
from sb3_nigt.vec_env.ray.cluster import connect
from sb3_nigt.vec_env.ray.handle import RayWorker
from sb3_nigt.vec_env.ray.options import actor_options, total
from sb3_nigt.vec_env.ray.transport import RayTransport

PLACE_SECONDS = 10.0  # without a place; then a worker counts as absent, and others take over what it was to do
LONGEST_BEAT_SECONDS = 1.0  # between two looks at a worker's signs of life; a twentieth of ``timeout`` if that is shorter


class RayVecEnv(WorkerPool):
    """
    Workers in Ray actors, on the wall clock: like ``ProcessVecEnv``, but on the machines of a cluster.

    Trajectories of (seed, round, worker, job) are the same as on all other workers, and so are the limits for restarts; a
    worker that fails is restarted wherever the cluster can place it. Workers may come and go: a worker that the cluster
    cannot place is absent, rounds continue without it if their rule allows that, and it joins as soon as it can be placed.

    The number of environments is fixed; it is the maximum number of workers. Stable-Baselines3's synchronous API, and so
    PPO, needs all of them.

    :param env_fns: one function per worker that makes its environment
    :param task_ids: the task of each worker; workers with equal ids are exchangeable. None: unspecified
    :param address: "local": start Ray here; "auto": the cluster that this machine is part of; "host:port" or
        "ray://host:port"; None: the connection that this process has, else what RAY_ADDRESS says, else "local"
    :param num_cpus: CPUs that Ray reserves for a worker, one number for all or a list with one per worker
    :param num_gpus: GPUs that Ray reserves for a worker, one number for all or a list with one per worker
    :param resources: custom resources of a worker, such as {"simulator": 1}; one dict for all or a list with one per worker
    :param scheduling_strategy: where the workers may run, as in Ray ("SPREAD", a placement group, a node, labels); one
        for all or a list with one per worker
    :param timeout: seconds without a completed step or reset after which a worker counts as hung; workers with slow steps
        get more
    :param max_restarts: restarts of one worker before it counts as lost; a node that leaves does not count
    :param max_restarts_per_minute: restarts of one worker within 60 seconds before it counts as lost; None: no limit
    :param min_workers: number of workers that must be placed at the start; None: all
    :param placement_timeout: seconds to wait for workers that are needed and cannot be placed
    :param allow_unauthenticated: accept a Ray cluster that requires no token
    :param time_model: ratios of the speeds until they are measured
    :param info_keys: entries of the info dicts that callbacks see for every step; ``episode`` and ``is_success`` of an
        episode's last step are always included. None: all
    :raises ValueError: for values that are not allowed, a cluster without authentication, spaces that differ between workers
    :raises WorkerError: if the cluster cannot place the workers
    """

    _worker_class: type[RayWorker] = RayWorker

    def __init__(
        self,
        env_fns: Sequence[Callable[[], gym.Env[Any, Any]]],
        task_ids: Sequence[Hashable] | None = None,
        address: str | None = None,
        num_cpus: float | Sequence[float] = 1.0,
        num_gpus: float | Sequence[float] = 0.0,
        resources: dict[str, float] | Sequence[dict[str, float]] | None = None,
        scheduling_strategy: Any = None,
        timeout: float = 60.0,
        max_restarts: int = 10,
        max_restarts_per_minute: int | None = 10,
        min_workers: int | None = None,
        placement_timeout: float = 120.0,
        allow_unauthenticated: bool = False,
        time_model: TimeModel | None = None,
        info_keys: Sequence[str] | None = (),
    ) -> None:
        env_fns = checked_env_fns(env_fns)
        limits = RestartLimits(max_restarts, max_restarts_per_minute)
        speeds = self._take_arguments(len(env_fns), task_ids, timeout, time_model, info_keys)
        options = actor_options(len(env_fns), num_cpus, num_gpus, resources, scheduling_strategy)
        self.placement_timeout = check_interval("placement_timeout", placement_timeout, 0.0, float("inf"), open_low=True)
        n_needed = _checked_min_workers(min_workers, len(env_fns))
        if address is not None and (not isinstance(address, str) or not address):
            raise ValueError(
                f'address={address!r} is not allowed: give "local", "auto", "host:port", "ray://host:port" or None.'
            )
        check_bool("allow_unauthenticated", allow_unauthenticated)
        makers, beat = packed(env_fns), min(LONGEST_BEAT_SECONDS, self.timeout / 20)
        roster = Roster(
            self.task_ids, limits, speeds, self.timeout, PLACE_SECONDS, self.placement_timeout, LONGEST_BEAT_SECONDS
        )
        connection = connect(address, allow_unauthenticated, *total(options))
        transport = RayTransport(
            connection, makers, options, beat, self.placement_timeout, self._now, self.info_keys, self._worker_class
        )
        self._assemble(roster, transport)
        try:
            self._start_all()
            described = self._wait_for_workers(n_needed)
            self._render_mode = described[0][2]
            self._open(described)
        except BaseException:
            self.close()
            raise

    def _wait_for_workers(self, n_needed: int) -> list[tuple[Any, ...]]:
        """Return what the first workers say of their environments; raise what making one has raised."""
        described: dict[int, tuple[Any, ...]] = {}
        began = self._now()
        while len(described) < n_needed:
            for worker in self._transport.ready(self._roster.within(State.STARTING), POLL_SECONDS):
                handle = self._transport.handles[worker]
                try:
                    answer = handle.receive()
                except EOFError:
                    raise WorkerError(handle.how_it_ended(), worker, self.task_ids[worker]) from None
                if answer is not None and answer[0] == protocol.ERROR:
                    raise_remote(answer[1], worker)
                if answer is not None:
                    described[worker] = answer[1]
                    self._driver.carry_out(self._roster.replied(worker, handle.steps, self._now()))
            self._check_start(n_needed, self._now() - began)
        return [described[worker] for worker in sorted(described)]

    def _check_start(self, n_needed: int, seconds: float) -> None:
        placed = [handle.is_placed for handle in self._transport.handles]
        if sum(placed) < n_needed and seconds > self.placement_timeout:
            worker = placed.index(False)
            advice = "Give a smaller num_cpus, more nodes, or min_workers=... to begin with fewer."
            raise WorkerError(f"{self._transport.why_no_place(worker)} {advice}", worker, self.task_ids[worker])
        if seconds > self.placement_timeout + START_SECONDS:
            late = next(worker for worker in self._roster.within(State.STARTING) if placed[worker])
            raise WorkerError(f"its environment was not made within {START_SECONDS:g} s", late, self.task_ids[late])

    @property
    def absent(self) -> frozenset[int]:
        """Workers that the cluster has no place for at this time."""
        return frozenset(self._roster.within(State.ABSENT))

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """See ``VecEnv.get_attr``."""
        if attr_name == "render_mode" and not hasattr(self, "render_mode"):  # asked by ``VecEnv`` while workers may be absent
            return [self._render_mode] * len(list(self._get_indices(indices)))
        return super().get_attr(attr_name, indices)


def _checked_min_workers(min_workers: int | None, n_workers: int) -> int:
    if min_workers is None:
        return n_workers
    if check_integer("min_workers", min_workers, 1) > n_workers:
        raise ValueError(f"min_workers={min_workers} is not allowed: there are {n_workers} env_fns, give {n_workers} at most.")
    return min_workers
