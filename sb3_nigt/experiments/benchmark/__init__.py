"""Speed beside the physical limit: ``python -m sb3_nigt benchmark``."""

from sb3_nigt.experiments.benchmark.command import add_arguments, run

__all__ = ["add_arguments", "run"]
