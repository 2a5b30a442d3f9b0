"""One ``learn()`` of a model on all ranks: who takes part, the same start everywhere, and the exchange after each round."""

from __future__ import annotations

import json
import weakref
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch as th
import torch.distributed as dist
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.utils import set_random_seed

from sb3_nigt.algorithms.book import RoundResult
from sb3_nigt.algorithms.critic_tasks import n_critic_tasks
from sb3_nigt.algorithms.group import RoundPlan
from sb3_nigt.algorithms.preemption import savers_in
from sb3_nigt.algorithms.settings import OF_A_RUN
from sb3_nigt.algorithms.statistics import RoundStatistics
from sb3_nigt.algorithms.trained import TrainedModel
from sb3_nigt.distributed import state
from sb3_nigt.distributed.callbacks import callbacks_of
from sb3_nigt.distributed.checkpoints import newest_of, not_loaded
from sb3_nigt.distributed.exchange import (
    Header,
    Told,
    exchange,
    segments_told,
    statistics_told,
    statistics_vectors,
    worker_rows,
)
from sb3_nigt.distributed.line import OVER
from sb3_nigt.distributed.losses import LOST, Losses
from sb3_nigt.distributed.observations import as_bytes, from_bytes
from sb3_nigt.distributed.ranks import Ranks
from sb3_nigt.distributed.round import RankRound
from sb3_nigt.distributed.step_counts import StepCounts, check_parts
from sb3_nigt.distributed.step_round import RankSteps
from sb3_nigt.distributed.workers import RankWorkers
from sb3_nigt.errors import RankError
from sb3_nigt.messages import RoundReport
from sb3_nigt.optimizers import NIGT
from sb3_nigt.parameters import actor_parameters
from sb3_nigt.sampling.trajectory import Trajectory
from sb3_nigt.vec_env.base import WorkerVecEnv
from sb3_nigt.vec_env.wrappers import WrapperStack

MUST_AGREE = (
    *("algorithm", *OF_A_RUN, "observation_space", "action_space"),
    *("n_parameters", "n_statistics", "timeout", "debug"),
)


class Before(NamedTuple):
    """
    This rank before a round.

    :param started_at: seconds on its clock
    :param timesteps: of all ranks
    :param executed: environment steps that it has executed
    """

    started_at: float
    timesteps: int
    executed: int


