"""One ``learn()`` of a model on all ranks: who takes part, the same start everywhere, and the exchange after each round."""

from __future__ import annotations

import json
import weakref
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch.distributed as dist
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.utils import set_random_seed

from sb3_nigt.algorithms.book import RoundResult
from sb3_nigt.algorithms.group import RoundPlan
from sb3_nigt.algorithms.preemption import savers_in
from sb3_nigt.algorithms.trained import TrainedModel
from sb3_nigt.distributed import state
from sb3_nigt.distributed.callbacks import callbacks_of
from sb3_nigt.distributed.checkpoints import newest_of, not_loaded
from sb3_nigt.distributed.ledger import Entry, Ledger
from sb3_nigt.distributed.line import OVER
from sb3_nigt.distributed.losses import LOST, Losses
from sb3_nigt.distributed.ranks import Ranks
from sb3_nigt.distributed.round import RankRound
from sb3_nigt.distributed.rules import SharedFirstFinished, SharedPlanned, SharedRule
from sb3_nigt.distributed.workers import RankWorkers
from sb3_nigt.errors import RankError
from sb3_nigt.messages import Arrival, RoundReport, SamplingPoint
from sb3_nigt.sampling.trajectory import Trajectory
from sb3_nigt.schedules import FirstFinished, Planned, Schedule
from sb3_nigt.vec_env.base import WorkerVecEnv
from sb3_nigt.vec_env.wrappers import WrapperStack

RULES: dict[type[Schedule], type[SharedRule]] = {FirstFinished: SharedFirstFinished, Planned: SharedPlanned}
ARGUMENTS = ("n_trajectories", "n_initial_trajectories", "horizon", "gamma", "eta", "learning_rate", "schedule")
MUST_AGREE = ("algorithm", *ARGUMENTS, "observation_space", "action_space", "n_parameters", "n_statistics", "timeout", "debug")
HEADER = 6  # numbers of a rank in front of those of its workers, see Session._exchange


