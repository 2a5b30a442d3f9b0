"""
Why the default schedule is "planned": Hopper with a hundred workers, time per environment step.

Worker i needs √i simulated seconds for a step and for a message; a round has M = 20 trajectories. "First finished" counts
the episodes that died first, and the policy is trained on them; "planned" decides what counts before it starts. Both start
from the same parameters; the return is that of the iterate on separate episodes. Prints means over the seeds with 95 %
bootstrap intervals.

    python examples/schedule_bias.py
    python examples/schedule_bias.py --n-workers 10 --timesteps 300000 --seeds 10
"""

import argparse
import multiprocessing as mp
import os
from concurrent.futures import ProcessPoolExecutor

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

from sb3_nigt import RennalaNIGT, make_worker_vec_env

EVALUATIONS = 5
EPISODES = 20


def train(schedule: str, seed: int, env_id: str, n_workers: int, timesteps: int) -> tuple[list[float], float]:
    """Train once; return the evaluations from the first parameters on, and the simulated seconds."""
    th.set_num_threads(1)
    times = np.sqrt(np.arange(1, n_workers + 1))
    env = make_worker_vec_env(env_id, n_workers, step_times=times, message_times=times)
    model = RennalaNIGT("MlpPolicy", env, schedule=schedule, seed=seed, device="cpu")
    eval_env = Monitor(gym.make(env_id))
    eval_env.reset(seed=seed)
    returns = []
    for part in range(EVALUATIONS + 1):
        if part > 0:
            model.learn(timesteps // EVALUATIONS, reset_num_timesteps=False)
        returns.append(float(evaluate_policy(model, eval_env, EPISODES, deterministic=False)[0]))
    return returns, env.clock.now()


def with_interval(values: np.ndarray) -> str:
    """Mean and 95 % percentile bootstrap interval."""
    resampled = np.random.default_rng(0).choice(values, size=(10_000, len(values))).mean(axis=1)
    low, high = np.percentile(resampled, [2.5, 97.5])
    return f"{values.mean():7.0f} [{low:.0f}, {high:.0f}]"


def main() -> None:
    """Train both schedules with several seeds and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="Hopper-v4")
    parser.add_argument("--n-workers", type=int, default=100)
    parser.add_argument("--timesteps", type=int, default=120_000)
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()

    with ProcessPoolExecutor(os.cpu_count(), mp_context=mp.get_context("spawn")) as pool:
        runs = {
            schedule: [
                pool.submit(train, schedule, seed, args.env, args.n_workers, args.timesteps) for seed in range(args.seeds)
            ]
            for schedule in ("first_finished", "planned")
        }
        print(f"{'schedule':<16}{'return at the start':>24}{'half-way':>24}{'at the end':>24}{'simulated s':>13}")
        for schedule, futures in runs.items():
            returns = np.array([future.result()[0] for future in futures])
            seconds = np.mean([future.result()[1] for future in futures])
            columns = (returns[:, 0], returns[:, (EVALUATIONS + 1) // 2], returns[:, -1])
            print(f"{schedule:<16}{''.join(f'{with_interval(column):>24}' for column in columns)}{seconds:>13,.0f}")


if __name__ == "__main__":
    main()