class Session:
    """
    This rank's part in training a model together, see ``sb3_nigt.algorithms.group.Group``.

    :param model: the model to train
    :param ranks: the ranks of the group
    :param inner: this rank's workers
    :param stack: the wrappers around them
    :param debug: compare all ranks after every update
    :raises ValueError: if the ranks do not run the same script
    """

    def __init__(self, model: TrainedModel, ranks: Ranks, inner: WorkerVecEnv, stack: WrapperStack, debug: bool) -> None:
        self.model, self.ranks, self._stack, self._debug = model, ranks, stack, debug
        ranks.sessions += 1
        self._prefix = f"{ranks.sessions}/"
        self._rounds_to_forget: list[list[str]] = []
        self._join(inner)

    # The start

    def _join(self, inner: WorkerVecEnv) -> None:
        """Learn who takes part with how many workers."""
        model, ranks = self.model, self.ranks
        own = {
            "n_workers": inner.num_envs,
            "n_updates": model.n_updates,
            "n_critic_tasks": model.n_critic_tasks,
            "task_numbers": {str(task): number for task, number in model.estimator.task_numbers.items()},
            "task_ids": [str(task_id) for task_id in inner.task_ids] if inner.task_ids_given else None,
            **_settings(model, ranks, self._stack, self._debug),
        }
        rows = [json.loads(text) for text in ranks.share_text(f"{self._prefix}hello", json.dumps(own))]
        for rank, row in enumerate(rows):
            for name in MUST_AGREE:
                if row[name] != rows[0][name]:
                    raise ValueError(
                        f"{name}={row[name]!r} on rank {rank} differs from {rows[0][name]!r} on rank 0: run the same "
                        "script with the same arguments on all ranks."
                    )
        updates = [row["n_updates"] for row in rows]
        self._source = updates.index(max(updates))  # whose model all begin with
        self.n_workers = [row["n_workers"] for row in rows]
        given = [row["task_ids"] for row in rows]
        task_ids = tuple(_task_ids(given, self.n_workers))
        self.workers = RankWorkers(inner, ranks, self.n_workers, task_ids)
        self.workers.n_parameters = own["n_parameters"]
        self.workers.tasks_differ = any(ids is not None for ids in given) and len(set(task_ids)) > 1
        self._losses = Losses(self.workers, self._prefix + LOST)
        self._seconds_per_step = np.full(len(task_ids), np.nan)
        self._counts = StepCounts(ranks.line, self.workers.own, self.n_workers, self._losses)
        self._share_critic(rows[self._source])

    def _share_critic(self, first: dict[str, Any]) -> None:
        """
        Have a critic for the tasks of all ranks, or, where training continues, one such as the others have.

        :param first: what the rank has said whose model all begin with
        """
        self.task_numbers = first["task_numbers"] if first["n_updates"] else {}
        model, n_tasks = self.model, first["n_critic_tasks"]
        if n_tasks is not None and not first["n_updates"]:
            n_tasks = n_critic_tasks(self.workers, len(self.workers.task_ids), model.weighs_tasks_equally)
        if n_tasks != model.n_critic_tasks:
            model.make_critic(n_tasks)

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which logs, evaluates and saves."""
        return self.ranks.rank == 0

    def callbacks(self, callback: MaybeCallback) -> MaybeCallback:
        """
        Leave out what only rank 0 does.

        :param callback: the argument of ``learn``
        """
        self._newest_file = newest_of(savers_in(callback))
        own: MaybeCallback = callbacks_of(self.ranks.rank, callback)
        return own

    def share_start(self, total_timesteps: int) -> int:
        """
        Take over what the rank with the most updates has: parameters, optimizer, counters, seed, statistics of VecNormalize.

        So where ranks go on from files of different age, the newest one counts, wherever it is; rank 0 if all are alike.

        :param total_timesteps: where this rank would stop
        :return: where all of them stop
        :raises ValueError: on all ranks, if the ``RoundCheckpoint`` of some rank has a newer file that has not been loaded
        """
        model, ranks, key = self.model, self.ranks, f"{self._prefix}start"
        counters = {"total_timesteps": total_timesteps, "newest_file": self._newest_file, **state.counters(model)}
        counters["fisher"] = [len(packed) for packed in self._packed_fisher_rounds()]
        rows = [json.loads(text) for text in ranks.share_text(f"{key}/counters", json.dumps(counters))]
        first, updates = rows[self._source], rows[self._source]["n_updates"]
        for rank, (newest, path) in enumerate(row["newest_file"] for row in rows):
            if newest > updates:
                raise ValueError(not_loaded(path, updates, f" of rank {rank}"))
        if ranks.rank != self._source:
            state.set_counters(model, first)
        vector = state.pack(model, self._stack)
        state.unpack(model, self._stack, ranks.broadcast(f"{key}/state", vector, self._source))
        self._share_fisher_sample(f"{key}/fisher", first["fisher"])
        if ranks.rank > 0 and model.seed is not None:
            set_random_seed(model.seed + ranks.rank)  # whatever draws from global generators shall not do so in step
        return int(first["total_timesteps"])

    def _packed_fisher_rounds(self) -> list[npt.NDArray[np.uint8]]:
        space = self.model.policy.observation_space
        return [as_bytes(space, observations) for observations in self.model.fisher_sample.rounds]

    def _share_fisher_sample(self, key: str, lengths: list[int]) -> None:
        """Bring the observations of the last rounds to rank 0, where steps are made, if another rank's model continues."""
        if self._source == 0 or not sum(lengths):
            return
        space, sample = self.model.policy.observation_space, self.model.fisher_sample
        width = as_bytes(space, None).shape[1]
        is_source = self.ranks.rank == self._source
        own = np.concatenate(self._packed_fisher_rounds()) if is_source else np.zeros((sum(lengths), width), np.uint8)
        packed = self.ranks.broadcast(key, th.from_numpy(own), self._source).numpy()
        if self.is_first:
            rounds = np.split(packed, np.cumsum(lengths)[:-1])
            sample.rounds.clear()
            sample.rounds.extend(from_bytes(space, rows) for rows in rounds)

    # Rounds

    def run_round(self, plan: RoundPlan) -> RoundResult | None:
        """
        Sample one round together with the other ranks.

        :param plan: what to sample; its rule is over the workers of all ranks
        :return: the report, the same on all ranks up to times, and what was accepted on this one; None if a callback of some
            rank said stop
        """
        workers, line, clock = self.workers, self.ranks.line, self.workers.clock
        round_, aggregator = plan.point.round, plan.rule(plan.point.round)
        prefix = workers.prefix = f"{self._prefix}{round_}/"
        line.over_key = prefix + OVER
        before = Before(clock.now(), self.model.num_timesteps, workers.steps_executed)
        own: RankSteps | RankRound
        if plan.rollout == "steps":
            self._counts.begin(round_, aggregator, self._seconds_per_step)
            own = RankSteps(workers, self._counts, plan)
        else:
            plan.meanwhile()
            own = RankRound(workers, aggregator, self._seconds_per_step, self._losses, plan)
        own.run()
        told, statistics = self._exchange(plan, own, before)
        counts = self._counts_of(own, told)
        arrivals = own.arrivals(self.ranks, told, before.started_at)
        self._forget(prefix, own.keys)
        if not told.of_ranks("goes_on").all():
            return None
        check_parts(counts, aggregator, round_)
        self._stack.merge(told.vectors[0])
        used_steps = sum(arrival.n_steps for arrival in arrivals.accepted)
        report = RoundReport(
            round=round_,
            counts=counts,
            weights=aggregator.weights(counts),
            arrivals=arrivals.accepted,
            discarded=tuple(own.discarded),
            rejected=arrivals.rejected,
            used_steps=used_steps,
            discarded_steps=int(told.of_ranks("executed").sum()) - used_steps,
            started_at=before.started_at,
            finished_at=clock.now(),
            segments=segments_told(told),
        )
        infos = self.model.ep_info_buffer
        assert infos is not None
        # those of this rank are there already
        infos.extend(episode for worker, episode in arrivals.episodes if worker not in workers.own)
        return RoundResult(report, own.accepted, statistics)

    def take_statistics(self, accepted: Sequence[Trajectory]) -> None:
        """The ranks have exchanged what is new at the end of the round."""

    def _exchange(self, plan: RoundPlan, done: RankSteps | RankRound, before: Before) -> tuple[Told, RoundStatistics]:
        """
        Exchange counts, speeds and moments; fail on all ranks if they disagree.

        :return: what all have told, and the statistics of the whole round
        """
        model, workers = self.model, self.workers
        accepted = sorted(done.accepted, key=lambda pair: (pair[0].worker, pair[0].key))
        own = plan.assess(accepted)
        header = Header(
            done.goes_on,
            plan.point.round,
            zlib.crc32(plan.point.parameters.tobytes()),
            model.num_timesteps - before.timesteps,
            workers.steps_executed - before.executed,
            workers.inner.restarts or 0,
            done.n_arrivals,
        )
        rows = worker_rows(workers.own, done.own_counts, workers.seconds_per_step, done.segments, own)
        vectors = [self._stack.moments([piece for _, piece in accepted]), *statistics_vectors(own)]
        mine = Told(np.array(header, dtype=np.float64), rows, vectors)
        told = exchange(self.ranks, f"{workers.prefix}gather", mine, self.n_workers)
        for name, text in (("round", "round"), ("checksum", "checksum of θ̃")):
            if len(set(numbers := told.of_ranks(name).astype(int).tolist())) > 1:
                raise RankError(f"the ranks have drifted apart: {text} {numbers} on ranks 0, 1, …")
        model.num_timesteps = before.timesteps + int(told.of_ranks("timesteps").sum())
        workers.total_restarts = int(told.of_ranks("restarts").sum())
        self._seconds_per_step = told.of_workers("seconds_per_step").copy()
        return told, statistics_told(own, told)

    def _counts_of(self, done: RankSteps | RankRound, told: Told) -> npt.NDArray[np.int64]:
        """The counts of all workers; of trajectories all ranks have counted them before, so that they must agree."""
        counts = told.of_workers("n_counted").astype(np.int64)
        if told.of_ranks("goes_on").all() and done.expected is not None and (counts != done.expected).any():
            raise RankError(f"the ranks hold {counts.tolist()} trajectories of their workers, not {done.expected.tolist()}")
        return counts

    def _forget(self, prefix: str, keys: Sequence[str]) -> None:
        """Delete the keys of the round before the last one, which no rank can still be reading."""
        names = [OVER, "gather", "rows", "mean", "reduce", "step", "debug", *keys]
        self._rounds_to_forget.append([prefix + name for name in names])
        if len(self._rounds_to_forget) > 1:
            self.ranks.forget(self._rounds_to_forget.pop(0))

    # Updates

    def rows(self, vector: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """See ``Group``; once a round at most."""
        return self.ranks.gather(f"{self.workers.prefix}rows", vector)

    def mean(self, vector: npt.NDArray[np.float64], weight: float) -> npt.NDArray[np.float64] | None:
        """See ``Group``; once a round."""
        parts = th.from_numpy(np.append(weight * vector, weight).astype(np.float32))
        *total, total_weight = self.ranks.reduce(f"{self.workers.prefix}mean", parts).double().numpy()
        return np.array(total) / total_weight if total_weight > 0 else None

    def collect(self, observations: Any, of_workers: npt.NDArray[np.int64]) -> Any:
        """See ``Group``; right after the gradient has been reduced."""
        ends = np.cumsum(self.n_workers)
        n_rows = [int(of_workers[end - n : end].sum()) for end, n in zip(ends, self.n_workers, strict=True)]
        space = self.model.policy.observation_space
        packed = self.ranks.gather_rows(as_bytes(space, observations), n_rows, to_first=True)
        return None if packed is None else from_bytes(space, packed)

    def make_step(self, step: Callable[[], None]) -> None:
        """
        See ``Group``.

        The Euclidean step is made everywhere. All others are made on rank 0, which has the observations for a metric: sums as
        long as those in matrix products may be rounded differently on another machine.

        :param step: makes it here
        """
        optimizer = self.model.policy.optimizer
        if not isinstance(optimizer, NIGT) or optimizer.param_groups[0]["geometry"] == "euclidean":
            step()
            return
        own = optimizer.made_by(step) if self.is_first else optimizer.step_made()
        made = self.ranks.broadcast(f"{self.workers.prefix}step", own, source=0)
        if not self.is_first:
            optimizer.take_step(made)

    def after_update(self, logger: Logger) -> None:
        """
        Record what the round's communication has cost this rank; in debug mode, compare the ranks.

        :param logger: of the model
        :raises RankError: on all ranks, if they differ
        """
        self._check_same()
        self._log(logger)

    def _check_same(self) -> None:
        """
        In debug mode, compare parameters and optimizer of all ranks.

        :raises RankError: on all ranks, if they differ
        """
        if not self._debug:
            return
        own = zlib.crc32(state.pack(self.model, self._stack).numpy().tobytes())
        rows = self.ranks.gather(f"{self.workers.prefix}debug", np.array([own], dtype=np.float64))
        if (rows != rows[0]).any():
            hashes = [f"{int(value):08x}" for value in rows.ravel()]
            raise RankError(f"after update {self.model.n_updates} the ranks hold different parameters: {hashes}")

    def _log(self, logger: Logger) -> None:
        counted = self.ranks.take_statistics()
        logger.record("group/ranks", self.ranks.size)
        logger.record("group/gathers", counted["gathers"])
        logger.record("group/reductions", counted["reductions"])
        logger.record("group/bytes", counted["bytes"])
        logger.record("group/store_requests", counted["requests"])
        logger.record("group/wait_seconds", counted["wait_seconds"])
        logger.record("group/reduce_seconds", counted["reduce_seconds"])

    def leave(self, error: BaseException | None = None) -> None:
        """
        Leave the session.

        :param error: why, if it is not the regular end
        """
        self.workers.release()
        if error is not None:
            self.ranks.fail(error)
            self.ranks.close()
            _ranks_of.pop(self.model, None)  # another learn() begins anew
        else:
            self.ranks.leave(self.ranks.timeout)


_ranks_of: weakref.WeakKeyDictionary[Any, Ranks] = weakref.WeakKeyDictionary()  # of the last session of each model


def join(
    model: TrainedModel, base: dist.ProcessGroup, timeout: float, debug: bool, workers: WorkerVecEnv, stack: WrapperStack
) -> Session:
    """
    Begin to train together.

    :param model: the model to train
    :param base: the process group
    :param timeout: seconds of silence after which a rank counts as dead
    :param debug: compare all ranks after every update
    :param workers: of this rank
    :param stack: the wrappers around them
    :return: this rank's part in it
    """
    ranks = _ranks_of.get(model)
    if ranks is None or ranks.base is not base or ranks.timeout != timeout:
        ranks = _ranks_of[model] = Ranks(base, timeout)
    try:
        return Session(model, ranks, workers, stack, debug)
    except BaseException as error:
        ranks.fail(error)
        ranks.close()
        _ranks_of.pop(model, None)
        raise


def _settings(model: TrainedModel, ranks: Ranks, stack: WrapperStack, debug: bool) -> dict[str, Any]:
    """What all ranks must have in common, as far as it can be written down."""
    numbers = {
        name: value
        for name in MUST_AGREE
        if isinstance(value := getattr(model, name, None), (int, float, str)) or value is None
    }
    return {
        **dict.fromkeys(MUST_AGREE),
        **numbers,
        "algorithm": type(model).__name__,
        "observation_space": str(model.observation_space),
        "action_space": str(model.action_space),
        "n_parameters": sum(p.numel() for p in actor_parameters(model.policy)),
        "n_statistics": len(stack.moments([])),
        "timeout": ranks.timeout,
        "debug": debug,
    }


def _task_ids(given: list[list[str] | None], n_workers: list[int]) -> list[Any]:
    """Ids of all workers: their numbers if no rank gave any; a rank that gave none while others did has its own tasks."""
    if all(ids is None for ids in given):
        return list(range(sum(n_workers)))
    return [
        task_id
        for rank, (ids, n) in enumerate(zip(given, n_workers, strict=True))
        for task_id in (ids if ids is not None else [f"{rank}.{worker}" for worker in range(n)])
    ]
