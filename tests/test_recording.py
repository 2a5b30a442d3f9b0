"""Recorded runs: what was written comes back, and the simulator repeats a run of real processes to the same parameters."""

import dataclasses
from functools import partial

import numpy as np
import pytest
from envs import LengthFromSeedEnv, parameters, run_rounds, simulated
from paper import MaleniaNIGT, RennalaNIGT, SyncNIGT
from stable_baselines3.common.callbacks import CallbackList, ConvertCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_nigt import AFedPG, ProcessVecEnv, Recording, RunRecorder, SimulatedVecEnv, replay
from sb3_nigt import RennalaNIGT as DefaultRennala
from sb3_nigt.algorithms.settings import CHANGEABLE
from sb3_nigt.recording import DECISIVE

ENV_FNS = [LengthFromSeedEnv] * 3
SETTINGS = {"n_trajectories": 7, "horizon": 5, "learning_rate": 0.1, "seed": 3, "policy_kwargs": {"net_arch": [8]}}
RUNS = {
    "planned": (RennalaNIGT, {"schedule": "planned"}),
    "pipelined": (RennalaNIGT, {"schedule": "pipelined"}),
    "first_finished": (RennalaNIGT, {"schedule": "first_finished"}),
    "malenia": (MaleniaNIGT, {"schedule": "pipelined"}),
    "schedules of both rates": (
        RennalaNIGT,
        {"learning_rate": lambda progress: 0.2 * progress, "eta": lambda progress: 0.1 + 0.5 * progress},
    ),
    "sync": (SyncNIGT, {}),
    "afedpg": (AFedPG, {"n_trajectories": None}),
}


def make(name, env):
    algorithm, kwargs = RUNS[name]
    kwargs = {key: value for key, value in {**SETTINGS, **kwargs}.items() if value is not None}
    return algorithm("MlpPolicy", env, device="cpu", **kwargs)


def record(model, path, timesteps=400):
    model.learn(timesteps, callback=RunRecorder(path))
    return Recording.load(path)


def assert_same_reports(first, second):
    for a, b in zip(first, second, strict=True):
        assert a.counts.tolist() == b.counts.tolist()
        assert a.weights.tolist() == b.weights.tolist()
        for field in ("round", "discarded", "used_steps", "discarded_steps", "started_at", "finished_at"):
            assert getattr(a, field) == getattr(b, field)
        without_task = [[(x.worker, x.key, x.n_steps, x.finished_at, x.staleness) for x in r.arrivals] for r in (a, b)]
        assert without_task[0] == without_task[1]


@pytest.mark.parametrize("schedule", ["planned", "first_finished"])
def test_what_was_written_comes_back(tmp_path, schedule):
    env = simulated(ENV_FNS, [1.0, 2.0, 5.0], 0.5, task_ids=["a", "b", "a"])
    model = MaleniaNIGT("MlpPolicy", env, device="cpu", **SETTINGS, schedule=schedule)
    reports = []
    model.learn(200, callback=CallbackList([RunRecorder(tmp_path / "run.jsonl"), collect_into(reports)]))
    recording = Recording.load(tmp_path / "run.jsonl")
    assert (recording.algorithm, recording.seed, recording.task_ids) == ("MaleniaNIGT", 3, ("a", "b", "a"))
    assert len(recording.reports) > 2
    assert_same_reports(recording.reports, reports)
    assert recording.rounds[0].progress[0] == 1.0
    assert recording.rounds[-1].progress[1] == 0.0
    assert [a.task_id for a in recording.reports[0].arrivals] == [a.task_id for a in reports[0].arrivals]


def collect_into(reports):
    """A function callback is called every step; a round's report is new when the round is over."""

    def callback(locals_, globals_):
        last = locals_["self"].last_round
        if last is not None and (not reports or reports[-1] is not last):
            reports.append(last)
        return True

    from stable_baselines3.common.callbacks import ConvertCallback

    class Last(ConvertCallback):
        def _on_training_end(self):
            self.callback({"self": self.model}, {})

    return Last(callback)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("name", RUNS)
