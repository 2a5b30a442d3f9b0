"""Invalid input: a ValueError before anything runs, naming the argument, what was given and what to type instead."""

import inspect
import threading

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from paper import MaleniaNIGT, RennalaNIGT, SyncNIGT
from stable_baselines3.common.vec_env import DummyVecEnv
from two_steps import TwoStepEnv, says, workers

import sb3_nigt
from sb3_nigt import (
    AFedPG,
    FixedTimes,
    ProcessVecEnv,
    RandomTimes,
    RennalaPG,
    ReplayedTimes,
    SimulatedVecEnv,
    SyncPG,
    VaryingTimes,
    make_worker_vec_env,
)

ALL = [RennalaNIGT, MaleniaNIGT, SyncNIGT, SyncPG, RennalaPG, AFedPG]
NAN, INF = float("nan"), float("inf")

BAD_ARGUMENTS = {
    "learning_rate": [-1.0, -1e-9, NAN, INF, "0.1", True, [0.1]],
    "n_trajectories": [0, -3, 2.5, 20.0, NAN, "20", None, True],
    "n_initial_trajectories": [0, -1, 1.5, NAN, "1", True],
    "horizon": [0, -1, 2.0, NAN, "9", None, True],
    "gamma": [-0.1, 1.1, NAN, INF, "0.9", None, True],
    "eta": [0, 0.0, -0.1, 1.5, 5, NAN, INF, "0.1", None, True],
    "schedule": ["fastest", "", None, 3, ["planned"]],
    "on_lost_task": ["ignore", "", None, True, ["drop"]],
}


def takes(algorithm, name):
    return name in inspect.signature(getattr(sb3_nigt, algorithm.__name__)).parameters


CASES = [(a, name, value) for a in ALL for name, values in BAD_ARGUMENTS.items() if takes(a, name) for value in values]


@pytest.fixture(autouse=True)
def count_steps():
    TwoStepEnv.steps = 0


# Arguments of the algorithms and of ``learn``


@pytest.mark.parametrize("algorithm", [RennalaNIGT, AFedPG])
@pytest.mark.parametrize("value", [-1, NAN, INF, "100", None, True])
def test_timesteps(algorithm, value):
    model = algorithm("MlpPolicy", workers())
    with pytest.raises(ValueError, match=says(f"total_timesteps={value!r} is not allowed: give a finite number")):
        model.learn(value)
    assert TwoStepEnv.steps == 0


@pytest.mark.parametrize("algorithm", [RennalaNIGT, AFedPG])
@pytest.mark.parametrize("value", [0, -1, 0.5, "1", True])
def test_log_interval(algorithm, value):
    model = algorithm("MlpPolicy", workers())
    with pytest.raises(ValueError, match=says(f"log_interval={value!r} is not allowed: give an integer of at least 1")):
        model.learn(10, log_interval=value)
    assert TwoStepEnv.steps == 0


@pytest.mark.parametrize(("algorithm", "name", "value"), CASES)
def test_argument(algorithm, name, value):
    with pytest.raises(ValueError, match=says(f"{name}={value!r} is not allowed: give ")):
        algorithm("MlpPolicy", workers(), **{name: value})
    assert TwoStepEnv.steps == 0


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("eta", r"in \(0, 1\]"),
        ("gamma", r"in \[0, 1\]"),
        ("learning_rate", r"in \[0, inf\)"),
        ("horizon", r"an integer of at least 1"),
        ("schedule", r"'planned'.*'first_finished'"),
    ],
)
def test_message_says_what_is_allowed(name, allowed):
    with pytest.raises(ValueError, match=allowed):
        RennalaNIGT("MlpPolicy", workers(), **{name: -1})


@pytest.mark.parametrize("algorithm", ALL)
def test_gsde(algorithm):
    with pytest.raises(ValueError, match=r"use_sde=True is not allowed: .*Leave use_sde=False"):
        algorithm("MlpPolicy", workers(), use_sde=True)


