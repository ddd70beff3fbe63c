"""Curves of several runs in one figure: loss, k-NN, and each telemetry of the negatives side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .run_files import RunFiles, StepRecord
from .series import floats, line, moving_mean, raw_line, steps_and
from .svg import COLOURS, Curve, curve

TELEMETRY = {
    "logit": ("Hardness of negatives", "mean cosine with the query"),
    "mass": ("Weight of negatives", "share of the softmax"),
    "gradient": ("Pull of negatives", "share of the gradient's length"),
    "harder": ("Negatives harder than the positive", "share of all pairs"),
    "false_negatives": ("False negatives", "share with the query's class"),
}
"""Last part of a statistic's name -> title and axis."""
PANELS_A_ROW = 3


@dataclass(frozen=True)
class Line:
    """A run as a line: its name and what it holds."""

    name: str
    files: RunFiles


def comparison_curves(lines: Sequence[Line]) -> list[Curve]:
    """Loss, k-NN at the first k that all measured, rank of the embeddings, and the telemetry of negatives."""
    return [_loss(lines), _knn(lines), _rank(lines), *(_telemetry(lines, name) for name in TELEMETRY)]


def _loss(lines: Sequence[Line]) -> Curve:
    series = [(number, *steps_and(each.files.steps, "loss")) for number, each in enumerate(lines)]
    drawn = [(number, x, y) for number, x, y in series if len(y)]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for number, x, y in drawn:
            raw_line(axes, x, y, colour_of(number))
            line(axes, x, moving_mean(y), colour_of(number), lines[number].name)
        axes.set(xlabel="step", ylabel="loss")
        _legend_below(figure, axes)

    caption = "moving mean over 2 % of the steps; losses of different frameworks mean different things"
    return curve("Loss of all", caption, draw if drawn else None, size_inches=(6.2, 3.6))


def _knn(lines: Sequence[Line]) -> Curve:
    measured = [set().union(*(record.knn for record in each.files.evals)) for each in lines]
    with_any = [ks for ks in measured if ks]
    common = set.intersection(*with_any) if with_any else set()

    def draw(figure: Figure) -> None:
        axes, k = figure.subplots(), min(common)
        by_epoch = all(record.epoch is not None for each in lines for record in each.files.evals)
        for number, each in enumerate(lines):
            evals = [record for record in each.files.evals if k in record.knn]
            if evals:
                x = floats([record.epoch if by_epoch else record.step for record in evals])
                y = floats([record.knn[k] for record in evals])
                axes.plot(x, y, "o-", markersize=3, linewidth=1.4, color=colour_of(number), label=each.name)
        axes.set(xlabel="epoch" if by_epoch else "step", ylabel="k-NN top-1 %")
        _legend_below(figure, axes)

    caption = f"k = {min(common)}, during training" if common else "no k that all of them measured"
    return curve("k-NN of all", caption, draw if common else None, size_inches=(6.2, 3.6))


def _rank(lines: Sequence[Line]) -> Curve:
    name = "embedding/rankme"
    drawn = [(number, each) for number, each in enumerate(lines) if _looked(each.files.steps, name)]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for number, each in drawn:
            line(axes, *_values(each.files.steps, name), colour_of(number), each.name)
        axes.set(xlabel="step", ylabel="rankme")
        _legend_below(figure, axes)

    caption = "of a worker's images; a fall towards 1 is collapse"
    return curve("Rank of embeddings", caption, draw if drawn else None, size_inches=(6.2, 3.6))


def _telemetry(lines: Sequence[Line], suffix: str) -> Curve:
    """A panel a sort of negative, the runs as lines in it, all on one scale."""
    names = dict.fromkeys(
        name
        for each in lines
        for record in each.files.steps
        for name in record.stats
        if name.endswith(f"/{suffix}")
    )
    title, unit = TELEMETRY[suffix]
    rows = -(-len(names) // PANELS_A_ROW)

    def draw(figure: Figure) -> None:
        columns = min(PANELS_A_ROW, len(names))
        panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
        for axes, name in zip(panels, names, strict=False):
            for number, each in enumerate(lines):
                if _looked(each.files.steps, name):
                    x, y = _values(each.files.steps, name)
                    line(axes, x, moving_mean(y), colour_of(number), each.name)
            axes.set_title(name.removesuffix(f"/{suffix}").removeprefix("negatives/"), fontsize=9)
        for axes in panels[len(names) :]:
            axes.set_visible(False)
        figure.supylabel(unit, fontsize=9)
        for axes in panels[max(0, len(names) - columns) : len(names)]:
            axes.set_xlabel("step")
            axes.tick_params(labelbottom=True)
        _legend_below(figure, *panels[: len(names)])

    size = (12.6, 0.9 + 1.9 * rows)
    return curve(title, f"{unit}, a panel a sort", draw if names else None, size_inches=size)


def colour_of(number: int) -> str:
    """A run's colour, the same in every figure of the page."""
    return COLOURS[number % len(COLOURS)]


def _legend_below(figure: Figure, *panels: Axes) -> None:
    found: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    figure.legend(list(found.values()), list(found), loc="outside lower center", ncols=3)


def _looked(steps: Sequence[StepRecord], name: str) -> bool:
    return any(name in record.stats for record in steps)


def _values(steps: Sequence[StepRecord], name: str) -> tuple[np.ndarray, np.ndarray]:
    looked = [record for record in steps if name in record.stats]
    return floats([record.step for record in looked]), floats([record.stats[name] for record in looked])
