"""Outer updates."""

from sb3_nigt.optimizers.base import Extrapolating
from sb3_nigt.optimizers.nigt import NIGT

__all__ = ["NIGT", "Extrapolating"]
