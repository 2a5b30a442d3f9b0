"""Environments as other people write them, on every class of workers and in both kinds of rounds: one suite, inherited."""

import copy
import sys
import threading
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecNormalize

from sb3_nigt import PAPER, RennalaNIGT, WorkerError, make_worker_vec_env

STEPS = {"n_steps": 10}
TRAJECTORIES = {**PAPER, "n_trajectories": 4}
ROUNDS = pytest.mark.parametrize("rounds", [STEPS, TRAJECTORIES], ids=["steps", "trajectories"])


def nothing(t):
    return {}


class Counter(gym.Env):
    """
    Episodes of five steps, whose observation is the number of the step.

    :param info: gives the info of a step from its number
    """

    observation_space = spaces.Box(-1e3, 1e3, (1,), np.float32)
    action_space = spaces.Discrete(2)
    length = 5

    def __init__(self, info=nothing):
        self.info, self.t = copy.deepcopy(info), 0  # each environment has its own

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.full(1, self.t, np.float32), 1.0, self.t == self.length, False, self.info(self.t)


class ReusingCounter(Counter):
    """Gives the same info, with the same array in it, and the same observation at every step, and writes to its action."""

    action_space = spaces.MultiDiscrete([2, 2])

    def __init__(self):
        self.t, self.obs, self.info = 0, np.zeros(1, np.float32), {"t": 0, "place": np.zeros(1), "parts": {"t": [0]}}

    def _write(self, t):
        self.t = self.obs[0] = self.info["t"] = self.info["place"][0] = self.info["parts"]["t"][0] = t

    def reset(self, *, seed=None, options=None):
        gym.Env.reset(self, seed=seed)
        self._write(0)
        return self.obs, self.info

    def step(self, action):
        self._write(self.t + 1)
        action[:] = 7
        return self.obs, 1.0, self.t == self.length, False, self.info


def broken(t):
    if t == 5:
        raise LookupError("the fifth step is broken")
    return {}


class Strict(gym.Env):
    """Refuses actions that its space does not contain."""

    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space, self.t = observation_space, action_space, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.t = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action), f"{action} is not in {self.action_space}"
        self.t += 1
        return self.observation_space.sample(), 1.0, self.t == 5, False, {}


NARROW = {  # spaces of observations and of actions
    "sizes beyond 255": [spaces.MultiDiscrete([200, 100], dtype=np.uint8)] * 2,
    "int8": [spaces.Box(-128, 127, (2,), np.int8)] * 2,
    "one bit": [spaces.MultiBinary(3), spaces.Box(0, 1, (2,), np.int32)],
    "precision": [spaces.Box(-1, 1, (2,), np.float64), spaces.Box(-1, 3, (2,), np.float16)],
    "width": [spaces.Box(0, 255, (2,), np.uint8), spaces.Box(-3e38, 3e38, (1,), np.float32)],
    "binary": [spaces.Discrete(300), spaces.MultiBinary(3)],
}


class InTurn:
    """Infos of one entry, which has another value in each episode."""

    def __init__(self, name, values):
        self.name, self.values, self.n = name, values, 0

    def __call__(self, t):
        self.n += t == 1
        return {self.name: self.values[self.n % len(self.values)]}


class Longer(gym.Wrapper):
    """Says that it is there."""

    is_longer = True


@pytest.fixture
def registry(monkeypatch):
    """Ids that only this process knows."""
    monkeypatch.setattr(sys.modules["__main__"], "OddMain", Counter, raising=False)
    before = dict(gym.registry)
    gym.register("OddClass-v0", entry_point=Counter)
    gym.register("OddClass-v2", entry_point=Counter, max_episode_steps=3)
    gym.register("odd/Space-v1", entry_point="odd_envs:Counter", additional_wrappers=(Longer.wrapper_spec(),))
    gym.register("OddMain-v0", entry_point="__main__:OddMain", kwargs={"info": nothing})
    yield
    for env_id in gym.registry.keys() - before.keys():
        del gym.registry[env_id]
    sys.modules.pop("registers_ids", None)


