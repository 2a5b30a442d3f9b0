"""The critic: a value network and its regression on the λ-returns of the last rounds."""

from sb3_nigt.critic.critic import Critic, FitReport
from sb3_nigt.critic.network import ValueNetwork, seeded_value_network

__all__ = ["Critic", "FitReport", "ValueNetwork", "seeded_value_network"]
