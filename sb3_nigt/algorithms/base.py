"""The loop that all algorithms of the package share: one ``collect_rollouts`` is one round, one ``train`` is one update."""

from __future__ import annotations

import io
import pathlib
from collections.abc import Iterable, Mapping
from functools import partial
from inspect import Signature
from typing import Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from stable_baselines3.common.type_aliases import Schedule as ProgressSchedule
from stable_baselines3.common.utils import FloatSchedule, update_learning_rate
from stable_baselines3.common.vec_env import VecEnv

from sb3_nigt.aggregators import Aggregator, Rennala
from sb3_nigt.algorithms import statistics, update
from sb3_nigt.algorithms.arguments import explains_unknown_arguments, full_signature
from sb3_nigt.algorithms.book import Accepted, BetweenRounds, LengthEstimate, RoundResult
from sb3_nigt.algorithms.buffer import TrajectoryBuffer
from sb3_nigt.algorithms.checks import (
    check_arguments,
    check_env,
    check_learn,
    check_learning_rate,
    warn_of_no_effect,
    warn_of_untrained,
)
from sb3_nigt.algorithms.continuing import LeftOff, left_off, statistics_at_rest
from sb3_nigt.algorithms.critic_tasks import critic_tasks, n_critic_tasks, value_network
from sb3_nigt.algorithms.files import check_file, saved_classes
from sb3_nigt.algorithms.fisher_sample import FisherSample
from sb3_nigt.algorithms.group import Alone, Group, RoundPlan, chosen_group
from sb3_nigt.algorithms.preemption import Preemption, savers_in
from sb3_nigt.algorithms.reporting import RoundLogger
from sb3_nigt.algorithms.round import abandon
from sb3_nigt.algorithms.settings import changed, check_kind_of_estimator, settings_of
from sb3_nigt.algorithms.statistics import RoundStatistics
from sb3_nigt.algorithms.steps import steps_of_a_round
from sb3_nigt.algorithms.traps import Traps, warn_of_policy_kwargs
from sb3_nigt.critic import Critic
from sb3_nigt.errors import Preempted
from sb3_nigt.estimators import Estimator, GeneralizedAdvantage, ReturnToGo
from sb3_nigt.estimators.reward_scale import RewardScale
from sb3_nigt.messages import RoundReport, SamplingPoint
from sb3_nigt.optimizers import NIGT
from sb3_nigt.optimizers.geometry import GEOMETRIES
from sb3_nigt.parameters import Layout, actor_parameters, has_batch_norm
from sb3_nigt.policies import ActorCnnPolicy, ActorPolicy, MultiInputActorPolicy
from sb3_nigt.replica.copying import copy_of, fingerprint
from sb3_nigt.sampling.heads import make_head
from sb3_nigt.sampling.infos import as_number, reported_episode
from sb3_nigt.sampling.seeding import seed_of_streams
from sb3_nigt.sampling.ticks import Tick, TickAssembler
from sb3_nigt.sampling.trajectory import Trajectory
from sb3_nigt.schedules import SCHEDULES, FirstFinished, Schedule
from sb3_nigt.vec_env.base import RolloutSpec, TrajectoryWorkers, WorkerVecEnv
from sb3_nigt.vec_env.connect import workers_behind
from sb3_nigt.vec_env.lockstep import LockstepWorkers

N_TRAJECTORIES = 20
OF_A_RUN = (  # attributes that are made anew from the others
    *("_workers", "_stack", "_group", "_ticks", "_accepted", "_schedule", "_estimator", "_round_logger", "_fisher", "_point"),
    *("_layout", "_statistics", "_buffers", "_spec", "_structure", "_has_batch_norm", "_memory", "_usual_logger"),
    *("eta_schedule", "_settings", "_is_in_round", "_preemption", "_before_round", "_traps"),
)

SelfAsyncPolicyGradient = TypeVar("SelfAsyncPolicyGradient", bound="AsyncPolicyGradient")


