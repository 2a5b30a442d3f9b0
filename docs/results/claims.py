"""
The paper's claims, decided from the committed runs, as a Markdown table.

    python docs/results/claims.py > docs/results/claims.md
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from sb3_nigt.experiments.results import load_all
from sb3_nigt.experiments.verdicts import Effect, effects, paired

HEADS = ("Claim", "Reading", "Planned", "The paper's rule")
EQUAL = {
    "per step": ("reacher-equal-per-step", "humanoid-equal-per-step"),
    "per trajectory": ("humanoid-equal-per-trajectory",),
}
SQRT = {
    "per step": ("reacher-sqrt-per-step", "hopper-sqrt-per-step", "humanoid-sqrt-per-step"),
    "per trajectory": ("reacher-sqrt-per-trajectory", "hopper-sqrt-per-trajectory", "humanoid-sqrt-per-trajectory"),
    "n = 100, per step": ("hopper-sqrt-n100-per-step", "humanoid-sqrt-n100-per-step"),
    "n = 100, per trajectory": ("hopper-sqrt-n100-per-trajectory", "humanoid-sqrt-n100-per-trajectory"),
}
COMMUNICATION = {
    "per step": ("reacher-communication-per-step", "humanoid-communication-per-step"),
    "per trajectory": ("reacher-communication-per-trajectory", "humanoid-communication-per-trajectory"),
    "per trajectory, serial link": (
        "reacher-communication-serial-per-trajectory",
        "humanoid-communication-serial-per-trajectory",
    ),
}
TWO_TASKS = {
    f"per {unit}": tuple(
        f"malenia-{tasks}-per-{unit}" for tasks in ("bit", "no-bit", "direction", "friction", "gravity", "velocity")
    )
    for unit in ("step", "trajectory")
}
CLAIMS = (
    ("(a) Equal speeds: Rennala and Sync have similar curves", "rennala", "sync", EQUAL),
    ("(a) Equal speeds: Rennala and AFedPG have similar curves", "rennala", "afedpg", EQUAL),
    ("(b) h_i = κ_i = √i: Rennala is ahead of Sync", "rennala", "sync", SQRT),
    ("(b) h_i = κ_i = √i: Rennala is ahead of AFedPG", "rennala", "afedpg", SQRT),
    ("(c) κ_i = √i·d^(1/4): Rennala is ahead of Sync", "rennala", "sync", COMMUNICATION),
    ("(c) κ_i = √i·d^(1/4): Rennala is ahead of AFedPG", "rennala", "afedpg", COMMUNICATION),
    ("Two tasks, h = (1, 10): Malenia is ahead of AFedPG", "malenia", "afedpg", TWO_TASKS),
)
LONG = ("reacher-communication", "humanoid-communication")  # per trajectory, with both links


def table() -> str:
    """Write a line for each claim and reading."""
    lines = [_row(HEADS), _row(("---",) * len(HEADS))]
    for claim, first, other, readings in CLAIMS:
        for reading, directories in readings.items():
            cells = ("<br>".join(_decided(claim, first + rule, other, directories)) for rule in ("", ":first_finished"))
            lines.append(_row((claim if reading == next(iter(readings)) else "", reading, *cells)))
    return "\n".join(lines)


def _decided(claim: str, first: str, other: str, directories: tuple[str, ...]) -> Iterator[str]:
    for directory in directories:
        curves = load_all(Path(__file__).parent / directory / "curves.csv")
        effect = effects(*paired(curves[first], curves[other]), returns=())["mean over the run"]
        text = f"{_name(directory)}: {_verdict(claim, effect)}, {_number(effect.ratio)}"
        yield f"{text} [{_number(effect.low)}, {_number(effect.high)}]"


def _name(directory: str) -> str:
    """The task; bold for long runs."""
    first = directory.partition("-")[0]
    if first == "malenia":
        return directory.removeprefix("malenia-").partition("-per")[0]
    name = first.capitalize()
    return f"**{name}**" if directory.startswith(LONG) and directory.endswith("trajectory") else name


def _verdict(claim: str, effect: Effect) -> str:
    wanted = "no difference" if "similar" in claim else "ahead"
    return "holds" if effect.verdict == wanted else effect.verdict


def _number(value: float) -> str:
    if math.isfinite(value):
        return f"{value:.0f}" if value >= 100 else f"{value:.2f}"
    return "∞" if value == math.inf else "?"


def _row(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    print(table())
