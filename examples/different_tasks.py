"""
One policy for two tasks, of which the second is ten times slower: Rennala against Malenia.

By default a hopper learns to hop forward and, on the slow worker, backward. Rennala counts every step alike, so most of its
gradient is about the fast worker's task; Malenia gives each task half of the weight. Both get the same simulated
seconds. Prints the return of the trained policy on each task, the mean of both, and the slow task's weight in the last
round. One seed says little: the returns differ much between seeds, the weights do not.

    python examples/different_tasks.py
    python examples/different_tasks.py --family flipped --env Humanoid-v4 --seconds 1000000
"""

import argparse
import warnings

import numpy as np
import torch as th
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

from sb3_nigt import MaleniaNIGT, RennalaNIGT, make_worker_vec_env
from sb3_nigt.envs import make_tasks

EPISODES = 20


def main() -> None:
    """Train both algorithms and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", default="direction", help="flipped, velocity, direction, gravity or friction")
    parser.add_argument("--env", default="Hopper-v5")
    parser.add_argument("--seconds", type=float, default=40_000, help="simulated; a step of the fast worker takes one")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    th.set_num_threads(1)
    tasks = make_tasks(args.family, args.env, n_workers=2)
    columns = [*tasks["task_ids"], "mean", "weight of the second"]
    print(" " * 12, *(f"{column:>20}" for column in columns))
    for algorithm in (RennalaNIGT, MaleniaNIGT):
        env = make_worker_vec_env(**tasks, step_times=[1, 10])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # Rennala says that MaleniaNIGT is for this
            model = algorithm("MlpPolicy", env, seed=args.seed, device="cpu")
        while env.clock.now() < args.seconds:
            model.learn(1, reset_num_timesteps=False)
        returns = []
        for kwargs in tasks["env_kwargs"]:
            eval_env = Monitor(tasks["env_id"](**kwargs))
            eval_env.reset(seed=args.seed)
            returns.append(evaluate_policy(model, eval_env, EPISODES, deterministic=False)[0])
        weight = (model.last_round.counts * model.last_round.weights)[1]
        print(f"{algorithm.__name__:12}", *(f"{value:20.0f}" for value in [*returns, np.mean(returns)]), f"{weight:20.2f}")


if __name__ == "__main__":
    main()
