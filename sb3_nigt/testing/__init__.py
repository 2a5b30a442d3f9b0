"""
What your own classes must do, as tests for pytest (extra ``[tests]``): they inherit the suite of their contract.

The suites are imported at the first use, since worker processes import ``environments`` from here and need no pytest.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sb3_nigt.testing.aggregators import AggregatorTests
    from sb3_nigt.testing.step_rounds import StepRoundsTests
    from sb3_nigt.testing.worker_vec_envs import WorkerVecEnvTests
    from sb3_nigt.testing.workers import RoundWorkersTests, TrajectoryWorkersTests

_PLACES = {
    "AggregatorTests": "aggregators",
    "RoundWorkersTests": "workers",
    "StepRoundsTests": "step_rounds",
    "TrajectoryWorkersTests": "workers",
    "WorkerVecEnvTests": "worker_vec_envs",
}

__all__ = ["AggregatorTests", "RoundWorkersTests", "StepRoundsTests", "TrajectoryWorkersTests", "WorkerVecEnvTests"]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import pytest

    module = f"{__name__}.{_PLACES[name]}"
    pytest.register_assert_rewrite(module)  # so that a failed assertion shows its values
    return getattr(import_module(module), name)
