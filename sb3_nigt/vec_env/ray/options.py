"""What one worker needs of a cluster: resources and a place, checked before anything starts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sb3_nigt.validation import check_interval, per_worker


def actor_options(
    n_workers: int, num_cpus: Any, num_gpus: Any, resources: Any, scheduling_strategy: Any
) -> list[dict[str, Any]]:
    """
    Options of each worker's actor.

    :param n_workers: n
    :param num_cpus: a number, or a list with one per worker
    :param num_gpus: a number, or a list with one per worker
    :param resources: None or a dict of custom resources, or a list with one per worker
    :param scheduling_strategy: None or what Ray takes, or a list with one per worker
    :raises ValueError: naming the argument that is not allowed
    """
    cpus = per_worker("num_cpus", num_cpus, n_workers, positive=False)
    gpus = per_worker("num_gpus", num_gpus, n_workers, positive=False)
    custom = [_checked_resources(x) for x in _one_each("resources", resources, n_workers)]
    strategies = _one_each("scheduling_strategy", scheduling_strategy, n_workers)
    return [
        {
            "num_cpus": float(cpus[i]),
            "num_gpus": float(gpus[i]),
            "resources": custom[i],
            **({} if strategies[i] is None else {"scheduling_strategy": strategies[i]}),
        }
        for i in range(n_workers)
    ]


def total(options: Sequence[Mapping[str, Any]]) -> tuple[float, dict[str, float]]:
    """
    CPUs and custom resources of all workers together.

    :param options: the result of ``actor_options``
    """
    resources: dict[str, float] = {}
    for option in options:
        for name, amount in option["resources"].items():
            resources[name] = resources.get(name, 0.0) + amount
    return sum(option["num_cpus"] for option in options), resources


def _one_each(name: str, value: Any, n_workers: int) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        return [value] * n_workers
    if len(value) != n_workers:
        raise ValueError(f"{name} has {len(value)} entries for {n_workers} workers: give one for all, or one per worker.")
    return list(value)


def _checked_resources(resources: Any) -> dict[str, float]:
    if resources is None:
        return {}
    if (
        not isinstance(resources, dict)
        or not all(isinstance(name, str) for name in resources)
        or {"CPU", "GPU"} & resources.keys()
    ):
        raise ValueError(
            f"resources={resources!r} is not allowed: give a dict of custom resources of the nodes, such as "
            '{"simulator": 1}, or a list of such dicts, one per worker; CPUs and GPUs are num_cpus and num_gpus.'
        )
    return {name: check_interval(f"resources[{name!r}]", x, 0.0, math.inf, open_low=True) for name, x in resources.items()}
