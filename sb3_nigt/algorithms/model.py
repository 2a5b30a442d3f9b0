"""What a model is apart from its runs: what follows from its arguments, what it has learned, how it is saved and copied."""

from __future__ import annotations

import io
import pathlib
from collections.abc import Hashable, Iterable, Mapping
from typing import Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt
import torch as th
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.type_aliases import GymEnv, TensorDict
from stable_baselines3.common.type_aliases import Schedule as ProgressSchedule
from stable_baselines3.common.utils import FloatSchedule
from stable_baselines3.common.vec_env import VecEnv

from sb3_nigt.aggregators import Aggregator
from sb3_nigt.algorithms import update
from sb3_nigt.algorithms.arguments import refuse_unknown_at_load
from sb3_nigt.algorithms.book import Accepted, BetweenRounds, LengthEstimate
from sb3_nigt.algorithms.checks import (
    check_arguments,
    check_env,
    check_kind_of_env,
    check_setup,
)
from sb3_nigt.algorithms.continuing import LeftOff, left_off
from sb3_nigt.algorithms.copies import put_together, taken_apart
from sb3_nigt.algorithms.critic_tasks import critic_tasks, n_critic_tasks, value_network
from sb3_nigt.algorithms.files import check_file, fits_optimizer, saved_classes, with_own_critic
from sb3_nigt.algorithms.fisher_sample import FisherSample
from sb3_nigt.algorithms.group import Alone, chosen_group
from sb3_nigt.algorithms.known import Known
from sb3_nigt.algorithms.policy_checks import check_optimizer_kwargs, check_policy_kwargs, check_precision
from sb3_nigt.algorithms.policy_defaults import critic_epochs, default_fisher_samples, default_rate
from sb3_nigt.algorithms.preemption import Preemption
from sb3_nigt.algorithms.round import abandon
from sb3_nigt.algorithms.settings import changed, check_kind_of_estimator, settings_of
from sb3_nigt.algorithms.steps import checked_steps_of_a_round
from sb3_nigt.algorithms.traps import Traps, warn_of_leftovers, warn_of_policy_kwargs
from sb3_nigt.critic import Critic
from sb3_nigt.estimators import Estimator, GeneralizedAdvantage, ReturnToGo
from sb3_nigt.estimators.reward_scale import RewardScale
from sb3_nigt.messages import RoundReport
from sb3_nigt.optimizers import NIGT
from sb3_nigt.parameters import actor_parameters
from sb3_nigt.policies import ActorCnnPolicy, ActorPolicy, MultiInputActorPolicy, as_actor_policy
from sb3_nigt.sampling.heads import make_head
from sb3_nigt.sampling.ticks import TickAssembler
from sb3_nigt.schedules import SCHEDULES, Schedule
from sb3_nigt.validation import check_integer
from sb3_nigt.vec_env.base import RolloutSpec, TrajectoryWorkers, WorkerVecEnv
from sb3_nigt.vec_env.wrappers import WrapperStack

OF_A_RUN = (  # attributes that are made anew from the others
    *("_workers", "_stack", "_group", "_ticks", "_accepted", "_schedule", "_estimator", "_round_logger", "_fisher", "_point"),
    *("_layout", "_statistics", "_buffers", "_spec", "_structure", "_has_batch_norm", "_memory", "_usual_logger"),
    *("eta_schedule", "_settings", "_is_in_round", "_preemption", "_before_round", "_traps", "_is_learning"),
    *("_is_prepared", "_extrapolation_norm"),
)
LARGEST_SEED = 2**32 - 1  # of NumPy's global random numbers, which Stable-Baselines3 seeds as well
OF_GEOMETRY = ("geometry", "damping", "n_products")  # settings of NIGT that a file does not override
RATE_OF_OTHERS = 3e-4  # of an optimizer without geometry, as in PPO

SelfModel = TypeVar("SelfModel", bound="Model")


