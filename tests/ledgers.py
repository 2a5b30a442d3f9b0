"""What tests of the list of arrivals share."""

import numpy as np

from sb3_nigt.distributed.ledger import ARRIVED, Entry
from sb3_nigt.messages import TrajectoryKey

UNKNOWN = np.full(3, np.nan)


def arrival(worker, number=0, stream=None, kind=ARRIVED):
    return Entry(kind, worker, TrajectoryKey(0, worker if stream is None else stream, number), 2)
