"""The loop that all algorithms of the package share: one ``collect_rollouts`` is one round, one ``train`` is one update."""

from __future__ import annotations

from functools import partial
from inspect import Signature
from typing import Any, ClassVar, TypeVar

import numpy.typing as npt
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from stable_baselines3.common.type_aliases import Schedule as ProgressSchedule
from stable_baselines3.common.utils import update_learning_rate
from stable_baselines3.common.vec_env import VecEnv

from sb3_nigt.aggregators import Aggregator, Rennala
from sb3_nigt.algorithms import statistics, update
from sb3_nigt.algorithms.arguments import explains_unknown_arguments, full_signature
from sb3_nigt.algorithms.book import Accepted, RoundResult
from sb3_nigt.algorithms.buffer import TrajectoryBuffer
from sb3_nigt.algorithms.checks import (
    check_arguments,
    check_kind_of_env,
    check_learn,
    check_learning_rate,
    warn_of_no_effect,
)
from sb3_nigt.algorithms.continuing import statistics_at_rest
from sb3_nigt.algorithms.group import RoundPlan, chosen_group
from sb3_nigt.algorithms.model import Model
from sb3_nigt.algorithms.policy_checks import check_batch_norm, check_metric, check_precision, check_trained, warn_of_untrained
from sb3_nigt.algorithms.preemption import Preemption, savers_in
from sb3_nigt.algorithms.reporting import RoundLogger
from sb3_nigt.algorithms.round import abandon
from sb3_nigt.algorithms.settings import changed
from sb3_nigt.algorithms.statistics import RoundStatistics
from sb3_nigt.algorithms.steps import steps_of_a_round
from sb3_nigt.errors import Preempted
from sb3_nigt.messages import SamplingPoint
from sb3_nigt.optimizers import NIGT
from sb3_nigt.parameters import Layout, has_batch_norm
from sb3_nigt.replica.copying import copy_of, fingerprint
from sb3_nigt.replica.network import threads_for
from sb3_nigt.sampling.infos import as_number, reported_episode
from sb3_nigt.sampling.seeding import seed_of_streams
from sb3_nigt.sampling.ticks import Tick, TickAssembler
from sb3_nigt.sampling.trajectory import Trajectory
from sb3_nigt.schedules import FirstFinished
from sb3_nigt.validation import check_integer
from sb3_nigt.vec_env.base import RolloutSpec, TrajectoryWorkers
from sb3_nigt.vec_env.connect import workers_behind
from sb3_nigt.vec_env.lockstep import LockstepWorkers

N_TRAJECTORIES = 20
SelfAsyncPolicyGradient = TypeVar("SelfAsyncPolicyGradient", bound="AsyncPolicyGradient")


