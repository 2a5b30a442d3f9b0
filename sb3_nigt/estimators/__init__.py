"""Estimators: what each step of a round counts for in the gradient."""

from sb3_nigt.estimators.base import Estimator
from sb3_nigt.estimators.gae import GeneralizedAdvantage
from sb3_nigt.estimators.return_to_go import ReturnToGo

__all__ = ["Estimator", "GeneralizedAdvantage", "ReturnToGo"]
