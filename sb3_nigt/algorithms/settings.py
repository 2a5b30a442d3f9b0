"""Arguments that are changed on a model that exists: with its next round they take effect, or are refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sb3_nigt.algorithms.model import Model

OF_A_RUN = (
    *("learning_rate", "eta", "gamma", "gae_lambda", "geometry", "rollout", "n_steps", "n_trajectories"),
    *("n_initial_trajectories", "horizon", "schedule", "stagger", "fisher_samples", "fisher_rounds"),
)
CHANGEABLE = (*OF_A_RUN, "on_lost_task")
FINAL = {
    "seed": "call model.set_random_seed(seed), which takes effect with the next learn()",
    "policy_kwargs": "the networks are built: make a new model",
    "use_sde": "gSDE is not supported",
    "ent_coef": "there is no entropy bonus",
    "vf_coef": "the critic has its own loss and optimizer",
    "max_grad_norm": "the size of a step does not depend on the size of the gradient",
}
Settings = dict[str, Any]


def settings_of(model: Model) -> Settings:
    """
    Return the arguments as they are now.

    :param model: with its arguments as attributes
    """
    return {name: getattr(model, name) for name in (*CHANGEABLE, *FINAL)}


def changed(before: Settings, model: Model) -> set[str]:
    """
    Return the names of the arguments that are not what they were.

    :param before: of ``settings_of``
    :param model: with its arguments as attributes
    :raises ValueError: for one that cannot be changed
    """
    names = {name for name, old in before.items() if not _same(old, getattr(model, name))}
    for name in FINAL:
        if name in names:
            raise ValueError(f"{name}={getattr(model, name)!r} cannot be changed on an existing model: {FINAL[name]}.")
    check_kind_of_estimator(before["gae_lambda"] is not None, model.gae_lambda)
    return names


def check_kind_of_estimator(has_critic: bool | None, gae_lambda: float | None) -> None:
    """
    Refuse to add a critic to a model, or to take it away.

    :param has_critic: whether the model was made with one; None: it is being made
    :param gae_lambda: argument of the algorithm
    :raises ValueError: naming the argument
    """
    if has_critic is not None and has_critic != (gae_lambda is not None):
        was = "with a critic, as gae_lambda=0.95 has" if has_critic else "without a critic, as gae_lambda=None is"
        raise ValueError(f"gae_lambda={gae_lambda!r} is not allowed: the model was made {was}. Make a new model.")


def _same(old: Any, new: Any) -> bool:
    return old is new or (type(old) is type(new) and not isinstance(old, dict) and bool(old == new))