class AsyncPolicyGradient(Model):
    """
    Base class of all algorithms of this package: policy gradients aggregated over workers of different speed.

    In round t all workers sample at the extrapolated point θ̃_t and sum their gradients locally. When the round is complete,
    there is one aggregation, one update of θ and one broadcast. ``policy`` always holds the iterate θ_t.

    A subclass defines its aggregator and, if necessary, its schedule and its outer update.

    :param policy: MlpPolicy, CnnPolicy, MultiInputPolicy, or a class
    :param env: a ``WorkerVecEnv``, or any environment that Stable-Baselines3 accepts (its environments count as equally fast)
    :param learning_rate: α, the length of an update in the norm of the geometry; a number or a function of the progress
        remaining (from 1 to 0). None: the geometry's default, which is 0.2 for ``"natural"``, and 0.1 where the features of
        observations are learned, as those of images are
    :param n_steps: with ``rollout="steps"``, a round has ``n_steps`` · n steps, whichever of the n workers make them. None: a
        round has max(1,000, 20 n) steps
    :param gamma: γ, the discount
    :param gae_lambda: λ of generalised advantages with a critic; None: the paper's estimator, without a critic
    :param eta: η in (0, 1], weight of the new gradient; 1 - η is what torch calls momentum. A number or a function of the
        progress remaining
    :param geometry: the norm of an update: "natural", "euclidean" (the paper), "euclidean_kl" or "spectral"
    :param rollout: what a round consists of. "steps": episodes continue across rounds, and all steps made until the round is
        complete count; "trajectories": whole trajectories, which begin and end in the round (the paper)
    :param n_trajectories: M, trajectories per round, with ``rollout="trajectories"``
    :param n_initial_trajectories: M_init, trajectories in the first round; None: as many as ``n_trajectories``
    :param horizon: H, maximum length of a trajectory, with ``rollout="trajectories"``
    :param schedule: with ``rollout="trajectories"``, which trajectories count. "planned": decided before they start,
        unbiased; "pipelined": the same, and idle workers start trajectories for the next round; "first_finished": the first
        to finish, the paper's rule
    :param stagger: with ``rollout="steps"``, cut the first episode of each worker at a random length, so that workers of
        equal speed are not always at the same point of an episode
    :param fisher_samples: observations from each round from which the metric of the natural step is estimated; None: 200, or
        50 where features are learned
    :param fisher_rounds: number of recent rounds whose observations are used
    :param use_sde: gSDE is not supported, must be False
    :param stats_window_size: number of episodes that the logged means cover
    :param tensorboard_log: folder for TensorBoard (None: no log)
    :param policy_kwargs: further arguments of the policy
    :param verbose: 0 no output, 1 info messages, 2 debug messages
    :param seed: seed of everything random, including the workers
    :param device: device of the policy (cpu, cuda, auto)
    :param _init_setup_model: whether to build the network now
    :param group: the ranks that train this model together, see ``sb3_nigt.distributed``: an ``AllReduceGroup`` or a group of
        ``torch.distributed``. None: the default group if it is initialised and has several ranks; False: this process alone
    :param on_lost_task: for ``MaleniaNIGT``, what to do when a task's last worker is lost. "raise": raise a ``WorkerError``
        that names it; "drop": warn, and train for the remaining tasks from then on
    :raises TypeError: for an argument that does not exist; the message says what to use instead
    :raises ValueError: for a value that is not allowed; the message names the argument
    """

    __signature__: ClassVar[Signature]

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
        fisher_samples: int | None = None,
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
        if stats_window_size is not None:  # which means all episodes
            check_integer("stats_window_size", stats_window_size, 1)
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
        self._bad_gradients = 0  # rounds in a row whose gradient was not finite
        self._step_kl = 0.0  # of the last update
        if _init_setup_model:
            self._setup_model()

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
            self._is_learning = True
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
        check_kind_of_env(self.env)
        assert self.env is not None
        settings = chosen_group(self.group)
        settings.check(self)
        check_precision(self.policy)
        check_batch_norm(self.policy, self.env)
        check_trained(self.policy)
        self._take_critic_of_policy()
        if isinstance(self.policy.optimizer, NIGT):
            update.set_geometry(self.policy.optimizer, self.geometry)  # it may have been replaced
            if self.policy.optimizer.needs_metric:
                check_metric(self.policy, self.geometry)
        if self._workers is None:
            self._workers, self._stack = workers_behind(self.env)
            rest = None if self._left_off is None else self._left_off.rest
            self._ticks = TickAssembler(self.env.num_envs, rest)
        self._group = settings.join(self, self._workers, self._stack)
        workers = self._group.workers
        if workers is not self._workers:
            self._make_estimator_anew(self._group.task_numbers)  # for the workers of all
        shown = workers.task_ids if self.weighs_tasks_equally or workers.tasks_differ else None
        self._round_logger = RoundLogger(shown, self._stats_window_size, vars(self).get("_round_logger"))
        self._is_prepared = False

    def _leave(self, error: BaseException | None = None) -> None:
        assert self._group is not None
        self._is_learning = False
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
        """Let callbacks save the model as of the last complete round; the interrupted round will be repeated."""
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
            self._left_off = self._ticks.rest = None  # another run
            self._round_logger.forget()
        goes_on = self._n_updates > 0 and not isinstance(self._workers, LockstepWorkers)
        with statistics_at_rest(self.get_vec_normalize_env() if goes_on else None):
            total_timesteps, callback = super()._setup_learn(total_timesteps, own, reset_num_timesteps, tb_log_name, show_bar)
        self._total_timesteps = group.share_start(total_timesteps)
        return self._total_timesteps, callback

    def _prepare(self, workers: TrajectoryWorkers) -> None:
        """Give the workers a copy of the policy, unless they have one that fits."""
        self._is_prepared = True
        round_steps = self._steps_of_a_round(workers)
        may_lose = self.on_lost_task == "drop"
        structure = (self.horizon, self.stagger, round_steps, may_lose, self._root_seed, fingerprint(self.policy))
        if self._spec is not None and workers.rollout_spec is self._spec and structure == self._structure:
            return
        self._layout, self._buffers, self._has_batch_norm = Layout(self.policy), {}, has_batch_norm(self.policy)
        self._structure = structure
        copied, seed = copy_of(self.policy, self.device), self._root_seed
        before, self._left_off = self._left_off, None
        goes_on = before is not None and before.fits(workers, self._arguments_of_jobs())
        if self.rollout == "steps":
            seed = before.seed if goes_on and before is not None else seed_of_streams(self._root_seed, self._n_updates)
        self._spec = RolloutSpec(copied, self.horizon, seed, self.stagger, round_steps, may_lose)
        warn_of_untrained(self.policy)
        if self.rollout == "trajectories" and "n_trajectories" not in self.fixed and isinstance(self._rule(1), Rennala):
            self._traps.before_rounds(self.n_trajectories, len(workers.task_ids))
        abandon(workers, self._schedule, self._memory)
        workers.prepare(self._spec)
        if goes_on and before is not None:
            self._schedule = before.go_on(workers, self._memory, self._stack)

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
        :param rollout_buffer: the buffer for the accepted trajectories
        :param n_rollout_steps: unused
        :return: False if the callback stopped the round
        """
        assert self._group is not None
        workers = self._group.workers
        self._update_current_progress_remaining(self.num_timesteps, self._total_timesteps)
        self.policy.set_training_mode(False)
        callback.update_locals({"env": env, "rollout_buffer": rollout_buffer})
        callback.on_rollout_start()
        self._take_changes(workers)
        if not self._is_prepared:
            self._prepare(workers)
        workers.resume(self._last_obs, self._last_episode_starts, partial(self._on_tick, callback))
        workers.forget(self._n_updates)
        rollout_buffer.reset()
        point = self._sampling_point()
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
        with threads_for(self.policy):
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
        n = self._layout.n_parameters  # what follows are buffers, the same in both
        self._extrapolation_norm = update.distance(parameters[:n], iterate[:n])
        self._traps.at_point(self._extrapolation_norm, iterate[:n], self.policy.optimizer.param_groups[0].get("eta", 1.0))
        self._buffers = update.same_buffers(self._layout.sampling_buffers(), self._buffers)
        self._point = SamplingPoint(self._n_updates, parameters, *self._stack.freeze(), self._buffers)
        self._estimator.at_point(self._point)
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
        with threads_for(self.policy):
            self._update()

    def _step(self, gradient: th.Tensor, before: update.Array, has_metric: bool) -> None:
        update.descend(self.policy, self._layout, gradient, self._fisher, self._point)
        if has_metric:
            self._step_kl = update.stay_near(self.policy, self._layout, self._fisher.rounds[-1], before)

    def _update(self) -> None:
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
        before, self._step_kl = self._layout.flatten(), 0.0
        if self._bad_gradients == 0:
            self._group.make_step(partial(self._step, gradient, before, has_metric))  # d_t and θ_{t+1}
        self._n_updates += 1
        self._before_round = None
        statistics.move_normalizer(self.policy, self._statistics.observations)
        self._traps.after_update(self.policy)
        if self._has_batch_norm:
            update.move_batch_norm(self.policy, [trajectory for _, trajectory in self._accepted])
        update.log_update(self.logger, self.policy, self._n_updates, gradient, self._extrapolation_norm)
        self._estimator.log(self.logger)
        if has_metric and self._group.is_first:
            update.log_kl(self.logger, self.policy, self._layout, self._fisher.rounds[-1], self._step_kl, self._point)
        self._is_in_round = False
        self._group.after_update(self.logger)
