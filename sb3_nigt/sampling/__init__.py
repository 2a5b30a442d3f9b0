"""One worker's environment, stepped through one trajectory at a time, and what a trajectory is."""