IDS = {  # id -> steps of an episode
    "OddClass-v0": 5,
    "OddClass-v2": 3,
    "OddClass": 3,
    "odd/Space-v1": 5,
    "OddMain-v0": 5,
    "registers_ids:OddModule-v0": 5,
}


class Look(BaseCallback):
    """Keeps what it sees of every step."""

    def __init__(self):
        super().__init__()
        self.infos, self.new_obs, self.dones, self.actions, self.terminal = [], [], [], [], []

    def _on_step(self):
        seen = self.locals
        self.infos += seen["infos"]
        self.new_obs += seen["new_obs"].ravel().tolist()
        self.dones += seen["dones"].tolist()
        self.actions += np.asarray(seen["actions"]).tolist()
        self.terminal += [np.ravel(i["terminal_observation"])[0] for i in seen["infos"] if "terminal_observation" in i]
        return True

    def last_infos(self):
        return [info for info, done in zip(self.infos, self.dones, strict=True) if done]


def monitored(info, keywords=()):
    return Monitor(Counter(info), info_keywords=keywords)


NO_REPORTS = {
    "episode": [
        *(7, None, "seventh", [1, 2], {}),
        *({"r": r, "l": 3} for r in (None, "high", np.ones(2), np.nan, -np.inf)),
    ],
    "is_success": [None, "yes", np.ones(2), [1, [2]], {"a": 1}, len],
}
REPORTS = {
    "episode": [{"r": np.array([3.0]), "l": np.array([5]), "t": 0.5}, {"r": 3, "l": 5, "t": 0.5, "laps": (1, 2)}],
    "is_success": [True, np.True_, 0.5, np.array([1.0]), 0],
}


