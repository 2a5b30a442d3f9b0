"""Actor-only policies: the paper's tanh-Gaussian for Box actions, Stable-Baselines3's distributions for the others."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    Distribution,
    MultiCategoricalDistribution,
    SquashedDiagGaussianDistribution,
)
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    CombinedExtractor,
    FlattenExtractor,
    MlpExtractor,
    NatureCNN,
)
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import nn
from torch.distributions import Normal

from sb3_nigt.optimizers.nigt import NIGT

MIN_STD = 1e-6  # softplus underflows to 0 for very negative inputs, where a Gaussian has no density


class TanhGaussianDistribution(SquashedDiagGaussianDistribution):
    """
    u ~ N(μ(s), diag σ(s)²) with σ = softplus(·), squashed to tanh(u) in [-1, 1].

    :param action_dim: number of action components
    """

    def proba_distribution_net(self, latent_dim: int, log_std_init: float = 0.0) -> nn.Module:  # type: ignore[override]
        """
        One linear layer with both heads, first μ then the argument of the softplus.

        :param latent_dim: size of the trunk's output
        :param log_std_init: unused: the initial σ is softplus(0) = 0.69
        """
        return nn.Linear(latent_dim, 2 * self.action_dim)

    def set_initial_std(self, action_net: nn.Module, std: float) -> None:
        """
        Shift the bias of the σ head so that a zero input gives the wanted σ.

        :param action_net: the layer made by ``proba_distribution_net``
        :param std: σ, greater than MIN_STD
        """
        assert isinstance(action_net, nn.Linear)
        with th.no_grad():
            action_net.bias[self.action_dim :] = np.log(np.expm1(std - MIN_STD))  # inverse of the softplus

    def proba_distribution(self, outputs: th.Tensor) -> TanhGaussianDistribution:  # type: ignore[override]
        """
        Set the parameters.

        :param outputs: shape (batch, 2 * action_dim)
        """
        mean, raw_std = outputs.chunk(2, dim=-1)
        self.distribution = Normal(mean, nn.functional.softplus(raw_std) + MIN_STD, validate_args=False)
        return self

    def log_prob_gaussian(self, gaussian_actions: th.Tensor) -> th.Tensor:
        """
        Log N(u; μ, σ). It has the same score as the squashed action, since the tanh Jacobian does not depend on θ.

        :param gaussian_actions: u, before the tanh, shape (batch, action_dim)
        :return: shape (batch,)
        """
        log_prob: th.Tensor = self.distribution.log_prob(gaussian_actions)  # type: ignore[no-untyped-call]
        return log_prob.sum(dim=1)


class ActorPolicy(ActorCriticPolicy):
    """
    Policy without a critic; the default optimizer is NIGT.

    Box actions: tanh MLP of two hidden layers of 64, one trunk with two heads μ(s) and σ(s) = softplus(·); the action is
    tanh(u) mapped onto the bounds. ``predict_values`` and the values of ``forward`` are zeros, so the signatures are those
    of Stable-Baselines3's actor-critic policies.

    :param observation_space: observation space
    :param action_space: Box, Discrete, MultiDiscrete or MultiBinary
    :param lr_schedule: learning rate schedule
    :param net_arch: sizes of the hidden layers, ``[64, 64]`` by default; of a dict only the part ``pi`` is built
    :param activation_fn: activation between the layers
    :param ortho_init: orthogonal initialisation, with a small gain for the last layer
    :param use_sde: gSDE is not supported, must be False
    :param log_std_init: for Box actions, logarithm of the initial σ; None: the paper's softplus(0), σ = 0.69
    :param features_extractor_class: features extractor
    :param features_extractor_kwargs: its keyword arguments
    :param share_features_extractor: has no effect without a critic
    :param normalize_images: divide images by 255
    :param optimizer_class: NIGT by default
    :param optimizer_kwargs: its keyword arguments, without the learning rate
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        activation_fn: type[nn.Module] = nn.Tanh,
        ortho_init: bool = True,
        use_sde: bool = False,
        log_std_init: float | None = None,
        features_extractor_class: type[BaseFeaturesExtractor] = FlattenExtractor,
        features_extractor_kwargs: dict[str, Any] | None = None,
        share_features_extractor: bool = True,
        normalize_images: bool = True,
        optimizer_class: type[th.optim.Optimizer] = NIGT,
        optimizer_kwargs: dict[str, Any] | None = None,
    ) -> None:
        if use_sde:
            raise ValueError(
                "use_sde=True is not allowed: gSDE keeps one noise matrix for many steps, for which the estimator's score is "
                "not defined here. Leave use_sde=False; the policy's own standard deviation depends on the state already."
            )
        self._log_std_init = log_std_init  # the parent's attribute of a similar name is never None
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            net_arch=net_arch,
            activation_fn=activation_fn,
            ortho_init=ortho_init,
            features_extractor_class=features_extractor_class,
            features_extractor_kwargs=features_extractor_kwargs,
            share_features_extractor=share_features_extractor,
            normalize_images=normalize_images,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
        )
        # ActorCriticPolicy ties squash_output to gSDE, the squashing here is the distribution's
        self._squash_output = isinstance(action_space, spaces.Box)

    def __setattr__(self, name: str, value: Any) -> None:
        """A features extractor that is replaced is replaced under all names that the parent class has for it."""
        super().__setattr__(name, value)
        if name == "features_extractor" and "vf_features_extractor" in self._modules:
            self.pi_features_extractor = self.vf_features_extractor = value

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        for name in ("squash_output", "full_std", "use_expln"):
            data.pop(name)
        data["log_std_init"] = self._log_std_init
        data["share_features_extractor"] = self.share_features_extractor
        return data

    def _build_mlp_extractor(self) -> None:
        net_arch = self.net_arch.get("pi", []) if isinstance(self.net_arch, dict) else self.net_arch
        self.mlp_extractor = MlpExtractor(
            self.features_dim, {"pi": net_arch, "vf": []}, activation_fn=self.activation_fn, device=self.device
        )

    def _build(self, lr_schedule: Schedule) -> None:
        if not self.share_features_extractor:  # there is no critic to give the second one to
            self.vf_features_extractor = self.features_extractor
        self._build_mlp_extractor()
        if isinstance(self.action_space, spaces.Box):
            self.action_dist = TanhGaussianDistribution(int(np.prod(self.action_space.shape)))
        self.action_net = self.action_dist.proba_distribution_net(latent_dim=self.mlp_extractor.latent_dim_pi)  # type: ignore[assignment]
        if self.ortho_init:
            gains = {self.features_extractor: np.sqrt(2), self.mlp_extractor: np.sqrt(2), self.action_net: 0.01}
            for module, gain in gains.items():
                module.apply(partial(self.init_weights, gain=gain))
        if self._log_std_init is not None and isinstance(self.action_dist, TanhGaussianDistribution):
            self.action_dist.set_initial_std(self.action_net, float(np.exp(self._log_std_init)))
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]

    def _get_action_dist_from_latent(self, latent_pi: th.Tensor) -> Distribution:
        outputs = self.action_net(latent_pi)
        dist = self.action_dist
        if isinstance(dist, TanhGaussianDistribution):
            return dist.proba_distribution(outputs)
        assert isinstance(dist, (CategoricalDistribution, MultiCategoricalDistribution, BernoulliDistribution))
        return dist.proba_distribution(action_logits=outputs)

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """
        Sample actions.

        :param obs: observations
        :param deterministic: take the mode
        :return: actions in [-1, 1] for Box, zeros in place of values, log-probabilities
        """
        distribution = self.get_distribution(obs)
        actions = distribution.get_actions(deterministic=deterministic)
        if isinstance(distribution, TanhGaussianDistribution):
            log_prob = distribution.log_prob(actions, distribution.gaussian_actions)
        else:
            log_prob = distribution.log_prob(actions)
        values = th.zeros((len(log_prob), 1), device=log_prob.device)
        return actions.reshape((-1, *self.action_space.shape)), values, log_prob  # type: ignore[misc]

    def evaluate_actions(self, obs: PyTorchObs, actions: th.Tensor) -> tuple[th.Tensor, th.Tensor, th.Tensor | None]:
        """
        Log-probability of actions.

        :param obs: observations
        :param actions: actions as ``forward`` returns them, in [-1, 1] for Box
        :return: zeros in place of values, log-probabilities, entropy (None for Box)
        """
        distribution = self.get_distribution(obs)
        if isinstance(distribution, TanhGaussianDistribution):
            actions = actions.reshape(len(actions), -1)
        log_prob = distribution.log_prob(actions)
        return th.zeros((len(log_prob), 1), device=log_prob.device), log_prob, distribution.entropy()

    def predict_values(self, obs: PyTorchObs) -> th.Tensor:
        """
        Return zeros, there is no critic.

        :param obs: observations
        """
        observation = next(iter(obs.values())) if isinstance(obs, dict) else obs
        return th.zeros((len(observation), 1), device=self.device)


class ActorCnnPolicy(ActorPolicy):
    """``ActorPolicy`` for images: NatureCNN in front, no hidden layer behind it unless ``net_arch`` says so."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"features_extractor_class": NatureCNN, **kwargs})


class MultiInputActorPolicy(ActorPolicy):
    """``ActorPolicy`` for Dict observations: one extractor a key, concatenated."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"features_extractor_class": CombinedExtractor, **kwargs})


MlpPolicy = ActorPolicy
CnnPolicy = ActorCnnPolicy
MultiInputPolicy = MultiInputActorPolicy
