"""Small curves: scaled into their frame, thinned, and empty where there is nothing."""

from __future__ import annotations

import math
import re

from syn2co_ray.submit.ui.sparkline import HEIGHT, POINTS_MAX, WIDTH, sparkline


def points_of(svg: str) -> list[tuple[float, float]]:
    found = re.search(r'points="([^"]*)"', svg)
    assert found is not None
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in found[1].split())]


def test_a_falling_curve_falls_within_the_frame() -> None:
    points = points_of(sparkline([(step, 10.0 - step) for step in range(10)], "loss"))
    assert points[0] == (4.0, 4.0)
    assert points[-1] == (WIDTH - 4.0, HEIGHT - 4.0)


def test_many_points_become_means_and_those_not_finite_are_left_out() -> None:
    curve = [(float(step), math.nan if step % 2 else 1.0) for step in range(10_000)]
    points = points_of(sparkline(curve, "loss"))
    assert len(points) == POINTS_MAX
    assert {y for _, y in points} == {HEIGHT / 2}


def test_nothing_is_an_empty_frame_and_the_label_is_escaped() -> None:
    svg = sparkline([(0.0, math.inf)], '"><script>')
    assert "polyline" not in svg
    assert "<script>" not in svg
