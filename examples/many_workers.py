"""
What each method would do with up to ten thousand workers like those of this machine, at different speeds.

Measured: a short run on real workers gives the seconds of a step, the seconds of a message with its aggregation, and the
lengths of trajectories. Simulated: worker i of n is √i times slower than the fastest one, and all messages take what was
measured. Each method then runs by its own schedule on the clock of the simulator, without environments; Malenia has a task
for each worker. The learner's own work beyond that of the measured run is not part of it: the last column says how many
messages a second it would have to take.

    python examples/many_workers.py
    python examples/many_workers.py --vec-env RayVecEnv
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

import sb3_nigt
from sb3_nigt import Recording, RennalaNIGT, RunRecorder, make_worker_vec_env
from sb3_nigt.planning import Measured, measure, plan

SHOWN = {
    ("Rennala", "planned"),
    ("Rennala", "pipelined"),
    ("Malenia", "planned"),
    ("Synchronous", "barrier"),
    ("AFedPG", "immediate"),
}


def measured_run(env_id: str, vec_env: str, timesteps: int) -> Measured:
    """Train on two real workers; return their speeds, messages and lengths."""
    env = make_worker_vec_env(env_id, n_workers=2, vec_env_cls=getattr(sb3_nigt, vec_env))
    try:
        with tempfile.TemporaryDirectory() as folder:
            recorder = RunRecorder(Path(folder) / "run.jsonl")
            RennalaNIGT("MlpPolicy", env, learning_rate=1e-9, seed=0, device="cpu").learn(timesteps, callback=recorder)
            return measure(Recording.load(recorder.path))
    finally:
        env.close()


def main() -> None:
    """Measure, predict, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="Hopper-v5")
    parser.add_argument("--vec-env", choices=["ProcessVecEnv", "RayVecEnv"], default="ProcessVecEnv")
    parser.add_argument("--n-workers", type=int, nargs="+", default=[10, 100, 1000, 10_000])
    parser.add_argument("--n-trajectories", type=int, default=20, help="M")
    parser.add_argument("--timesteps", type=int, default=20_000, help="of the measured run")
    args = parser.parse_args()

    measured = measured_run(args.env, args.vec_env, args.timesteps)
    step, message = float(measured.step_times.mean()), float(measured.message_times.mean())
    print(f"measured on {args.vec_env}, {args.env}: {1000 * step:.3f} ms a step, {1000 * message:.2f} ms a message, ", end="")
    print(f"{np.mean(measured.lengths):.0f} steps a trajectory")
    print(f"simulated, M = {args.n_trajectories}, worker i is √i times slower than the first:\n")
    print("workers  method       schedule    updates/s  traj./update  used traj./s  idle  staleness  messages/s")
    for n in args.n_workers:
        step_times = step * np.sqrt(np.arange(1, n + 1))
        for method in plan(step_times, args.n_trajectories, measured.lengths, message).methods:
            if (method.method, method.schedule) in SHOWN:
                rate, used = 1 / method.update_seconds, method.counts.sum()
                print(
                    f"{n:>7,}  {method.method:<12} {method.schedule:<10} {rate:>10,.4g} {used:>13,.4g} {rate * used:>13,.4g}"
                    f" {method.idle:>5.0%} {method.staleness:>10,.3g} {rate * method.messages:>11,.4g}"
                )


if __name__ == "__main__":
    main()
