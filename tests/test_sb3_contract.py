"""
What Stable-Baselines3's callbacks, loggers and files may expect, on workers.

The library's own suite runs with our classes through ``tests/sb3_suite/run.py``; here is what that suite cannot know.
"""

import json

import numpy as np
import pytest
import torch as th
from envs import FixedLengthEnv, LengthFromSeedEnv, NeverEndingEnv, accepted
from paper import MaleniaNIGT, RennalaNIGT, SyncNIGT
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CheckpointCallback,
    EvalCallback,
    EveryNTimesteps,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import sb3_nigt
from sb3_nigt import PAPER, AFedPG, FixedTimes, RennalaPG, SimulatedVecEnv, SyncPG, make_worker_vec_env

ALGORITHMS = [RennalaNIGT, MaleniaNIGT, SyncNIGT, SyncPG, RennalaPG, AFedPG]
STEP_TIMES = [1.0, 2.0, 5.0]


def workers(env_class=LengthFromSeedEnv, **kwargs):
    return SimulatedVecEnv([env_class] * 3, FixedTimes(STEP_TIMES), **kwargs)


def make(algorithm=RennalaNIGT, env=None, **kwargs):
    if algorithm is not AFedPG:
        kwargs = {"n_trajectories": 4, **kwargs}
    return algorithm("MlpPolicy", env or workers(), seed=0, **{"horizon": 20, **kwargs})


def parameters_of(model):
    return th.nn.utils.parameters_to_vector(model.policy.parameters()).detach().numpy().copy()


class Ticks(BaseCallback):
    """Keeps what every tick shows, and can stop."""

    def __init__(self, stop_after=None):
        super().__init__()
        self.stop_after, self.timesteps, self.dones, self.episodes = stop_after, [], 0, []

    def _on_step(self):
        n = self.training_env.num_envs
        assert self.locals["env"] is self.training_env
        assert self.locals["rollout_buffer"] is self.model.rollout_buffer
        assert self.locals["clipped_actions"] is self.locals["actions"]
        assert set(self.locals) >= {"new_obs", "rewards", "dones", "infos", "actions"}
        for name in ("new_obs", "rewards", "dones", "infos", "actions"):
            assert len(self.locals[name]) == n
        for observation, action in zip(self.locals["new_obs"], self.locals["actions"], strict=True):
            assert self.training_env.observation_space.contains(observation)
            assert self.training_env.action_space.contains(action)
        self.timesteps.append(self.model.num_timesteps)
        for done, info in zip(self.locals["dones"], self.locals["infos"], strict=True):
            assert done == ("episode" in info) == ("terminal_observation" in info)
            if done:
                self.episodes.append(info["episode"]["l"])
        return self.n_calls != self.stop_after


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("vec_env", [SimulatedVecEnv, DummyVecEnv])
def test_one_tick_is_n_timesteps(algorithm, vec_env):
    ticks = Ticks()
    env = make_worker_vec_env(LengthFromSeedEnv, 3) if vec_env is SimulatedVecEnv else DummyVecEnv([FixedLengthEnv] * 3)
    if vec_env is DummyVecEnv:  # without Monitor there are no episode infos
        ticks._on_step = lambda: True
    model = make(algorithm, env).learn(100, callback=ticks)
    assert ticks.n_calls * 3 == model.num_timesteps >= 100


def test_every_episode_is_shown_once():
    class Rounds(Ticks):
        lengths = ()

        def _on_rollout_end(self):
            self.lengths = (*self.lengths, *(a.n_steps for a in self.model.last_round.arrivals))

    ticks = Rounds()
    make(env=workers()).learn(300, callback=ticks)
    # planned: nothing is discarded, so the ends of all arrivals were shown in order, but for the last ones still to be ticked
    assert ticks.episodes == list(ticks.lengths[: len(ticks.episodes)])
    assert len(ticks.lengths) - len(ticks.episodes) <= 2


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("calls", [1, 7])
def test_false_is_honoured_at_once(algorithm, calls):
    ticks = Ticks(stop_after=calls)
    model = make(algorithm).learn(1000, callback=ticks)
    assert ticks.n_calls == calls
    assert model.num_timesteps == 3 * calls
    model.learn(50, reset_num_timesteps=False)  # and the model goes on
    assert model.num_timesteps >= 3 * calls + 50


def test_stop_on_max_episodes():
    callback = StopTrainingOnMaxEpisodes(max_episodes=4)
    model = make().learn(10_000, callback=callback)
    assert 4 * 3 <= callback.n_episodes <= 4 * 3 + 2  # a tick may hold the ends of three episodes
    assert model.num_timesteps < 1000


def test_every_n_timesteps():
    inner = Ticks()
    model = make().learn(200, callback=EveryNTimesteps(30, inner))
    assert inner.n_calls == model.num_timesteps // 30


