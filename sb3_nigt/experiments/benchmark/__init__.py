"""Learning speed beside the physical limit, stragglers, start of processes."""

from sb3_nigt.experiments.benchmark.command import add_arguments, run

__all__ = ["add_arguments", "run"]