class Model(Known):
    """
    The part of ``AsyncPolicyGradient`` that does not run anything; its attributes are those of that class.

    A subclass names its aggregator and, if it differs, its schedule and its outer update.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": ActorPolicy,
        "CnnPolicy": ActorCnnPolicy,
        "MultiInputPolicy": MultiInputActorPolicy,
    }
    optimizer_class: ClassVar[type[th.optim.Optimizer]] = NIGT
    policy_defaults: ClassVar[Mapping[str, Any]] = {}  # arguments that policies of this package have by default
    weighs_tasks_equally: ClassVar[bool] = False  # whatever the speeds and counts are
    fixed: ClassVar[Mapping[str, Any]] = {}  # arguments that a subclass does not have, with the values that they have there

    # Arguments of the constructor
    eta: float | ProgressSchedule
    geometry: str
    rollout: str
    n_trajectories: int
    n_initial_trajectories: int | None
    horizon: int
    schedule: str
    stagger: bool
    fisher_samples: int | None
    fisher_rounds: int
    group: Any
    on_lost_task: str

    last_round: RoundReport | None = None
    eta_schedule: ProgressSchedule
    _ticks: TickAssembler
    _stack: WrapperStack
    _preemption = Preemption([])  # of this learn(), none by default
    _before_round: dict[str, Any] | None = None  # counters that the model has without the round in progress
    _learned: dict[str, Any] | None = None  # in a file: apart from parameters and counters, what the model has learned
    _has_critic: bool | None = None  # the model was made with one; also in a file
    _default_rate: float | None = None  # of the geometry, while the user has given none
    _usual_logger: tuple[bool, Logger | None] | None = None  # while the model logs nothing
    _left_off: LeftOff | None = None  # in a file: where the run is, for the next one to go on from
    _is_learning: bool = False  # within learn()
    _is_in_round: bool = False  # something of a round is not part of the model yet
    _spec: RolloutSpec | None = None  # that the workers have from this model
    _structure: object = None  # of the policy in it, and what else it was made from
    _buffers: dict[str, npt.NDArray[Any]]

    # What a subclass decides

    def make_aggregator(self, n_trajectories: int) -> Aggregator:
        """
        Return the rule of a round; a subclass overrides it.

        :param n_trajectories: M, in the first round M_init
        """
        raise NotImplementedError

    def make_schedule(self) -> Schedule:
        """Return what decides which trajectories of a round count."""
        return SCHEDULES[self.schedule]()

    def make_estimator(self) -> Estimator:
        """Return what says how much each step counts for in the gradient."""
        if self.gae_lambda is None:
            return ReturnToGo(self.gamma)
        workers = self._all_workers()
        tasks = critic_tasks(workers, self.n_envs, self.weighs_tasks_equally)
        scale = RewardScale(self.n_envs if workers is None else len(workers.task_ids), self.gamma)
        critic = Critic(value_network(self.policy, tasks), self._root_seed, n_epochs=critic_epochs(self.policy))
        return GeneralizedAdvantage(self.gamma, self.gae_lambda, critic, scale, self._as_seen, tasks)

    def _as_seen(self, observations: Any) -> Any:
        """As the present policy sees them, which may have been put in the place of the first one."""
        return update.as_seen(self.policy, observations)

    def _get_policy_from_name(self, policy_name: str) -> type[BasePolicy]:
        if policy_name not in self.policy_aliases:
            allowed = ", ".join(map(repr, self.policy_aliases))
            raise ValueError(
                f"policy={policy_name!r} is not allowed: give one of {allowed}, or a subclass of ActorCriticPolicy."
            )
        return super()._get_policy_from_name(policy_name)

    def _default_policy_kwargs(self) -> dict[str, Any]:
        """Arguments of the policy that follow from those of the algorithm."""
        if not (isinstance(self.policy_class, type) and issubclass(self.policy_class, ActorPolicy)):
            return {}
        if self.gae_lambda is None:
            return dict(self.policy_defaults)
        if self._n_critic_tasks is None:
            self._n_critic_tasks = n_critic_tasks(self._all_workers(), self.n_envs, self.weighs_tasks_equally)
        return {**self.policy_defaults, "n_critic_tasks": self._n_critic_tasks}

    def _all_workers(self) -> TrajectoryWorkers | None:
        """The workers of the group, or those of the environment as far as it says which tasks they hold."""
        if self._group is not None and self._group.workers is not self._workers:
            return self._group.workers
        inner = None if self.env is None else self.env.unwrapped
        return inner if isinstance(inner, WorkerVecEnv) else None

    # Setup

    def _setup_model(self) -> None:
        check_arguments(self)
        check_setup(self)
        check_policy_kwargs(self.policy_kwargs, self.policy_class)
        optimizer = self.policy_kwargs.get("optimizer_class", self.optimizer_class)
        if optimizer is self.optimizer_class or (isinstance(optimizer, type) and issubclass(optimizer, NIGT)):
            check_optimizer_kwargs(self.policy_kwargs.get("optimizer_kwargs") or {}, optimizer)
        check_kind_of_estimator(self._has_critic, self.gae_lambda)
        if not hasattr(self, "observation_space"):  # neither an environment nor a file
            check_kind_of_env(self.env)
        self._fill_in_learning_rate()
        root_seed = vars(self).get("_root_seed")
        self._make_policy()
        if self.seed is None and root_seed is not None:
            self._root_seed = int(root_seed)  # so that a loaded model continues with its random numbers
        if "optimizer_class" not in self.policy_kwargs:
            kwargs = self.policy_kwargs.get("optimizer_kwargs") or {}
            parameters = actor_parameters(self.policy)
            self.policy.optimizer = self.optimizer_class(parameters, lr=self.lr_schedule(1), **kwargs)  # type: ignore[call-arg]
        if isinstance(self.policy.optimizer, NIGT):
            update.set_geometry(self.policy.optimizer, self.geometry)
        self._make_parts()
        warn_of_policy_kwargs(self.policy_kwargs, self.policy, self._has_critic is True)
        warn_of_leftovers(self.policy, self.geometry, self.learning_rate, self._has_critic is True)
        make_head(self.policy)  # refuses distributions without a score
        settings = chosen_group(self.group)
        if self.env is not None:
            check_env(self, self.env)
            settings.check(self)

    def _make_policy(self) -> None:
        """Make the policy, and fill in the defaults that depend on it."""
        given = self.policy_kwargs
        self.policy_kwargs = {**self._default_policy_kwargs(), **given}
        if "optimizer_class" not in given:
            self.policy_kwargs.pop("optimizer_kwargs", None)  # of the optimizer that takes the place of the policy's
        super()._setup_model()
        self.policy_kwargs = given  # ``load`` compares it with what the user gives then
        check_precision(self.policy)
        self._fill_in_learning_rate()
        self._setup_lr_schedule()

    def _make_parts(self) -> None:
        """Make what follows from the arguments, the policy and what the model has learned before."""
        self.eta_schedule = self._make_eta_schedule()
        self._schedule, self._estimator = self.make_schedule(), self.make_estimator()
        self._fisher = FisherSample(self._n_fisher_samples, self.fisher_rounds)
        if self._learned is not None:
            self._estimator.load_state_dict(self._learned["estimator"])
            self._fisher.rounds.extend(self._learned["fisher"])
            self._learned = None
        self._workers: TrajectoryWorkers | None = None
        self._accepted: Accepted = []  # of the last round, in worker order
        lengths = LengthEstimate(self._mean_length or float(self.horizon), seen=self._mean_length is not None)
        self._memory = BetweenRounds(lengths)
        self._traps = Traps()
        self._settings, self._has_critic = settings_of(self), self.gae_lambda is not None

    def _make_eta_schedule(self) -> FloatSchedule:
        return FloatSchedule(self.eta if callable(self.eta) else float(self.eta))  # it refuses numbers of NumPy

    def _fill_in_learning_rate(self) -> None:
        """The default is that of geometry and policy, also of a geometry that is chosen later; PPO's for another optimizer."""
        if self.learning_rate is None or self.learning_rate == self._default_rate:
            optimizer = self.policy_kwargs.get("optimizer_class", NIGT)
            has_geometry = not isinstance(optimizer, type) or issubclass(optimizer, NIGT)  # it may be a function
            policy = vars(self).get("policy")  # it is made later
            self._default_rate = default_rate(self.geometry, policy) if has_geometry else RATE_OF_OTHERS
            self.learning_rate = self._default_rate

    @property
    def _n_fisher_samples(self) -> int:
        return self.fisher_samples or default_fisher_samples(self.policy)

    def _take_changes(self, workers: TrajectoryWorkers) -> None:
        """Let arguments that were set as attributes since the last round take effect."""
        names = changed(self._settings, self)
        if not names:
            return
        check_arguments(self)
        self._take_settings_of_optimizer(names)
        if names & {"gamma", "gae_lambda"}:
            self._make_estimator_anew()
        if "n_steps" in names:
            self._steps_of_a_round(workers)
        if names & {"fisher_samples", "fisher_rounds"}:
            self._fisher = self._fisher.with_size(self._n_fisher_samples, self.fisher_rounds)
        if "schedule" in names:
            abandon(workers, self._schedule, self._memory)
            self._schedule = self.make_schedule()
        if names & {"horizon", "rollout", "stagger"}:
            self._is_prepared = False
        self._settings = settings_of(self)

    def _take_settings_of_optimizer(self, names: set[str]) -> None:
        if "learning_rate" in names:
            self._default_rate = None  # the user has chosen one
        if names & {"learning_rate", "geometry"}:
            self._fill_in_learning_rate()
            self._setup_lr_schedule()
        if "geometry" in names:
            update.set_geometry(self.policy.optimizer, self.geometry)
        if "eta" in names:
            self.eta_schedule = self._make_eta_schedule()

    def _steps_of_a_round(self, workers: TrajectoryWorkers) -> int | None:
        """How many steps a round must have; None for rounds of trajectories."""
        if self.rollout != "steps":
            return None
        return checked_steps_of_a_round(self.n_steps, workers.task_ids, self.weighs_tasks_equally)

    def _make_estimator_anew(self, task_numbers: Mapping[Hashable, int] | None = None) -> None:
        learned, self._estimator = self._estimator.state_dict(), self.make_estimator()
        self._estimator.load_state_dict(learned if task_numbers is None else {**learned, "tasks": task_numbers})

    def set_random_seed(self, seed: int | None = None) -> None:
        """
        Seed everything, the trajectories of the workers included.

        :param seed: None: that of the trajectories comes from NumPy's global random numbers, which the user may have seeded
        """
        seed = None if seed is None else check_integer("seed", seed, 0, LARGEST_SEED)
        super().set_random_seed(seed)
        self.seed = seed  # in a file it is the seed that the next model begins with
        if "_settings" in vars(self):
            self._settings["seed"] = seed
        # the legacy generator is the one that Stable-Baselines3's set_random_seed seeds
        self._root_seed = int(np.random.randint(2**63 - 1, dtype=np.int64)) if seed is None else seed  # noqa: NPY002

    @staticmethod
    def _wrap_env(env: GymEnv, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        check_kind_of_env(env)
        return OnPolicyAlgorithm._wrap_env(env, verbose, monitor_wrapper)

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """
        Change the environment, see ``BaseAlgorithm.set_env``.

        :param env: the new environment
        :param force_reset: reset it before training
        :raises ValueError: for wrappers that workers cannot have
        :raises RuntimeError: in a callback
        """
        if self._is_learning:
            raise RuntimeError(
                "set_env() is not allowed within learn(): let the callback return False, which ends it, then call "
                "set_env(env) and learn(..., reset_num_timesteps=False). env_method and set_attr of training_env are allowed."
            )
        wrapped = self._wrap_env(env, self.verbose)
        check_env(self, wrapped)  # before anything changes
        super().set_env(wrapped, force_reset)
        if self._workers is not None:
            self._left_off = None  # of the run on the old one, if the model was saved in between
        self._workers = self._group = None
        self._make_estimator_anew()

    def save(
        self,
        path: str | pathlib.Path | io.BufferedIOBase,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """
        Save the model with what its critic has learned and what its next step is measured with, see ``BaseAlgorithm.save``.

        :param path: of the zip file, or an open file
        :param exclude: attributes that are left out besides the default ones
        :param include: attributes that are saved although they would be left out
        """
        self._keep_learned()
        self.saved_classes = saved_classes(type(self), Model)
        super().save(path, exclude, include)
        self._learned = None  # for images it is large

    def _keep_learned(self) -> None:
        self._learned = {"estimator": self._estimator.state_dict(), "fisher": list(self._fisher.rounds)}
        if self._workers is not None and self._spec is not None:  # there has been a run
            at_rest = isinstance(self._group, Alone) and not self._is_in_round
            rest = (self._arguments_of_jobs(), self._workers, self._ticks.rest, self._schedule, self._memory, self._stack)
            self._left_off = left_off(*rest) if at_rest and self._workers.rollout_spec is self._spec else None

    def _arguments_of_jobs(self) -> tuple[Any, ...]:
        """What must be the same for jobs to be sampled once more."""
        n_workers = 0 if self.env is None else self.env.num_envs
        return n_workers, self.rollout, self.schedule, self.horizon, self.stagger, self._root_seed, self._n_updates

    @classmethod
    def load(cls: type[SelfModel], path: str | pathlib.Path | io.BufferedIOBase, *args: Any, **kwargs: Any) -> SelfModel:
        """
        Load a model, see ``BaseAlgorithm.load``.

        :param path: of the zip file, or an open file
        :raises ValueError: if the file holds a model of another class
        :raises TypeError: for an argument that does not exist; the message says what to use instead
        """
        refuse_unknown_at_load(cls, kwargs, saved=check_file(cls, path))
        if "learning_rate" in kwargs:
            kwargs["_default_rate"] = None  # that of the file is not what the user has chosen
        return super().load(path, *args, **kwargs)

    def set_parameters(
        self,
        load_path_or_dict: str | TensorDict | dict[str, Any],
        exact_match: bool = True,
        device: th.device | str = "auto",
    ) -> None:
        """
        Load parameters, see ``BaseAlgorithm.set_parameters``.

        The geometry stays that of this model with its damping, and so does its critic if there is none of the same shape, and
        the state of its optimizer if the given one is of an optimizer with other settings.

        :param load_path_or_dict: path of a saved model of any class of this package, or nested parameters by name
        :param exact_match: whether there must be a value for each parameter
        :param device: where to load the file to
        """
        if isinstance(load_path_or_dict, dict):
            parameters: dict[str, Any] = load_path_or_dict
        else:
            _, parameters, _ = load_from_zip_file(load_path_or_dict, device=device, load_data=False)
        if "policy" in parameters:
            parameters = {**parameters, "policy": with_own_critic(parameters["policy"], self.policy)}
        if "policy.optimizer" in parameters and not fits_optimizer(parameters["policy.optimizer"], self.policy.optimizer):
            parameters = {**parameters, "policy.optimizer": self.policy.optimizer.state_dict()}
        own = [{name: group[name] for name in OF_GEOMETRY if name in group} for group in self.policy.optimizer.param_groups]
        super().set_parameters(parameters, exact_match, device)
        for group, settings in zip(self.policy.optimizer.param_groups, own, strict=True):
            group.update(settings)

    def __getstate__(self) -> dict[str, Any]:
        """For pickles and copies: without what belongs to a run, which the copy finds anew."""
        self._keep_learned()
        state = {name: value for name, value in vars(self).items() if name not in (*OF_A_RUN, "_logger")}
        self._learned = None
        return {**state, "env": taken_apart(self.env)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """
        Be what was pickled or copied.

        :param state: of ``__getstate__``
        """
        vars(self).update(state)
        self.env = put_together(state["env"])
        self._custom_logger = False
        self._make_parts()

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), *OF_A_RUN, "last_round", "group"]

    def make_critic(self, n_tasks: int) -> None:
        """
        Begin with a new critic.

        :param n_tasks: number of tasks that it distinguishes
        """
        actor = as_actor_policy(self.policy)
        if actor is not None:
            self._n_critic_tasks = n_tasks
            actor.make_critic(n_tasks)
            self._estimator = self.make_estimator()

    def _take_critic_of_policy(self) -> None:
        """Train the critic of the policy where another policy was put in the place of the one that the model was made with."""
        actor = as_actor_policy(self.policy)
        network = None if actor is None else actor.value_network
        if network is None or self._estimator.critic_network in (None, network):
            return
        before, n_tasks = self._estimator.task_numbers, self._n_critic_tasks
        if n_tasks is not None and network.n_tasks != n_tasks:
            self.make_critic(n_tasks)
        else:
            self._estimator = self.make_estimator()
        self._estimator.keep_task_numbers(before)
