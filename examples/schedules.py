"""
The three schedules of the paper's algorithm at equal time: which trajectories of a round count, and what idle workers do.

"first_finished" counts whatever ended first, so short episodes too often. "planned" decides before a trajectory starts, and
workers without a ticket wait. "pipelined" lets them begin with the next round. All start from the same parameters; the return
is that of the iterate on separate episodes. Prints means over the seeds with 95 % bootstrap intervals.

In simulation worker i needs √i seconds for a step and for a message; with --processes the workers are real, equal, and share
the cores of this machine.

    python examples/schedules.py
    python examples/schedules.py --env Humanoid-v5 --seconds 20000
    python examples/schedules.py --env Humanoid-v5 --n-workers 10 --processes --seconds 60
"""

import argparse
import multiprocessing as mp
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

from sb3_nigt import PAPER, ProcessVecEnv, RennalaNIGT, make_worker_vec_env

SCHEDULES = ("first_finished", "planned", "pipelined")
EPISODES = 20


@dataclass
class Result:
    """What one run leaves."""

    before: float = 0.0
    after: float = 0.0
    seconds: float = 0.0
    reports: list = field(default_factory=list)

    @property
    def columns(self) -> tuple[float, ...]:
        """Return before and after, used steps a second, updates a second, discarded share, staleness."""
        used = sum(report.used_steps for report in self.reports)
        discarded = sum(report.discarded_steps for report in self.reports)
        staleness = np.mean([arrival.staleness for report in self.reports for arrival in report.arrivals])
        rates = used / self.seconds, len(self.reports) / self.seconds
        return self.before, self.after, *rates, discarded / (used + discarded), float(staleness)


class Budget(BaseCallback):
    """Stops after some seconds on the workers' clock."""

    def __init__(self, seconds: float, result: Result) -> None:
        super().__init__()
        self.seconds, self.result = seconds, result

    def _on_training_start(self) -> None:
        self.started = self.training_env.unwrapped.clock.now()

    def _on_rollout_end(self) -> None:
        self.result.reports.append(self.model.last_round)
        self.result.seconds = self.model.last_round.finished_at - self.started

    def _on_step(self) -> bool:
        return self.training_env.unwrapped.clock.now() - self.started < self.seconds


def train(schedule: str, seed: int, args: argparse.Namespace) -> Result:
    """Train once."""
    th.set_num_threads(1)
    if args.processes:
        env = make_worker_vec_env(args.env, args.n_workers, vec_env_cls=ProcessVecEnv)
    else:
        times = np.sqrt(np.arange(1, args.n_workers + 1))
        env = make_worker_vec_env(args.env, args.n_workers, step_times=times, message_times=times)
    arguments = PAPER | {"learning_rate": args.learning_rate, "schedule": schedule}
    model = RennalaNIGT("MlpPolicy", env, **arguments, seed=seed, device="cpu")
    eval_env = Monitor(gym.make(args.env))
    eval_env.reset(seed=seed)
    result = Result()
    result.before = float(evaluate_policy(model, eval_env, EPISODES, deterministic=False)[0])
    model.learn(10**9, callback=Budget(args.seconds, result))
    env.close()
    if not result.reports:
        raise SystemExit(f"No round was complete after {args.seconds:g} seconds: give more --seconds.")
    result.after = float(evaluate_policy(model, eval_env, EPISODES, deterministic=False)[0])
    return result


def with_interval(values: np.ndarray, digits: int) -> str:
    """Mean and 95 % percentile bootstrap interval."""
    resampled = np.random.default_rng(0).choice(values, size=(10_000, len(values))).mean(axis=1)
    low, high = np.percentile(resampled, [2.5, 97.5])
    return f"{values.mean():.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def main() -> None:
    """Train with each schedule and several seeds, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="Hopper-v5")
    parser.add_argument("--n-workers", type=int, default=100)
    parser.add_argument("--processes", action="store_true", help="real workers instead of simulated ones")
    parser.add_argument("--seconds", type=float, default=10_000.0, help="of each run, on the workers' clock")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--learning-rate", type=float, default=2**-5)
    args = parser.parse_args()

    order = [(schedule, seed) for seed in range(args.seeds) for schedule in SCHEDULES]
    if args.processes:  # one after the other: each takes the whole machine
        results = {run: train(*run, args) for run in order}
    else:
        with ProcessPoolExecutor(os.cpu_count(), mp_context=mp.get_context("spawn")) as pool:
            futures = {run: pool.submit(train, *run, args) for run in order}
            results = {run: future.result() for run, future in futures.items()}
    names = ("return before", "return after", "used steps/s", "updates/s", "discarded", "staleness")
    print(f"{'schedule':<16}" + "".join(f"{name:>28}" for name in names))
    for schedule in SCHEDULES:
        columns = np.array([results[schedule, seed].columns for seed in range(args.seeds)]).T
        cells = [with_interval(column, digits) for column, digits in zip(columns, (0, 0, 1, 4, 2, 2), strict=True)]
        print(f"{schedule:<16}" + "".join(f"{cell:>28}" for cell in cells))


if __name__ == "__main__":
    main()
