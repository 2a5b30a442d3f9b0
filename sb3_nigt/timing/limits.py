"""How far times may lie apart."""

LARGEST_RATIO = 1_000_000  # of two workers' step times; a barrier would take as many steps of the faster one
LARGEST_MESSAGE = 1_000_000_000  # in steps of the fastest worker; a clock that shows much more does not show a step
