"""
The command of each comparison in this folder, from its name and its files.

    python docs/defaults/commands.py > docs/defaults/commands.txt
"""

from __future__ import annotations

import shlex
from pathlib import Path

from sb3_nigt.experiments.results import Curve, load_all

HERE = Path(__file__).parent
ONES, SQRT = ",".join(["1"] * 9), "--n-workers 10 --step-times sqrt"
MANY = ",".join(["1"] * 90)
MESSAGES = {
    "Hopper-v5": "8.46,11.97,14.66,16.92,18.92,20.73,22.39,23.93,25.38,26.76",
    "Humanoid-v5": "12.89,18.23,22.33,25.78,28.83,31.58,34.11,36.46,38.67,40.77",
}
LINK = f"{SQRT} --message-times {{messages}}"
WORKERS = {  # by the end of the folder's name, the longest that fits; equal workers where none does
    "one-worker": "--n-workers 1",
    "one-slow": f"--step-times {ONES},10",
    "slow-100x": f"--step-times {ONES},100",
    "100-workers": f"--step-times {MANY}" + 10 * ",10",
    "100-workers-100x": f"--step-times {MANY}" + 10 * ",100",
    "100-workers-sqrt": "--n-workers 100 --step-times sqrt",
    "100-workers-rate": "--n-workers 100 --step-times sqrt",
    "changing": f"--step-times {ONES},10 --final-step-times 10,{ONES}",
    "sqrt": SQRT,
    "sqrt-large": SQRT,
    "link": LINK,
    "link-serial": f"{LINK} --link serial --aggregation server",
    "processes": "--workers processes --n-workers 10",
    **{f"tasks-{family}": f"--tasks {family} --step-times 1,3,10" for family in ("gravity", "friction", "velocity")},
    "tasks-velocity-long": "--tasks velocity --step-times 1,3,10",
}
OF_TIMESTEPS = ("equal", "million", "one-worker", "ablation", "images", "rate")  # the others have a budget of seconds
POINTS = {"processes": 10, "gravity": 10, "friction": 10, "velocity": 10, "100-workers-rate": 10, "images": 10}
EPISODES = {"Catch": 50, "Hopper-v5-100-workers-rate": 10}  # by the beginning of the name
VARIANTS = {
    "rennala@trajectories": {"rollout": "trajectories"},
    "rennala@no_critic": {"gae_lambda": "None", "rollout": "trajectories"},
    "rennala@raw_observations": {"policy_kwargs": '{"normalize_observations": False}'},
    "rennala@one_fisher_round": {"fisher_rounds": "1"},
    **{f"rennala@{name}": {"geometry": name} for name in ("euclidean", "euclidean_kl", "spectral")},
    **{f"rennala@eta_{name}": {"eta": value} for name, value in {"01": "0.1", "03": "0.3", "1": "1"}.items()},
    "rennala@lin": {"learning_rate": "lin_0.2"},
    "rennala@lr": {"learning_rate": "0.2828"},
    "rennala@n10": {"n_steps": "10"},
    "rennala@large": {"n_steps": "160"},
    "rennala@damped": {"policy_kwargs": '{"optimizer_kwargs": {"damping": 3.0}}'},
    "rennala@long": {"learning_rate": "0.2"},
    "rennala@sampled": {"fisher_samples": "200"},
}


def command(folder: Path) -> str:
    """
    Write the command that made a folder.

    :param folder: a comparison
    """
    name, curves = folder.name, load_all(folder / "curves.csv")
    task = "Hopper-v5" if name.startswith("tasks-") else "-".join(name.split("-")[:2])
    ends = [end for end in WORKERS if name.endswith(end)]
    workers = WORKERS[max(ends, key=len)] if ends else "--n-workers 10"
    sets = [f"--set {shlex.quote(f'{m}.{key}={value}')}" for m in curves for key, value in VARIANTS.get(m, {}).items()]
    first, *_ = curves.values()
    seeds = [int(curve["seed"][0]) for curve in first]
    is_here = task.startswith("Catch")  # the environment is in this folder
    parts = [
        "PYTHONPATH=docs/defaults " * is_here + "sb3-nigt compare --env " + "catch:" * is_here + task,
        workers.format(messages=MESSAGES.get(task)),
        _budget(name, first[0]),
        f"--algos {','.join(curves)}",
        *sets,
        f"--points {next((n for end, n in POINTS.items() if name.endswith(end)), 20)}",
        f"--episodes {next((n for start, n in EPISODES.items() if name.startswith(start)), 5)}",
        *(f"--first-seed {seed}" for seed in seeds[:1] if seed),
        f"--seeds {len(seeds)} --output docs/defaults/{name}",
    ]
    return " ".join(parts)


def _budget(name: str, curve: Curve) -> str:
    key = "timesteps" if name.endswith(OF_TIMESTEPS) else "seconds"
    return f"--{key} {curve[key][-1]:.0f}"


def commands() -> str:
    """Write a line for each comparison."""
    return "\n".join(command(path.parent) for path in sorted(HERE.glob("*/curves.csv")))


if __name__ == "__main__":
    print(commands())
