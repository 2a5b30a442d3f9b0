"""Environment steps a second with more and more ranks, processes or actors that train together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from sb3_nigt.algorithms import RennalaNIGT
from sb3_nigt.algorithms.paper import PAPER
from sb3_nigt.experiments.benchmark.places import is_first, on_ranks, processes_and_actors
from sb3_nigt.experiments.benchmark.processes import learning_rate_of_steps
from sb3_nigt.experiments.benchmark.rates import RandomProcesses
from sb3_nigt.experiments.benchmark.table import Row, counted
from sb3_nigt.vec_env import SimulatedVecEnv, WorkerVecEnv, make_worker_vec_env

WARM_UP_SECONDS = 1.0


def measure(env_id: str, sizes: Sequence[int], seconds: float, repeats: int) -> Iterator[Row]:
    """
    Measure RennalaNIGT with its defaults; one process that only steps is the unit.

    The learning rate is so small that the policy stays the untrained one, whose episodes are short where falling ends them.

    :param env_id: a registered environment
    :param sizes: numbers of workers, each a process, an actor or the only worker of a rank
    :param seconds: seconds of each measurement
    :param repeats: repetitions
    """
    unit = "one process that steps at random"
    for size in sizes:
        for name, cls in processes_and_actors().items():
            rates, reference = _rates(env_id, size, cls, seconds, repeats)
            yield Row(f"{env_id}, {name}, {counted(size, 'worker')}", "steps/s", rates, reference, unit)
        rates, reference = on_ranks(size, partial(_rates, env_id, 1, SimulatedVecEnv, seconds, repeats))
        yield Row(f"{env_id}, all-reduce, {counted(size, 'rank')}", "steps/s", rates, reference, unit)


def _rates(
    env_id: str, size: int, cls: Callable[..., WorkerVecEnv], seconds: float, repeats: int
) -> tuple[list[float], list[float]]:
    """Steps a second of training, and in turn with them those of the process that only steps."""
    env = make_worker_vec_env(env_id, size, vec_env_cls=cls)
    raw = RandomProcesses(env_id, 1) if is_first() else None
    rates, reference = [], []
    try:
        model = RennalaNIGT("MlpPolicy", env, seed=0, device="cpu", **{**PAPER, "learning_rate": 1e-9})
        learning_rate_of_steps(model, WARM_UP_SECONDS)
        for _ in range(repeats):
            rates.append(learning_rate_of_steps(model, seconds))
            if raw is not None:  # the other ranks wait for this one
                reference.append(raw.rate(seconds))
    finally:
        env.close()
        if raw is not None:
            raw.close()
    return rates, reference
