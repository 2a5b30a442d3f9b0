"""Measurements and experiments behind ``python -m sb3_nigt``."""
