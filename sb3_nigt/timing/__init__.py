"""Clocks and time models."""

from sb3_nigt.timing.clock import Clock, SimulatedClock, WallClock
from sb3_nigt.timing.time_models import FixedTimes, RandomTimes, ReplayedTimes, TimeModel, VaryingTimes

__all__ = ["Clock", "FixedTimes", "RandomTimes", "ReplayedTimes", "SimulatedClock", "TimeModel", "VaryingTimes", "WallClock"]
