"""Policies: two heads for Box actions, Stable-Baselines3's distributions for the others, normalisation and critic inside."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    DiagGaussianDistribution,
    Distribution,
    MultiCategoricalDistribution,
    SquashedDiagGaussianDistribution,
)
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
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

from sb3_nigt.critic import ValueNetwork
from sb3_nigt.dtypes import as_actions, between_bounds, widened
from sb3_nigt.normalization import ObservationNormalizer
from sb3_nigt.optimizers.nigt import NIGT
from sb3_nigt.parameters import actor_parameters, unwrapped

HEADS = ("gaussian", "tanh_gaussian")
# Of the Gaussian head, in half ranges: 5 % of all action components are clipped, with 1 it is a third, and learning is slower.
INITIAL_STD = 0.5
MIN_STD = 1e-6  # softplus underflows to 0 for very negative inputs, where a Gaussian has no density
NO_SDE = (
    "use_sde=True is not allowed: with one noise sample for m steps, the sum of per-step scores can be up to m times the "
    "true score, so the gradient would be wrong. Leave use_sde=False."
)


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


class HalfRangeGaussianDistribution(DiagGaussianDistribution):
    """
    u ~ N(μ(s), diag σ²) with a σ that does not depend on s, in units of the action space's half range around its middle.

    The environment gets u clipped to [-1, 1] and mapped onto the bounds; the density is that of the u that was drawn. Where
    the space has no bounds, u is the action itself.
    """


class ActorPolicy(ActorCriticPolicy):
    """
    The default policy: a tanh MLP with two hidden layers of 64 units; the default optimizer is NIGT.

    The policy normalises observations, with statistics that are saved with it. The critic is a separate network with its own
    optimizer; without a critic ``predict_values`` returns zeros.

    :param observation_space: Box, Discrete, MultiDiscrete, MultiBinary, or a Dict of these
    :param action_space: Box, Discrete, MultiDiscrete or MultiBinary
    :param lr_schedule: α as a function of the progress remaining; its value at 1 is the optimizer's first
    :param net_arch: sizes of the hidden layers, ``[64, 64]`` by default; in a dict, ``pi`` has the actor's and ``vf`` the
        critic's
    :param activation_fn: activation between the layers of actor and critic
    :param ortho_init: orthogonal initialisation, with a small gain for the last layer
    :param use_sde: gSDE is not supported, must be False
    :param log_std_init: for Box actions, logarithm of the initial σ in units of half the action range; None: σ = 0.5 for
        the Gaussian head, the paper's softplus(0), σ = 0.69, for the other one
    :param features_extractor_class: makes features of observations; the critic has its own one of the same class
    :param features_extractor_kwargs: its keyword arguments
    :param share_features_extractor: no effect, the critic has its own extractor
    :param normalize_images: divide images by 255
    :param optimizer_class: NIGT by default
    :param optimizer_kwargs: without the learning rate
    :param head: for Box actions. "gaussian": σ does not depend on the state, actions are clipped to the bounds;
        "tanh_gaussian": the paper's, one trunk with two heads μ(s) and σ(s) = softplus(·), and the action is tanh(u), mapped
        to the bounds
    :param normalize_observations: subtract the running mean from vector observations and divide by the standard deviation
    :param n_critic_tasks: number of tasks that the critic distinguishes; 0: no critic
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
        head: str = "gaussian",
        normalize_observations: bool = True,
        n_critic_tasks: int = 0,
    ) -> None:
        if head not in HEADS:
            raise ValueError(f"head={head!r} is not allowed: give one of {', '.join(map(repr, HEADS))}.")
        self._head, self._normalize_observations, self._n_critic_tasks = head, normalize_observations, n_critic_tasks
        if use_sde:
            raise ValueError(NO_SDE)
        self._log_std_init = log_std_init  # the parent's attribute of a similar name is never None
        super().__init__(
            widened(observation_space),
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
        # ActorCriticPolicy ties squash_output to gSDE; here it says that predict() has to map [-1, 1] onto the bounds
        self._squash_output = isinstance(action_space, spaces.Box) and (head == "tanh_gaussian" or action_space.is_bounded())

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
        data["head"], data["n_critic_tasks"] = self._head, self._n_critic_tasks
        data["normalize_observations"] = self._normalize_observations
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
            cls = TanhGaussianDistribution if self._head == "tanh_gaussian" else HalfRangeGaussianDistribution
            self.action_dist = cls(int(np.prod(self.action_space.shape)))
        if isinstance(self.action_dist, MultiCategoricalDistribution):
            self.action_dist.action_dims = [int(size) for size in self.action_dist.action_dims]
        net = self.action_dist.proba_distribution_net(latent_dim=self.mlp_extractor.latent_dim_pi)
        if isinstance(net, tuple):
            self.action_net, self.log_std = net
            with th.no_grad():
                self.log_std.fill_(math.log(INITIAL_STD) if self._log_std_init is None else self._log_std_init)
        else:
            self.action_net = net
        if self.ortho_init:
            gains = {self.features_extractor: np.sqrt(2), self.mlp_extractor: np.sqrt(2), self.action_net: 0.01}
            for module, gain in gains.items():
                module.apply(partial(self.init_weights, gain=gain))
        if self._log_std_init is not None and isinstance(self.action_dist, TanhGaussianDistribution):
            self.action_dist.set_initial_std(self.action_net, float(np.exp(self._log_std_init)))
        self.normalizer = ObservationNormalizer(self.observation_space) if self._normalize_observations else None
        self.make_critic(self._n_critic_tasks)
        self.optimizer = self.optimizer_class(self.actor_parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]

    def make_critic(self, n_tasks: int) -> None:
        """
        Create a new critic.

        :param n_tasks: number of tasks that it distinguishes; 0: no critic
        """
        self._n_critic_tasks = n_tasks
        self.value_network = self._build_critic() if n_tasks else None

    def _build_critic(self) -> ValueNetwork:
        net_arch = self.net_arch.get("vf", []) if isinstance(self.net_arch, dict) else self.net_arch
        return ValueNetwork(
            self.observation_space,
            self._n_critic_tasks,
            net_arch,
            self.activation_fn,
            self.ortho_init,
            self.features_extractor_class,
            self.features_extractor_kwargs,
            self.normalize_images,
        ).to(self.device)

    def actor_parameters(self) -> list[nn.Parameter]:
        """Return the parameters without those of the critic, in the order of ``parameters()``."""
        return actor_parameters(self)

    def normalized(self, obs: PyTorchObs) -> PyTorchObs:
        """
        Return observations as the networks see them.

        :param obs: batch of observations
        """
        return obs if self.normalizer is None else self.normalizer(obs)

    def get_distribution(self, obs: PyTorchObs) -> Distribution:
        """
        Return the distribution of actions.

        :param obs: batch of observations
        """
        features = BasePolicy.extract_features(self, self.normalized(obs), self.pi_features_extractor)
        return self._get_action_dist_from_latent(self.mlp_extractor.forward_actor(features))

    def extract_features(  # type: ignore[override]
        self, obs: PyTorchObs, features_extractor: BaseFeaturesExtractor | None = None
    ) -> th.Tensor | tuple[th.Tensor, th.Tensor]:
        """
        Normalise, preprocess and extract features, see ``ActorCriticPolicy.extract_features``.

        :param obs: batch of observations
        :param features_extractor: the extractor to use; None: the policy's
        """
        return super().extract_features(self.normalized(obs), features_extractor)

    def _get_action_dist_from_latent(self, latent_pi: th.Tensor) -> Distribution:
        outputs = self.action_net(latent_pi)
        dist = self.action_dist
        if isinstance(dist, TanhGaussianDistribution):
            return dist.proba_distribution(outputs)
        if isinstance(dist, HalfRangeGaussianDistribution):
            return dist.proba_distribution(outputs, self.log_std)
        assert isinstance(dist, (CategoricalDistribution, MultiCategoricalDistribution, BernoulliDistribution))
        return dist.proba_distribution(action_logits=outputs)

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """
        Sample actions.

        :param obs: observations
        :param deterministic: take the mode
        :return: actions for Box in units of the half range, values in real units, log-probabilities
        """
        distribution = self.get_distribution(obs)
        actions = distribution.get_actions(deterministic=deterministic)
        if isinstance(distribution, TanhGaussianDistribution):
            log_prob = distribution.log_prob(actions, distribution.gaussian_actions)
        else:
            log_prob = distribution.log_prob(actions)
        return actions.reshape((-1, *self.action_space.shape)), self.predict_values(obs), log_prob  # type: ignore[misc]

    def predict(
        self,
        observation: npt.NDArray[Any] | dict[str, npt.NDArray[Any]],
        state: tuple[npt.NDArray[Any], ...] | None = None,
        episode_start: npt.NDArray[Any] | None = None,
        deterministic: bool = False,
    ) -> tuple[npt.NDArray[Any], tuple[npt.NDArray[Any], ...] | None]:
        """
        Return actions in the dtype of the action space, see ``BasePolicy.predict``.

        :param observation: one or several
        :param state: unused
        :param episode_start: unused
        :param deterministic: take the mode
        """
        actions, state = super().predict(observation, state, episode_start, deterministic)
        return as_actions(self.action_space, actions), state

    def unscale_action(self, scaled_action: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """
        Map actions from [-1, 1] onto the bounds.

        :param scaled_action: one or several
        """
        assert isinstance(self.action_space, spaces.Box)
        is_wide = self.action_space.dtype in (np.float32, np.float64) and np.abs(self.action_space.high).max() < 1e38
        return super().unscale_action(scaled_action) if is_wide else between_bounds(self.action_space, scaled_action)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        actions = super()._predict(observation, deterministic)
        is_clipped = self._squash_output and isinstance(self.action_dist, HalfRangeGaussianDistribution)
        return actions.clamp(-1.0, 1.0) if is_clipped else actions

    def evaluate_actions(self, obs: PyTorchObs, actions: th.Tensor) -> tuple[th.Tensor, th.Tensor, th.Tensor | None]:
        """
        Log-probability of actions.

        :param obs: observations
        :param actions: actions as ``forward`` returns them
        :return: values in real units, log-probabilities, entropy (None for the tanh head)
        """
        distribution = self.get_distribution(obs)
        if isinstance(self.action_space, spaces.Box):
            actions = actions.reshape(len(actions), -1)
        return self.predict_values(obs), distribution.log_prob(actions), distribution.entropy()

    def predict_values(self, obs: PyTorchObs) -> th.Tensor:
        """
        Return the critic's values in the units of the environment's rewards; zeros where there is no critic.

        :param obs: observations
        """
        if self.value_network is not None:
            return self.value_network.real_values(self.normalized(obs)).unsqueeze(1)
        observation = next(iter(obs.values())) if isinstance(obs, dict) else obs
        return th.zeros((len(observation), 1), device=self.device)


def as_actor_policy(policy: Any) -> ActorPolicy | None:
    """
    Return a policy as one of this package, also from behind ``torch.compile``; None if it is of another kind.

    :param policy: compiled or not
    """
    inner = unwrapped(policy)
    return inner if isinstance(inner, ActorPolicy) else None


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