@pytest.mark.parametrize("algorithm", ALL)
def test_allowed_extremes_train(algorithm):
    extremes = {"n_trajectories": 1, "n_initial_trajectories": 1, "eta": 1.0, "gamma": 0, "learning_rate": 0, "horizon": 1}
    model = algorithm("MlpPolicy", workers(), **{k: v for k, v in extremes.items() if takes(algorithm, k)})
    before = [p.clone() for p in model.policy.parameters()]
    model.learn(3)
    assert all(th.equal(a, b) for a, b in zip(before, model.policy.parameters(), strict=True))
    assert model.num_timesteps >= 3


@pytest.mark.parametrize("eta", [0.0, 1.5, NAN])
def test_schedule_of_eta_is_checked(eta):
    with pytest.raises(ValueError, match=rf"eta={eta!r} is not allowed: give a finite number in \(0, 1\]"):
        RennalaNIGT("MlpPolicy", workers(), eta=lambda progress: eta)
    model = RennalaNIGT("MlpPolicy", workers(), eta=lambda progress: 0.1)
    model.eta_schedule = lambda progress: eta  # one that goes wrong later
    with pytest.raises(ValueError, match=rf"eta={eta!r} is not allowed: give a finite number in \(0, 1\]"):
        model.learn(1)
    assert TwoStepEnv.steps == 0


@pytest.mark.parametrize("algorithm", ALL)
@pytest.mark.parametrize("rate", [-1.0, NAN])
def test_schedule_of_learning_rate_is_checked_too(algorithm, rate):
    """Whatever the schedule returns in the course of a run, the parameters stay what they were."""
    model = algorithm("MlpPolicy", workers(), learning_rate=lambda progress: 0.01 if progress == 1 else rate)
    with pytest.raises(ValueError, match=rf"learning_rate={rate!r} is not allowed"):
        model.learn(100)
    assert all(bool(th.isfinite(p).all()) for p in model.policy.parameters())


@pytest.mark.parametrize("algorithm", ALL)
def test_overrides_at_load(algorithm, tmp_path):
    algorithm("MlpPolicy", workers()).save(tmp_path / "model.zip")
    for name, values in BAD_ARGUMENTS.items():
        if takes(algorithm, name):
            for env in (None, workers()):
                with pytest.raises(ValueError, match=says(f"{name}={values[0]!r} is not allowed")):
                    algorithm.load(tmp_path / "model.zip", env=env, **{name: values[0]})
    with pytest.raises(ValueError, match="use_sde=True is not allowed"):
        algorithm.load(tmp_path / "model.zip", use_sde=True)


def test_valid_override_at_load_is_used(tmp_path):
    RennalaNIGT("MlpPolicy", workers(), eta=0.1).save(tmp_path / "model.zip")
    with pytest.raises(ValueError, match="eta=5 is not allowed"):
        RennalaNIGT.load(tmp_path / "model.zip", eta=5)
    model = RennalaNIGT.load(tmp_path / "model.zip", env=workers(), eta=0.25, n_trajectories=3)
    model.learn(1)
    assert model.policy.optimizer.param_groups[0]["eta"] == 0.25
    assert model.last_round.counts.sum() == 3


# Workers: times, tasks, numbers


@pytest.mark.parametrize("name", ["step_times", "message_times"])
@pytest.mark.parametrize("make", [FixedTimes, RandomTimes])
class TestTimes:
    @pytest.mark.parametrize("values", [[1.0], [1.0, 2.0, 3.0], []])
    def test_lengths(self, make, name, values):
        with pytest.raises(
            ValueError, match=rf"{name} has {len(values)} values for 2 workers: give one number for all, or a list of 2"
        ):
            workers(2, make(**{name: values}))

    @pytest.mark.parametrize("value", [-1.0, NAN, INF, -INF])
    def test_values(self, make, name, value):
        with pytest.raises(ValueError, match=rf"{name}={value!r} is not allowed: every value must be finite"):
            make(**{name: value})
        with pytest.raises(ValueError, match=rf"{name}\[1\]=.*{value!r}.* is not allowed: every value must be finite"):
            make(**{name: [1.0, value]})

    @pytest.mark.parametrize("value", ["fast", None, True, {}, [1.0, "fast"], [1.0, None], [[1.0, 2.0], [3.0, 4.0]]])
    def test_types(self, make, name, value):
        with pytest.raises(ValueError, match=rf"{name}\b"):
            workers(2, make(**{name: value}))