def test_stop_on_reward_threshold(tmp_path):
    stop = StopTrainingOnRewardThreshold(reward_threshold=-1e9)
    evaluation = EvalCallback(
        make_worker_vec_env(LengthFromSeedEnv, 1),
        eval_freq=10,
        callback_on_new_best=stop,
        best_model_save_path=tmp_path,
        verbose=0,
    )
    model = make().learn(10_000, callback=evaluation)
    assert model.num_timesteps == 30
    assert (tmp_path / "best_model.zip").exists()


def test_the_policy_holds_the_iterate_while_workers_sample_elsewhere():
    class Iterate(BaseCallback):
        seen = ()

        def _on_rollout_start(self):
            self.iterate = parameters_of(self.model)

        def _on_step(self):
            assert np.array_equal(parameters_of(self.model), self.iterate)
            return True

        def _on_rollout_end(self):
            self.seen = (*self.seen, self.model._extrapolation_norm)

    callback = Iterate()
    make(learning_rate=0.1, eta=0.1).learn(200, callback=callback)
    assert callback.seen[0] == 0.0
    # ‖θ̃ - θ‖ = (1-η)/η · α = 9 · 0.1
    assert callback.seen[1:] == pytest.approx([0.9] * (len(callback.seen) - 1), rel=1e-4)


def test_what_a_callback_sets_at_the_start_of_a_rollout_holds_for_it():
    """As in PPO, here σ: tiny in every other rollout."""

    class Anneals(BaseCallback):
        actions = ()

        def _on_rollout_start(self):
            self.model.policy.log_std.data.fill_(-10.0 if len(self.actions) % 2 else 0.0)
            self.actions = (*self.actions, [])

        def _on_step(self):
            self.actions[-1].append(self.locals["actions"])
            return True

    callback, env = Anneals(), SimulatedVecEnv([FixedLengthEnv] * 2)
    sb3_nigt.RennalaNIGT("MlpPolicy", env, n_steps=50, learning_rate=0.0, seed=0).learn(400, callback=callback)
    spreads = [np.std(actions) for actions in callback.actions]
    assert len(spreads) == 4
    assert min(spreads[::2]) > 10 * max(spreads[1::2])


@pytest.mark.parametrize("algorithm", [RennalaNIGT, MaleniaNIGT, SyncNIGT, SyncPG, RennalaPG])
def test_load_and_go_on(algorithm, tmp_path):
    """A run that was saved and loaded half-way ends where the uninterrupted one ends, bit for bit."""
    kwargs = {"policy_kwargs": {"net_arch": [8]}, "learning_rate": 0.05}
    whole = make(algorithm, **kwargs).learn(100).learn(100, reset_num_timesteps=False)
    make(algorithm, **kwargs).learn(100).save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", env=workers())
    loaded.learn(100, reset_num_timesteps=False)
    assert loaded.last_round.round == whole.last_round.round
    assert np.array_equal(parameters_of(loaded), parameters_of(whole))
    assert loaded._extrapolation_norm == whole._extrapolation_norm


def test_checkpoints_in_the_middle_of_a_round(tmp_path):
    model = make(n_trajectories=50)
    model.learn(200, callback=CheckpointCallback(save_freq=5, save_path=tmp_path))
    # every 5 ticks of 3 steps, all within the first round: the iterate is still the initial one
    loaded = RennalaNIGT.load(tmp_path / "rl_model_15_steps", env=workers())
    assert np.array_equal(parameters_of(loaded), parameters_of(make(n_trajectories=50)))
    loaded.learn(50, reset_num_timesteps=False)
    assert loaded.num_timesteps >= 65


def test_loggers(tmp_path):
    model = make(MaleniaNIGT, env=workers(task_ids=["a", "b", "b"]), schedule="first_finished")
    model.set_logger(configure(str(tmp_path), ["csv", "json", "tensorboard"]))
    model.learn(300)
    model.logger.close()
    last = json.loads((tmp_path / "progress.json").read_text().splitlines()[-1])
    expected = {
        "rollout/ep_rew_mean", "rollout/ep_len_mean", "time/fps", "time/iterations", "time/total_timesteps", "time/clock",
        "train/learning_rate", "train/eta", "train/n_updates", "train/grad_norm", "train/direction_norm",
        "train/extrapolation_norm", "async/round_seconds", "async/discarded_fraction", "async/share_min", "async/share_max",
        "async/staleness", "async/bias_bound", "async/rejected", "task/a/ep_rew_mean", "task/b/ep_rew_mean",
    }  # fmt: skip
    assert expected <= set(last)
    assert last["time/clock"] == model.last_round.finished_at
    assert {path.suffix for path in tmp_path.iterdir()} >= {".csv", ".json"}
    assert list(tmp_path.glob("events.out.tfevents*"))


