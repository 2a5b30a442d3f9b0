"""The point at which a round samples, and the update of the parameters when it is over."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch as th
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import Schedule as ProgressSchedule
from stable_baselines3.common.utils import obs_as_tensor, update_learning_rate

from sb3_nigt.algorithms.checks import check_learning_rate
from sb3_nigt.algorithms.round import MAX_REJECTED_IN_A_ROW
from sb3_nigt.errors import NonFiniteError
from sb3_nigt.messages import RoundReport, SamplingPoint
from sb3_nigt.optimizers.nigt import NIGT
from sb3_nigt.parameters import flatten
from sb3_nigt.trajectory import Trajectory, map_observation
from sb3_nigt.vec_env.base import TrajectoryWorkers
from sb3_nigt.vec_env.wrappers import WrapperStack


class OuterUpdate(OnPolicyAlgorithm):
    """θ_t → θ_{t+1} by the policy's optimizer; everything about rounds is in ``AsyncPolicyGradient``, its only subclass."""

    optimizer_class: ClassVar[type[th.optim.Optimizer]] = NIGT

    last_round: RoundReport | None = None
    eta_schedule: ProgressSchedule
    _workers: TrajectoryWorkers | None
    _stack: WrapperStack | None  # of the workers
    _accepted: list[Trajectory]  # of the last round
    _has_batch_norm: bool
    _bad_gradients: int  # rounds in a row whose gradient was not finite
    _round_eta: float
    _extrapolation_norm: float  # of θ̃_t - θ_t

    def _sampling_point(self) -> SamplingPoint:
        """θ̃_t with the statistics frozen for the round. The η used here is the one of this round's momentum, too."""
        optimizer, theta_tilde = self.policy.optimizer, None
        if isinstance(optimizer, NIGT):
            self._round_eta = self.eta_schedule(self._current_progress_remaining)
            for group in optimizer.param_groups:
                group["eta"] = self._round_eta
            theta_tilde = optimizer.extrapolated()
        parameters = flatten(self.policy, theta_tilde)
        # no BLAS: its threads would compete with the workers for a few thousand numbers
        self._extrapolation_norm = float(np.sqrt(np.square(parameters - flatten(self.policy), dtype=np.float64).sum()))
        transforms = self._stack.freeze() if self._stack is not None else (None, None)
        return SamplingPoint(self._n_updates, parameters, *transforms)

    def _train(self) -> th.Tensor:
        """See ``train``; return the gradient."""
        assert self._workers is not None
        assert self.last_round is not None
        alpha = self.lr_schedule(self._current_progress_remaining)
        check_learning_rate(alpha)
        update_learning_rate(self.policy.optimizer, alpha)
        gradient = self._workers.gradient(self.rollout_buffer.arrivals, self.last_round.weights)  # type: ignore[attr-defined]
        gradient = gradient.to(self.device)
        if self._usable(gradient):
            parameters = list(self.policy.parameters())
            sizes = [p.numel() for p in parameters]
            for p, g in zip(parameters, th.split(gradient, sizes), strict=True):
                p.grad = -g.view_as(p)  # torch minimises; the sign changes here and nowhere else
            self.policy.optimizer.step()
            self.policy.optimizer.zero_grad()
        self._n_updates += 1
        if self._has_batch_norm:
            self._move_batch_norm()
        return gradient

    def _usable(self, gradient: th.Tensor) -> bool:
        """Non-finite gradients never reach the parameters; several in a row stop the run."""
        self._bad_gradients = 0 if bool(th.isfinite(gradient).all()) else self._bad_gradients + 1
        if self._bad_gradients >= MAX_REJECTED_IN_A_ROW:
            raise NonFiniteError(
                f"The gradients of {self._bad_gradients} rounds in a row were not finite (round {self._n_updates}): "
                "try a smaller learning_rate, and check the scale of rewards and observations."
            )
        return self._bad_gradients == 0

    def _move_batch_norm(self) -> None:
        """Sampling and its score use fixed BatchNorm statistics; here they move, by the observations of the round."""
        batches = [trajectory.policy_observations for trajectory in self._accepted]
        observations = map_observation(lambda *xs: np.concatenate(xs), *batches)
        self.policy.set_training_mode(True)
        with th.no_grad():
            self.policy.get_distribution(obs_as_tensor(observations, self.device))
        self.policy.set_training_mode(False)

    def _log_update(self, gradient: th.Tensor) -> None:
        self.logger.record("train/learning_rate", self.policy.optimizer.param_groups[0]["lr"])
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/grad_norm", float(th.linalg.vector_norm(gradient.double())))
        if isinstance(self.policy.optimizer, NIGT):
            self.logger.record("train/eta", self._round_eta)
            self.logger.record("train/direction_norm", self.policy.optimizer.direction_norm())
            self.logger.record("train/extrapolation_norm", self._extrapolation_norm)
