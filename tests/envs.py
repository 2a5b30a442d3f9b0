"""Further small environments, and drivers that run given rounds; the rest of both is in ``sb3_nigt.testing``."""

from contextlib import suppress
from functools import partial

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback

from sb3_nigt import FixedTimes, SimulatedVecEnv
from sb3_nigt.testing.environments import (  # noqa: F401  what tests need to run jobs comes from here as well
    DictEnv,
    FixedLengthEnv,
    LengthFromSeedEnv,
    NanEnv,
    NeverEndingEnv,
    PointEnv,
)
from sb3_nigt.testing.jobs import (  # noqa: F401
    coefficients,
    collect,
    contributions,
    job,
    leaves,
    make_policy,
    prepared,
    run,
    same,
)

th.set_num_threads(1)  # for networks as small as these, starting a second thread takes longer than the work


class ScriptedLengthEnv(PointEnv):
    """The k-th episode that is stepped has ``lengths[k]`` steps; the last entry repeats."""

    def __init__(self, lengths=(3, 1, 2)):
        super().__init__()
        self.lengths, self.n_episodes = tuple(lengths), 0

    def _episode_length(self, first_action):
        self.n_episodes += 1
        return self.lengths[min(self.n_episodes, len(self.lengths)) - 1]


class LengthFromActionEnv(PointEnv):
    """One step if the first action is positive, else ``longest``: what the policy does decides how long it takes."""

    def __init__(self, longest=6):
        super().__init__()
        self.longest = longest

    def _episode_length(self, first_action):
        return 1 if first_action > 0 else self.longest


def simulated(
    env_fns, step_times=1.0, message_times=0.0, per="step", task_ids=None, link="parallel", aggregation="all_reduce"
):
    """
    Make simulated workers.

    :param env_fns: one function per worker, or a list of lengths for ``FixedLengthEnv``
    """
    env_fns = [partial(FixedLengthEnv, fn) if isinstance(fn, int) else fn for fn in env_fns]
    return SimulatedVecEnv(env_fns, FixedTimes(step_times, message_times, per, link, aggregation), task_ids=task_ids)


class Enough(Exception):
    """Ends a run from a callback when a round begins, so that the last one is complete."""


class RoundRecorder(BaseCallback):
    """Keeps the report of every round and stops the run when there are ``n_rounds`` of them."""

    def __init__(self, n_rounds):
        super().__init__()
        self.n_rounds, self.reports = n_rounds, []

    def _on_rollout_start(self):
        if len(self.reports) == self.n_rounds:
            raise Enough

    def _on_rollout_end(self):
        self.reports.append(self.model.last_round)

    def _on_step(self):
        return True


def run_rounds(model, n_rounds, *callbacks):
    """Train for exactly so many rounds and updates; return the report of each round."""
    recorder = RoundRecorder(n_rounds)
    with suppress(Enough):
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
    return [trajectory for _, trajectory in model.accepted]
