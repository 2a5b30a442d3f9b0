"""
The paper's claims, decided from the committed runs, as a Markdown table.

    python docs/results/claims.py > docs/results/claims.md
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sb3_nigt.experiments.results import load_all
from sb3_nigt.experiments.table import markdown_row
from sb3_nigt.experiments.verdicts import effects, paired

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
CLAIMS = (  # text, method, the other one, the verdict with which it holds, readings
    ("(a) Equal speeds: Rennala and Sync have similar curves", "rennala", "sync", "no difference", EQUAL),
    ("(a) Equal speeds: Rennala and AFedPG have similar curves", "rennala", "afedpg", "no difference", EQUAL),
    ("(b) h_i = κ_i = √i: Rennala is ahead of Sync", "rennala", "sync", "ahead", SQRT),
    ("(b) h_i = κ_i = √i: Rennala is ahead of AFedPG", "rennala", "afedpg", "ahead", SQRT),
    ("(c) κ_i = √i·d^(1/4): Rennala is ahead of Sync", "rennala", "sync", "ahead", COMMUNICATION),
    ("(c) κ_i = √i·d^(1/4): Rennala is ahead of AFedPG", "rennala", "afedpg", "ahead", COMMUNICATION),
    ("Two tasks, h = (1, 10): Malenia is ahead of AFedPG", "malenia", "afedpg", "ahead", TWO_TASKS),
)
LONG = (*COMMUNICATION["per trajectory"], *COMMUNICATION["per trajectory, serial link"])


def table() -> str:
    """Write a line for each claim and reading."""
    lines = [markdown_row(HEADS), markdown_row(["---"] * len(HEADS))]
    for text, first, other, wanted, readings in CLAIMS:
        for number, (reading, directories) in enumerate(readings.items()):
            cells = ["<br>".join(_decided(first + rule, other, wanted, directories)) for rule in ("", ":first_finished")]
            lines.append(markdown_row(["" if number else text, reading, *cells]))
    return "\n".join(lines)


def _decided(first: str, other: str, wanted: str, directories: tuple[str, ...]) -> Iterator[str]:
    for directory in directories:
        curves = load_all(Path(__file__).parent / directory / "curves.csv")
        effect = effects(*paired(curves[first], curves[other]), returns=())["mean over the run"]
        verdict = "holds" if effect.verdict == wanted else effect.verdict
        yield f"{_name(directory)}: {verdict}, {effect.ratio:.2f} [{effect.low:.2f}, {effect.high:.2f}]"


def _name(directory: str) -> str:
    """The environment, or for Malenia the tasks; bold for long runs."""
    env, _, tasks = directory.partition("-per")[0].partition("-")
    name = tasks if env == "malenia" else env.capitalize()
    return f"**{name}**" if directory in LONG else name


if __name__ == "__main__":
    print(table())
