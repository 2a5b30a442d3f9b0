"""Small environments whose trajectories can be worked out by hand, and drivers that run given rounds or given jobs."""

from contextlib import suppress
from functools import partial

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback

from sb3_nigt import PAPER, FixedTimes, SimulatedVecEnv
from sb3_nigt.estimators import ReturnToGo
from sb3_nigt.messages import Contribution, Job, SamplingPoint, TrajectoryKey
from sb3_nigt.parameters import flatten
from sb3_nigt.policies import MlpPolicy
from sb3_nigt.replica.copying import copy_of
from sb3_nigt.vec_env.base import RolloutSpec

th.set_num_threads(1)  # for networks as small as these, starting a second thread takes longer than the work


class PointEnv(gym.Env):
    """
    A point in the unit square that the action pushes to the right; the reward is high where the point is near the middle.

    It never ends. Subclasses say with ``_episode_length`` when an episode does. Everything is a function of the reset seed
    and the actions, except in ``ScriptedLengthEnv``.
    """

    def __init__(self):
        self.observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.n_steps_executed = 0  # in all episodes together
        self._t = 0

    def _episode_length(self, first_action):
        """Called at the first step of an episode."""
        return None

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._point = self.np_random.uniform(-0.5, 0.5, 2).astype(np.float32)
        self._t = 0
        return self._point.copy(), {}

    def step(self, action):
        if self._t == 0:
            self._length = self._episode_length(float(action[0]))
        self._t += 1
        self.n_steps_executed += 1
        push = np.array([0.2 * action[0], self.np_random.normal(0.0, 0.05)])
        self._point = np.clip(self._point + push, -1.0, 1.0).astype(np.float32)
        reward = 1.0 - float(np.sum(self._point**2)) + 0.1 * float(action[0])
        return self._point.copy(), reward, self._t == self._length, False, {"t": self._t}


NeverEndingEnv = PointEnv


class FixedLengthEnv(PointEnv):
    """Every episode has ``length`` steps."""

    def __init__(self, length=2):
        super().__init__()
        self.length = length

    def _episode_length(self, first_action):
        return self.length


class ScriptedLengthEnv(PointEnv):
    """The k-th episode that is stepped has ``lengths[k]`` steps; the last entry repeats."""

    def __init__(self, lengths=(3, 1, 2)):
        super().__init__()
        self.lengths, self.n_episodes = tuple(lengths), 0

    def _episode_length(self, first_action):
        self.n_episodes += 1
        return self.lengths[min(self.n_episodes, len(self.lengths)) - 1]


class LengthFromSeedEnv(PointEnv):
    """Every episode has 1 to ``longest`` steps, drawn at the reset."""

    def __init__(self, longest=6):
        super().__init__()
        self.longest = longest

    def reset(self, *, seed=None, options=None):
        observation, info = super().reset(seed=seed)
        self._drawn = int(self.np_random.integers(1, self.longest + 1))
        return observation, info

    def _episode_length(self, first_action):
        return self._drawn


class LengthFromActionEnv(PointEnv):
    """One step if the first action is positive, else ``longest``: what the policy does decides how long it takes."""

    def __init__(self, longest=6):
        super().__init__()
        self.longest = longest

    def _episode_length(self, first_action):
        return 1 if first_action > 0 else self.longest


class DictEnv(PointEnv):
    """A Dict observation and discrete actions; two steps an episode."""

    def __init__(self):
        super().__init__()
        self.observation_space = spaces.Dict({"point": self.observation_space, "side": spaces.Discrete(2)})
        self.action_space = spaces.Discrete(3)

    def _episode_length(self, first_action):
        return 2

    def _as_dict(self, point):
        return {"point": point, "side": np.int64(point[0] > 0)}

    def reset(self, *, seed=None, options=None):
        point, info = super().reset(seed=seed)
        return self._as_dict(point), info

    def step(self, action):
        point, *rest = super().step([action - 1.0])
        return self._as_dict(point), *rest


class NanEnv(PointEnv):
    """The second step of every episode gives a reward or an observation that is not a number."""

    def __init__(self, what="reward"):
        super().__init__()
        self.what = what

    def step(self, action):
        observation, reward, terminated, truncated, info = super().step(action)
        if self._t == 2 and self.what == "reward":
            reward = float("nan")
        elif self._t == 2:
            observation[0] = np.nan
        return observation, reward, terminated, truncated, info


def simulated(env_fns, step_times=1.0, message_times=0.0, per="step", task_ids=None):
    """
    Make simulated workers.

    :param env_fns: one function a worker, or a list of lengths for ``FixedLengthEnv``
    """
    env_fns = [partial(FixedLengthEnv, fn) if isinstance(fn, int) else fn for fn in env_fns]
    return SimulatedVecEnv(env_fns, FixedTimes(step_times, message_times, per=per), task_ids=task_ids)


