"""
Ten workers, one of which is ten times slower; four methods on the same simulated clock.

A step takes one simulated second, on the last worker ten. Every method gets the same simulated time and its own defaults.
RennalaNIGT uses whatever the workers deliver; SyncNIGT waits for the slow worker in every round, PPO and TRPO in every step.
Prints a table and writes a picture: returns against simulated time, and which worker ran what. Try also:

    python examples/quickstart.py --env HalfCheetah-v5
    python examples/quickstart.py --env CartPole-v1 --seconds 2000
"""

import argparse
import multiprocessing as mp
import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field

import matplotlib

matplotlib.use("Agg")
import gymnasium as gym
import matplotlib.pyplot as plt
import numpy as np
import torch as th
from sb3_contrib import TRPO
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize, sync_envs_normalization
from tqdm import tqdm

from sb3_nigt import RennalaNIGT, SyncNIGT, make_worker_vec_env
from sb3_nigt.experiments.plots import LINE_STYLES, draw_timeline

N_WORKERS = 10
STEP_TIMES = np.array([1.0] * (N_WORKERS - 1) + [10.0])
METHODS = {
    "RennalaNIGT": lambda env, seed: RennalaNIGT("MlpPolicy", env, seed=seed, device="cpu"),
    "SyncNIGT": lambda env, seed: SyncNIGT("MlpPolicy", env, seed=seed, device="cpu"),
    # a rollout of about 2,048 steps in all, as with one environment; our policies normalise observations themselves
    "PPO": lambda env, seed: PPO("MlpPolicy", VecNormalize(env), n_steps=192, batch_size=60, seed=seed, device="cpu"),
    "TRPO": lambda env, seed: TRPO("MlpPolicy", VecNormalize(env), n_steps=208, batch_size=130, seed=seed, device="cpu"),
}
POINTS, EPISODES = 10, 20
SHOWN_ROUNDS = 4


@dataclass
class Result:
    """What one training run leaves."""

    method: str
    clock: list[float] = field(default_factory=list)  # simulated seconds at each evaluation
    returns: list[float] = field(default_factory=list)  # mean over evaluation episodes
    rounds: list = field(default_factory=list)
    updates: int = 0
    timesteps: int = 0
    simulated: float = 0.0  # when the last update came


class Budget(BaseCallback):
    """Stops after some simulated seconds; evaluates the iterate now and then; keeps the first rounds."""

    def __init__(self, seconds: float, eval_env: VecEnv, result: Result) -> None:
        super().__init__()
        self.seconds, self.eval_env, self.result = seconds, eval_env, result

    @property
    def now(self) -> float:
        """Return the simulated time."""
        return self.training_env.unwrapped.clock.now()

    def _on_rollout_start(self) -> None:
        """Take in what an update has made, if it came in time."""
        if self.now > self.seconds:
            return
        self.result.simulated, self.result.timesteps = self.now, self.num_timesteps
        self.result.updates = int(self.logger.name_to_value.get("train/n_updates", 0))
        if self.now >= len(self.result.clock) * self.seconds / POINTS:
            self.evaluate()

    def _on_step(self) -> bool:
        return self.now <= self.seconds

    def _on_rollout_end(self) -> None:
        report = getattr(self.model, "last_round", None)
        if report is not None and len(self.result.rounds) < SHOWN_ROUNDS:
            self.result.rounds.append(report)

    def _on_training_end(self) -> None:
        if self.result.simulated > self.result.clock[-1]:
            self.evaluate()

    def evaluate(self) -> None:
        """Add a point to the learning curve."""
        # separate episodes: those of training are sampled at another point
        if self.model.get_vec_normalize_env() is not None:
            sync_envs_normalization(self.model.get_vec_normalize_env(), self.eval_env)
        mean, _ = evaluate_policy(self.model, self.eval_env, EPISODES, deterministic=False)
        self.result.clock.append(self.result.simulated)
        self.result.returns.append(mean)


def train(method: str, env_id: str, seconds: float, seed: int) -> Result:
    """Train one method for some simulated seconds."""
    th.set_num_threads(1)
    env = make_worker_vec_env(env_id, N_WORKERS, step_times=STEP_TIMES, seed=seed)
    result = Result(method)
    model = METHODS[method](env, seed)
    eval_env = DummyVecEnv([lambda: Monitor(gym.make(env_id))] * 5)
    eval_env.seed(seed)
    if model.get_vec_normalize_env() is not None:
        eval_env = VecNormalize(eval_env, training=False, norm_reward=False)
    model.learn(10**9, callback=Budget(seconds, eval_env, result))
    return result


def draw(results: list[Result], env_id: str, path: str) -> None:
    """Write the picture: returns above, timelines of the first rounds below."""
    figure, axes = plt.subplot_mosaic([["returns", "returns"], ["steps", "barrier"]], figsize=(11, 8), layout="constrained")
    for result, style in zip(results, LINE_STYLES, strict=False):
        axes["returns"].plot(result.clock, result.returns, label=result.method, linewidth=1.8, **style)
    axes["returns"].set_xlabel("simulated seconds")
    axes["returns"].set_ylabel(f"return (mean of {EPISODES} episodes)")
    axes["returns"].set_title(f"{env_id}, {N_WORKERS} workers, the last one ten times slower; one seed")
    axes["returns"].legend()
    axes["returns"].grid(alpha=0.3)
    for key, result in (("steps", results[0]), ("barrier", results[1])):
        if result.rounds:
            draw_timeline(axes[key], result.rounds)
        axes[key].set_title(f"{result.method}: first rounds, discarded work grey")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Train, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="Hopper-v5")
    parser.add_argument("--seconds", type=float, default=10_000.0, help="simulated seconds of each method")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", default="quickstart.png")
    args = parser.parse_args()

    with (
        ProcessPoolExecutor(min(len(METHODS), os.cpu_count() or 1), mp_context=mp.get_context("spawn")) as pool,
        tqdm(total=len(METHODS), unit="method") as bar,
    ):
        runs = [pool.submit(train, method, args.env, args.seconds, args.seed) for method in METHODS]
        for run in as_completed(runs):
            run.result()  # raise at once what has gone wrong
            bar.update()
    results = [run.result() for run in runs]

    print(f"\n{'method':<30}{'return':>9}{'updates':>9}{'timesteps':>11}{'simulated s':>13}")
    for r in results:
        print(f"{r.method:<30}{r.returns[-1]:>9.1f}{r.updates:>9,}{r.timesteps:>11,}{r.simulated:>13,.0f}")
    draw(results, args.env, args.output)
    print(f"\nThe picture is in {args.output}.")


if __name__ == "__main__":
    main()
