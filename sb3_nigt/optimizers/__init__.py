"""Outer updates."""

from sb3_nigt.optimizers.nigt import NIGT

__all__ = ["NIGT"]
