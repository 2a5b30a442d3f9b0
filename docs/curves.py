"""
Tables and pictures of these pages that are made from curves.

``python docs/curves.py`` writes the tables and the picture of the README; every build of the pages draws the other pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sb3_nigt.experiments.compare import draw
from sb3_nigt.experiments.panels import draw_panels
from sb3_nigt.experiments.results import ALL_CURVES, Curves, comparison, load_all
from sb3_nigt.experiments.table import all_tables

DOCS = Path(__file__).parent
TASKS = (
    *("Hopper-v5", "Walker2d-v5", "HalfCheetah-v5", "Humanoid-v5", "Reacher-v5"),
    *("Pendulum-v1", "CartPole-v1", "LunarLander-v3", "Catch-v0"),
)
Rows = dict[str, str]  # what a row or a panel is called, and the folder of its comparison
KINDS = ("processes", "one-slow", "sqrt", "equal", "million", "one-worker")  # of workers, and lengths of runs
TABLES: dict[str, Rows] = {
    **{kind: {task: f"{task}-{kind}" for task in TASKS} for kind in KINDS},
    "rate": {
        **{task: f"{task}-rate" for task in ("CartPole-v1", "Pendulum-v1", "HalfCheetah-v5")},
        **{f"{task}, a million steps": f"{task}-million-rate" for task in ("Hopper-v5", "Walker2d-v5", "HalfCheetah-v5")},
    },
    "images": {"Catch-v0": "Catch-v0-images"},
    "tasks": {
        **{family: f"tasks-{family}" for family in ("gravity", "friction", "velocity")},
        "velocity, three times as long": "tasks-velocity-long",
    },
}
ON_THE_README = "one-slow"
PANELS: dict[str, Rows] = {
    **{kind: TABLES[kind] for kind in ("processes", "sqrt", "equal", ON_THE_README)},
    "asynchrony": {
        "one of ten workers 10 times slower": "Hopper-v5-one-slow",
        "one of ten workers 100 times slower": "Hopper-v5-slow-100x",
        "ten of a hundred workers 10 times slower": "Hopper-v5-100-workers",
        "ten of a hundred workers 100 times slower": "Hopper-v5-100-workers-100x",
        "one of ten 10 times slower, changing": "Hopper-v5-changing",
        "ten workers with step times √i": "Hopper-v5-sqrt",
        "a hundred workers with step times √i": "Hopper-v5-100-workers-sqrt",
        "step times √i, messages take time": "Hopper-v5-link",
        "step times √i, messages one at a time": "Hopper-v5-link-serial",
    },
}
DRAWN = ("rennala", "sync", "ppo", "ppo:tuned", "trpo")  # more lines would hide each other; the tables have all methods
AXES = {"equal": "timesteps"}  # the others are over seconds


def comparisons(rows: Rows) -> list[tuple[str, Curves]]:
    """
    Read those comparisons of the defaults that there are.

    :param rows: names and folders
    """
    folders = {name: DOCS / "defaults" / folder for name, folder in rows.items()}
    return [(name, comparison(str(folder))[1]) for name, folder in folders.items() if folder.exists()]


def table(name: str) -> str:
    """
    Write the tables of a kind of workers.

    :param name: of the kind
    """
    return all_tables(comparisons(TABLES[name]))


def draw_kind(name: str) -> None:
    """
    Draw the picture of a kind of workers: a panel for each comparison.

    :param name: of the kind
    """
    panels = [(task, {m: curves[m] for m in DRAWN if m in curves}) for task, curves in comparisons(PANELS[name])]
    draw_panels(panels, DOCS / "images" / f"defaults-{name}.png", AXES.get(name, "seconds"))


def draw_experiment(folder: Path) -> None:
    """
    Draw the picture of one of the paper's experiments.

    :param folder: with its curves and its table, whose first line says what it is
    """
    heading, *_ = (folder / "table.txt").read_text(encoding="utf-8").splitlines()
    draw(load_all(folder / ALL_CURVES), heading, folder / "curves.png")


def draw_all() -> None:
    """Draw what is missing or older than its curves; the picture of the README is committed."""
    for curves in (DOCS / "results").glob(f"*/{ALL_CURVES}"):
        if _is_old(curves.with_name("curves.png"), [curves]):
            draw_experiment(curves.parent)
    for name in PANELS.keys() - {ON_THE_README}:
        sources = [DOCS / "defaults" / folder / ALL_CURVES for folder in PANELS[name].values()]
        if _is_old(DOCS / "images" / f"defaults-{name}.png", [source for source in sources if source.exists()]):
            draw_kind(name)


def _is_old(picture: Path, sources: Sequence[Path]) -> bool:
    return not picture.exists() or picture.stat().st_mtime < max(source.stat().st_mtime for source in sources)


if __name__ == "__main__":
    for name in TABLES:
        (DOCS / "defaults" / f"{name}.md").write_text(table(name) + "\n", encoding="utf-8")
    draw_kind(ON_THE_README)
