"""Figures as SVG for a page: one style, no display, none of matplotlib's global state, light or dark."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5195", "#a05a2c")
INK, SOFT, EDGE, GRID = "#1d252d", "#5b6670", "#8a94a0", "#e6eaee"
RANKS = ("#c3ccd4", "#8fc4e8", "#3f97d3", "#005b8f")
"""From worse to better."""
_OF_THE_PAGE = {INK: "ink", SOFT: "soft", EDGE: "edge", GRID: "grid", COLOURS[0]: "blue"} | {
    colour: f"rank-{rank}" for rank, colour in enumerate(RANKS)
}
"""Colours that the page's style sheet replaces when it is dark."""
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "syn2co",
    "font.family": "sans-serif",
    "font.size": 9,
    # Names come from files: no formula in them is to be parsed.
    "text.parse_math": False,
    "text.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": EDGE,
    "axes.labelcolor": SOFT,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.color": GRID,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "legend.frameon": False,
    "legend.fontsize": 8,
}


@dataclass(frozen=True)
class Curve:
    """One figure of the page; `svg` is None where the run holds nothing to draw."""

    title: str
    caption: str
    svg: str | None


def curve(
    title: str,
    caption: str,
    draw: Callable[[Figure], None] | None,
    *,
    size_inches: tuple[float, float] = (6.2, 3.1),
    tips: Mapping[str, str] | None = None,
) -> Curve:
    """A figure as inline SVG.

    Args:
        title: its name, unique in a page.
        caption: a line below the name.
        draw: draws into an empty figure; None where there is nothing to draw.
        size_inches: width and height.
        tips: gid of an artist -> what the browser shows while the pointer rests on it. Texts with a gid
            `label-...` get an edge in the page's colour, so that they can be read over lines.
    """
    if draw is None:
        return Curve(title, caption, None)
    with _styled():
        figure = Figure(figsize=size_inches, layout="constrained")
        draw(figure)
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    svg = text[text.index("<svg") :]
    for gid, tip in (tips or {}).items():
        svg = svg.replace(f'<g id="{gid}">', f'<g id="{gid}" class="tip"><title>{html.escape(tip)}</title>')
    svg = svg.replace('<g id="label-', '<g class="label" id="label-')
    for colour, name in _OF_THE_PAGE.items():
        svg = svg.replace(f": {colour}", f": var(--{name}, {colour})")
    # Several figures share one page: their ids must differ.
    prefix = re.sub(r"\W+", "-", title.lower())
    return Curve(title, caption, re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", svg))


def legend_beside(axes: Axes) -> None:
    """A legend to the right of the axes, over nothing that is drawn."""
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.0)


def log_if_wide(axes: Axes, y: np.ndarray, wide: float = 50) -> None:
    """A logarithmic axis of values whose largest is more than `wide` times the smallest above 0."""
    positive = y[y > 0]
    if len(positive) and positive.max() > wide * positive.min():
        axes.set_yscale("log")
        for axis_formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
            axis_formatter(PlainLog())


class PlainLog(LogFormatter):
    """0.1, 1, 10 in plain text, without the mathematics that `text.parse_math` turns off."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


@contextmanager
def _styled() -> Iterator[None]:
    with matplotlib.rc_context(_STYLE):
        yield