def test_normalized_observations_are_frozen_within_a_round_and_merged_after_it():
    env = VecNormalize(workers(), norm_reward=False)
    model = make(env=env)
    model.learn(1)
    first = [t.point.transform_obs.statistics[None] for t in accepted(model)]
    assert all(np.array_equal(mean, first[0][0]) for mean, _ in first)
    # by hand: the mean of all observations that the statistics have seen, three from the reset and those of the round
    raw = np.concatenate([t.observations for t in accepted(model)])
    prior = 1e-4  # VecNormalize's initial count, at mean 0
    expected = (first[0][0] * (3 + prior) + raw.sum(axis=0)) / (3 + prior + len(raw))
    assert env.obs_rms.mean == pytest.approx(expected, abs=1e-7)
    assert env.obs_rms.count == pytest.approx(3 + prior + len(raw))
    trajectory = accepted(model)[0]
    by_library = np.clip((trajectory.observations - first[0][0]) / first[0][1], -10, 10)
    assert trajectory.policy_observations == pytest.approx(by_library, abs=1e-6)


def test_normalized_rewards():
    env = VecNormalize(workers(FixedLengthEnv), norm_obs=False, gamma=0.5)
    model = make(env=env)
    model.learn(1)
    # FixedLengthEnv has two steps; the running returns of an episode are r_0 and 0.5 r_0 + r_1
    returns = [r for t in accepted(model) for r in (t.rewards[0], 0.5 * t.rewards[0] + t.rewards[1])]
    assert env.ret_rms.mean == pytest.approx(np.mean(returns), rel=1e-3)
    assert env.ret_rms.count == pytest.approx(len(returns), abs=1e-3)
    model.learn(1, reset_num_timesteps=False)
    std = np.sqrt(accepted(model)[0].point.transform_rewards.parts[0].std ** 2)
    assert accepted(model)[0].learning_rewards == pytest.approx(accepted(model)[0].rewards / std)


def test_evaluation_with_normalization(tmp_path):
    env = VecNormalize(workers())
    eval_env = VecNormalize(make_worker_vec_env(LengthFromSeedEnv, 1), training=False, norm_reward=False)
    make(env=env).learn(200, callback=EvalCallback(eval_env, eval_freq=10, verbose=0, log_path=tmp_path))
    assert eval_env.obs_rms.count > 100
    assert (tmp_path / "evaluations.npz").exists()


@pytest.mark.parametrize("algorithm", [PPO, A2C])
def test_lock_step_algorithms_wait_for_the_slowest(algorithm):
    env = workers()
    model = algorithm("MlpPolicy", env, n_steps=16, seed=0, **({"batch_size": 48} if algorithm is PPO else {}))
    model.learn(96)
    # 96 timesteps are 32 steps of three workers, each as long as the slowest one's 5 seconds
    assert env.clock.now() == 32 * max(STEP_TIMES)


def test_synchronous_use_after_training():
    env = workers()
    model = make(env=env).learn(50)
    observation = env.reset()
    for _ in range(40):
        action, _ = model.predict(observation)
        observation, _, _, infos = env.step(action)
        assert all("TimeLimit.truncated" in info for info in infos)
    model.learn(50, reset_num_timesteps=False)
    observation, *_ = env.step(np.zeros((3, 1), dtype=np.float32))  # without a reset in between
    assert observation.shape == (3, 2)


def test_never_ending_environment():
    model = make(env=workers(NeverEndingEnv), n_trajectories=3).learn(300)
    assert all(arrival.n_steps == 20 for arrival in model.last_round.arrivals)
    assert model.num_timesteps % 60 == 0


def test_one_trajectory_of_one_environment_is_exactly_h_steps(tmp_path):
    model = RennalaNIGT("MlpPolicy", NeverEndingEnv(), n_trajectories=1, horizon=20, seed=0)
    assert model.learn(20).num_timesteps == 20
    assert model.learn(1, reset_num_timesteps=False).num_timesteps == 40
    model.save(tmp_path / "model")
    loaded = RennalaNIGT.load(tmp_path / "model", env=NeverEndingEnv())
    assert loaded.learn(1, reset_num_timesteps=False).num_timesteps == 60


def test_other_optimizers_train_without_extrapolation():
    model = make(policy_kwargs={"optimizer_class": th.optim.AdamW})
    before = parameters_of(model)
    model.learn(200)
    assert isinstance(model.policy.optimizer, th.optim.AdamW)
    assert model._extrapolation_norm == 0.0
    assert not np.array_equal(parameters_of(model), before)


def test_stock_policy_of_the_library():
    from stable_baselines3.common.policies import ActorCriticPolicy

    model = make()
    arguments = {**PAPER, "policy_kwargs": None, "horizon": 20, "n_trajectories": 4}
    stock = sb3_nigt.RennalaNIGT(ActorCriticPolicy, workers(), seed=0, **arguments).learn(100)
    assert type(stock.policy.optimizer) is type(model.policy.optimizer)
    assert np.isfinite(parameters_of(stock)).all()
    assert not any("value_net" in name for name, _ in model.policy.named_parameters())


def test_initial_standard_deviation_of_the_other_head():
    model = make(policy_kwargs={"log_std_init": -1.0})
    observation, _ = model.policy.obs_to_tensor(np.zeros((1, 2), dtype=np.float32))
    assert model.policy.get_distribution(observation).distribution.stddev.item() == pytest.approx(np.exp(-1.0), rel=1e-5)
