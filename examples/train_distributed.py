"""
One policy on all ranks of a process group: every rank has its own workers, and each round ends with one all-reduce.

Every rank runs this same script. Rank 0 prints, evaluates and saves. When a rank dies the others end with an error, torchrun
starts all of them again, and they go on from the newest checkpoint.

    torchrun --standalone --nproc-per-node 2 examples/train_distributed.py
    torchrun --standalone --nproc-per-node 2 --max-restarts 3 examples/train_distributed.py --processes --folder other
    torchrun --nnodes 2 --nproc-per-node 4 --rdzv-backend c10d --rdzv-endpoint HOST:29400 examples/train_distributed.py
"""

import argparse

import torch
import torch.distributed as dist
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_nigt import ProcessVecEnv, RennalaNIGT, SimulatedVecEnv, make_worker_vec_env
from sb3_nigt.distributed import RoundCheckpoint, is_first_rank, newest_checkpoint


def main() -> None:
    """Train, evaluate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="CartPole-v1")
    parser.add_argument("--n-workers", type=int, default=2, help="of each rank")
    parser.add_argument("--processes", action="store_true", help="a process for each worker")
    parser.add_argument("--n-steps", type=int, help="of a round, for each worker of all ranks; None: the default")
    parser.add_argument("--timesteps", type=int, default=20_000, help="of all ranks together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", default="checkpoints", help="where rank 0 saves; all look there for a file to go on from")
    args = parser.parse_args()

    torch.set_num_threads(1)  # the ranks of a machine share its cores
    dist.init_process_group("gloo")
    vec_env_cls = ProcessVecEnv if args.processes else SimulatedVecEnv
    env = make_worker_vec_env(args.env, args.n_workers, vec_env_cls=vec_env_cls)

    # Hosts may share the folder or have one each: all ranks begin with the newest of what they load
    path = newest_checkpoint(args.folder)
    if path is None:
        model = RennalaNIGT(
            "MlpPolicy",
            env,
            n_steps=args.n_steps,
            seed=args.seed,
            device="cpu",
            verbose=1 if is_first_rank() else 0,
        )
    else:
        # the same arguments on all ranks
        model = RennalaNIGT.load(path, env=env, device="cpu", n_steps=args.n_steps, seed=args.seed)
        print(f"Going on from {path} at {model.num_timesteps:,} timesteps.", flush=True)
    left = max(0, args.timesteps - model.num_timesteps)
    model.learn(left, callback=RoundCheckpoint(args.folder), log_interval=10, reset_num_timesteps=path is None)

    if is_first_rank():
        mean, std = evaluate_policy(model, make_vec_env(args.env), n_eval_episodes=10)
        print(f"{dist.get_world_size()} ranks, {model.n_updates} updates, return {mean:.0f} +/- {std:.0f}")
    env.close()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
