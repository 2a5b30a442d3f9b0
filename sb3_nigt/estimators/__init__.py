"""Estimators: what each step of a round counts for in the gradient."""

from sb3_nigt.estimators.base import Accepted, Assessment, Estimator, Mean, Rows, WorkerMoments
from sb3_nigt.estimators.gae import GeneralizedAdvantage
from sb3_nigt.estimators.return_to_go import ReturnToGo

__all__ = [
    "Accepted",
    "Assessment",
    "Estimator",
    "GeneralizedAdvantage",
    "Mean",
    "ReturnToGo",
    "Rows",
    "WorkerMoments",
]
