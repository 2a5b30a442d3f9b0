"""The parts of an update: θ̃ out of the optimizer, the gradient into it, and what is logged of both."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch as th
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import obs_as_tensor

from sb3_nigt.algorithms.book import MAX_REJECTED_IN_A_ROW, Accepted
from sb3_nigt.algorithms.fisher_sample import FisherSample
from sb3_nigt.algorithms.policy_defaults import damping_unit
from sb3_nigt.errors import NonFiniteError
from sb3_nigt.estimators import Assessment, Estimator
from sb3_nigt.messages import Contribution, SamplingPoint
from sb3_nigt.optimizers import NIGT, Extrapolating
from sb3_nigt.parameters import Layout
from sb3_nigt.policies import ActorPolicy, HalfRangeGaussianDistribution, as_actor_policy
from sb3_nigt.replica.fisher import fisher_product, kl, metric, outputs_at
from sb3_nigt.replica.mlp_fisher import MlpFisher
from sb3_nigt.sampling.actions import REMEDY, diverged
from sb3_nigt.sampling.trajectory import Trajectory, map_observation

Array = npt.NDArray[np.float32]
LARGEST_KL = 5.0  # of an update, times α²/2
HARMLESS_KL = 1e-3  # of an update; where α is small, the rounding of float32 measures more than α²/2
MAX_HALVINGS = 10  # of one update
TOLERANCE = 0.05  # without a preconditioner, as for images: there the cosine is at least 0.99, for half the products of 1e-5


def extrapolate(optimizer: th.optim.Optimizer, eta: float) -> Mapping[th.Tensor, th.Tensor]:
    """
    Return θ̃ by parameter; empty for an optimizer that takes gradients at the parameters.

    :param optimizer: the policy's optimizer
    :param eta: η of this round, for the lookahead here and for the momentum of the step that follows
    """
    if not isinstance(optimizer, Extrapolating):
        return {}
    for group in optimizer.param_groups:
        group["eta"] = eta
    return optimizer.extrapolated()


def set_geometry(optimizer: th.optim.Optimizer, geometry: str) -> None:
    """
    Measure steps in another norm from now on.

    :param optimizer: the policy's optimizer
    :param geometry: a key of ``GEOMETRIES``
    :raises ValueError: if it has no geometry
    """
    if not isinstance(optimizer, NIGT):
        raise ValueError(
            f"geometry={geometry!r} cannot be set on this model, since its optimizer {type(optimizer).__name__} has none."
        )
    for group in optimizer.param_groups:
        group["geometry"] = geometry


def contributions(
    accepted: Accepted, weights: npt.NDArray[np.float64], estimator: Estimator, assessment: Assessment | None
) -> list[Contribution]:
    """
    Say what each accepted trajectory counts for.

    :param accepted: the accepted trajectories of this process, in worker order
    :param weights: w_i, one per worker
    :param estimator: the source of C_t
    :param assessment: the estimator's assessment of the whole round
    """
    coefficients = estimator.coefficients(accepted, weights, assessment)
    return [Contribution(arrival.worker, arrival.key, own) for (arrival, _), own in zip(accepted, coefficients, strict=True)]


def as_seen(policy: ActorCriticPolicy, observations: Any) -> Any:
    """
    Return observations as the policy's networks see them, with its present statistics.

    :param policy: the model's policy
    :param observations: batch as the policy gets them, array or dict of arrays
    """
    actor = as_actor_policy(policy)
    if actor is None:
        return observations
    if type(actor).normalized is not ActorPolicy.normalized:
        with th.no_grad():
            seen = actor.normalized(obs_as_tensor(observations, actor.device))
        return map_observation(lambda x: x.cpu().numpy(), seen)
    if actor.normalizer is None:
        return observations
    return actor.normalizer.frozen()(observations)


def descend(
    policy: ActorCriticPolicy, layout: Layout, gradient: th.Tensor, sample: FisherSample, point: SamplingPoint
) -> None:
    """
    Make one step of the policy's optimizer; frozen parameters get no gradient and stay where they are.

    :param policy: the policy at θ
    :param layout: layout of its parameters
    :param gradient: direction of ascent, flat
    :param sample: observations for the geometries that need a metric
    :param point: θ̃, where the metric is taken
    """
    optimizer = policy.optimizer
    for p, g in layout.by_parameter(gradient):
        p.grad = -g  # torch minimises; the sign changes here and nowhere else
    if isinstance(optimizer, NIGT) and optimizer.needs_metric:
        fisher = fisher_product(policy, layout, point.parameters, sample.observations())
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        optimizer.damping_unit = damping_unit(policy)
        damping = optimizer.scaled_damping
        inverse = fisher.approximate_inverse(damping) if damping > 0 and isinstance(fisher, MlpFisher) else None
        optimizer.metric = metric(fisher, layout, parameters)
        optimizer.preconditioner = inverse and metric(inverse, layout, parameters)
        optimizer.tolerance = TOLERANCE if inverse is None else NIGT.tolerance
    optimizer.step()
    policy.zero_grad()


def stay_near(policy: ActorCriticPolicy, layout: Layout, observations: Any, before: Array) -> float:
    """
    Halve a step that has changed the policy far more than its length says, until it has not.

    The quadratic model of KL(θ_t ‖ θ_{t+1}) says at most α²/2. It fails where a policy is nearly deterministic and its network
    large: there F is small, and a step that F and λ allow can turn the policy round.

    :param policy: holds θ_{t+1}; its optimizer measures steps in a metric
    :param layout: of its parameters
    :param observations: on which the divergence is measured, as the policy gets them
    :param before: θ_t, flat
    :return: KL(θ_t ‖ θ_{t+1}) of the step that is left; nan if the policy's output is no longer finite
    """
    optimizer = policy.optimizer
    assert isinstance(optimizer, NIGT)
    allowed = max(HARMLESS_KL, LARGEST_KL * 0.5 * optimizer.param_groups[0]["lr"] ** 2)
    for _ in range(MAX_HALVINGS):
        divergence = divergence_of(policy, layout, observations, before, layout.flatten())
        if not divergence > allowed:
            return divergence
        optimizer.halve_step()
    return divergence_of(policy, layout, observations, before, layout.flatten())


def divergence_of(policy: ActorCriticPolicy, layout: Layout, observations: Any, old: Array, new: Array) -> float:
    """
    Return the mean KL(old ‖ new) of two parameter vectors; nan if the policy's output is not finite at one of them.

    :param policy: the architecture, with the statistics of its observations
    :param layout: of its parameters
    :param observations: on which the divergence is measured, as the policy gets them
    :param old: a flat vector; what comes after the parameters, such as buffers, is left out: both see the same observations
    :param new: another one
    """
    points = (vector[: layout.n_parameters] for vector in (old, new))
    try:
        return float(kl(*(outputs_at(policy, layout, parameters, observations) for parameters in points)))
    except ValueError:  # torch's distributions refuse parameters that are no numbers
        return math.nan


def count_bad(gradient: th.Tensor, bad_before: int, n_updates: int) -> int:
    """
    Count the rounds in a row whose gradient is not finite; such a gradient never reaches the parameters.

    :param gradient: gradient of the round
    :param bad_before: number of consecutive bad gradients before this round
    :param n_updates: updates so far
    :return: 0 if the gradient is finite
    :raises NonFiniteError: if there are too many in a row
    """
    bad = 0 if bool(th.isfinite(gradient).all()) else bad_before + 1
    if bad >= MAX_REJECTED_IN_A_ROW:
        raise NonFiniteError(f"The gradients of {bad} rounds in a row were not finite (round {n_updates}). {REMEDY}")
    return bad


def move_batch_norm(policy: ActorCriticPolicy, trajectories: Sequence[Trajectory]) -> None:
    """
    Update BatchNorm statistics with the observations of a round; sampling and its score use fixed ones.

    :param policy: the policy to update
    :param trajectories: the accepted trajectories
    """
    observations = map_observation(lambda *xs: np.concatenate(xs), *(t.policy_observations for t in trajectories))
    policy.set_training_mode(True)
    with th.no_grad():
        policy.get_distribution(obs_as_tensor(observations, policy.device))
    policy.set_training_mode(False)


def log_kl(
    logger: Logger, policy: ActorCriticPolicy, layout: Layout, observations: Any, of_step: float, point: SamplingPoint
) -> None:
    """
    Record how far the update has moved the policy: KL(θ_t ‖ θ_{t+1}), and KL(θ̃_t ‖ θ̃_{t+1}) between sampling points.

    :param logger: the model's
    :param policy: the policy at θ_{t+1}
    :param layout: layout of its parameters
    :param observations: the observations on which the second one is measured, as the policy gets them
    :param of_step: the first one, as ``stay_near`` has measured it
    :param point: θ̃_t
    :raises NonFiniteError: if the policy's output is no longer finite
    """
    optimizer = policy.optimizer
    assert isinstance(optimizer, NIGT)
    extrapolated = layout.flatten(optimizer.extrapolated())
    between_points = divergence_of(policy, layout, observations, point.parameters, extrapolated)
    if math.isnan(of_step) or math.isnan(between_points):
        raise NonFiniteError(f"The update cannot be assessed: {diverged(point.round + 1)}")
    logger.record("train/kl", of_step)
    logger.record("train/kl_sampling", between_points)


def log_update(
    logger: Logger, policy: ActorCriticPolicy, n_updates: int, gradient: th.Tensor, extrapolation_norm: float
) -> None:
    """
    Record ``train/*``.

    :param logger: the model's
    :param policy: the updated policy
    :param n_updates: updates so far
    :param gradient: gradient of the round
    :param extrapolation_norm: ‖θ̃ - θ‖ of the round
    """
    optimizer = policy.optimizer
    logger.record("train/learning_rate", optimizer.param_groups[0]["lr"])
    logger.record("train/n_updates", n_updates, exclude="tensorboard")
    logger.record("train/grad_norm", float(th.linalg.vector_norm(gradient.double())))
    if isinstance(optimizer, Extrapolating):
        logger.record("train/eta", optimizer.param_groups[0]["eta"])
        logger.record("train/direction_norm", optimizer.direction_norm())
        logger.record("train/extrapolation_norm", extrapolation_norm)
    if isinstance(optimizer, NIGT) and optimizer.needs_metric:
        logger.record("train/cg_residual", optimizer.cg_residual)
        logger.record("train/predicted_kl", optimizer.predicted_kl)
        logger.record("train/fallbacks", optimizer.n_fallbacks)
        logger.record("train/halvings", optimizer.n_halvings)
    actor = as_actor_policy(policy)
    if actor is not None and isinstance(actor.action_dist, HalfRangeGaussianDistribution):
        logger.record("train/std", float(actor.log_std.detach().exp().mean()))


def distance(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> float:
    """
    Return the l2 distance of two vectors.

    :param one: a flat vector
    :param other: another one of the same length
    """
    # no BLAS: its threads would compete with the workers for a few thousand numbers
    return float(np.sqrt(np.square(one - other, dtype=np.float64).sum()))


def same_buffers(new: dict[str, npt.NDArray[Any]], old: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """
    Return the old object if nothing has changed, so that it need not be sent again.

    :param new: buffers of this round
    :param old: buffers of the previous round
    """
    same = new.keys() == old.keys() and all(np.array_equal(new[name], old[name], equal_nan=False) for name in new)
    return old if same else new
