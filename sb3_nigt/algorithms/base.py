"""The loop that all algorithms of the package share: one ``collect_rollouts`` is one round, one ``train`` is one update."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from stable_baselines3.common.type_aliases import Schedule as ProgressSchedule
from stable_baselines3.common.utils import FloatSchedule
from stable_baselines3.common.vec_env import VecEnv

from sb3_nigt.actors import make_head
from sb3_nigt.aggregators import Aggregator
from sb3_nigt.algorithms.buffer import TrajectoryBuffer
from sb3_nigt.algorithms.checks import check_arguments, check_env, check_learn
from sb3_nigt.algorithms.reporting import RoundLogger
from sb3_nigt.algorithms.round import BetweenRounds, LengthEstimate, run_round
from sb3_nigt.algorithms.update import OuterUpdate
from sb3_nigt.distributed.settings import check_group
from sb3_nigt.errors import LostWorkerError
from sb3_nigt.messages import Arrival, RoundReport, SamplingPoint
from sb3_nigt.parameters import PolicySpec, has_batch_norm
from sb3_nigt.policies import ActorCnnPolicy, ActorPolicy, MultiInputActorPolicy
from sb3_nigt.schedules import SCHEDULES, FirstFinished, Schedule
from sb3_nigt.ticks import Tick, TickAssembler
from sb3_nigt.trajectory import Trajectory
from sb3_nigt.vec_env.base import RolloutSpec, TrajectoryWorkers, WorkerVecEnv
from sb3_nigt.vec_env.lockstep import LockstepWorkers
from sb3_nigt.vec_env.wrappers import WrapperStack

if TYPE_CHECKING:
    from sb3_nigt.distributed.ranks import Ranks
    from sb3_nigt.distributed.session import Session

SelfAsyncPolicyGradient = TypeVar("SelfAsyncPolicyGradient", bound="AsyncPolicyGradient")


class AsyncPolicyGradient(OuterUpdate):
    """
    Policy gradients aggregated over workers of different speed; the parent of all algorithms of this package.

    In round t all workers sample trajectories at the extrapolated point θ̃_t and sum their gradients locally; when the
    aggregator is complete there is one aggregation, one update of θ, one broadcast. ``policy`` always holds the iterate θ_t.

    A subclass names its aggregator and, if it differs, its schedule and its outer update.

    :param policy: the policy (MlpPolicy, CnnPolicy, MultiInputPolicy, or a class)
    :param env: a ``WorkerVecEnv``, or anything that Stable-Baselines3 takes (its environments then count as equally fast)
    :param learning_rate: α, the length of a step; a number or a function of the progress remaining (from 1 to 0)
    :param n_trajectories: M, trajectories per round
    :param n_initial_trajectories: M_init, trajectories of the first round; None: as many as ``n_trajectories``
    :param n_steps: H, where a trajectory is cut
    :param gamma: γ, the discount
    :param eta: η in (0, 1], weight of the new gradient; 1 - η is what torch calls momentum. A number or a function of the
        progress remaining
    :param schedule: which trajectories of a round count. "planned": decided before they start, unbiased;
        "pipelined": the same, and who is idle begins with the next round; "first_finished": the first to finish, the
        paper's rule
    :param use_sde: gSDE is not supported, must be False
    :param stats_window_size: episodes over which the logged means are taken
    :param tensorboard_log: folder for TensorBoard (None: no log)
    :param policy_kwargs: further arguments of the policy
    :param verbose: 0 no output, 1 info messages, 2 debug messages
    :param seed: seed of everything random
    :param device: where the policy lives (cpu, cuda, auto)
    :param _init_setup_model: whether to build the network now
    :param group: the ranks that train this model together, see ``sb3_nigt.distributed``: an ``AllReduceGroup`` or a group of
        ``torch.distributed``. None: the default group if it is initialised and has several ranks; False: nobody else
    :raises ValueError: for a value that is not allowed, naming the argument
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": ActorPolicy,
        "CnnPolicy": ActorCnnPolicy,
        "MultiInputPolicy": MultiInputActorPolicy,
    }
    weighs_tasks_equally: ClassVar[bool] = False  # whatever the speeds and counts are

    _ranks: Ranks | None = None  # of the last session
    _session: Session | None = None  # with other ranks, while learning

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str,
        learning_rate: float | ProgressSchedule = 2**-6,
        n_trajectories: int = 20,
        n_initial_trajectories: int | None = None,
        n_steps: int = 1000,
        gamma: float = 0.99,
        eta: float | ProgressSchedule = 0.1,
        schedule: str = "planned",
        use_sde: bool = False,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
        group: Any = None,
    ) -> None:
        self.group = group
        self.learning_rate, self.n_steps, self.gamma, self.use_sde = learning_rate, n_steps, gamma, use_sde
        self.n_trajectories, self.n_initial_trajectories = n_trajectories, n_initial_trajectories
        self.eta, self.schedule = eta, schedule
        self._check_arguments()
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            n_steps=n_steps,
            gamma=gamma,
            gae_lambda=1.0,  # inert, like the next three: there is no critic, and a normalised step needs no clipping
            ent_coef=0.0,
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
        if _init_setup_model:
            self._setup_model()

    # What a subclass decides

    def make_aggregator(self, n_trajectories: int) -> Aggregator:
        """
        Return the rule of a round; a subclass overrides it.

        :param n_trajectories: M, in the first round M_init
        """
        raise NotImplementedError

    def _make_schedule(self) -> Schedule:
        return SCHEDULES[self.schedule]()

    # Setup

    def _check_arguments(self) -> None:
        check_arguments(self)

    def _setup_model(self) -> None:
        self._check_arguments()
        super()._setup_model()
        if "optimizer_class" not in self.policy_kwargs:
            kwargs = self.policy_kwargs.get("optimizer_kwargs") or {}
            self.policy.optimizer = self.optimizer_class(self.policy.parameters(), lr=self.lr_schedule(1), **kwargs)  # type: ignore[call-arg]
        self.eta_schedule = FloatSchedule(self.eta)
        self._schedule = self._make_schedule()
        self._announced: Aggregator | None = None  # the rule of the next round, as the schedule knows it
        self._workers: TrajectoryWorkers | None = None
        self._rollout_spec: RolloutSpec | None = None
        self._accepted: list[Trajectory] = []
        lengths = LengthEstimate(self._mean_length or float(self.n_steps), seen=self._mean_length is not None)
        self._memory = BetweenRounds(lengths)
        self._bad_gradients = 0
        self._has_batch_norm = has_batch_norm(self.policy)
        make_head(self.policy)  # refuses distributions without a score
        if self.env is not None:
            check_env(self, self.env)
            check_group(self)

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
        self._workers = None
        check_env(self, self.env)

    def _excluded_save_params(self) -> list[str]:
        transient = [
            "_workers",
            "_stack",
            "_ticks",
            "_accepted",
            "_schedule",
            "_round_logger",
            "_rollout_spec",
            "_memory",
            "_has_batch_norm",
            "_announced",
            "eta_schedule",
            "last_round",
            "group",
            "_ranks",
            "_session",
        ]
        return [*super()._excluded_save_params(), *transient]

    # One round

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
        :raises ValueError: for a number of timesteps or an interval that is none
        """
        check_learn(total_timesteps, log_interval)
        try:
            self._join_ranks()
            super().learn(
                total_timesteps, callback, log_interval, tb_log_name or type(self).__name__, reset_num_timesteps, progress_bar
            )
        except BaseException as error:
            self._abandon()
            self._leave_ranks(error)
            raise
        self._leave_ranks()
        return self

    def _join_ranks(self) -> None:
        """Begin a session with the other ranks of the process group, if there is one."""
        group = check_group(self)
        if group is None:
            return
        from sb3_nigt.distributed.session import join  # most runs do without

        self._session = join(self, group)
        self._ranks = self._session.ranks
        self._workers = self._rollout_spec = None

    def _leave_ranks(self, error: BaseException | None = None) -> None:
        session, self._session = self._session, None
        if session is not None:
            self._workers = None
            session.end(error)

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        rest = (reset_num_timesteps, tb_log_name)
        if self._session is None:
            return super()._setup_learn(total_timesteps, callback, *rest, progress_bar)
        if not self._session.is_first:
            self.set_logger(Logger(None, []))
            callback, progress_bar = self._session.only_own_callbacks(callback), False
        total_timesteps, callback = super()._setup_learn(total_timesteps, callback, *rest, progress_bar)
        self._total_timesteps = self._session.share_start(total_timesteps)
        return self._total_timesteps, callback

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
        :param n_rollout_steps: unused, trajectories are cut at ``n_steps``
        :return: False if the callback stopped the round
        """
        self._update_current_progress_remaining(self.num_timesteps, self._total_timesteps)
        workers = self._connect(env)
        if isinstance(workers, LockstepWorkers):
            assert self._last_episode_starts is not None
            workers.on_tick = partial(self._on_tick, callback)
            workers.resume(self._last_obs, self._last_episode_starts)
        if self.policy.training:
            self.policy.set_training_mode(False)
        rollout_buffer.reset()
        workers.forget(self._n_updates)
        point = self._sampling_point()
        callback.on_rollout_start()
        try:
            result = self._run_round(workers, point, partial(self._replay, callback))
        finally:
            if isinstance(workers, LockstepWorkers):
                self._last_obs, self._last_episode_starts = workers.observation, workers.at_start
        if result is None:
            self._abandon()
            return False
        report, accepted = result
        self._mean_length = self._memory.lengths.mean
        self._take_round(report, accepted)
        per_step = getattr(workers, "time_per", "step") == "step"
        first_finished = per_step and isinstance(self._schedule, FirstFinished)
        self._round_logger.log(self.logger, report, first_finished=first_finished, restarts=workers.restarts)
        callback.on_rollout_end()
        return True

    def _run_round(
        self, workers: TrajectoryWorkers, point: SamplingPoint, show: Callable[[Trajectory], bool]
    ) -> tuple[RoundReport, list[tuple[Arrival, Trajectory]]] | None:
        """Run the round; if a loss ends it and the rule for those who are left allows it, once more from its beginning."""
        aggregator, steps_before, steps_lost = self._round_aggregator(self._n_updates), workers.steps_executed, 0
        if self._announced not in (None, aggregator):
            self._abandon()  # what has begun early was meant for a round of another rule
        while True:
            self._announced = self._round_aggregator(self._n_updates + 1)
            try:
                if self._session is not None:
                    return self._session.run_round(self._schedule, aggregator, point, show, self._memory)
                result = run_round(workers, self._schedule, aggregator, self._announced, point, show, self._memory)
            except LostWorkerError:
                aggregator = self._round_aggregator(self._n_updates)
                if self._session is not None or not aggregator.can_do_without(workers.lost(), self.n_envs):
                    raise
                self._abandon()
                steps_lost = workers.steps_executed - steps_before
                continue
            if result is None:
                return None
            report, accepted = result
            return replace(report, discarded_steps=report.discarded_steps + steps_lost), accepted

    def _take_round(self, report: RoundReport, accepted: list[tuple[Arrival, Trajectory]]) -> None:
        """Keep what a round has given until the update, and take its statistics in."""
        self.last_round = report
        # in an order that does not depend on who came first
        self._accepted = [t for _, t in sorted(accepted, key=lambda pair: (pair[0].worker, pair[0].key))]
        self.rollout_buffer.reset()
        for arrival in report.arrivals:
            self.rollout_buffer.add(arrival)  # type: ignore[call-arg, arg-type]
        if self._stack is not None and self._session is None:  # ranks have exchanged what is new
            self._stack.update(self._accepted)

    def _connect(self, env: VecEnv) -> TrajectoryWorkers:
        """Return the workers behind ``env``, ready for jobs of this model."""
        if self._workers is None:
            self._stack = WrapperStack(env) if isinstance(env.unwrapped, WorkerVecEnv) else None
            self._workers = self._stack.workers if self._stack is not None else LockstepWorkers(env)
            if self._session is not None:
                self._workers = self._session.workers
            self._ticks = TickAssembler(env.num_envs)
            task_ids = getattr(self._workers, "task_ids", range(env.num_envs))
            shown = task_ids if self.weighs_tasks_equally or getattr(self._workers, "tasks_differ", False) else None
            self._round_logger = RoundLogger(shown, self._stats_window_size)
        settings = (self.n_steps, self.gamma, self._root_seed)
        spec = self._workers.rollout_spec
        if spec is None or spec is not self._rollout_spec or (spec.n_steps, spec.gamma, spec.seed) != settings:
            policy_class: Any = type(getattr(self.policy, "_orig_mod", self.policy))  # the class behind torch.compile
            policy_spec = PolicySpec(policy_class, self.observation_space, self.action_space, self.policy_kwargs, self.device)
            self._rollout_spec = RolloutSpec(policy_spec, *settings)
            self._abandon()
            self._workers.prepare(self._rollout_spec)
        return self._workers

    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        """The last round may overshoot; a schedule is never asked for less than 0."""
        super()._update_current_progress_remaining(min(num_timesteps, total_timesteps), max(1, total_timesteps))

    def _abandon(self) -> None:
        """Void everything that is in flight or has arrived early."""
        if self._workers is not None:
            self._workers.cancel()
        self._memory.early.clear()
        self._schedule.reset()
        self._announced = None

    def _round_aggregator(self, round_: int) -> Aggregator:
        initial = round_ == 0 and self.n_initial_trajectories is not None
        return self.make_aggregator(self.n_initial_trajectories if initial else self.n_trajectories)  # type: ignore[arg-type]

    def _replay(self, callback: BaseCallback, trajectory: Trajectory) -> bool:
        """Show the steps of a trajectory to the callback; plain VecEnvs have shown them already."""
        if isinstance(self._workers, LockstepWorkers):
            return True
        return all(self._on_tick(callback, tick) for tick in self._ticks.feed(trajectory))

    def _on_tick(self, callback: BaseCallback, tick: Tick) -> bool:
        self.num_timesteps += self.n_envs
        callback.update_locals(
            {
                "new_obs": tick.new_obs,
                "rewards": tick.rewards,
                "dones": tick.dones,
                "infos": tick.infos,
                "actions": tick.actions,
            }
        )
        if not callback.on_step():
            return False
        if tick.dones.any():
            self._update_info_buffer(tick.infos, tick.dones)
        return True

    # One update

    def train(self) -> None:
        """Aggregate the gradients of the round and make one step of the outer update."""
        self._log_update(self._train())
        if self._session is not None:
            self._session.check_same()
            self._session.log()
