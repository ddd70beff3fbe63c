"""Parallel coordinates: an axis a key of the space, the metric's last, a line a point."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.ticker import MaxNLocator

from syn2co_ray.spec.points import ends, in_order, in_their_order, unit_position
from syn2co_ray.spec.search import DimensionSpec

from .search_plots import BEST_COLOUR, short_names
from .svg import EDGE, RANKS, SOFT, Curve, curve

_OFF_AXIS = -0.14
"""Height of the lines of points at which a key does not vary, or whose metric is none of the end's."""
_BAND = 0.05
"""Height over which lines of the same value of a finite key are spread, so that each can be followed."""
_LABEL_CHARACTERS_MAX = 26


@dataclass(frozen=True)
class PointLine:
    """A point of the search.

    Attributes:
        number, values, words: which; dotted keys and their values, and the same in words.
        metric: what it reached.
        finished: whether that is its end.
        best: whether it is the best of all.
    """

    number: int
    values: Mapping[str, Any]
    words: str
    metric: float
    finished: bool
    best: bool


def parallel_coordinates(
    space: Mapping[str, DimensionSpec], points: Sequence[PointLine], metric: str, maximises: bool
) -> Curve:
    """Which values the good points have: a line a point, the stronger the better, the best above all.

    Args:
        space: the keys and their values, in the file's order.
        points: those that reached a value.
        metric: its name.
        maximises: whether more of it is better; the better end is above.
    """
    keys = in_order(space)
    drawn = sorted(points, key=lambda p: (p.best, p.finished, p.metric if maximises else -p.metric))
    better = np.linspace(0.0, 1.0, len(drawn)) if len(drawn) > 1 else np.ones(1)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.set(xlim=(-0.25, len(keys) + 0.25), ylim=(-0.2, 1.06), xticks=range(len(keys) + 1), yticks=[])
        axes.set_xticklabels([*short_names(keys), metric], fontsize=9)
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        columns = [_heights(key, space[key], drawn, better) for key in keys]
        metric_heights, metric_ticks = _metric_axis(drawn, maximises)
        for number, point in enumerate(drawn):
            heights = [column[number] for column in [*columns, metric_heights]]
            _line(axes, heights, point, better[number])
        for position, key in enumerate(keys):
            absent = any(key not in point.values for point in drawn)
            _axis(axes, position, [*_ticks(space[key]), *([(_OFF_AXIS, "not varied")] if absent else [])])
        _axis(axes, len(keys), metric_ticks)

    tips = {
        f"line-{point.number}": f"point {point.number}: {metric} {point.metric:.4g}"
        f"{'' if point.finished else ' (not finished)'}\n{point.words}"
        for point in drawn
    }
    caption = "a line a point: orange is the best, the stronger the colour the better, dashed did not finish"
    width = max(9.0, min(16.0, 2.0 * (len(keys) + 1)))
    most = max((len(dimension.values or ()) for dimension in space.values()), default=0)
    size = (width, max(4.0, min(9.0, 0.9 + 0.17 * most)))
    return curve("Values and metric", caption, draw if drawn else None, size_inches=size, tips=tips)


def value_in_short(value: Any, others: Sequence[Any] = ()) -> str:
    """A value as a label; of a section only what not all the others have too."""
    if isinstance(value, dict):
        sections = [other for other in others if isinstance(other, dict)]
        shared = {
            key for key in value if all(key in other and other[key] == value[key] for other in sections)
        }
        # A lone section, or one whose parts are all shared, is told whole.
        told = {key: part for key, part in value.items() if key not in shared or len(sections) < 2} or value
        text = ", ".join(f"{key} {value_in_short(part)}" for key, part in told.items())
    elif isinstance(value, float):
        text = f"{value:.4g}"
    elif isinstance(value, list | tuple):
        text = " ".join(value_in_short(part) for part in value)
    else:
        text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _LABEL_CHARACTERS_MAX else text[: _LABEL_CHARACTERS_MAX - 1] + "…"


