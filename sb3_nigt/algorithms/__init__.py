"""The algorithms: each file names its aggregator and its outer update."""

from sb3_nigt.algorithms.afedpg import AFedPG
from sb3_nigt.algorithms.malenia_nigt import MaleniaNIGT
from sb3_nigt.algorithms.rennala_nigt import RennalaNIGT
from sb3_nigt.algorithms.rennala_pg import RennalaPG
from sb3_nigt.algorithms.sync_nigt import SyncNIGT
from sb3_nigt.algorithms.sync_pg import SyncPG

__all__ = ["AFedPG", "MaleniaNIGT", "RennalaNIGT", "RennalaPG", "SyncNIGT", "SyncPG"]
