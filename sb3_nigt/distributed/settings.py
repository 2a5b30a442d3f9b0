"""What a user says about the process group, and which one a model takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.distributed as dist

from sb3_nigt.algorithms.group import Group, GroupSettings, JustMe
from sb3_nigt.algorithms.trained import TrainedModel
from sb3_nigt.schedules import FirstFinished, Planned
from sb3_nigt.validation import check_bool, check_interval
from sb3_nigt.vec_env.base import TrajectoryWorkers, WorkerVecEnv
from sb3_nigt.vec_env.wrappers import WrapperStack


@dataclass(frozen=True)
class AllReduceGroup:
    """
    Train one model on all ranks of a process group; for the argument ``group`` of the algorithms.

    :param process_group: a group of ``torch.distributed``; None: the default one
    :param timeout: seconds without a heartbeat after which another rank, or a step of an environment, counts as dead
    :param debug: compare parameters and optimizer state of all ranks after every update
    """

    process_group: Any = None
    timeout: float = 30.0
    debug: bool = False

    def __post_init__(self) -> None:
        check_interval("timeout", self.timeout, 0.0, 86_400.0, open_low=True)
        check_bool("debug", self.debug)
        if self.process_group is None and not is_initialized():
            raise ValueError(
                "process_group=None is not allowed before there is a default group: call "
                'torch.distributed.init_process_group("gloo") first.'
            )
        if self.process_group is not None and not isinstance(self.process_group, dist.ProcessGroup):
            raise ValueError(
                f"process_group={self.process_group!r} is not allowed: give a group of torch.distributed that this process is "
                "a member of, or None for the default one."
            )

    def check(self, model: TrainedModel) -> None:
        """See ``GroupSettings.check``."""
        check_shareable(model)

    def join(self, model: TrainedModel, workers: TrajectoryWorkers, stack: WrapperStack) -> Group:
        """See ``GroupSettings.join``."""
        from sb3_nigt.distributed.session import join  # most runs do without

        base = self.process_group or dist.group.WORLD
        assert base is not None
        assert isinstance(workers, WorkerVecEnv)
        return join(model, base, self.timeout, self.debug, workers, stack)


def is_initialized() -> bool:
    """Whether this process is part of a process group."""
    return dist.is_available() and dist.is_initialized()


def is_first_rank() -> bool:
    """Whether this process should log, evaluate and save: it is rank 0 of the default process group, or there is no group."""
    return not is_initialized() or dist.get_rank() == 0


def chosen_group(group: Any) -> GroupSettings:
    """
    Choose which ranks train together.

    :param group: the argument of the algorithm. None: the default group if it is initialised and has several ranks; False:
        this process alone
    :raises ValueError: if it is something else
    """
    if group is None:
        return AllReduceGroup() if is_initialized() and dist.get_world_size() > 1 else JustMe()
    if group is False:
        return JustMe()
    if isinstance(group, GroupSettings):
        return group
    if dist.is_available() and isinstance(group, dist.ProcessGroup):
        return AllReduceGroup(group)
    raise ValueError(
        f"group={group!r} is not allowed: give an AllReduceGroup or a group of torch.distributed that this process is a "
        "member of, False to train this process alone, or None to take the default group if there is one."
    )


def check_shareable(model: TrainedModel) -> None:
    """
    Refuse what ranks cannot share.

    :param model: with its arguments as attributes
    :raises ValueError: naming what cannot be shared
    """
    name, schedule = type(model).__name__, model.make_schedule()
    alone = "or group=False to train each rank on its own"
    if type(schedule) not in (FirstFinished, Planned):
        if type(schedule).__name__.lower() != model.schedule:  # the user did not choose it
            raise ValueError(f"{name} cannot be trained by several ranks: give RennalaNIGT or MaleniaNIGT, {alone}.")
        raise ValueError(
            f'schedule={model.schedule!r} is not allowed in a process group: give "planned" or "first_finished", {alone}.'
        )
    if model.on_lost_task != "raise":
        raise ValueError(f'on_lost_task={model.on_lost_task!r} is not allowed in a process group: give "raise", {alone}.')
    env = None if model.env is None else model.env.unwrapped
    if env is not None and not (isinstance(env, WorkerVecEnv) and env.can_be_interrupted):
        raise ValueError(
            f"env={type(env).__name__} is not allowed in a process group: give a SimulatedVecEnv or a "
            f"ProcessVecEnv, for example make_worker_vec_env(env_id, n_workers=1), {alone}."
        )
