"""The parts of an update: θ̃ out of the optimizer, the gradient into it, and what is logged of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch as th
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import obs_as_tensor

from sb3_nigt.algorithms.book import MAX_REJECTED_IN_A_ROW, Accepted
from sb3_nigt.errors import NonFiniteError
from sb3_nigt.estimators import Estimator
from sb3_nigt.messages import Contribution
from sb3_nigt.optimizers import Extrapolating
from sb3_nigt.parameters import Layout
from sb3_nigt.sampling.trajectory import Trajectory, map_observation


def extrapolate(optimizer: th.optim.Optimizer, eta: float) -> Mapping[th.Tensor, th.Tensor]:
    """
    Return θ̃ by parameter; empty for an optimizer that takes gradients at the parameters.

    :param optimizer: of the policy
    :param eta: η of this round, for the lookahead here and for the momentum of the step that follows
    """
    if not isinstance(optimizer, Extrapolating):
        return {}
    for group in optimizer.param_groups:
        group["eta"] = eta
    return optimizer.extrapolated()


def contributions(accepted: Accepted, estimator: Estimator) -> list[Contribution]:
    """
    Say what each accepted trajectory counts for.

    :param accepted: of this process, in worker order
    :param estimator: gives C_t
    """
    coefficients = estimator.coefficients([trajectory for _, trajectory in accepted])
    return [Contribution(arrival.worker, arrival.key, own) for (arrival, _), own in zip(accepted, coefficients, strict=True)]


def descend(policy: ActorCriticPolicy, layout: Layout, gradient: th.Tensor) -> None:
    """
    Make one step of the policy's optimizer; frozen parameters get no gradient and stay where they are.

    :param policy: holds θ
    :param layout: of its parameters
    :param gradient: direction of ascent, flat
    """
    for p, g in layout.by_parameter(gradient):
        p.grad = -g  # torch minimises; the sign changes here and nowhere else
    policy.optimizer.step()
    policy.zero_grad()


def count_bad(gradient: th.Tensor, bad_before: int, n_updates: int) -> int:
    """
    Count the rounds in a row whose gradient is not finite; such a gradient never reaches the parameters.

    :param gradient: of the round
    :param bad_before: of the rounds before it
    :param n_updates: updates so far
    :return: 0 if the gradient is finite
    :raises NonFiniteError: if there are too many in a row
    """
    bad = 0 if bool(th.isfinite(gradient).all()) else bad_before + 1
    if bad >= MAX_REJECTED_IN_A_ROW:
        raise NonFiniteError(
            f"The gradients of {bad} rounds in a row were not finite (round {n_updates}): "
            "try a smaller learning_rate, and check the scale of rewards and observations."
        )
    return bad


def move_batch_norm(policy: ActorCriticPolicy, trajectories: Sequence[Trajectory]) -> None:
    """
    Update BatchNorm statistics with the observations of a round; sampling and its score use fixed ones.

    :param policy: changed
    :param trajectories: accepted ones
    """
    observations = map_observation(lambda *xs: np.concatenate(xs), *(t.policy_observations for t in trajectories))
    policy.set_training_mode(True)
    with th.no_grad():
        policy.get_distribution(obs_as_tensor(observations, policy.device))
    policy.set_training_mode(False)


def log_update(
    logger: Logger, optimizer: th.optim.Optimizer, n_updates: int, gradient: th.Tensor, extrapolation_norm: float
) -> None:
    """
    Record ``train/*``.

    :param logger: the model's
    :param optimizer: after its step
    :param n_updates: updates so far
    :param gradient: of the round
    :param extrapolation_norm: ‖θ̃ - θ‖ of the round
    """
    logger.record("train/learning_rate", optimizer.param_groups[0]["lr"])
    logger.record("train/n_updates", n_updates, exclude="tensorboard")
    logger.record("train/grad_norm", float(th.linalg.vector_norm(gradient.double())))
    if isinstance(optimizer, Extrapolating):
        logger.record("train/eta", optimizer.param_groups[0]["eta"])
        logger.record("train/direction_norm", optimizer.direction_norm())
        logger.record("train/extrapolation_norm", extrapolation_norm)


def distance(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> float:
    """
    Return the l2 distance of two vectors.

    :param one: flat
    :param other: of the same length
    """
    # no BLAS: its threads would compete with the workers for a few thousand numbers
    return float(np.sqrt(np.square(one - other, dtype=np.float64).sum()))


def same_buffers(new: dict[str, npt.NDArray[Any]], old: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """
    Return the old object if nothing has changed, so that it need not be sent again.

    :param new: of this round
    :param old: of the round before
    """
    same = new.keys() == old.keys() and all(np.array_equal(new[name], old[name], equal_nan=False) for name in new)
    return old if same else new
