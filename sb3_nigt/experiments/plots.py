"""Pictures: one style, readable in grey and by colour-blind readers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sb3_nigt.messages import RoundReport

# Okabe and Ito's colours, each with a dash pattern of its own, so that no line depends on its colour alone.
LINE_STYLES: tuple[dict[str, Any], ...] = (
    {"color": "#0072B2", "linestyle": "-"},
    {"color": "#D55E00", "linestyle": "--"},
    {"color": "#009E73", "linestyle": "-."},
    {"color": "#CC79A7", "linestyle": ":"},
    {"color": "#000000", "linestyle": (0, (5, 1, 1, 1, 1, 1))},
    {"color": "#E69F00", "linestyle": (0, (1, 1))},
)
ROUND_COLORS = ("#0072B2", "#56B4E9")  # neighbouring rounds, dark and light
DISCARDED_COLOR = "#BBBBBB"


def draw_timeline(ax: Any, reports: Sequence[RoundReport]) -> None:
    """
    Draw which worker ran what: a bar a trajectory, neighbouring rounds dark and light, discarded work grey.

    Vertical lines mark the updates. Rejected trajectories are grey too.

    :param ax: matplotlib axes
    :param reports: consecutive rounds
    :raises ValueError: if there is no round
    """
    if not reports:
        raise ValueError("reports=[] is not allowed: give at least one round, for example [model.last_round].")
    for report in reports:
        color = ROUND_COLORS[report.round % 2]
        for arrival in report.arrivals:
            _bar(ax, arrival.worker, arrival.started_at, arrival.finished_at, color=color)
        for rejected in report.rejected:
            _bar(ax, rejected.worker, rejected.started_at, rejected.finished_at, color=DISCARDED_COLOR)
        for lost in report.discarded:
            _bar(ax, lost.worker, lost.started_at, lost.stopped_at, color=DISCARDED_COLOR, hatch="////")
        ax.axvline(report.finished_at, color="black", linewidth=0.8)
    n_workers = len(reports[0].counts)
    ax.set_xlim(reports[0].started_at, reports[-1].finished_at)
    ax.set_ylim(n_workers - 0.5, -0.5)
    if n_workers <= 12:
        ax.set_yticks(range(n_workers))
    ax.ticklabel_format(axis="x", useOffset=False)
    ax.set_xlabel("seconds on the workers' clock")
    ax.set_ylabel("worker")


def _bar(ax: Any, worker: int, start: float, end: float, **style: Any) -> None:
    ax.barh(worker, end - start, left=start, height=0.8, edgecolor="white", linewidth=0.5, **style)