class Session:
    """
    This rank's part in training a model together, see ``sb3_nigt.algorithms.group.Group``.

    :param model: that learns
    :param ranks: all of them
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
            "task_ids": [str(task_id) for task_id in inner.task_ids] if inner.task_ids_given else None,
            **_settings(model, ranks, self._stack, self._debug),
        }
        rows = [json.loads(text) for text in ranks.share_text(f"{self._prefix}hello", json.dumps(own))]
        for rank, row in enumerate(rows):
            for name in MUST_AGREE:
                if row[name] != rows[0][name]:
                    raise ValueError(
                        f"{name}={row[name]!r} on rank {rank} does not agree with {rows[0][name]!r} on rank 0: run the same "
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
        rows = [json.loads(text) for text in ranks.share_text(f"{key}/counters", json.dumps(counters))]
        first, updates = rows[self._source], rows[self._source]["_n_updates"]
        for rank, (newest, path) in enumerate(row["newest_file"] for row in rows):
            if newest > updates:
                raise ValueError(not_loaded(path, updates, f" of rank {rank}"))
        if ranks.rank != self._source:
            state.set_counters(model, first)
        vector = state.pack(model, self._stack)
        state.unpack(model, self._stack, ranks.broadcast(f"{key}/state", vector, self._source))
        if ranks.rank > 0 and model.seed is not None:
            set_random_seed(model.seed + ranks.rank)  # whatever draws from global generators shall not do so in step
        return int(first["total_timesteps"])

    # Rounds

    def run_round(self, plan: RoundPlan) -> RoundResult | None:
        """
        Sample one round together with the other ranks.

        :param plan: what to sample; its rule is over the workers of all ranks
        :return: the report, the same on all ranks up to times, and what was accepted on this one; None if a callback of some
            rank said stop
        """
        workers, line, clock = self.workers, self.ranks.line, self.workers.clock
        point, memory, aggregator = plan.point, plan.memory, plan.rule(plan.point.round)
        prefix = workers.prefix = f"{self._prefix}{point.round}/"
        line.over_key = prefix + OVER
        rule = RULES[type(plan.schedule)](aggregator, point.round, self._seconds_per_step, clock)
        ledger = Ledger(line, prefix, point.round, rule, lambda entry: memory.lengths.add(entry.n_steps))
        started_at, timesteps, executed = clock.now(), self.model.num_timesteps, workers.steps_executed
        own = RankRound(workers, rule, ledger, self._losses, point, plan.show, memory)
        own.run()
        executed = workers.steps_executed - executed
        total_executed = self._exchange(point, own, rule, timesteps, executed)
        self._forget(prefix, [*rule.keys, *ledger.keys])
        if total_executed is None:
            return None
        used_steps = sum(entry.n_steps for entry in ledger.admitted)
        report = RoundReport(
            round=point.round,
            counts=rule.counts.copy(),
            weights=aggregator.weights(rule.counts),
            arrivals=tuple(self._arrival(entry, started_at) for entry in ledger.admitted),
            discarded=tuple(own.discarded),
            rejected=tuple(self._arrival(entry, started_at, "not finite, or its worker failed") for entry in ledger.rejected),
            used_steps=used_steps,
            discarded_steps=total_executed - used_steps,
            started_at=started_at,
            finished_at=clock.now(),
        )
        self._note_episodes(ledger.admitted)
        return RoundResult(report, own.accepted)

    def take_statistics(self, accepted: Sequence[Trajectory]) -> None:
        """The ranks have exchanged what is new at the end of the round."""

    def _exchange(self, point: SamplingPoint, done: RankRound, rule: SharedRule, timesteps: int, executed: int) -> int | None:
        """
        Exchange counts, speeds and moments; fail on all ranks if they disagree.

        :return: environment steps that all ranks have executed; None if some rank's callback said stop
        """
        model, own, widest = self.model, self.workers.own, max(self.n_workers)
        checksum = zlib.crc32(point.parameters.tobytes())
        header = [
            done.goes_on,
            point.round,
            checksum,
            model.num_timesteps - timesteps,
            executed,
            self.workers.inner.restarts or 0,
        ]
        counts = np.zeros(len(rule.counts))
        np.add.at(counts, [arrival.worker for arrival, _ in done.accepted], 1.0)
        per_worker = np.zeros((2, widest))
        per_worker[0, : len(own)] = counts[own.start : own.stop]
        per_worker[1, : len(own)] = self.workers.seconds_per_step
        ordered = [t for _, t in sorted(done.accepted, key=lambda pair: (pair[0].worker, pair[0].key))]
        moments = self._stack.moments(ordered)
        vector = np.concatenate([np.array(header, dtype=np.float64), per_worker.ravel(), moments])
        rows = self.ranks.gather(f"{self.workers.prefix}gather", vector)
        for name, column in (("round", 1), ("checksum of θ̃", 2)):
            if (rows[:, column] != rows[0, column]).any():
                raise RankError(
                    f"the ranks have drifted apart: {name} {rows[:, column].astype(int).tolist()} on ranks 0, 1, …"
                )
        model.num_timesteps = timesteps + int(rows[:, 3].sum())
        self.workers.total_restarts = int(rows[:, 5].sum())
        workers = [rows[:, HEADER + i * widest : HEADER + (i + 1) * widest] for i in range(2)]
        all_counts, self._seconds_per_step = (
            np.concatenate([row[:n] for row, n in zip(block, self.n_workers, strict=True)]) for block in workers
        )
        if not rows[:, 0].all():
            return None
        if (all_counts != rule.counts).any():
            raise RankError(f"the ranks hold {all_counts.tolist()} trajectories of their workers, not {rule.counts.tolist()}")
        self._stack.merge(rows[:, HEADER + 2 * widest :])
        return int(rows[:, 4].sum())

    def _arrival(self, entry: Entry, started_at: float, rejected: str | None = None) -> Arrival:
        return Arrival(
            worker=entry.worker,
            task_id=self.workers.task_ids[entry.worker],
            key=entry.key,
            n_steps=entry.n_steps,
            episode_return=entry.episode_return,
            started_at=started_at + entry.began,
            finished_at=started_at + entry.ended,
            arrived_at=started_at + entry.ended,
            rejected=rejected,
        )

    def _note_episodes(self, admitted: list[Entry]) -> None:
        """Let the logged means cover the episodes of all ranks; those of this one are there already."""
        infos = self.model.ep_info_buffer
        assert infos is not None
        infos.extend(
            {"r": entry.episode_return, "l": entry.n_steps, "t": entry.ended}
            for entry in admitted
            if entry.is_episode and entry.worker not in self.workers.own
        )

    def _forget(self, prefix: str, keys: list[str]) -> None:
        """Delete the keys of the round before the last one; nobody can still be reading those."""
        names = [OVER, "gather", "reduce", "debug", *keys]
        self._rounds_to_forget.append([prefix + name for name in names])
        if len(self._rounds_to_forget) > 1:
            self.ranks.forget(self._rounds_to_forget.pop(0))

    # Updates

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

    :param model: that learns
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
        "n_parameters": sum(p.numel() for p in model.policy.parameters()),
        "n_statistics": len(stack.moments([])),
        "timeout": ranks.timeout,
        "debug": debug,
    }


def _task_ids(given: list[list[str] | None], n_workers: list[int]) -> list[Any]:
    """Ids of all workers: their numbers if nobody gave any; who gave none while others did has tasks of its own."""
    if all(ids is None for ids in given):
        return list(range(sum(n_workers)))
    return [
        task_id
        for rank, (ids, n) in enumerate(zip(given, n_workers, strict=True))
        for task_id in (ids if ids is not None else [f"{rank}.{worker}" for worker in range(n)])
    ]
