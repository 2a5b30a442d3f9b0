"""What an algorithm refuses of a policy, before any worker has a job."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv

from sb3_nigt.errors import warn_user
from sb3_nigt.parameters import EXACT_IN_FLOAT32, Layout, actor_parameters, has_batch_norm
from sb3_nigt.replica.fisher import fisher_product
from sb3_nigt.replica.network import has_numpy_network
from sb3_nigt.vec_env.base import WorkerVecEnv

OF_THE_ALGORITHM = {"lr": "learning_rate", "eta": "eta", "geometry": "geometry"}  # name in the optimizer, and there
NOT_CALLED = ("forward", "evaluate_actions")  # methods that PPO samples and trains with
CALLED = ("get_distribution", "_get_action_dist_from_latent")  # those that decide here
LIBRARIES = ("sb3_nigt", "stable_baselines3", "sb3_contrib")
ANY_NUMBER = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
TRIED = 32  # observations; some layers have a second derivative for large batches only


def check_optimizer_kwargs(kwargs: dict[str, Any], optimizer: type[th.optim.Optimizer]) -> None:
    """
    Refuse arguments that the algorithm sets, or that the optimizer does not have.

    :param kwargs: ``optimizer_kwargs`` of the policy
    :param optimizer: the algorithm's optimizer, or a subclass of NIGT
    :raises ValueError: naming one of them, and what to give instead
    """
    parameters = inspect.signature(optimizer).parameters
    _, *allowed = (name for name in parameters if name not in OF_THE_ALGORITHM)
    takes_any = any(parameter.kind in ANY_NUMBER for parameter in parameters.values())
    for name in sorted(kwargs.keys() - set(allowed) - OF_THE_ALGORITHM.keys()) if not takes_any else ():
        raise ValueError(
            f"policy_kwargs: optimizer_kwargs={kwargs!r} is not allowed, {optimizer.__name__} has no {name}: give "
            f"{', '.join(allowed)}, or an optimizer_class that has it."
        )
    for name, instead in OF_THE_ALGORITHM.items():
        if name in kwargs:
            raise ValueError(
                f"policy_kwargs: optimizer_kwargs={kwargs!r} is not allowed, the algorithm sets {name}: leave it out, and "
                f"give {instead} to the algorithm."
            )


def check_policy_kwargs(kwargs: dict[str, Any], policy: Any) -> None:
    """
    Refuse arguments that the policy does not have, such as those that only PPO's has.

    :param kwargs: ``policy_kwargs``
    :param policy: class of the policy, or a function that makes one
    :raises ValueError: naming one of them, and what may be given
    """
    parameters = _parameters(policy)
    if not parameters or any(parameter.kind in ANY_NUMBER for parameter in parameters):
        return
    allowed = [parameter.name for parameter in parameters[3:]]  # the spaces and the learning rate come from the algorithm
    for name in sorted(kwargs.keys() - set(allowed)):
        raise ValueError(
            f"policy_kwargs: {name}={kwargs[name]!r} is not allowed, {getattr(policy, '__name__', policy)} has no {name}: "
            f"leave it out, or give some of {', '.join(allowed)}."
        )


def check_policy_class(policy: Any, has_critic: bool) -> None:
    """
    Refuse policies whose distribution of actions depends on more than an observation, or is not where it is looked for.

    :param policy: what the user gave, or the class of that name; without a critic, a function that makes one will do
    :param has_critic: the model has one
    :raises ValueError: for policies of off-policy algorithms, with masks, with a memory, and with their own ``forward``
    """
    if not (isinstance(policy, type) and issubclass(policy, ActorCriticPolicy)):
        if inspect.isroutine(policy) and not has_critic:
            return
        raise ValueError(
            f"policy={getattr(policy, '__name__', policy)} is not supported: give a subclass of ActorCriticPolicy, or a "
            "name such as 'MlpPolicy'."
        )
    if needed := _arguments_besides(policy.get_distribution):
        raise ValueError(
            f"policy={policy.__name__} is not supported: its get_distribution needs {', '.join(needed)} besides the "
            "observation. Give a policy without a memory, and put gymnasium.wrappers.FrameStackObservation around each env."
        )
    own = [name for name in NOT_CALLED if _is_of_the_user(policy, name)]
    if own and not any(_is_of_the_user(policy, name) for name in CALLED):
        raise ValueError(
            f"policy={policy.__name__} is not supported: it overrides {' and '.join(own)}, which training does not call. "
            "Override get_distribution as well: it says from which distribution actions are sampled."
        )


def _is_of_the_user(policy: type[ActorCriticPolicy], method: str) -> bool:
    package, _, _ = getattr(policy, method).__module__.partition(".")
    return package not in LIBRARIES


def _arguments_besides(method: Any) -> list[str]:
    """Names of the arguments that a method needs besides the instance and the observation, as far as they can be known."""
    return [p.name for p in _parameters(method)[2:] if p.default is p.empty and p.kind not in ANY_NUMBER]


def _parameters(function: Any) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # it has none that can be read
        return []


def check_batch_norm(policy: ActorCriticPolicy, env: VecEnv) -> None:
    """
    Refuse layers whose statistics move, where the observations stay with workers or ranks.

    :param policy: the policy, which may have got layers since it was made
    :param env: the environment to train on
    :raises ValueError: if it has such layers, and the environment is one of workers
    """
    if isinstance(env.unwrapped, WorkerVecEnv) and has_batch_norm(policy):
        raise ValueError(
            f"policy={type(policy).__name__} has BatchNorm layers, whose running statistics workers do not return: "
            "use LayerNorm, or a DummyVecEnv."
        )


def check_precision(policy: ActorCriticPolicy) -> None:
    """
    Refuse parameters that do not fit into the float32 vector which workers get.

    :param policy: the policy, which may have been converted since it was made
    :raises ValueError: for parameters in another precision
    """
    others = {str(p.dtype) for p in policy.parameters() if p.dtype not in EXACT_IN_FLOAT32}
    if others:
        raise ValueError(
            f"policy={type(policy).__name__} has parameters in {', '.join(sorted(others))}, which is not supported: call "
            "torch.set_default_dtype(torch.float32) before making the model, or policy.float() if you have converted it."
        )


def check_trained(policy: ActorCriticPolicy) -> None:
    """
    Refuse a policy that cannot move.

    :param policy: may have been frozen since it was made
    :raises ValueError: if no parameter that acts requires a gradient
    """
    if not any(p.requires_grad for p in actor_parameters(policy)):
        raise ValueError(
            f"policy={type(policy).__name__}: all its parameters are frozen, so there is nothing to train. Call "
            "requires_grad_(True) for the layers that shall learn."
        )


def check_metric(policy: ActorCriticPolicy, geometry: str) -> None:
    """
    Refuse layers that the Fisher matrix cannot be taken through, before a round is sampled.

    :param policy: of the model
    :param geometry: its name, for the message
    :raises ValueError: if torch has no second derivative of some layer
    """
    if has_numpy_network(policy):
        return
    layout, was_training = Layout(policy), policy.training
    policy.set_training_mode(False)
    try:
        with th.random.fork_rng(devices=[]):  # a policy may draw numbers
            product = fisher_product(policy, layout, layout.flatten(), _zeros(policy.observation_space))
            product(th.ones(layout.n_parameters, dtype=th.float32, device=policy.device))
    except Exception as error:  # any other comes up again where it belongs
        if (isinstance(error, RuntimeError) and "derivative" in str(error)) or isinstance(error, NotImplementedError):
            raise ValueError(
                f"geometry={geometry!r} is not possible with this policy, since torch has no second derivative of a layer: "
                f"{str(error).splitlines()[0]} Give geometry='euclidean' or 'spectral'."
            ) from error
    finally:
        policy.set_training_mode(was_training)


def _zeros(space: spaces.Space[Any]) -> Any:
    if isinstance(space, spaces.Dict):
        return {name: _zeros(part) for name, part in space.spaces.items()}
    return np.zeros((TRIED, *(space.shape or ())), space.dtype)


def warn_of_untrained(policy: ActorCriticPolicy) -> None:
    """
    Say which parameters no optimizer knows, as after a layer was replaced.

    :param policy: with its optimizer
    """
    known = {id(p) for group in policy.optimizer.param_groups for p in group["params"]}
    trained = {id(p) for p in actor_parameters(policy)}  # the critic has its own optimizer
    names = [name for name, p in policy.named_parameters() if p.requires_grad and id(p) in trained - known]
    if names:
        warn_user(
            f"The policy's optimizer does not hold {', '.join(names[:3])}{', …' if len(names) > 3 else ''}: they are not "
            "trained. After replacing a layer, create a new optimizer, or freeze them with requires_grad_(False)."
        )
