"""The algorithms in rl_zoo3: ``python -m sb3_nigt.zoo train --algo rennala_nigt --env Hopper-v5``."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from sb3_nigt.algorithms.base import AsyncPolicyGradient
from sb3_nigt.methods import METHODS

ALGORITHMS: dict[str, type[AsyncPolicyGradient]] = {method.zoo_name: method.algorithm for method in METHODS.values()}
HYPERPARAMS = Path(__file__).parents[1] / "hyperparams"  # one file an algorithm


def register() -> None:
    """
    Tell rl_zoo3 the algorithms, and what its search for hyperparameters may try for each of them.

    :raises ModuleNotFoundError: if rl_zoo3 is not installed
    """
    # Not at the top, since rl_zoo3 is an extra. Its dicts are the ones that all its modules look names up in.
    from rl_zoo3 import ALGOS
    from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER

    from sb3_nigt.zoo.samplers import convert, sample

    for name, algorithm in ALGORITHMS.items():
        ALGOS[name] = algorithm
        HYPERPARAMS_SAMPLER[name] = partial(sample, algorithm)
        HYPERPARAMS_CONVERTER[name] = convert


__all__ = ["ALGORITHMS", "HYPERPARAMS", "register"]