class OddEnvTests:
    """
    What must hold wherever the environments are.

    :cvar all_infos_travel: callbacks see the infos of all steps without asking for them
    :cvar can_have_locks: infos may hold what cannot be copied
    :cvar last_of_reused: final observation of an environment that reuses its array
    """

    all_infos_travel = True
    can_have_locks = True
    last_of_reused = 5.0

    @pytest.fixture
    def make(self):
        """Override this: a function from functions that make environments, and arguments, to workers."""
        raise NotImplementedError

    def learn(self, env, rounds, steps=100, **kwargs):
        look = Look()
        model = RennalaNIGT("MlpPolicy", env, **{"seed": 0, "device": "cpu", **rounds, **kwargs})
        model.learn(steps, callback=look)
        return model, look

    def learn_with(self, make, rounds, info, **kwargs):
        return self.learn(make(*[partial(Counter, info)] * 2, **kwargs), rounds)

    # Infos that mean something else

    @ROUNDS
    @pytest.mark.parametrize("name", NO_REPORTS)
    def test_what_is_no_report_is_ignored(self, make, rounds, name):
        """By the logged means; the run goes on."""
        model, look = self.learn_with(make, rounds, InTurn(name, NO_REPORTS[name]))
        assert model.num_timesteps >= 100
        assert len(look.last_infos()) > 10
        assert len(model.ep_success_buffer) == 0
        assert {episode["l"] for episode in model.ep_info_buffer} <= {5}

    @ROUNDS
    @pytest.mark.parametrize("name", REPORTS)
    def test_reports_are_taken(self, make, rounds, name):
        values = REPORTS[name]
        model, look = self.learn_with(make, rounds, InTurn(name, values))
        assert len(look.last_infos()) > 10
        seen = [info[name] for info in look.last_infos()]
        assert {repr(value) for value in seen} == {repr(value) for value in values}
        if name == "is_success":
            assert list(model.ep_success_buffer) == [float(np.asarray(value).item()) for value in seen]
        else:
            assert list(model.ep_info_buffer) == [{**value, "r": 3.0, "l": 5} for value in seen]

    @ROUNDS
    def test_infos_that_no_other_process_understands(self, make, rounds):
        class Own:
            pass

        def info(t):
            return {"lock": threading.Lock() if self.can_have_locks else 0, "f": lambda: t, "own": Own(), "is_success": t == 5}

        model, look = self.learn_with(make, rounds, info)
        assert list(model.ep_success_buffer) == [True] * len(look.last_infos())

    @ROUNDS
    def test_an_info_that_contains_itself(self, make, rounds):
        def info(t):
            parts = {"t": t, "list": [t]}
            parts["whole"] = parts
            parts["list"].append(parts["list"])
            return {"parts": parts, "list": parts["list"], "is_success": t == 5}

        model, look = self.learn_with(make, rounds, info)
        assert list(model.ep_success_buffer) == [True] * len(look.last_infos())
        kept = [info["parts"] for info in look.infos if "parts" in info]
        assert bool(kept) == self.all_infos_travel
        for seen in kept:
            assert seen["whole"] is seen
            assert seen["list"][0] == seen["t"]
            assert seen["list"][1] is seen["list"]

    @ROUNDS
    def test_an_info_that_is_no_dict(self, make, rounds):
        with pytest.raises(Exception, match=r"info must be a dict, got int|item assignment"):  # the latter from DummyVecEnv
            self.learn_with(make, rounds, lambda t: 7)

    @ROUNDS
    def test_a_large_info(self, make, rounds):
        """Four megabytes a step, of which callbacks have one copy at most while they do not change."""
        large = np.zeros(2**19)
        model, _ = self.learn_with(make, rounds, lambda t: {"map": large, "is_success": True})
        assert len(model.ep_success_buffer) > 10
        reports = {"r": 5.0, "l": 5, "t": 0.0, "map": large}
        model, _ = self.learn_with(make, rounds, lambda t: {"episode": reports})
        assert {(episode["r"], episode["l"]) for episode in model.ep_info_buffer} == {(5.0, 5)}

    @ROUNDS
    def test_all_that_a_monitor_reports_arrives(self, make, rounds):
        env_fn = partial(monitored, lambda t: {"distance": 0.5 * t, "place": np.full(2, t)}, ("distance", "place"))
        model, look = self.learn(make(env_fn, env_fn), rounds)
        for episode in (*model.ep_info_buffer, *(info["episode"] for info in look.last_infos())):
            assert (episode["r"], episode["l"], episode["distance"]) == (5.0, 5, 2.5)
            assert episode["place"].tolist() == [5, 5]
        assert len(model.ep_info_buffer) == len(look.last_infos()) > 10

    @ROUNDS
    def test_reports_that_cannot_be_sent_arrive_as_numbers(self, make, rounds):
        env_fn = partial(monitored, lambda t: {"kind": threading.Lock() if self.can_have_locks else 0}, ("kind",))
        model, _ = self.learn(make(env_fn, env_fn), rounds)
        assert len(model.ep_info_buffer) > 10
        assert {(episode["r"], episode["l"]) for episode in model.ep_info_buffer} == {(5.0, 5)}

    # VecNormalize

    @ROUNDS
    def test_originals_of_a_normalised_step(self, make, rounds):
        """Rewards are 1, observations count the steps; a callback sees those of the step that it is shown."""
        for norm_obs in (False, True):
            self.look_at_originals(VecNormalize(make(Counter, Counter), norm_obs=norm_obs, epsilon=1e-4), rounds)

    def look_at_originals(self, env, rounds):

        class Originals(BaseCallback):
            seen = 0

            def _on_step(self):
                env = self.model.get_vec_normalize_env()
                assert (env.get_original_obs() == self.locals["new_obs"]).all() != env.norm_obs
                assert env.get_original_reward().tolist() == [1.0, 1.0]
                assert set(env.get_original_obs().ravel()) <= {0.0, 1.0, 2.0, 3.0, 4.0, 5.0}
                self.seen += 1
                return True

        model, originals = RennalaNIGT("MlpPolicy", env, seed=0, device="cpu", **rounds), Originals()
        model.learn(100, callback=originals)
        assert originals.seen >= 50

    # Dtypes

    @ROUNDS
    @pytest.mark.parametrize("name", NARROW)
    def test_actions_are_in_their_space(self, make, rounds, name):
        """In training and from ``predict``; no arithmetic on a narrow dtype overflows."""
        env = make(*[partial(Strict, *NARROW[name])] * 2)
        model, look = self.learn(env, rounds, steps=60)
        first, batch = env.observation_space.sample(), env.reset()
        for deterministic in (False, True):
            actions = [
                model.predict(first, deterministic=deterministic)[0],
                *model.predict(batch, deterministic=deterministic)[0],
            ]
            assert all(env.action_space.contains(action) for action in actions)
        if name == "one bit":
            assert 0.2 < np.mean(look.actions) < 0.8  # both numbers have an equal share of the range

    # Errors

    @ROUNDS
    @pytest.mark.filterwarnings("ignore:Worker .* failed:UserWarning")
    def test_an_exception_that_repeats_stops_the_run(self, make, rounds):
        """At once, with its traceback, although the other worker could go on."""
        env = make(Counter, partial(Counter, broken))
        with pytest.raises((LookupError, WorkerError), match="the fifth step is broken") as caught:
            self.learn(env, rounds, steps=100_000)
        if isinstance(caught.value, WorkerError):
            assert "in broken" in str(caught.value)
            assert env.restarts <= 3

    # Infos of every step

    @ROUNDS
    @pytest.mark.parametrize("asked", [["t", "place", "seldom"], None])
    def test_infos_of_every_step(self, make, rounds, asked):
        """Each with its own step, also those of discarded steps and of pieces that were cut."""

        def info(t):
            return {"t": t, "place": np.full(3, t), "f": lambda: t, **({"seldom": "yes"} if t == 3 else {})}

        _, look = self.learn_with(make, rounds, info, **({} if self.all_infos_travel else {"info_keys": asked}))
        assert len(look.infos) >= 100
        for t, kept in zip(look.new_obs, look.infos, strict=True):
            if t:  # the VecEnvs of Stable-Baselines3 show the first observation of the next episode in place of the last
                assert kept["t"] == t
                assert kept["place"].tolist() == [t] * 3
                assert kept.get("seldom") == ("yes" if t == 3 else None)
                assert self.all_infos_travel == ("f" in kept)

    # What environments write to later

    @ROUNDS
    def test_environments_that_reuse_what_they_give(self, make, rounds):
        env = make(ReusingCounter, ReusingCounter, **({} if self.all_infos_travel else {"info_keys": None}))
        model, look = self.learn(env, rounds)
        assert len(look.infos) >= 100
        for t, kept in zip(look.new_obs, look.infos, strict=True):
            if t:
                assert (kept["t"], kept["place"].tolist(), kept["parts"]) == (t, [t], {"t": [t]})
        for _, trajectory in model.accepted:
            assert set(trajectory.samples.ravel().tolist()) <= {0, 1}
            assert (trajectory.actions == trajectory.samples).all()
            if trajectory.terminated:
                assert trajectory.final_observation.tolist() == [self.last_of_reused]
        assert set(np.ravel(look.actions)) <= {0, 1}