class _Enough(Exception):
    pass


class RoundRecorder(BaseCallback):
    """Keeps the report of every round and stops the run when there are ``n_rounds`` of them."""

    def __init__(self, n_rounds):
        super().__init__()
        self.n_rounds, self.reports = n_rounds, []

    def _on_rollout_start(self):
        if len(self.reports) == self.n_rounds:
            raise _Enough

    def _on_rollout_end(self):
        self.reports.append(self.model.last_round)

    def _on_step(self):
        return True


def run_rounds(model, n_rounds, *callbacks):
    """Train for exactly so many rounds and updates; return the report of each round."""
    recorder = RoundRecorder(n_rounds)
    with suppress(_Enough):
        model.learn(10**9, callback=[*callbacks, recorder])
    assert len(recorder.reports) == n_rounds
    return recorder.reports


def train_rounds(model, n_rounds, callback=None):
    """Train by short calls of ``learn`` until so many updates have been made; return the model."""
    while model._n_updates < n_rounds:
        model.learn(1, callback=callback, reset_num_timesteps=False)
    return model


def parameters(model):
    """All parameters of the policy as one vector."""
    return np.concatenate([p.detach().cpu().numpy().ravel() for p in model.policy.parameters()])


def keep_outputs(owner, name, outputs):
    """Add what a method returns to a list, from now on."""
    method = getattr(owner, name)

    def recording(*args):
        outputs.append(method(*args))
        return outputs[-1]

    setattr(owner, name, recording)


def accepted(model):
    """The trajectories of the last round that count, in worker order."""
    return [trajectory for _, trajectory in model._accepted]


# Jobs without an algorithm


def make_policy(observation_space, action_space, policy_class=MlpPolicy, **policy_kwargs):
    """Make a policy, of this package's classes the paper's, as an algorithm would, without touching torch's random numbers."""
    if issubclass(policy_class, MlpPolicy):
        policy_kwargs = {**PAPER["policy_kwargs"], **policy_kwargs}
    with th.random.fork_rng(devices=[]):
        policy = policy_class(observation_space, action_space, lambda progress: 0.0, **policy_kwargs)
    policy.set_training_mode(False)
    return policy


def prepared(env, policy_class=MlpPolicy, n_steps=20, seed=0):
    """Prepare workers; return them and a sampling point of round 0 whose parameters are always the same."""
    policy = make_policy(env.observation_space, env.action_space, policy_class, net_arch=[4])
    env.prepare(RolloutSpec(copy_of(policy, "cpu"), n_steps, seed))
    parameters = flatten(policy)
    return env, SamplingPoint(0, np.random.default_rng(0).normal(0.0, 0.5, len(parameters)).astype(np.float32))


def contributions(arrived, gamma=0.99):
    """What the paper's estimator makes of (arrival, trajectory) pairs."""
    scored = coefficients([t for _, t in arrived], np.ones(len(arrived)), gamma)
    return [Contribution(a.worker, a.key, own) for (a, _), own in zip(arrived, scored, strict=True)]


def coefficients(trajectories, weights, gamma=0.99):
    """w_j C_jt of the paper's estimator, as ``policy_gradient`` takes them."""
    arrived = [(None, trajectory) for trajectory in trajectories]  # the paper's estimator looks at nothing else
    own = ReturnToGo(gamma).coefficients(arrived, np.zeros(0))
    return [weight * coefficients for weight, coefficients in zip(weights, own, strict=True)]


def job(point, worker, number=0):
    return Job(worker, TrajectoryKey(point.round, worker, number), point)


def run(env, one_job):
    env.submit(one_job)
    return env.next_arrival()[1]


def collect(env, jobs):
    """Run jobs as soon as their workers are idle; return (arrival, trajectory) in order of arrival."""
    waiting, results = list(jobs), []
    while len(results) < len(jobs):
        for one_job in list(waiting):
            if not env.busy(one_job.worker):
                env.submit(one_job)
                waiting.remove(one_job)
        results.append(env.next_arrival())
    return results


def leaves(observations):
    """The arrays of an observation, or of a dict of observations."""
    return [observations[key] for key in sorted(observations)] if isinstance(observations, dict) else [observations]


def same(first, second):
    """Whether two trajectories are equal bit for bit."""
    arrays = [
        (t.samples, t.actions, t.rewards, *leaves(t.observations), *leaves(t.final_observation)) for t in (first, second)
    ]
    flags = [(t.key, t.terminated, t.truncated, t.rejected) for t in (first, second)]
    return flags[0] == flags[1] and all(np.array_equal(a, b) for a, b in zip(*arrays, strict=True))
