"""Curves of a run as SVG, drawn without a display and without matplotlib's global state."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from .run_files import EvalRecord, ResultRow, StepRecord
from .series import POINTS_MAX, floats, line, moving_mean, raw_line, steps_and
from .svg import COLOURS, INK, Curve, curve, legend_beside, log_if_wide

_FIXED_COLOURS = {"positive": INK, "queue": "#8c8c8c"}


def run_curves(
    steps: Sequence[StepRecord], evals: Sequence[EvalRecord], rows: Sequence[ResultRow] = ()
) -> list[Curve]:
    """All curves of a run, in the order of the page.

    Args:
        steps: metrics in rising order of step.
        evals: k-NN accuracy in rising order of step.
        rows: the result table; its baselines become level lines beside the k-NN curve.
    """
    false_negatives = "share with the query's class, by their labels"
    curves = [
        _loss(steps),
        _knn(evals, rows),
        _stacked(steps, "Schedules", ("learning_rate", "learning rate"), ("momentum", "momentum")),
        _noisy(steps, "Gradient norm", "gradient_norm", "L2 norm", "global norm before clipping"),
        _stacked(
            steps,
            "Throughput",
            ("images_per_s", "images / s"),
            ("data_wait_share", "data-wait share"),
            raw=True,
        ),
        _noisy(steps, "Step time", "step_time_s", "seconds", "time of one optimizer step"),
        _stats(steps, "Hardness of negatives", "logit", "mean cosine with the query, before temperature"),
        _stats(steps, "Weight of negatives", "mass", "mean share of the softmax"),
        _stats(steps, "Pull of negatives", "gradient", "share of the gradient's length"),
        _stats(steps, "Negatives harder than the positive", "harder", "share of all pairs"),
        _embeddings(steps),
    ]
    # Only labelled data has them: no empty frame for the others.
    if any(name.endswith("/false_negatives") for record in steps for name in record.stats):
        curves.append(_stats(steps, "False negatives", "false_negatives", false_negatives))
    return curves


def _loss(steps: Sequence[StepRecord]) -> Curve:
    skipped = [record.step for record in steps if record.skipped]
    caption = "raw (pale) and moving mean over 2 % of the steps"
    if skipped:
        caption += f"; {len(skipped)} skipped steps (not finite) are marked below"
    x, y = steps_and(steps, "loss")

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        raw_line(axes, x, y, COLOURS[0])
        line(axes, x, moving_mean(y), COLOURS[0])
        if skipped:
            marks = _thinned(np.array(skipped, dtype=float))
            axes.plot(
                marks, np.full(len(marks), 0.02), "|", color=COLOURS[1], transform=axes.get_xaxis_transform()
            )
        axes.set(xlabel="step", ylabel="loss")

    return curve("Loss", caption, draw if len(y) else None)


def _knn(evals: Sequence[EvalRecord], rows: Sequence[ResultRow]) -> Curve:
    ks = sorted({k for record in evals for k in record.knn})

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        by_epoch = all(record.epoch is not None for record in evals)
        x = [record.epoch if by_epoch else record.step for record in evals]
        for k, colour in zip(ks, _cycled(len(ks)), strict=True):
            y = floats([record.knn.get(k) for record in evals])
            axes.plot(floats(x), y, "o-", markersize=3, linewidth=1.4, color=colour, label=f"k = {k}")
        for row, dash in zip(_baselines(rows, ks[0]), ("--", ":"), strict=False):
            label = f"{row.features}, k = {ks[0]}"
            axes.axhline(
                row.knn_top1_percent[ks[0]], linestyle=dash, color="#6b7580", linewidth=1, label=label
            )
        axes.set(xlabel="epoch" if by_epoch else "step", ylabel="k-NN top-1 %")
        legend_beside(axes)

    return curve("k-NN accuracy", "eval images, frozen features of the online encoder", draw if ks else None)


def _baselines(rows: Sequence[ResultRow], k: int) -> list[ResultRow]:
    return [row for row in rows if k in row.knn_top1_percent and not row.features.startswith("trained")]


def _noisy(steps: Sequence[StepRecord], title: str, name: str, unit: str, caption: str) -> Curve:
    x, y = steps_and(steps, name)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        raw_line(axes, x, y, COLOURS[2])
        line(axes, x, moving_mean(y), COLOURS[2])
        log_if_wide(axes, y)
        axes.set(xlabel="step", ylabel=unit)

    return curve(title, f"{caption}; raw and moving mean", draw if len(y) else None)


def _stacked(steps: Sequence[StepRecord], title: str, *fields: tuple[str, str], raw: bool = False) -> Curve:
    """One panel above the other on a shared axis of steps."""
    series = [(label, *steps_and(steps, name)) for name, label in fields]

    def draw(figure: Figure) -> None:
        panels = figure.subplots(len(series), sharex=True)
        for axes, (label, x, y), colour in zip(panels, series, COLOURS, strict=False):
            if raw:
                raw_line(axes, x, y, colour)
            line(axes, x, moving_mean(y) if raw else y, colour)
            axes.set_ylabel(label)
        panels[-1].set_xlabel("step")
        figure.align_ylabels()

    caption = " and ".join(label for label, _, _ in series)
    return curve(title, caption, draw if any(len(y) for _, _, y in series) else None)


def _embeddings(steps: Sequence[StepRecord]) -> Curve:
    """Rank, alignment and uniformity, which are looked at only now and then."""
    names = ("rankme", "alignment", "uniformity")
    looked = [record for record in steps if f"embedding/{names[0]}" in record.stats]
    x = np.array([record.step for record in looked], dtype=float)

    def draw(figure: Figure) -> None:
        panels = figure.subplots(len(names), sharex=True)
        for axes, name, colour in zip(panels, names, COLOURS, strict=False):
            line(axes, x, floats([record.stats.get(f"embedding/{name}") for record in looked]), colour)
            axes.set_ylabel(name)
        panels[-1].set_xlabel("step")
        figure.align_ylabels()

    caption = "of a worker's images; a fall of rankme towards 1 is collapse"
    return curve("Embeddings", caption, draw if looked else None)


def _stats(steps: Sequence[StepRecord], title: str, suffix: str, caption: str) -> Curve:
    """All `<name>/<suffix>` of the method's telemetry, in the order in which they first appear.

    Negatives are looked at only now and then, so each name has steps of its own.
    """
    names = dict.fromkeys(name for record in steps for name in record.stats if name.endswith(f"/{suffix}"))

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        kinds = iter(_cycled(len(names)))
        for name in names:
            looked = [record for record in steps if name in record.stats]
            x = np.array([record.step for record in looked], dtype=float)
            y = floats([record.stats[name] for record in looked])
            label = name.removesuffix(f"/{suffix}").removeprefix("negatives/")
            line(axes, x, moving_mean(y), _FIXED_COLOURS.get(label) or next(kinds), label)
        if suffix == "mass":
            log_if_wide(axes, np.concatenate([line.get_ydata() for line in axes.lines]), wide=5)
        axes.set(xlabel="step", ylabel="cosine" if suffix == "logit" else "share")
        legend_beside(axes)

    return curve(title, caption, draw if names else None)


def _thinned(values: np.ndarray) -> np.ndarray:
    return values[:: len(values) // POINTS_MAX + 1]


def _cycled(count: int) -> list[str]:
    return [COLOURS[position % len(COLOURS)] for position in range(count)]