def test_zero_is_allowed_for_messages_only():
    with pytest.raises(ValueError, match=r"step_times\[1\]=.*0.0.* finite and greater than 0"):
        FixedTimes([1.0, 0.0])
    assert workers(2, FixedTimes(1.0, [0.0, 1.0])).message_times.tolist() == [0.0, 1.0]


def test_unit_of_time():
    with pytest.raises(ValueError, match='per=\'minute\' is not allowed: give "step" or "trajectory"'):
        FixedTimes(1.0, per="minute")
    with pytest.raises(ValueError, match='time_per=\'minute\' is not allowed: give "step" or "trajectory"'):
        make_worker_vec_env(TwoStepEnv, 2, time_per="minute")


def test_other_time_models():
    with pytest.raises(ValueError, match=r"variation=-0\.5 is not allowed"):
        RandomTimes(variation=-0.5)
    with pytest.raises(ValueError, match=r"step_times=1.0 is not allowed: give a function of the time, or use FixedTimes"):
        VaryingTimes(1.0)
    with pytest.raises(ValueError, match="step_times"):
        VaryingTimes(lambda now: None)
    with pytest.raises(ValueError, match=r"step_times\[0\]=.*-1.0.* is not allowed"):
        VaryingTimes(lambda now: [-1.0, 1.0])
    with pytest.raises(ValueError, match="step_times has 3 values for 2 workers"):
        workers(2, VaryingTimes(lambda now: [1.0, 1.0, 1.0]))
    with pytest.raises(ValueError, match="recorded has 3 workers, the environment 2: give one list for each"):
        workers(2, ReplayedTimes([[1.0]] * 3))
    with pytest.raises(ValueError, match=r"recorded\[1\]\[0\]=.*0.0.* is not allowed"):
        ReplayedTimes([[1.0], [0.0]])
    with pytest.raises(ValueError, match="recorded has a worker without any time"):
        ReplayedTimes([[1.0], []])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("step_times", [1, 2]),
        ("message_times", 3.0),
        ("time_per", "trajectory"),
        ("link", "serial"),
        ("aggregation", "server"),
    ],
)
def test_times_next_to_a_time_model(name, value):
    with pytest.raises(ValueError, match=f"{name}=.* has no effect next to time_model: leave it out"):
        make_worker_vec_env(TwoStepEnv, 2, time_model=FixedTimes(1.0), **{name: value})


@pytest.mark.parametrize("time_model", [1.0, "step", FixedTimes])
def test_something_else_for_a_time_model(time_model):
    with pytest.raises(ValueError, match="time_model="):
        workers(2, time_model)


def test_one_time_model_for_two_environments():
    """Training workers and an evaluation environment may share a model with one speed for all."""
    model = FixedTimes(2.0, 0.5)
    training, evaluation = workers(3, model), workers(1, model)
    assert training.step_times.tolist() == [2.0] * 3
    assert training.message_times.tolist() == [0.5] * 3
    assert evaluation.step_times.tolist() == [2.0]


@pytest.mark.parametrize("task_ids", [[], ["a"], ["a", "b", "c"]])
def test_task_ids(task_ids):
    message = f"task_ids has {len(task_ids)} entries for 2 workers: give one id per worker"
    with pytest.raises(ValueError, match=message):
        workers(2, task_ids=task_ids)
    with pytest.raises(ValueError, match=message):
        make_worker_vec_env(TwoStepEnv, 2, task_ids=task_ids)


@pytest.mark.parametrize("task_ids", [7, [["a"], ["b"]]])
def test_task_ids_of_a_wrong_type(task_ids):
    with pytest.raises(ValueError, match="task_ids"):
        workers(2, task_ids=task_ids)


def test_env_kwargs():
    with pytest.raises(ValueError, match="env_kwargs has 3 entries for n_workers=2: give one dict for all, or one per worker"):
        make_worker_vec_env(TwoStepEnv, 2, env_kwargs=[{}, {}, {}])


@pytest.mark.parametrize("env_kwargs", [7, "goal", [{}, None], [{}, 3]])
def test_env_kwargs_of_a_wrong_type(env_kwargs):
    with pytest.raises(ValueError, match="env_kwargs"):
        make_worker_vec_env(TwoStepEnv, 2, env_kwargs=env_kwargs)


