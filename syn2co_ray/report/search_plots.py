"""What the trials of a search learned, and what it cost: learning curves, metric against cost, importance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from .svg import COLOURS, EDGE, SOFT, Curve, curve

BEST_COLOUR, OTHER_COLOUR = COLOURS[1], COLOURS[0]


@dataclass(frozen=True)
class _End:
    """How the end of a trial is marked, and what that means."""

    marker: str
    colour: str
    words: str


_NOT_ENDED = _End("|", COLOURS[2], "not ended")
_ENDS = {
    "finished": _End("o", OTHER_COLOUR, "finished"),
    "stopped": _End("X", EDGE, "stopped early"),
    "failed": _End("v", COLOURS[3], "failed"),
    "interrupted": _NOT_ENDED,
    "running": _NOT_ENDED,
}
"""By status of a record."""


@dataclass(frozen=True)
class TrialCurve:
    """One training of a search.

    Attributes:
        point_number, seed: which.
        words: the point in words.
        status: as of its record.
        epochs, values: what was measured during training.
        best: whether it is one of the best point's.
    """

    point_number: int
    seed: int
    words: str
    status: str
    epochs: Sequence[int]
    values: Sequence[float]
    best: bool


@dataclass(frozen=True)
class PointCost:
    """What a point reached and took, over all its seeds; `value` is the metric."""

    point_number: int
    words: str
    status: str
    value: float
    wall_s: float
    gpu_hours: float
    best: bool


def learning_curves(trials: Sequence[TrialCurve], label: str) -> Curve:
    """A line a trial, its end marked by how it ended; the best point's lines stand out.

    Args:
        trials: all that were started.
        label: what is measured during training, with its unit.
    """
    drawn = [trial for trial in trials if trial.values]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        pale = max(0.25, min(0.7, 12 / len(drawn)))
        for number, trial in enumerate(drawn):
            end = _ENDS[trial.status]
            axes.plot(
                trial.epochs,
                trial.values,
                color=BEST_COLOUR if trial.best else end.colour,
                alpha=1.0 if trial.best else pale,
                linewidth=2.2 if trial.best else 1.2,
                zorder=3 if trial.best else 2,
                gid=f"trial-{number}",
            )
            _mark(axes, trial.epochs[-1], trial.values[-1], trial.status, trial.best)
        axes.set(xlabel="epoch", ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _legend_of_ends(axes, [trial.status for trial in drawn])

    tips = {f"trial-{number}": _tip(trial) for number, trial in enumerate(drawn)}
    return curve(
        "Learning curves", "a line a trial, marked where it ended", draw if drawn else None, tips=tips
    )


def metric_against_cost(points: Sequence[PointCost], metric: str, maximises: bool) -> Curve:
    """A mark a point; the line joins those that no cheaper point beats.

    Args:
        points: those that reached a value.
        metric: its name.
        maximises: whether more of it is better.
    """
    with_gpus = any(point.gpu_hours for point in points)
    unit_s = 1.0 if max((point.wall_s for point in points), default=0.0) < 600 else 60.0
    label = "GPU-hours" if with_gpus else "minutes of training" if unit_s == 60 else "seconds of training"

    def cost(point: PointCost) -> float:
        return point.gpu_hours if with_gpus else point.wall_s / unit_s

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        front = _undominated(points, cost, maximises)
        axes.plot(
            [cost(point) for point in front],
            [point.value for point in front],
            color=SOFT,
            linewidth=1,
            linestyle=":",
            drawstyle="steps-post",
            zorder=1,
        )
        for point in points:
            gid = f"cost-{point.point_number}"
            _mark(axes, cost(point), point.value, point.status, point.best, gid)
        axes.set(xlabel=label, ylabel=metric)
        _legend_of_ends(axes, [point.status for point in points])

    def tip(point: PointCost) -> str:
        head = f"point {point.point_number}: {metric} {point.value:.4g}, {cost(point):.3g} {label}"
        return f"{head}\n{point.words}"

    tips = {f"cost-{point.point_number}": tip(point) for point in points}
    caption = "a mark a point, all its seeds together; dotted: nothing cheaper is better"
    return curve("Metric against cost", caption, draw if points else None, tips=tips)


def importance_bars(shares: Mapping[str, float], points: int, points_min: int) -> Curve:
    """How much of the metric's spread each key explains; no figure below `points_min` points.

    Args:
        shares: key -> part of the variance over the finished points, 0 to 1; empty where it is not known.
        points: how many points have finished.
        points_min: fewest that say anything.
    """
    if not shares:
        few = f"not known: {points} finished points, {points_min} or more are needed"
        return Curve(_IMPORTANCE, few if points < points_min else "not known: nothing differs", None)
    ordered = sorted(shares.items(), key=lambda item: item[1])

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        names = short_names([key for key, _ in ordered])
        widths = [100 * share for _, share in ordered]
        bars = axes.barh(names, widths, height=0.55, color=OTHER_COLOUR, alpha=0.85)
        axes.bar_label(bars, [f"{width:.0f} %" for width in widths], padding=4, color=SOFT)
        axes.set(xlabel="% of the metric's variance", xlim=(0, max(10.0, 1.15 * max(widths))))
        axes.grid(axis="y", visible=False)

    caption = (
        f"fANOVA over {points} finished points: what a key explains alone; "
        "the rest is how keys act together, and noise"
    )
    return curve(_IMPORTANCE, caption, draw, size_inches=(6.2, max(2.0, 0.8 + 0.42 * len(ordered))))


_IMPORTANCE = "Importance of keys"


def short_names(keys: Sequence[str]) -> list[str]:
    """Dotted keys by as few of their last parts as tell them apart."""
    names = []
    for key in keys:
        parts = key.split(".")
        others = [other.split(".") for other in keys if other != key]
        count = 1
        while count < len(parts) and any(other[-count:] == parts[-count:] for other in others):
            count += 1
        names.append(".".join(parts[-count:]))
    return names


def best_so_far(points: Sequence[PointCost], metric: str, maximises: bool) -> Curve:
    """What each point reached, in the order in which they were started, and the best of those before it.

    Args:
        points: those that reached a value.
        metric: its name.
        maximises: whether more of it is better.
    """
    ordered = sorted(points, key=lambda point: point.point_number)
    finished = [point for point in ordered if point.status == "finished"]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        if finished:
            values = [point.value for point in finished]
            best = (np.maximum if maximises else np.minimum).accumulate(values)
            numbers = [point.point_number for point in finished]
            axes.plot(
                [*numbers, ordered[-1].point_number],
                [*best, best[-1]],
                color=BEST_COLOUR,
                linewidth=1.6,
                drawstyle="steps-post",
                zorder=1,
            )
        for point in ordered:
            gid = f"point-{point.point_number}"
            _mark(axes, point.point_number, point.value, point.status, point.best, gid)
        axes.set(xlabel="point", ylabel=metric)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _legend_of_ends(axes, [point.status for point in ordered], "best so far")

    def tip(point: PointCost) -> str:
        return f"point {point.point_number}: {metric} {point.value:.4g}\n{point.words}"

    tips = {f"point-{point.point_number}": tip(point) for point in ordered}
    caption = "a mark a point, in the order in which they were started"
    return curve("Best so far", caption, draw if ordered else None, tips=tips)


def _mark(axes: Axes, x: float, y: float, status: str, best: bool, gid: str | None = None) -> None:
    end = _ENDS[status]
    axes.plot(
        x,
        y,
        marker=end.marker,
        markersize=8 if best else 5.5,
        color=BEST_COLOUR if best else end.colour,
        alpha=1.0 if best else 0.75,
        markeredgewidth=1.4 if end.marker == "|" else 0,
        zorder=5 if best else 4,
        linestyle="",
        gid=gid,
    )


def _undominated(
    points: Sequence[PointCost], cost: Callable[[PointCost], float], maximises: bool
) -> list[PointCost]:
    front: list[PointCost] = []
    sign = 1.0 if maximises else -1.0
    for point in sorted(points, key=lambda point: (cost(point), -sign * point.value)):
        if not front or sign * point.value > sign * front[-1].value:
            front.append(point)
    return front


def _tip(trial: TrialCurve) -> str:
    return (
        f"point {trial.point_number}, seed {trial.seed}: {trial.values[-1]:.4g} after "
        f"{trial.epochs[-1]} epochs, {trial.status}\n{trial.words}"
    )


def _legend_of_ends(axes: Axes, statuses: Sequence[str], line: str = "best point") -> None:
    """The best point's colour, and the marks that are there."""
    there = [end for end in dict.fromkeys(_ENDS.values()) if end in {_ENDS[status] for status in statuses}]
    marks = [
        Line2D([], [], color=end.colour, marker=end.marker, linestyle="", markersize=5, label=end.words)
        for end in there
    ]
    best = Line2D([], [], color=BEST_COLOUR, linewidth=2.2, label=line)
    # Below the axes: beside them it would take a quarter of the width from the curves.
    axes.figure.legend(handles=[best, *marks], loc="outside lower center", ncols=len(marks) + 1)