class IdTests:
    """Workers by the id of their environment; with the same ``make`` as above."""

    def make_by_id(self, make, env_id, **kwargs):
        def vec_env_cls(env_fns, time_model, task_ids):
            return make(*env_fns)

        return make_worker_vec_env(env_id, 2, vec_env_cls=vec_env_cls, **kwargs)

    @pytest.mark.filterwarnings("ignore:.*Using the latest versioned environment:UserWarning")
    @pytest.mark.parametrize("env_id", IDS)
    def test_ids_that_other_processes_do_not_know(self, make, registry, env_id):
        env = self.make_by_id(make, env_id, wrapper_class=Longer, env_kwargs={"info": nothing})
        assert [spec.max_episode_steps or 5 for spec in env.get_attr("spec")] == [IDS[env_id]] * 2
        assert env.get_attr("is_longer") == [True, True]
        assert [info.__name__ for info in env.get_attr("info")] == ["nothing"] * 2

    def test_an_id_that_nothing_is_registered_under(self, registry):
        def vec_env_cls(*args, **kwargs):
            raise AssertionError("a process is started")

        for env_id in ("OddClas-v0", "OddClass-v9", "odd/Nothing-v0"):
            with pytest.raises(gym.error.UnregisteredEnv):
                make_worker_vec_env(env_id, 2, vec_env_cls=vec_env_cls)