@pytest.mark.parametrize(
    ("kwargs", "expected"),
    [
        ({"env_id": [TwoStepEnv] * 2}, "a list of functions can be passed to SimulatedVecEnv, ProcessVecEnv or RayVecEnv"),
        ({"env_id": 3}, "env_id=3 is not allowed: give a registered id or one function that makes an environment"),
        ({"vec_env_cls": "process"}, "vec_env_cls='process' is not allowed: give SimulatedVecEnv, ProcessVecEnv or RayVecEnv"),
        (
            {"vec_env_cls": DummyVecEnv},
            "vec_env_cls=DummyVecEnv is not allowed: give SimulatedVecEnv, ProcessVecEnv or RayVecEnv",
        ),
        ({"seed": "x"}, "seed='x' is not allowed: give an integer of at least 0"),
        ({"seed": -1}, "seed=-1 is not allowed: give an integer of at least 0"),
    ],
)
def test_other_arguments_of_workers(kwargs, expected):
    with pytest.raises(ValueError, match=says(expected)):
        make_worker_vec_env(**{"env_id": TwoStepEnv, "n_workers": 2, **kwargs})


@pytest.mark.parametrize("n_workers", [0, -1, 2.0, "2", None, True, NAN])
def test_number_of_workers(n_workers):
    with pytest.raises(ValueError, match=says(f"n_workers={n_workers!r} is not allowed: give an integer of at least 1")):
        make_worker_vec_env(TwoStepEnv, n_workers)


@pytest.mark.parametrize("vec_env_cls", [SimulatedVecEnv, ProcessVecEnv])
@pytest.mark.parametrize(
    ("env_fns", "message"),
    [
        ([], r"env_fns=\[\] is not allowed: give one function for each worker"),
        (TwoStepEnv, r"env_fns=<class .*TwoStepEnv'> is not allowed: give a list, one function for each worker"),
        ([TwoStepEnv()], "env_fns: give functions that make the environments, not environments"),
    ],
)
def test_functions_of_the_environments(vec_env_cls, env_fns, message):
    with pytest.raises(ValueError, match=message):
        vec_env_cls(env_fns)


def test_functions_that_cannot_travel():
    """The error says whose function it is, and no process has been started."""
    lock = threading.Lock()

    def make():
        return TwoStepEnv(), lock

    with pytest.raises(ValueError, match=r"the function of worker 1 cannot be sent to another process \(.*lock.*inside of"):
        ProcessVecEnv([TwoStepEnv, make])


@pytest.mark.parametrize(
    ("kwargs", "names"),
    [
        ({"n_trajectories": 4}, 'n_trajectories has no effect with rollout="steps"'),
        ({"schedule": "pipelined", "n_initial_trajectories": 3}, "n_initial_trajectories, schedule has no effect"),
        ({**sb3_nigt.PAPER, "n_steps": 4}, 'n_steps has no effect with rollout="trajectories"'),
    ],
)
def test_arguments_of_the_other_kind_of_rounds(kwargs, names):
    with pytest.warns(UserWarning, match=names):
        sb3_nigt.RennalaNIGT("MlpPolicy", "CartPole-v1", **kwargs)


@pytest.mark.parametrize(
    ("algorithm", "n_envs", "least"), [(sb3_nigt.RennalaNIGT, 1, 2), (sb3_nigt.SyncNIGT, 1, 2), (sb3_nigt.MaleniaNIGT, 3, 2)]
)
def test_rounds_without_a_gradient(algorithm, n_envs, least):
    """A single advantage is 0 once it is normalised; Malenia normalises those of each task."""
    env = DummyVecEnv([TwoStepEnv] * n_envs)
    with pytest.raises(ValueError, match=f"n_steps=1 is not allowed with {n_envs} workers.*give at least {least}"):
        algorithm("MlpPolicy", env, n_steps=1).learn(4)
    algorithm("MlpPolicy", env, n_steps=least).learn(4)


# Environments, seeds and precision


