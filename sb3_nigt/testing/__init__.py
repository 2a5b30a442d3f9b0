"""What your own classes must do, as tests for pytest (extra ``[tests]``): they inherit the suite of their contract."""

import pytest

pytest.register_assert_rewrite("sb3_nigt.testing.aggregators", "sb3_nigt.testing.workers")

from sb3_nigt.testing.aggregators import AggregatorTests  # noqa: E402
from sb3_nigt.testing.workers import RoundWorkersTests, TrajectoryWorkersTests, WorkerVecEnvTests  # noqa: E402

__all__ = ["AggregatorTests", "RoundWorkersTests", "TrajectoryWorkersTests", "WorkerVecEnvTests"]
