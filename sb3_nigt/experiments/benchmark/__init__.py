"""Learning speed beside the raw speed of the environment; stragglers; the start of worker processes; the all-reduce."""

from sb3_nigt.experiments.benchmark.command import add_arguments, run

__all__ = ["add_arguments", "run"]