@pytest.mark.parametrize("algorithm", [RennalaNIGT, AFedPG])
@pytest.mark.parametrize(
    ("env", "expected"),
    [
        (None, "env=None is not allowed: give an environment"),
        (TwoStepEnv, "env=TwoStepEnv is a class: give an environment, such as TwoStepEnv()"),
        (gym.vector.SyncVectorEnv([TwoStepEnv] * 2), "env=SyncVectorEnv is a vector environment of gymnasium"),
    ],
)
def test_what_is_no_environment(algorithm, env, expected):
    with pytest.raises(ValueError, match=says(expected)):
        algorithm("MlpPolicy", env)


def test_a_loaded_model_without_an_environment_predicts_but_does_not_learn(tmp_path):
    RennalaNIGT("MlpPolicy", workers()).save(tmp_path / "model.zip")
    model = RennalaNIGT.load(tmp_path / "model.zip")
    assert model.predict(TwoStepEnv().observation_space.sample())[0].shape == (2,)
    with pytest.raises(ValueError, match=says("env=None is not allowed: give an environment; a loaded model gets one by")):
        model.learn(10)
    with pytest.raises(ValueError, match="env=TwoStepEnv is a class"):
        model.set_env(TwoStepEnv)


def test_set_env_in_a_callback(tmp_path):
    """It ends the run; afterwards it is allowed, also on a model that was saved in the middle."""

    def save_and_change(local_variables, _):
        model = local_variables["self"]
        model.save(tmp_path / "model")
        model.set_env(workers())

    model = RennalaNIGT("MlpPolicy", workers())
    with pytest.raises(RuntimeError, match=says("set_env() is not allowed within learn()")):
        model.learn(100, callback=save_and_change)
    for left in (model, RennalaNIGT.load(tmp_path / "model")):
        left.set_env(workers())
        left.learn(10)


@pytest.mark.parametrize(
    "space", [spaces.Box(-1.0, 1.0, ()), spaces.Dict(x=spaces.Box(-1.0, 1.0, ()), y=spaces.Box(-1.0, 1.0, (2,)))]
)
def test_scalar_observations(space):
    policy = "MultiInputPolicy" if isinstance(space, spaces.Dict) else "MlpPolicy"
    with pytest.raises(ValueError, match=says("has a Box of shape (), which no network takes: give it the shape (1,)")):
        sb3_nigt.RennalaNIGT(policy, workers(observation_space=space))


@pytest.mark.parametrize("size", [0, -1, 2.5, "9", True])
def test_size_of_the_window(size):
    with pytest.raises(ValueError, match=says(f"stats_window_size={size!r} is not allowed: give an integer of at least 1")):
        RennalaNIGT("MlpPolicy", workers(), stats_window_size=size)


@pytest.mark.parametrize("seed", [-1, 2**32, 1.0, "x", True])
def test_seed(seed):
    with pytest.raises(ValueError, match=says(f"seed={seed!r} is not allowed: give an integer from 0 to 4,294,967,295")):
        RennalaNIGT("MlpPolicy", workers(), seed=seed)


def test_seed_of_numpy():
    """The same as a seed of Python."""
    models = [RennalaNIGT("MlpPolicy", workers(), seed=seed) for seed in (3, np.int64(3))]
    first, second = (th.cat([p.flatten() for p in model.policy.parameters()]) for model in models)
    assert th.equal(first, second)
    assert models[0].root_seed == models[1].root_seed == 3


def test_double_precision():
    """Whether it was there from the beginning or came later."""
    model = sb3_nigt.RennalaNIGT("MlpPolicy", workers())
    model.policy.double()
    expected = says("policy=ActorPolicy has parameters in torch.float64, which is not supported: call torch.set_default")
    with pytest.raises(ValueError, match=expected):
        model.learn(10)
    model.policy.float()
    model.learn(10)
    before = th.get_default_dtype()
    try:
        th.set_default_dtype(th.float64)
        with pytest.raises(ValueError, match=expected):
            sb3_nigt.RennalaNIGT("MlpPolicy", workers())
    finally:
        th.set_default_dtype(before)


def test_arrays_of_the_rollout_buffer():
    model = RennalaNIGT("MlpPolicy", workers()).learn(1)
    with pytest.raises(AttributeError, match="rollout_buffer has no returns: the steps of a round stay where"):
        _ = model.rollout_buffer.returns
    assert not hasattr(model.rollout_buffer, "values")
