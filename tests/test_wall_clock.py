"""Comparisons on real processes: moments on a clock that ticks by hand, and short real runs."""

import csv
import json

import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import SubprocVecEnv, VecNormalize

from sb3_nigt import ProcessVecEnv, RennalaNIGT, SimulatedVecEnv, make_worker_vec_env
from sb3_nigt.__main__ import main
from sb3_nigt.experiments import wall_clock
from sb3_nigt.experiments.setting import Budget, Run, Setting

PROCESSES = Setting("CartPole-v1", (1.0, 1.0), (0.0, 0.0), workers="processes")
COMPARE = ["compare", "--env", "CartPole-v1", "--workers", "processes", "--n-workers", "2"]


class Ticks:
    """A clock that is one second later whenever somebody looks."""

    def __init__(self):
        self.seconds = 0.0

    def now(self):
        self.seconds += 1.0
        return self.seconds


def album_of(model, monkeypatch):
    """Five and a half seconds in which the policy is kept three times, and at the start; the last is that of the end."""
    monkeypatch.setattr(wall_clock, "WallClock", Ticks)
    album = wall_clock.SnapshotCallback(Budget(seconds=5.5, points=3))
    model.learn(10**9, callback=album, log_interval=None)
    return album.snapshots


def columns(snapshots):
    return [tuple(snapshot.counts.values()) for snapshot in snapshots]


def test_moments_of_ppo_by_hand(monkeypatch):
    """A step of two environments takes a second; an update of one epoch, and two messages, after four of them."""
    env = VecNormalize(make_vec_env("CartPole-v1", 2))
    model = PPO("MlpPolicy", env, n_steps=4, batch_size=8, n_epochs=1, seed=0, device="cpu")
    snapshots = album_of(model, monkeypatch)
    assert columns(snapshots) == [(0.0, 0, 0, 0), (2.0, 4, 0, 0), (4.0, 8, 0, 0), (5.5, 12, 2, 1)]
    weights = [snapshot.parameters["action_net.weight"].numpy() for snapshot in snapshots]
    assert np.array_equal(weights[0], weights[2])
    assert not np.array_equal(weights[2], weights[3])
    assert [round(snapshot.observations.count) for snapshot in snapshots] == [2, 6, 10, 14]
    wall_clock.put_back(snapshots[1], model)
    assert np.array_equal(model.policy.action_net.weight.detach(), weights[1])
    assert model.get_vec_normalize_env().obs_rms is snapshots[1].observations


def test_moments_of_rennala_by_hand(monkeypatch):
    """A callback for every two steps, four in a round; a message of each of two workers with steps in it."""
    env = make_worker_vec_env("CartPole-v1", 2, vec_env_cls=SimulatedVecEnv, seed=0)
    model = RennalaNIGT("MlpPolicy", env, n_steps=4, seed=0, device="cpu")
    snapshots = album_of(model, monkeypatch)
    assert columns(snapshots) == [(0.0, 0, 0, 0), (2.0, 4, 0, 0), (4.0, 8, 0, 0), (5.5, 12, 2, 1)]
    assert all(snapshot.observations is None for snapshot in snapshots)
    assert "normalizer.norms.0.mean" in snapshots[0].parameters, "the statistics are part of the policy"


@pytest.mark.parametrize(("method", "expected"), [("rennala", ProcessVecEnv), ("ppo", SubprocVecEnv)])
def test_each_method_gets_its_processes(method, expected):
    workers = wall_clock.make_processes(Run(method, 0, PROCESSES, Budget(seconds=1.0)))
    assert type(workers) is expected
    assert workers.num_envs == 2
    workers.close()


def test_a_comparison_on_processes(tmp_path, capsys):
    options = ["--seconds", "1", "--points", "2", "--episodes", "1", "--seeds", "1", "--algos", "rennala,ppo,trpo"]
    main([*COMPARE, *options, "--output", str(tmp_path)])
    assert "2 worker processes, real seconds" in capsys.readouterr().out
    for method in ("rennala", "ppo", "trpo"):
        lines = list(csv.DictReader((tmp_path / f"{method}-seed0.csv").read_text().splitlines()))
        seconds = [float(line["seconds"]) for line in lines]
        assert seconds[0] == 0.0
        assert seconds[-1] >= 1.0
        assert int(lines[-1]["timesteps"]) > 0
        assert json.loads((tmp_path / f"{method}-seed0.json").read_text())["run"]["setting"]["workers"] == "processes"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--seconds", "1", "--step-times", "sqrt"], "leave out --step-times"),
        (["--seconds", "1", "--tasks", "flipped"], "leave out --step-times"),
        (["--timesteps", "100"], "needs --seconds"),
        (["--seconds", "1", "--algos", "rennala,ars"], "ars does not count its steps"),
    ],
)
def test_what_only_simulated_workers_can_do(given, message, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([*COMPARE, *given, "--output", str(tmp_path)])
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
