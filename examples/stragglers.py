"""
The quickstart on real processes: ten workers, one of which is a hundred times slower.

Every step of the last worker sleeps. RennalaNIGT takes what this worker manages and does not wait for it; SyncNIGT waits for
it in every round, PPO in every step. Each method gets the same real time on the same machine. Prints a table and writes a
picture: the learning curves, and the timeline of RennalaNIGT's last rounds, read from the file that its run was recorded in.

    python examples/stragglers.py
    python examples/stragglers.py --env Humanoid-v5 --seconds 60
"""

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import gymnasium as gym
import matplotlib.pyplot as plt
import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

from sb3_nigt import ProcessVecEnv, Recording, RennalaNIGT, RunRecorder, SyncNIGT
from sb3_nigt.experiments.plots import LINE_STYLES, draw_timeline

METHODS = {
    "RennalaNIGT": lambda env, seed: RennalaNIGT("MlpPolicy", env, seed=seed, device="cpu"),
    "SyncNIGT": lambda env, seed: SyncNIGT("MlpPolicy", env, seed=seed, device="cpu"),
    "PPO": lambda env, seed: PPO("MlpPolicy", env, n_steps=200, batch_size=200, seed=seed, device="cpu"),
}
SHOWN_ROUNDS = 6


class Straggler(gym.Wrapper):
    """Sleeps in every step."""

    def __init__(self, env: gym.Env, seconds: float) -> None:
        super().__init__(env)
        self.seconds = seconds

    def step(self, action: np.ndarray) -> tuple:
        """Sleep, then step."""
        time.sleep(self.seconds)
        return self.env.step(action)


def make_env(env_id: str, sleep: float = 0.0) -> gym.Env:
    """Make one worker's environment."""
    env = gym.make(env_id)
    return Monitor(Straggler(env, sleep) if sleep else env)


class Budget(BaseCallback):
    """Stops after some real seconds; evaluates now and then, on a separate environment."""

    def __init__(self, seconds: float, env_id: str) -> None:
        super().__init__()
        self.seconds, self.eval_env = seconds, make_env(env_id)
        self.times, self.returns = [], []

    def _on_training_start(self) -> None:
        self.started = time.monotonic()
        self.evaluate()

    def _on_step(self) -> bool:
        return time.monotonic() - self.started < self.seconds

    def _on_rollout_end(self) -> None:
        if time.monotonic() > self.next_evaluation:
            self.evaluate()

    def evaluate(self) -> None:
        """Add a point to the learning curve."""
        start = time.monotonic()
        self.times.append(start - self.started)
        self.returns.append(evaluate_policy(self.model, self.eval_env, 5, deterministic=False)[0])
        now = time.monotonic()
        self.next_evaluation = now + max(self.seconds / 15, 4 * (now - start))


def seconds_per_step(env_id: str) -> float:
    """Measure one environment."""
    env = make_env(env_id)
    env.reset(seed=0)
    start = time.perf_counter()
    for _ in range(1000):
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            env.reset()
    return (time.perf_counter() - start) / 1000


def main() -> None:
    """Train, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="Hopper-v5")
    parser.add_argument("--n-workers", type=int, default=10)
    parser.add_argument("--slower", type=float, default=100.0, help="how many times slower the last worker is")
    parser.add_argument("--seconds", type=float, default=30.0, help="real seconds of each method")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", default="stragglers.png")
    args = parser.parse_args()

    sleep = args.slower * seconds_per_step(args.env)
    figure, axes = plt.subplots(2, 1, figsize=(9, 8), layout="constrained")
    print(f"{'method':<14}{'return':>8}{'updates':>9}{'timesteps':>11}{'real s':>8}")
    for (name, make), style in zip(METHODS.items(), LINE_STYLES, strict=False):
        env_fns = [partial(make_env, args.env)] * (args.n_workers - 1) + [partial(make_env, args.env, sleep)]
        env = ProcessVecEnv(env_fns)
        model, budget = make(env, args.seed), Budget(args.seconds, args.env)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "run.jsonl"
            callbacks = [budget] if name == "PPO" else [budget, RunRecorder(path)]
            model.learn(10**9, callback=CallbackList(callbacks))
            if name == "RennalaNIGT":
                draw_timeline(axes[1], Recording.load(path).reports[-SHOWN_ROUNDS:])
        real = time.monotonic() - budget.started
        budget.evaluate()
        updates = int(model.logger.name_to_value["train/n_updates"])
        print(f"{name:<14}{budget.returns[-1]:>8.1f}{updates:>9,}{model.num_timesteps:>11,}{real:>8.1f}", flush=True)
        axes[0].plot(budget.times, budget.returns, label=name, linewidth=1.8, **style)
        env.close()
    axes[0].set(xlabel="real seconds", ylabel="return (mean of 5 episodes)")
    axes[0].set_title(f"{args.env}, {args.n_workers} processes, the last one {args.slower:g} times slower; one seed")
    axes[0].legend()
    axes[0].grid(alpha=0.3)
    axes[1].set_title(f"RennalaNIGT: its last {SHOWN_ROUNDS} rounds")
    figure.savefig(args.output, dpi=110)
    print(f"\nThe picture is in {args.output}.")


if __name__ == "__main__":
    main()
