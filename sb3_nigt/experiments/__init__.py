"""Measurements and experiments: the commands of ``sb3-nigt``."""
