"""Which arguments a class has: its signature in full, and words for those that it does not have."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from functools import wraps
from typing import Any, ParamSpec

from stable_baselines3.common.base_class import BaseAlgorithm

P = ParamSpec("P")

ONE_STEP = "an update is one gradient step over the whole round"
LENGTH = "nothing is clipped; learning_rate says how far an update goes"
CRITIC = "the critic is fitted on its own, apart from the policy's gradient"
BUFFER = "the steps of a round stay where they were sampled"
INSTEAD = {  # arguments of PPO, A2C and optimizers, and what takes their place
    "lr": "it is called learning_rate, as in PPO",
    "batch_size": ONE_STEP,
    "n_epochs": ONE_STEP,
    "clip_range": LENGTH,
    "clip_range_vf": CRITIC,
    "target_kl": LENGTH,
    "max_grad_norm": LENGTH,
    "ent_coef": "there is no entropy bonus; for Box actions, policy_kwargs={'log_std_init': ...} sets the initial std",
    "vf_coef": CRITIC,
    "normalize_advantage": "with a critic they are always standardised: centred within each task, and over one std",
    "sde_sample_freq": "gSDE is not supported",
    "rollout_buffer_class": BUFFER,
    "rollout_buffer_kwargs": BUFFER,
}


def explains_unknown_arguments(init: Callable[P, None]) -> Callable[P, None]:
    """
    Decorate the ``__init__`` of the parent class, so that an argument that does not exist is refused with what to do instead.

    :param init: the parent's ``__init__``, whose parameters are all the arguments that exist
    """
    names = list(inspect.signature(init).parameters)

    @wraps(init)
    def checked(*args: P.args, **kwargs: P.kwargs) -> None:
        cls = type(args[0])
        _refuse(cls, [name for name in kwargs if name not in names])
        refuse_fixed(cls, {**dict(zip(names, args, strict=False)), **kwargs})
        init(*args, **kwargs)

    return checked


def refuse_unknown_at_load(algorithm: type[Any], given: Iterable[str], saved: Container[str]) -> None:
    """
    Refuse what ``load`` would only keep as an attribute that nothing reads.

    :param algorithm: the class that is loaded
    :param given: names of the keyword arguments
    :param saved: names of the attributes in the file, which can be replaced as well
    :raises TypeError: saying what to use instead
    """
    known = {*inspect.signature(algorithm).parameters, *inspect.signature(BaseAlgorithm.load).parameters}
    _refuse(algorithm, [name for name in given if name not in known and (name in INSTEAD or name not in saved)])


def _refuse(algorithm: type[Any], unknown: Sequence[str]) -> None:
    if unknown:
        allowed = inspect.signature(algorithm).parameters
        raise TypeError(" ".join(_why_not(algorithm.__name__, name, allowed) for name in unknown))


def _why_not(algorithm: str, name: str, allowed: Iterable[str]) -> str:
    if name in INSTEAD:
        return f"{algorithm} has no argument {name}: {INSTEAD[name]}."
    similar = difflib.get_close_matches(name, list(allowed), n=1)
    return f"{algorithm} has no argument {name}: " + (f"did you mean {similar[0]}?" if similar else "leave it out.")


def refuse_fixed(algorithm: type[Any], given: Mapping[str, Any]) -> None:
    """
    Refuse arguments that other algorithms of the package have.

    :param algorithm: a class with ``fixed``, the values of the arguments that it does not have
    :param given: arguments by name
    :raises ValueError: for the first of them that was given
    """
    for name in algorithm.fixed:
        if name in given:
            raise ValueError(f"{name}={given[name]!r} is not allowed: {algorithm.__name__} has no {name}, leave it out.")


def full_signature(algorithm: type[Any], parent: Callable[..., Any]) -> inspect.Signature:
    """
    Return the arguments of a class: its own, and those that it hands on as ``**kwargs``, without those that are fixed.

    :param algorithm: a class with ``fixed``
    :param parent: the ``__init__`` that takes these ``**kwargs``
    """
    _, *own = inspect.signature(algorithm.__init__).parameters.values()
    handed_on: list[inspect.Parameter] = []
    if own and own[-1].kind is inspect.Parameter.VAR_KEYWORD:
        *own, _ = own
        names = {"self", *(p.name for p in own)}
        handed_on = [p for p in inspect.signature(parent).parameters.values() if p.name not in names]
    by_name = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in handed_on]
    return inspect.Signature([p for p in [*own, *by_name] if p.name not in algorithm.fixed])
