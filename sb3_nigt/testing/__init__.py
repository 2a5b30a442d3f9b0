"""
What your own classes must do, as tests for pytest (extra ``[tests]``): they inherit the suite of their contract.

The suites are imported at the first use, since worker processes import ``environments`` from here and need no pytest.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sb3_nigt.testing.aggregators import AggregatorTests
    from sb3_nigt.testing.workers import RoundWorkersTests, TrajectoryWorkersTests, WorkerVecEnvTests

__all__ = ["AggregatorTests", "RoundWorkersTests", "TrajectoryWorkersTests", "WorkerVecEnvTests"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import pytest

    module = f"{__name__}.{'aggregators' if name == 'AggregatorTests' else 'workers'}"
    pytest.register_assert_rewrite(module)  # so that a failed assertion shows its values
    return getattr(import_module(module), name)
