"""
What each method would do with up to ten thousand workers like those of this machine, at different speeds.

Measured: rounds of one trajectory on one real worker. They give the seconds of a step, the lengths of trajectories, and by how
much a round takes longer than its steps: parameters, trajectory, gradient and update on their way there and back, which is
the message here. Simulated: worker i of n is √i times slower than the first one, and every message takes what was measured.
Rounds are those of the paper: each method runs its own schedule on the clock of the simulator, without environments; Malenia
has a task for each worker. That a learner takes one message at a time is not simulated: the last column says how many it
would have to take.

    python examples/many_workers.py
    python examples/many_workers.py --vec-env RayVecEnv
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

import sb3_nigt
from sb3_nigt import PAPER, Recording, RennalaNIGT, RunRecorder, make_worker_vec_env
from sb3_nigt.planning import plan

SHOWN = {
    ("Rennala", "planned"),
    ("Rennala", "pipelined"),
    ("Malenia", "planned"),
    ("Synchronous", "barrier"),
    ("AFedPG", "immediate"),
}


def measure(env_id: str, vec_env: str, timesteps: int) -> tuple[float, float, list[int]]:
    """Train on one real worker; return the seconds of a step and of a message, and the lengths of trajectories."""
    env = make_worker_vec_env(env_id, n_workers=1, vec_env_cls=getattr(sb3_nigt, vec_env))
    try:
        with tempfile.TemporaryDirectory() as folder:
            recorder = RunRecorder(Path(folder) / "run.jsonl")
            model = RennalaNIGT("MlpPolicy", env, **PAPER | {"learning_rate": 1e-9}, n_trajectories=1, seed=0, device="cpu")
            model.learn(timesteps, callback=recorder)
            reports = Recording.load(recorder.path).reports
    finally:
        env.close()
    if len(reports) < 2:
        raise SystemExit(f"--timesteps {timesteps}: that is not two episodes, give more")
    rounds = np.diff([report.started_at for report in reports])
    arrivals = [report.arrivals[0] for report in reports[:-1]]
    stepping = np.array([arrival.finished_at - arrival.started_at for arrival in arrivals])
    lengths = [arrival.n_steps for arrival in arrivals]
    return float(stepping.sum() / sum(lengths)), float(np.median(rounds - stepping)), lengths


def main() -> None:
    """Measure, predict, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="Hopper-v5")
    parser.add_argument("--vec-env", choices=["ProcessVecEnv", "RayVecEnv"], default="ProcessVecEnv")
    parser.add_argument("--n-workers", type=int, nargs="+", default=[10, 100, 1000, 10_000])
    parser.add_argument("--n-trajectories", type=int, default=20, help="M")
    parser.add_argument("--timesteps", type=int, default=20_000, help="of the measured run")
    args = parser.parse_args()

    step, message, lengths = measure(args.env, args.vec_env, args.timesteps)
    print(f"measured on {args.vec_env}, {args.env}: {1000 * step:.3f} ms a step, {1000 * message:.2f} ms a message, ", end="")
    print(f"{np.mean(lengths):.0f} steps per trajectory")
    print(f"simulated, M = {args.n_trajectories}, worker i is √i times slower than the first:\n")
    print("workers  method       schedule    updates/s  traj./update  used traj./s  idle  staleness  messages/s")
    for n in args.n_workers:
        step_times = step * np.sqrt(np.arange(1, n + 1))
        for method in plan(step_times, args.n_trajectories, lengths, message).methods:
            if (method.method, method.schedule) in SHOWN:
                rate, used = 1 / method.update_seconds, method.counts.sum()
                print(
                    f"{n:>7,}  {method.method:<12} {method.schedule:<10} {rate:>10,.4g} {used:>13,.4g} {rate * used:>13,.4g}"
                    f" {method.idle:>5.0%} {method.staleness:>10,.3g} {rate * method.messages:>11,.4g}"
                )


if __name__ == "__main__":
    main()
