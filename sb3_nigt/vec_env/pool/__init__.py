"""Workers apart from this process: what processes of this machine and actors of a cluster share."""