def test_run_of_processes_is_repeated_bit_for_bit(tmp_path, name):
    env = ProcessVecEnv(ENV_FNS)
    model = make(name, env)
    before = parameters(model)
    recording = record(model, tmp_path / "run.jsonl")
    env.close()
    again = replay(make(name, SimulatedVecEnv(ENV_FNS)), recording)
    assert again._n_updates == model._n_updates > 3
    assert np.array_equal(parameters(again), parameters(model))
    assert np.abs(parameters(again) - before).max() > 0.01


def test_statistics_of_normalization_are_repeated(tmp_path):
    env = VecNormalize(ProcessVecEnv(ENV_FNS))
    model = make("pipelined", env)
    recording = record(model, tmp_path / "run.jsonl")
    env.close()
    again = VecNormalize(SimulatedVecEnv(ENV_FNS))
    repeated = replay(make("pipelined", again), recording)
    assert np.array_equal(parameters(repeated), parameters(model))
    assert np.array_equal(again.obs_rms.mean, env.obs_rms.mean)
    assert np.array_equal(again.ret_rms.var, env.ret_rms.var)


def test_the_simulator_repeats_itself(tmp_path):
    model = make("pipelined", simulated(ENV_FNS, [1.0, 2.0, 5.0]))
    recording = record(model, tmp_path / "run.jsonl")
    again = replay(make("pipelined", SimulatedVecEnv(ENV_FNS)), recording)
    assert np.array_equal(parameters(again), parameters(model))


def test_goes_on_after_the_recording(tmp_path):
    """A recording that stops earlier gives the parameters of that moment, and training goes on from there."""
    model = make("planned", SimulatedVecEnv(ENV_FNS))
    run_rounds(model, 2)
    path = tmp_path / "run.jsonl"
    recording = record(make("planned", SimulatedVecEnv(ENV_FNS)), path)
    begun = dataclasses.replace(recording, rounds=recording.rounds[:2])
    again = replay(make("planned", SimulatedVecEnv(ENV_FNS)), begun)
    assert np.array_equal(parameters(again), parameters(model))
    assert again.learn(50)._n_updates > 2


@pytest.mark.parametrize("workers", [lambda: simulated(ENV_FNS, [1.0, 2.5, 4.0]), lambda: ProcessVecEnv(ENV_FNS)])
def test_steps_of_a_round_that_a_callback_has_stopped_are_in_no_episode(tmp_path, workers):
    """The steps of the stopped round are in no recording: a replay can repeat no episode that began with them."""
    recorder, env = RunRecorder(tmp_path / "run.jsonl"), workers()
    model = default(env)
    for n in (90, 40):
        stop = ConvertCallback(lambda locals_, globals_, until=model.num_timesteps + n: locals_["self"].num_timesteps < until)
        model.learn(1_000, callback=[recorder, stop], reset_num_timesteps=False)
    before = model._n_updates
    model.learn(200, callback=recorder, reset_num_timesteps=False)
    env.close()
    again = replay(default(SimulatedVecEnv(ENV_FNS)), Recording.load(recorder.path))
    assert again._n_updates == model._n_updates > before  # on processes the speed of the machine decides how many
    assert np.array_equal(parameters(again), parameters(model))


class Interrupting(LengthFromSeedEnv):
    """Ctrl-C comes in one of the steps or resets of all."""

    left = None

    def count(self, name):
        if name in Interrupting.left:
            Interrupting.left[name] -= 1
            if Interrupting.left[name] == 0:
                raise KeyboardInterrupt

    def reset(self, **kwargs):
        self.count("reset")
        return super().reset(**kwargs)

    def step(self, action):
        self.count("step")
        return super().step(action)


