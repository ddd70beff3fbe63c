"""A curve as a small inline drawing: no axes, the first and last values as text beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from markupsafe import Markup

POINTS_MAX = 160
WIDTH, HEIGHT, EDGE = 320, 72, 4


def sparkline(points: Sequence[tuple[float, float]], label: str) -> Markup:
    """An SVG of (x, y) in rising x; means of equally many points where there are more than POINTS_MAX.

    Values that are not finite are left out; without any, the drawing is empty.
    """
    thinned = _thinned([(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)])
    drawn = ""
    if thinned:
        xs, ys = [x for x, _ in thinned], [y for _, y in thinned]
        spots = [
            (
                _scaled(x, min(xs), max(xs), EDGE, WIDTH - EDGE),
                _scaled(y, min(ys), max(ys), HEIGHT - EDGE, EDGE),
            )
            for x, y in thinned
        ]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
        drawn = f'<polyline points="{path}"/><circle cx="{spots[-1][0]:.1f}" cy="{spots[-1][1]:.1f}" r="3"/>'
    template = '<svg class="spark" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>'
    return Markup(template).format(WIDTH, HEIGHT, label, Markup(drawn))


def _scaled(value: float, low: float, high: float, start: float, end: float) -> float:
    return start + (end - start) * ((value - low) / (high - low) if high > low else 0.5)


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    if len(points) <= POINTS_MAX:
        return list(points)
    edges = [len(points) * number // POINTS_MAX for number in range(POINTS_MAX + 1)]
    parts = [points[start:end] for start, end in pairwise(edges)]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]