class AsyncPolicyGradient(OnPolicyAlgorithm):
    """
    Policy gradients aggregated over workers of different speed; the parent of all algorithms of this package.

    In round t all workers sample trajectories at the extrapolated point θ̃_t and sum their gradients locally; when the
    aggregator is complete there is one aggregation, one update of θ, one broadcast. ``policy`` always holds the iterate θ_t.

    A subclass names its aggregator and, if it differs, its schedule and its outer update.

    :param policy: the policy (MlpPolicy, CnnPolicy, MultiInputPolicy, or a class)
    :param env: a ``WorkerVecEnv``, or anything that Stable-Baselines3 takes (its environments then count as equally fast)
    :param learning_rate: α, the length of a step in the norm of the geometry; a number or a function of the progress
        remaining (from 1 to 0). None: the geometry's default
    :param n_steps: with ``rollout="steps"``, a round has ``n_steps`` · n steps, whichever of the n workers make them. None: a
        round has max(500, 20 n) steps
    :param gamma: γ, the discount
    :param gae_lambda: λ of generalised advantages with a critic; None: the paper's estimator, without a critic
    :param eta: η in (0, 1], weight of the new gradient; 1 - η is what torch calls momentum. A number or a function of the
        progress remaining
    :param geometry: the norm that a step is measured in: "natural", "euclidean" (the paper), "euclidean_kl" or "spectral"
    :param rollout: what a round is made of. "steps": the environments live on between rounds, and all steps made until the
        round is complete count; "trajectories": whole trajectories, which begin and end in the round (the paper)
    :param n_trajectories: M, trajectories per round, with ``rollout="trajectories"``
    :param n_initial_trajectories: M_init, trajectories of the first round; None: as many as ``n_trajectories``
    :param horizon: H, where a trajectory is cut, with ``rollout="trajectories"``
    :param schedule: with ``rollout="trajectories"``, which trajectories of a round count. "planned": decided before they
        start, unbiased; "pipelined": the same, and an idle worker begins with the next round; "first_finished": the first to
        finish, the paper's rule
    :param stagger: with ``rollout="steps"``, cut the first episode of each worker at a random age, so that workers of equal
        speed are not always at the same point of an episode
    :param fisher_samples: observations of each round that the metric of the natural step is estimated from
    :param fisher_rounds: rounds whose observations are used together
    :param use_sde: gSDE is not supported, must be False
    :param stats_window_size: episodes over which the logged means are taken
    :param tensorboard_log: folder for TensorBoard (None: no log)
    :param policy_kwargs: further arguments of the policy
    :param verbose: 0 no output, 1 info messages, 2 debug messages
    :param seed: seed of everything random
    :param device: where the policy lives (cpu, cuda, auto)
    :param _init_setup_model: whether to build the network now
    :param group: the ranks that train this model together, see ``sb3_nigt.distributed``: an ``AllReduceGroup`` or a group of
        ``torch.distributed``. None: the default group if it is initialised and has several ranks; False: this process alone
    :param on_lost_task: of ``MaleniaNIGT``: what follows when a task's last worker is lost. "raise": a ``WorkerError`` that
        names it; "drop": a warning, and from then on the objective is the mean over the tasks that are left
    :raises TypeError: for an argument that does not exist, with what takes its place
    :raises ValueError: for a value that is not allowed, naming the argument
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": ActorPolicy,
        "CnnPolicy": ActorCnnPolicy,
        "MultiInputPolicy": MultiInputActorPolicy,
    }
    optimizer_class: ClassVar[type[th.optim.Optimizer]] = NIGT
    weighs_tasks_equally: ClassVar[bool] = False  # whatever the speeds and counts are
    fixed: ClassVar[Mapping[str, Any]] = {}  # arguments that a subclass does not have, with the values that they have there
    __signature__: ClassVar[Signature]

    last_round: RoundReport | None = None
    eta_schedule: ProgressSchedule
    _group: Group | None = None  # of this learn() or the last one
    _preemption = Preemption([])  # of this learn(), none by default
    _before_round: dict[str, Any] | None = None  # counters that the model has without the round that is under way
    _n_critic_tasks: int | None = None  # also in a file, which may be loaded without an environment
    _learned: dict[str, Any] | None = None  # in a file: apart from parameters and counters, what the model has learned
    _has_critic: bool | None = None  # the model was made with one; also in a file
    _default_rate: float | None = None  # of the geometry, while the user has given none
    _usual_logger: tuple[bool, Logger | None] | None = None  # while the model logs nothing
    _left_off: LeftOff | None = None  # in a file: where the run is, for the next one to go on from
    _is_in_round: bool = False  # something of a round is not part of the model yet
    _spec: RolloutSpec | None = None  # that the workers have from this model
    _structure: object = None  # of the policy in it, and what else it was made from
    _buffers: dict[str, npt.NDArray[Any]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.__signature__ = full_signature(cls, AsyncPolicyGradient.__init__)

    @explains_unknown_arguments
    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str,
        learning_rate: float | ProgressSchedule | None = None,
        n_steps: int | None = None,
        gamma: float = 0.99,
        gae_lambda: float | None = 0.95,
        eta: float | ProgressSchedule = 0.5,
        geometry: str = "natural",
        rollout: str = "steps",
        n_trajectories: int = N_TRAJECTORIES,
        n_initial_trajectories: int | None = None,
        horizon: int = 1000,
        schedule: str = "planned",
        stagger: bool = True,
        fisher_samples: int = 200,
        fisher_rounds: int = 10,
        use_sde: bool = False,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
        group: Any = None,
        on_lost_task: str = "raise",
    ) -> None:
        self.group, self.on_lost_task = group, on_lost_task
        self.learning_rate, self.n_steps, self.gamma, self.use_sde = learning_rate, n_steps, gamma, use_sde  # type: ignore[assignment]
        self.gae_lambda, self.geometry, self.rollout, self.horizon = gae_lambda, geometry, rollout, horizon  # type: ignore[assignment]
        self.n_trajectories, self.n_initial_trajectories = n_trajectories, n_initial_trajectories
        self.eta, self.schedule, self.stagger = eta, schedule, stagger
        self.fisher_samples, self.fisher_rounds = fisher_samples, fisher_rounds
        vars(self).update(self.fixed)
        check_arguments(self)
        warn_of_no_effect(self, N_TRAJECTORIES)
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,  # type: ignore[arg-type]
            n_steps=self.n_steps,
            gamma=gamma,
            gae_lambda=self.gae_lambda,
            ent_coef=0.0,  # inert, like the next two: the critic has its own loss, and a step has a length
            vf_coef=0.0,
            max_grad_norm=0.0,
            use_sde=False,
            sde_sample_freq=-1,
            rollout_buffer_class=TrajectoryBuffer,  # type: ignore[arg-type]
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            supported_action_spaces=(spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary),
            _init_setup_model=False,
        )
        self._mean_length: float | None = None  # of trajectories; durations are predicted with it
        self._bad_gradients = 0  # rounds in a row whose gradient was not finite
        if _init_setup_model:
            self._setup_model()

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
        tasks = critic_tasks(workers, self.weighs_tasks_equally)
        scale = RewardScale(self.n_envs if workers is None else len(workers.task_ids), self.gamma)
        critic = Critic(value_network(self.policy, tasks), self._root_seed)
        return GeneralizedAdvantage(self.gamma, self.gae_lambda, critic, scale, partial(update.as_seen, self.policy), tasks)

    def _default_policy_kwargs(self) -> dict[str, Any]:
        """Arguments of the policy that follow from those of the algorithm."""
        if self.gae_lambda is None or not issubclass(self.policy_class, ActorPolicy):
            return {}
        if self._n_critic_tasks is None:
            self._n_critic_tasks = n_critic_tasks(self._all_workers(), self.weighs_tasks_equally)
        return {"n_critic_tasks": self._n_critic_tasks}

    def _all_workers(self) -> TrajectoryWorkers | None:
        """The workers of the group, or those of the environment as far as it says which tasks they hold."""
        if self._group is not None and self._group.workers is not self._workers:
            return self._group.workers
        inner = None if self.env is None else self.env.unwrapped
        return inner if isinstance(inner, WorkerVecEnv) else None

    # Setup

    def _setup_model(self) -> None:
        check_arguments(self)
        check_kind_of_estimator(self._has_critic, self.gae_lambda)
        self._fill_in_learning_rate()
        given, root_seed = self.policy_kwargs, vars(self).get("_root_seed")
        self.policy_kwargs = {**self._default_policy_kwargs(), **given}
        super()._setup_model()
        self.policy_kwargs = given  # ``load`` compares it with what the user gives then
        if self.seed is None and root_seed is not None:
            self._root_seed = int(root_seed)  # so that a loaded model goes on with its random numbers
        if "optimizer_class" not in self.policy_kwargs:
            kwargs = self.policy_kwargs.get("optimizer_kwargs") or {}
            if self.optimizer_class is NIGT:
                kwargs = {"geometry": self.geometry, **kwargs}
            parameters = actor_parameters(self.policy)
            self.policy.optimizer = self.optimizer_class(parameters, lr=self.lr_schedule(1), **kwargs)  # type: ignore[call-arg]
        self._make_parts()
        warn_of_policy_kwargs(given, self.policy, self._has_critic is True)
        make_head(self.policy)  # refuses distributions without a score
        settings = chosen_group(self.group)
        if self.env is not None:
            check_env(self, self.env)
            settings.check(self)

    def _make_parts(self) -> None:
        """Make what follows from the arguments, the policy and what the model has learned before."""
        self.eta_schedule = FloatSchedule(self.eta)
        self._schedule, self._estimator = self.make_schedule(), self.make_estimator()
        self._fisher = FisherSample(self.fisher_samples, self.fisher_rounds)
        if self._learned is not None:
            self._estimator.load_state_dict(self._learned["estimator"])
            self._fisher.rounds.extend(self._learned["fisher"])
        self._workers: TrajectoryWorkers | None = None
        self._accepted: Accepted = []  # of the last round, in worker order
        lengths = LengthEstimate(self._mean_length or float(self.horizon), seen=self._mean_length is not None)
        self._memory = BetweenRounds(lengths)
        self._traps = Traps()
        self._settings, self._has_critic = settings_of(self), self.gae_lambda is not None

    def _fill_in_learning_rate(self) -> None:
        """The default is that of the geometry, also of one that is chosen later."""
        if self.learning_rate is None or self.learning_rate == self._default_rate:
            self.learning_rate = self._default_rate = GEOMETRIES[self.geometry].learning_rate

    def _take_changes(self, workers: TrajectoryWorkers) -> None:
        """Let arguments that were set as attributes since the last round take effect."""
        names = changed(self._settings, self)
        if not names:
            return
        check_arguments(self)
        if names & {"learning_rate", "geometry"}:
            self._fill_in_learning_rate()
            self._setup_lr_schedule()
        if "geometry" in names:
            update.set_geometry(self.policy.optimizer, self.geometry)
        if "eta" in names:
            self.eta_schedule = FloatSchedule(self.eta)
        if names & {"gamma", "gae_lambda"}:
            self._make_estimator_anew()
        if names & {"fisher_samples", "fisher_rounds"}:
            self._fisher = self._fisher.with_size(self.fisher_samples, self.fisher_rounds)
        if "schedule" in names:
            abandon(workers, self._schedule, self._memory)
            self._schedule = self.make_schedule()
        if names & {"horizon", "rollout", "stagger"}:
            self._is_prepared = False
        self._settings = settings_of(self)

    def _make_estimator_anew(self) -> None:
        learned, self._estimator = self._estimator.state_dict(), self.make_estimator()
        self._estimator.load_state_dict(learned)

    def set_random_seed(self, seed: int | None = None) -> None:
        """
        Seed everything, the trajectories of the workers included.

        :param seed: None draws a fresh seed for the trajectories
        """
        super().set_random_seed(seed)
        self._root_seed = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]) if seed is None else seed

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """
        Change the environment, see ``BaseAlgorithm.set_env``.

        :param env: the new environment
        :param force_reset: reset it before training
        :raises ValueError: for wrappers that workers cannot have
        """
        super().set_env(env, force_reset)
        assert self.env is not None
        self._workers = self._group = None
        check_env(self, self.env)
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
        self.saved_classes = saved_classes(type(self), AsyncPolicyGradient)
        super().save(path, exclude, include)

    def _keep_learned(self) -> None:
        self._learned = {"estimator": self._estimator.state_dict(), "fisher": list(self._fisher.rounds)}
        if self._workers is not None and self._spec is not None:  # there has been a run
            at_rest = isinstance(self._group, Alone) and not self._is_in_round
            rest = (self._arguments_of_jobs(), self._workers, self._ticks.rest, self._schedule, self._memory)
            self._left_off = left_off(*rest) if at_rest and self._workers.rollout_spec is self._spec else None

    def _arguments_of_jobs(self) -> tuple[Any, ...]:
        """What must be the same for jobs to be sampled once more."""
        n_workers = 0 if self.env is None else self.env.num_envs
        return n_workers, self.rollout, self.schedule, self.horizon, self.stagger, self._root_seed, self._n_updates

    @classmethod
    def load(
        cls: type[SelfAsyncPolicyGradient], path: str | pathlib.Path | io.BufferedIOBase, *args: Any, **kwargs: Any
    ) -> SelfAsyncPolicyGradient:
        """
        Load a model, see ``BaseAlgorithm.load``.

        :param path: of the zip file, or an open file
        :raises ValueError: if the file holds a model of another class
        """
        check_file(cls, path)
        return super().load(path, *args, **kwargs)

    def set_parameters(self, *args: Any, **kwargs: Any) -> None:
        """Load parameters, see ``BaseAlgorithm.set_parameters``; the geometry stays that of this model."""
        own = [group.get("geometry") for group in self.policy.optimizer.param_groups]
        super().set_parameters(*args, **kwargs)
        for group, geometry in zip(self.policy.optimizer.param_groups, own, strict=True):
            if geometry is not None:
                group["geometry"] = geometry

    def __getstate__(self) -> dict[str, Any]:
        """For pickles and copies: without what belongs to a run, which the copy finds anew."""
        self._keep_learned()
        return {name: value for name, value in vars(self).items() if name not in (*OF_A_RUN, "_logger")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """
        Be what was pickled or copied.

        :param state: of ``__getstate__``
        """
        vars(self).update(state)
        self._custom_logger = False
        self._make_parts()

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), *OF_A_RUN, "last_round", "group"]

    # What others may know

    @property
    def n_updates(self) -> int:
        """Outer updates so far, which is also the number of the next round."""
        return int(self._n_updates)

    @property
    def accepted(self) -> Accepted:
        """Arrivals and trajectories of the last round, in worker order; of several ranks each has its own part."""
        return self._accepted

    @property
    def progress_remaining(self) -> float:
        """Progress remaining (from 1 to 0), which schedules of the learning rate and of η depend on."""
        return float(self._current_progress_remaining)

    def progress_at_update(self) -> float:
        """Return the progress remaining at the update that follows the round which has just ended."""
        total = max(1, self._total_timesteps)
        return 1.0 - min(self.num_timesteps, total) / total

    @property
    def root_seed(self) -> int:
        """Seed of all trajectories."""
        return self._root_seed

    @root_seed.setter
    def root_seed(self, seed: int) -> None:
        self._root_seed = seed

    @property
    def estimator(self) -> Estimator:
        """Says how much each step counts for."""
        return self._estimator

    @property
    def fisher_sample(self) -> FisherSample:
        """Observations that the metric of the next step is taken from; in a group only where steps are made."""
        return self._fisher

    @property
    def n_critic_tasks(self) -> int | None:
        """How many tasks the critic tells apart; None without one."""
        return self._n_critic_tasks

    def make_critic(self, n_tasks: int) -> None:
        """
        Begin with a new critic.

        :param n_tasks: that it tells apart
        """
        if isinstance(self.policy, ActorPolicy):
            self._n_critic_tasks = n_tasks
            self.policy.make_critic(n_tasks)
            self._estimator = self.make_estimator()

    @property
    def workers(self) -> TrajectoryWorkers:
        """The workers that rounds run on; of all ranks where there are several."""
        assert self._group is not None, "there are no workers before learn()"
        return self._group.workers

    def counters(self) -> dict[str, Any]:
        """Return the numbers that decide how a run goes on, apart from parameters and optimizer."""
        names = ("num_timesteps", "_n_updates", "_root_seed", "_mean_length", "_bad_gradients")
        return {name: getattr(self, name) for name in names}

    def set_counters(self, values: dict[str, Any]) -> None:
        """
        Go on as another model would.

        :param values: its ``counters()``
        """
        for name in self.counters():
            setattr(self, name, values[name])
        if self._mean_length is not None:
            self._memory.lengths = LengthEstimate(self._mean_length, seen=True)

    # One run

    def learn(
        self: SelfAsyncPolicyGradient,
        total_timesteps: int = 100_000,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfAsyncPolicyGradient:
        """
        Train.

        :param total_timesteps: environment steps to train on, of all workers together; a lower bound
        :param callback: called once for every n environment steps, n being the number of workers
        :param log_interval: rounds between two log entries
        :param tb_log_name: name of the run for TensorBoard; None: the name of the class
        :param reset_num_timesteps: start counting at 0
        :param progress_bar: show a progress bar
        :return: the model
        :raises ValueError: for a number of timesteps or an interval that is not allowed, and for a policy that workers cannot
            have a copy of
        :raises Preempted: if a signal has come that ends the run, see ``RoundCheckpoint``
        """
        check_learn(total_timesteps, log_interval)
        check_arguments(self)  # some may have been set since the last run
        changed(self._settings, self)
        name = tb_log_name or type(self).__name__
        with Preemption(savers_in(callback)) as self._preemption:
            self._join()
            try:
                super().learn(total_timesteps, callback, log_interval, name, reset_num_timesteps, progress_bar)
                self._preemption.check()
            except BaseException as error:
                self._leave(error)
                raise
            self._leave()
        return self

    def _join(self) -> None:
        """Find the workers, and the others that train with this process."""
        assert self.env is not None
        settings = chosen_group(self.group)
        settings.check(self)
        if self._workers is None:
            self._workers, self._stack = workers_behind(self.env)
            self._ticks = TickAssembler(self.env.num_envs, None if self._left_off is None else self._left_off.rest)
        self._group = settings.join(self, self._workers, self._stack)
        workers = self._group.workers
        if workers is not self._workers:
            self._make_estimator_anew()  # for the workers of all
        shown = workers.task_ids if self.weighs_tasks_equally or workers.tasks_differ else None
        self._round_logger = RoundLogger(shown, self._stats_window_size)
        self._is_prepared = False

    def _leave(self, error: BaseException | None = None) -> None:
        assert self._group is not None
        if isinstance(error, Preempted):
            self._save_last_round()
        elif error is not None:
            self._is_in_round = False
            abandon(self._group.workers, self._schedule, self._memory)
        self._group.leave(error)
        if isinstance(error, Preempted) and self.env is not None:
            self.env.close()
        if self._usual_logger is not None:
            (self._custom_logger, self._logger), self._usual_logger = self._usual_logger, None  # type: ignore[assignment]

    def _save_last_round(self) -> None:
        """Let the callbacks save the model as it was before the round that has been cut short, which is to be repeated."""
        assert self._group is not None
        if self._before_round is not None:
            self.set_counters(self._before_round)
        if self._group.is_first:
            self._preemption.save()

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        if self._group is None:
            self._join()  # who calls the parts of a run instead of learn()
        group = self._group
        assert group is not None
        if not group.is_first:
            self._usual_logger = self._custom_logger, getattr(self, "_logger", None)
            self.set_logger(Logger(None, []))
        own, show_bar = group.callbacks(callback), progress_bar and group.is_first
        if reset_num_timesteps:
            self._left_off = None  # another run
        goes_on = self._n_updates > 0 and not isinstance(self._workers, LockstepWorkers)
        with statistics_at_rest(self.get_vec_normalize_env() if goes_on else None):
            total_timesteps, callback = super()._setup_learn(total_timesteps, own, reset_num_timesteps, tb_log_name, show_bar)
        self._total_timesteps = group.share_start(total_timesteps)
        return self._total_timesteps, callback

    def _prepare(self, workers: TrajectoryWorkers) -> None:
        """Give the workers a copy of the policy, unless they have one that fits."""
        self._is_prepared = True
        round_steps = steps_of_a_round(self.n_steps, len(workers.task_ids)) if self.rollout == "steps" else None
        structure = (self.horizon, self.stagger, round_steps, self._root_seed, fingerprint(self.policy))
        if self._spec is not None and workers.rollout_spec is self._spec and structure == self._structure:
            return
        self._layout, self._buffers, self._has_batch_norm = Layout(self.policy), {}, has_batch_norm(self.policy)
        self._structure = structure
        copied, seed = copy_of(self.policy, self.device), self._root_seed
        before, self._left_off = self._left_off, None
        goes_on = before is not None and before.fits(workers, self._arguments_of_jobs())
        if self.rollout == "steps":
            seed = before.seed if goes_on and before is not None else seed_of_streams(self._root_seed, self._n_updates)
        self._spec = RolloutSpec(copied, self.horizon, seed, self.stagger, round_steps)
        warn_of_untrained(self.policy)
        if self.rollout == "trajectories" and "n_trajectories" not in self.fixed and isinstance(self._rule(1), Rennala):
            self._traps.before_rounds(self.n_trajectories, len(workers.task_ids))
        abandon(workers, self._schedule, self._memory)
        workers.prepare(self._spec)
        if goes_on and before is not None:
            self._schedule = before.go_on(workers, self._memory)

    # One round

    def collect_rollouts(
        self,
        env: VecEnv,
        callback: BaseCallback,
        rollout_buffer: TrajectoryBuffer,  # type: ignore[override]
        n_rollout_steps: int,
    ) -> bool:
        """
        Run one round.

        :param env: the environment that was given to the model
        :param callback: told about every n environment steps
        :param rollout_buffer: takes the accepted trajectories
        :param n_rollout_steps: unused
        :return: False if the callback stopped the round
        """
        assert self._group is not None
        workers = self._group.workers
        self._update_current_progress_remaining(self.num_timesteps, self._total_timesteps)
        self.policy.set_training_mode(False)
        self._take_changes(workers)
        if not self._is_prepared:
            self._prepare(workers)
        workers.resume(self._last_obs, self._last_episode_starts, partial(self._on_tick, callback))
        workers.forget(self._n_updates)
        rollout_buffer.reset()
        point = self._sampling_point()
        callback.on_rollout_start()
        self._before_round = self.counters()
        self._is_in_round = True
        try:
            with self._preemption.allowed():
                result = self._group.run_round(self._plan(point, callback))
        finally:
            self._last_obs, self._last_episode_starts = workers.standing()
        if result is None:
            abandon(workers, self._schedule, self._memory)
            self._is_in_round = False
            return False
        self._take_round(result)
        callback.on_rollout_end()
        return True

    def _plan(self, point: SamplingPoint, callback: BaseCallback) -> RoundPlan:
        assert self._group is not None
        meanwhile = self._preemption.whole(partial(self._estimator.learn, self._group.mean))
        show = partial(self._show, callback)
        return RoundPlan(self.rollout, self._schedule, self._rule, point, show, self._memory, meanwhile, self._assess)

    def _assess(self, accepted: Accepted) -> RoundStatistics:
        assert self._group is not None
        moments = statistics.observation_moments(self.policy, accepted)
        return RoundStatistics([moments], self._estimator.assess(accepted, self._group.rows))

    def _rule(self, round_: int) -> Aggregator:
        if self.rollout == "steps":
            n_workers = len(self.workers.task_ids)
            return self.make_aggregator(steps_of_a_round(self.n_steps, n_workers))
        initial = self.n_initial_trajectories if round_ == 0 else None
        return self.make_aggregator(self.n_trajectories if initial is None else initial)

    def _sampling_point(self) -> SamplingPoint:
        """θ̃_t with the statistics frozen for the round. The η used here is the one of this round's momentum, too."""
        extrapolated = update.extrapolate(self.policy.optimizer, self.eta_schedule(self._current_progress_remaining))
        parameters = self._layout.flatten(extrapolated)
        iterate = self._layout.flatten()
        self._extrapolation_norm = update.distance(parameters, iterate)
        self._traps.at_point(self._extrapolation_norm, iterate, self.policy.optimizer.param_groups[0].get("eta", 1.0))
        self._buffers = update.same_buffers(self._layout.other_buffers(), self._buffers)
        self._point = SamplingPoint(self._n_updates, parameters, *self._stack.freeze(), self._buffers)
        return self._point

    def _take_round(self, result: RoundResult) -> None:
        """Keep what a round has given until the update, take its statistics in, and log it."""
        assert self._group is not None
        report = self.last_round = result.report
        self._accepted = result.in_worker_order()
        self._statistics = self._assess(self._accepted) if result.statistics is None else result.statistics
        self._mean_length = self._memory.lengths.mean
        for arrival in report.arrivals:
            self.rollout_buffer.add(arrival)  # type: ignore[call-arg, arg-type]
        if self.rollout == "trajectories":
            self._traps.after_round([trajectory for _, trajectory in self._accepted], self.horizon)
        self._group.take_statistics([trajectory for _, trajectory in self._accepted])
        workers = self._group.workers
        first_finished = (
            self.rollout == "trajectories" and workers.time_per == "step" and isinstance(self._schedule, FirstFinished)
        )
        self._round_logger.log(self.logger, report, first_finished=first_finished, restarts=workers.restarts)

    def _show(self, callback: BaseCallback, trajectory: Trajectory) -> bool:
        """Show the steps of a trajectory to the callback, unless that has been done while they were made."""
        return self.workers.shows_steps or all(self._on_tick(callback, tick) for tick in self._ticks.feed(trajectory))

    def _on_tick(self, callback: BaseCallback, tick: Tick) -> bool:
        self.num_timesteps += self.n_envs
        callback.update_locals(tick.as_locals())
        self._stack.show(tick.raw_obs, tick.raw_rewards)
        if not callback.on_step():
            return False
        if tick.dones.any():
            self._update_info_buffer(tick.infos, tick.dones)
        return True

    def _update_info_buffer(self, infos: list[dict[str, Any]], dones: npt.NDArray[Any] | None = None) -> None:
        """Take in what the episodes that have ended report; entries of these names that are no reports are ignored."""
        assert self.ep_info_buffer is not None
        assert self.ep_success_buffer is not None
        for info, done in zip(infos, [True] * len(infos) if dones is None else dones, strict=True):
            if done and (report := reported_episode(info)) is not None:
                self.ep_info_buffer.append(report)
            if done and (success := as_number(info.get("is_success"))) is not None:
                self.ep_success_buffer.append(success)

    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        """The last round may overshoot; a schedule is never asked for less than 0."""
        super()._update_current_progress_remaining(min(num_timesteps, total_timesteps), max(1, total_timesteps))

    # One update

    def train(self) -> None:
        """Aggregate the gradients of the round and make one step of the outer update: θ_t → θ_{t+1}."""
        assert self.last_round is not None
        assert self._group is not None
        alpha = self.lr_schedule(self._current_progress_remaining)
        check_learning_rate(alpha)
        update_learning_rate(self.policy.optimizer, alpha)
        assessment = self._statistics.assessment
        scored = update.contributions(self._accepted, self.last_round.weights, self._estimator, assessment)  # C_t
        gradient = self._group.workers.gradient(scored, self.last_round.weights).to(self.device)  # g_t = Σ_i w_i S_i
        self._bad_gradients = update.count_bad(gradient, self._bad_gradients, self._n_updates)
        optimizer = self.policy.optimizer
        has_metric = isinstance(optimizer, NIGT) and optimizer.needs_metric
        if has_metric:
            self._fisher.add(self._accepted, self.last_round, (self._root_seed, self._n_updates), self._group.collect)
        before = self._layout.flatten()
        if self._bad_gradients == 0:
            step = partial(update.descend, self.policy, self._layout, gradient, self._fisher, self._point)
            self._group.make_step(step)  # d_t and θ_{t+1}
        self._n_updates += 1
        self._before_round = None
        statistics.move_normalizer(self.policy, self._statistics.observations)
        if self._has_batch_norm:
            update.move_batch_norm(self.policy, [trajectory for _, trajectory in self._accepted])
        update.log_update(self.logger, self.policy, self._n_updates, gradient, self._extrapolation_norm)
        self._estimator.log(self.logger)
        if has_metric and self._group.is_first:
            update.log_kl(self.logger, self.policy, self._layout, self._fisher.rounds[-1], before, self._point)
        self._is_in_round = False
        self._group.after_update(self.logger)