@pytest.mark.parametrize(("name", "number"), [("step", 100), ("reset", 30)])
def test_a_round_of_steps_that_was_interrupted_is_in_no_stream(tmp_path, name, number):
    """The random numbers of the steps after it are those that a replay takes."""
    Interrupting.left = {name: number}
    recorder = RunRecorder(tmp_path / "run.jsonl")
    model = default(SimulatedVecEnv([Interrupting] * 3))
    with pytest.raises(KeyboardInterrupt):
        model.learn(1_000, callback=recorder)
    assert model.n_updates > 2
    model.learn(100, callback=recorder, reset_num_timesteps=False)
    again = replay(default(SimulatedVecEnv([LengthFromSeedEnv] * 3)), Recording.load(recorder.path))
    assert again.n_updates == model.n_updates
    assert np.array_equal(parameters(again), parameters(model))


def default(env):
    """Rounds of steps."""
    return DefaultRennala("MlpPolicy", env, n_steps=10, seed=3, device="cpu", policy_kwargs={"net_arch": [8]})


def test_second_learn_goes_on_in_the_same_file(tmp_path):
    recorder = RunRecorder(tmp_path / "run.jsonl")
    model = make("planned", SimulatedVecEnv(ENV_FNS))
    model.learn(50, callback=recorder)
    n_rounds = len(Recording.load(recorder.path).rounds)
    model.learn(50, callback=recorder, reset_num_timesteps=False)
    assert len(Recording.load(recorder.path).rounds) > n_rounds > 0
    assert [report.round for report in Recording.load(recorder.path).reports] == list(range(model._n_updates))


def test_line_that_a_crash_has_cut(tmp_path):
    path = tmp_path / "run.jsonl"
    recording = record(make("planned", SimulatedVecEnv(ENV_FNS)), path, 100)
    path.write_text(path.read_text()[:-30])
    assert len(Recording.load(path).rounds) == len(recording.rounds) - 1
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], "{", *lines[2:]]))
    with pytest.raises(ValueError, match="line 2 is damaged"):
        Recording.load(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"{}", b"[1]", b'{"format": 99}', b"\xff\xfe"])
def test_file_that_is_no_recording(tmp_path, content):
    path = tmp_path / "other.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"other.txt' is not a recorded run: give a file written by RunRecorder"):
        Recording.load(path)


def test_model_that_does_not_fit(tmp_path):
    recording = record(make("planned", SimulatedVecEnv(ENV_FNS)), tmp_path / "run.jsonl", 100)
    with pytest.raises(ValueError, match="its environment is DummyVecEnv: give it a SimulatedVecEnv"):
        replay(make("planned", DummyVecEnv(ENV_FNS)), recording)
    with pytest.raises(ValueError, match="it is a SyncNIGT, the recorded one was a RennalaNIGT"):
        replay(make("sync", SimulatedVecEnv(ENV_FNS)), recording)
    with pytest.raises(ValueError, match="it has 2 workers, the recorded one had 3"):
        replay(make("planned", SimulatedVecEnv(ENV_FNS[:2])), recording)
    trained = make("planned", SimulatedVecEnv(ENV_FNS)).learn(10)
    with pytest.raises(ValueError, match=r"it has made \d updates, the recording begins after 0"):
        replay(trained, recording)
    for name, value, says in (
        ("seed", 4, r"parameters is \d+, the recorded model began with \d+"),
        ("horizon", 4, "horizon is 4, the recorded model began with 5"),
        ("learning_rate", 0.2, "learning_rate is 0.2, the recorded model began with 0.1"),
    ):
        other = RennalaNIGT("MlpPolicy", SimulatedVecEnv(ENV_FNS), device="cpu", **{**SETTINGS, name: value})
        with pytest.raises(ValueError, match=says):
            replay(other, recording)
    other = make("planned", SimulatedVecEnv([partial(LengthFromSeedEnv, 3)] * 3))
    with pytest.raises(RuntimeError, match=r"Round 0, worker \d(?s:.*)depends on more than its seed"):
        replay(other, recording)
    with pytest.raises(ValueError, match=r"run.jsonl' is not a recording: give Recording.load"):
        replay(make("planned", SimulatedVecEnv(ENV_FNS)), "run.jsonl")


def test_a_replay_asks_for_all_arguments_that_decide_what_is_learned():
    which_steps = {"n_trajectories", "n_initial_trajectories", "schedule", "on_lost_task"}
    assert set(DECISIVE) == set(CHANGEABLE) - which_steps
