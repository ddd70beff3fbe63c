"""Values by step as lines of a figure.

Long runs are drawn from bins, so that a page stays small: a band shows each bin's smallest and largest
value, a line its mean. Values that are missing or not finite leave a gap.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from .run_files import StepRecord

POINTS_MAX = 800


def steps_and(steps: Sequence[StepRecord], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of one field, float64; empty when no step has a value."""
    x = np.array([record.step for record in steps], dtype=float)
    y = floats([getattr(record, name) for record in steps])
    return (x, y) if np.isfinite(y).any() else (x[:0], y[:0])


def floats(values: Sequence[float | int | None]) -> np.ndarray:
    """float64 with NaN for what is missing or infinite."""
    array = np.array([np.nan if value is None else value for value in values], dtype=float)
    array[~np.isfinite(array)] = np.nan
    return array


def moving_mean(y: np.ndarray) -> np.ndarray:
    """Centred mean over 2 % of the values, gaps left out; a gap stays a gap."""
    half = len(y) // 100
    known = np.isfinite(y)
    first = np.maximum(np.arange(len(y)) - half, 0)
    end = np.minimum(np.arange(len(y)) + half + 1, len(y))

    def window_sums(values: np.ndarray) -> np.ndarray:
        sums = np.concatenate([[0.0], np.cumsum(values)])
        return sums[end] - sums[first]

    counts = window_sums(known.astype(float))
    return np.where(known, window_sums(np.where(known, y, 0.0)) / np.maximum(counts, 1), np.nan)


def line(axes: Axes, x: np.ndarray, y: np.ndarray, colour: str, label: str | None = None) -> None:
    """Values over steps; of many, the mean of each bin."""
    x, _, mean, _ = binned(x, y)
    axes.plot(x, mean, color=colour, linewidth=1.4, label=label)


def raw_line(axes: Axes, x: np.ndarray, y: np.ndarray, colour: str) -> None:
    """Values as they are, pale; of many, the band from each bin's smallest to its largest."""
    if len(x) <= POINTS_MAX:
        axes.plot(x, y, color=colour, linewidth=0.7, alpha=0.35)
        return
    x, low, _, high = binned(x, y)
    axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)


def binned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """At most POINTS_MAX bins of equally many values: mean x; smallest, mean, largest y (NaN if all are)."""
    if len(x) <= POINTS_MAX:
        return x, y, y, y
    edges = np.linspace(0, len(x), POINTS_MAX + 1).astype(int)[:-1]
    known = np.isfinite(y)
    sizes = np.diff(np.append(edges, len(x)))
    counts = np.add.reduceat(known.astype(float), edges)
    empty = counts == 0
    low = np.minimum.reduceat(np.where(known, y, np.inf), edges)
    high = np.maximum.reduceat(np.where(known, y, -np.inf), edges)
    mean = np.add.reduceat(np.where(known, y, 0.0), edges) / np.maximum(counts, 1)
    low[empty] = mean[empty] = high[empty] = np.nan
    return np.add.reduceat(x, edges) / sizes, low, mean, high
