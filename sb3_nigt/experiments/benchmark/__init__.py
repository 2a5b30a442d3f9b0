"""Learning speed relative to the raw speed of the environment; stragglers; the start of worker processes; the all-reduce."""
