"""When a round is complete and how its local sums are weighed: pure functions of the counts."""

from sb3_nigt.aggregators.base import Aggregator, TicketPool, predicted_counts
from sb3_nigt.aggregators.malenia import Malenia
from sb3_nigt.aggregators.rennala import Rennala
from sb3_nigt.aggregators.synchronous import Synchronous

__all__ = ["Aggregator", "Malenia", "Rennala", "Synchronous", "TicketPool", "predicted_counts"]
