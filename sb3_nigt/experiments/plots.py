"""Pictures: one style, readable in grey and by colour-blind readers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from sb3_nigt.messages import Message, RoundReport
from sb3_nigt.methods import METHODS

# Okabe and Ito's colours, each with its own dashes or marker, so that no line depends on its colour alone.
LINE_STYLES: tuple[dict[str, Any], ...] = (
    {"color": "#0072B2", "linestyle": "-"},
    {"color": "#D55E00", "linestyle": "--"},
    {"color": "#009E73", "linestyle": "-."},
    {"color": "#CC79A7", "linestyle": ":"},
    {"color": "#000000", "linestyle": (0, (5, 1, 1, 1, 1, 1))},
    {"color": "#E69F00", "linestyle": "-", "marker": "s", "markevery": 20, "markersize": 4},
    {"color": "#56B4E9", "linestyle": (0, (8, 2))},
)
# These look the same in all pictures, unless another method of a picture has the style; the others take what is left.
OWN_STYLE = {
    **{name: method.line_style for name, method in METHODS.items() if method.line_style is not None},
    "rennala:first_finished": 1,
    "malenia:first_finished": 1,
    "ppo": 4,
    "ppo:tuned": 1,
    "trpo": 3,
}
ROUND_COLORS = ("#0072B2", "#56B4E9")  # neighbouring rounds, dark and light
DISCARDED_COLOR = "#BBBBBB"
MESSAGE_COLOR = "#E69F00"
MESSAGE_HEIGHT = 0.4  # of a bar
COLORS = 128  # of a PNG; more look the same
MANY_WORKERS = 30  # from here on gaps between the bars would be wider than the bars
SEPARATE_BARS = {"height": 0.8, "linewidth": 0.5}
TOUCHING_BARS = {"height": 1.0, "linewidth": 0.1}
MANY_ROUNDS = 40  # so many that their lines would hide the bars, as with an update at every arrival
TIMELINE_KEY = "dark, light: trajectories of neighbouring rounds; hatched: discarded; orange: messages; lines: updates"


def draw_timeline(ax: Any, reports: Sequence[RoundReport]) -> None:
    """
    Draw which worker ran what: a bar a trajectory, neighbouring rounds dark and light, discarded work grey.

    Messages are thin bars; where one had to wait for the link, a gap comes before it. Vertical lines mark the updates.
    Rejected trajectories are grey too.

    :param ax: matplotlib axes
    :param reports: consecutive rounds
    :raises ValueError: if there is no round
    """
    if not reports:
        raise ValueError("reports=[] is not allowed: give at least one round, for example [model.last_round].")
    n_workers = len(reports[0].counts)
    shape = SEPARATE_BARS if n_workers < MANY_WORKERS else TOUCHING_BARS
    bar = partial(ax.barh, edgecolor="white", **shape)
    thin_bar = partial(ax.barh, height=MESSAGE_HEIGHT * shape["height"], color=MESSAGE_COLOR, linewidth=0, zorder=2)
    update_width = 0.8 if len(reports) < MANY_ROUNDS else 0.3
    for report in reports:
        color = ROUND_COLORS[report.round % 2]
        for arrival in report.arrivals:
            bar(arrival.worker, arrival.finished_at - arrival.started_at, left=arrival.started_at, color=color)
        for rejected in report.rejected:
            bar(rejected.worker, rejected.finished_at - rejected.started_at, left=rejected.started_at, color=DISCARDED_COLOR)
        for lost in report.discarded:
            bar(lost.worker, lost.stopped_at - lost.started_at, left=lost.started_at, color=DISCARDED_COLOR, hatch="////")
        for message in _messages(report):
            thin_bar(message.worker, message.ended - message.began, left=message.began)
        ax.axvline(report.finished_at, color="black", linewidth=update_width)
    ax.set_xlim(reports[0].started_at, reports[-1].finished_at)
    ax.set_ylim(n_workers - 0.5, -0.5)
    if n_workers <= 12:
        ax.set_yticks(range(n_workers))
    ax.ticklabel_format(axis="x", useOffset=False)
    ax.set_xlabel("seconds on the workers' clock")
    ax.set_ylabel("worker")


def _messages(report: RoundReport) -> list[Message]:
    """Those that take some time."""
    sent = [
        Message(a.worker, a.finished_at if a.sent_at is None else a.sent_at, a.arrived_at)
        for a in (*report.arrivals, *report.rejected)
    ]
    return [message for message in (*sent, *report.messages) if message.ended > message.began]


def save_picture(figure: Figure, path: Path, dpi: int = 100) -> None:
    """
    Write a picture; a PNG with as many colours as it needs, which takes a third of the space.

    :param figure: the picture
    :param path: its file
    :param dpi: pixels per inch
    """
    if path.suffix != ".png":
        figure.savefig(path)
        return
    pixels = BytesIO()
    figure.savefig(pixels, dpi=dpi)
    Image.open(pixels).convert("RGB").quantize(COLORS, dither=Image.Dither.NONE).save(path, optimize=True)


def style_numbers(names: Sequence[str]) -> dict[str, int]:
    """
    Give each method of a picture a style that no other one of it has.

    :param names: names of the methods
    :return: numbers for ``method_style``
    """
    numbers: dict[str, int] = {}
    for name in names:
        if name in OWN_STYLE and OWN_STYLE[name] not in numbers.values():
            numbers[name] = OWN_STYLE[name]
    left = (number for number in itertools.count() if number not in numbers.values())
    return {name: numbers[name] if name in numbers else next(left) for name in names}


def method_style(number: int) -> dict[str, Any]:
    """
    Style of a line; beyond the seventh the styles come again with a marker.

    :param number: number of the line, from 0
    """
    marker = {} if number < len(LINE_STYLES) else {"marker": "o", "markevery": 20, "markersize": 4}
    return {"linewidth": 1.8, **LINE_STYLES[number % len(LINE_STYLES)], **marker}


def draw_band(ax: Any, x: Any, middle: Any, low: Any, high: Any, number: int, label: str) -> None:
    """
    Draw a line with the interval around it.

    :param ax: matplotlib axes
    :param x: positions on the horizontal axis
    :param middle: the line
    :param low: lower end of the interval
    :param high: upper end of the interval
    :param number: number of the line, from 0
    :param label: label for the legend
    """
    style = method_style(number)
    ax.plot(x, middle, label=label, **style)
    ax.fill_between(x, low, high, color=style["color"], alpha=0.15, linewidth=0)