def _metric_axis(points: Sequence[PointLine], maximises: bool) -> tuple[np.ndarray, list[tuple[float, str]]]:
    """Height of each point and the ticks; what did not finish is off the axis once something has.

    A run that was stopped reached its metric after fewer epochs: on one axis with the others it would look
    worse than it is, and squeeze the others together.
    """
    on_axis = np.array([point.finished for point in points])
    if not on_axis.any():
        on_axis[:] = True
    values = np.array([point.metric for point in points])
    low, high = values[on_axis].min(), values[on_axis].max()
    if low == high:
        low, high = low - 0.5, high + 0.5

    def height(metric: Any) -> Any:
        part = (metric - low) / (high - low)
        return part if maximises else 1 - part

    ticks = [(height(t), f"{t:g}") for t in MaxNLocator(6).tick_values(low, high) if low <= t <= high]
    if not on_axis.all():
        ticks.append((_OFF_AXIS, "not finished"))
    spread = np.linspace(-_BAND / 2, _BAND / 2, len(points))
    return np.where(on_axis, height(values), _OFF_AXIS + spread), ticks


def _heights(
    key: str, dimension: DimensionSpec, points: Sequence[PointLine], better: np.ndarray
) -> np.ndarray:
    """Height of each point on a key's axis; lines of one value are spread around it, the better above."""
    varied = np.array([key in point.values for point in points])
    found = np.array(
        [
            unit_position(dimension, point.values[key]) if key in point.values else _OFF_AXIS
            for point in points
        ]
    )
    # A value that the key has no longer.
    varied &= np.isfinite(found)
    found[~varied] = _OFF_AXIS
    count = len(dimension.values) if dimension.values is not None else _whole_values(dimension)
    band = min(_BAND, 0.5 / max(1, count - 1)) if count else 0.0
    return found + np.where(varied, band, _BAND) * (better - 0.5)


def _whole_values(dimension: DimensionSpec) -> int:
    """Values of a key that is whole numbers or steps; 0 where it is continuous."""
    if dimension.randint is not None:
        return dimension.randint[1] - dimension.randint[0] + 1
    if dimension.quniform is not None:
        low, high, step = dimension.quniform
        return round((high - low) / step) + 1
    return 0


def _ticks(dimension: DimensionSpec) -> list[tuple[float, str]]:
    if dimension.values is not None:
        values = in_their_order(dimension.values)
        return [(unit_position(dimension, value), value_in_short(value, values)) for value in values]
    if dimension.loguniform is not None:
        low, high = dimension.loguniform
        powers = [
            10.0**power for power in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
        ]
        inner = [power for power in powers if 0.06 < unit_position(dimension, power) < 0.94]
        return [(unit_position(dimension, value), f"{value:.3g}") for value in (low, *inner, high)]
    low, high = ends(dimension)
    whole = dimension.randint is not None
    ticks = [t for t in MaxNLocator(5, integer=whole).tick_values(low, high) if low <= t <= high]
    return [(unit_position(dimension, value), f"{value:.4g}") for value in ticks]


def _axis(axes: Axes, position: int, ticks: Sequence[tuple[float, str]]) -> None:
    axes.plot([position, position], [-0.03, 1.03], color=EDGE, linewidth=1, zorder=4, solid_capstyle="butt")
    for height, text in ticks:
        axes.plot([position, position + 0.025], [height, height], color=EDGE, linewidth=1, zorder=4)
        axes.text(
            position + 0.04,
            height,
            text,
            fontsize=7.5,
            color=SOFT,
            va="center",
            gid=f"label-{position}-{height:.3f}",
        )


def _line(axes: Axes, heights: Sequence[float], point: PointLine, better: float) -> None:
    """Smooth between axes, level at each, so that it can be followed through a crossing."""
    vertices, codes = [(0.0, heights[0])], [Path.MOVETO]
    for position, (here, there) in enumerate(itertools.pairwise(heights)):
        vertices += [(position + 0.5, here), (position + 0.5, there), (position + 1.0, there)]
        codes += [Path.CURVE4] * 3
    axes.add_patch(
        PathPatch(
            Path(vertices, codes),
            facecolor="none",
            edgecolor=BEST_COLOUR if point.best else RANKS[round(better * (len(RANKS) - 1))],
            linewidth=2.6 if point.best else 1.2,
            alpha=1.0 if point.best else 0.55 + 0.3 * better,
            linestyle="-" if point.finished else (0, (4, 2)),
            zorder=3 if point.best else 2,
            gid=f"line-{point.number}",
        )
    )
