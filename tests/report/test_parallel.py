"""Parallel coordinates: axes of all forms, keys that do not vary everywhere, runs that did not finish."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from syn2co_ray.report.parallel import (
    _OFF_AXIS,
    PointLine,
    _heights,
    _metric_axis,
    _ticks,
    parallel_coordinates,
    value_in_short,
)
from syn2co_ray.spec.search import DimensionSpec
from tests.report.test_plots import SVG, texts
from tests.report.test_search_plots import tips

SPACE = {
    "train.learning_rate": DimensionSpec(loguniform=(1e-4, 1e-2)),
    "train.epochs": DimensionSpec(randint=(8, 12)),
    "method.framework": DimensionSpec(choice=("moby", "synby")),
    "method.negatives": DimensionSpec(
        choice=({"hardest": 64, "mixup": 8}, {"hardest": 64, "noise": 8}, None),
        when={"method.framework": "synby"},
    ),
}


def line(number: int, metric: float, *, finished: bool = True, best: bool = False, **values) -> PointLine:
    point = {"train.learning_rate": 1e-3, "train.epochs": 10, "method.framework": "moby"} | {
        key.replace("__", "."): value for key, value in values.items()
    }
    return PointLine(number, point, f"point-{number}", metric, finished, best)


def test_there_is_an_axis_a_key_and_a_line_a_point():
    synby = line(1, 60.0, best=True, method__framework="synby", method__negatives={"hardest": 64, "noise": 8})
    svg = parallel_coordinates(SPACE, [line(0, 50.0), synby], "knn", True).svg
    found = texts(svg)
    assert {"learning_rate", "epochs", "framework", "negatives", "knn"} <= set(found)
    assert {"0.0001", "0.001", "0.01", "moby", "synby", "mixup 8", "noise 8", "null", "not varied"} <= set(
        found
    )
    assert tips(svg) == ["point 0: knn 50\npoint-0", "point 1: knn 60\npoint-1"]  # the best on top
    assert "$" not in "".join(found)


def test_nothing_measured_no_figure_and_one_point_is_a_figure():
    assert parallel_coordinates(SPACE, [], "knn", True).svg is None
    assert parallel_coordinates(SPACE, [line(0, 50.0, best=True)], "knn", False).svg


def test_a_logarithmic_key_is_placed_by_its_logarithm_and_numbers_in_their_order():
    points = [line(0, 1.0, train__learning_rate=rate) for rate in (1e-4, 1e-3, 1e-2)]
    heights = _heights("train.learning_rate", SPACE["train.learning_rate"], points, np.zeros(3))
    assert heights == pytest.approx([0.0, 0.5, 1.0])
    assert _ticks(DimensionSpec(choice=(256, 32, 64))) == [(0.0, "32"), (0.5, "64"), (1.0, "256")]


def test_lines_of_one_value_are_apart_and_those_of_two_are_not_mixed():
    points = [line(n, float(n), method__framework="synby" if n % 2 else "moby") for n in range(10)]
    heights = _heights("method.framework", SPACE["method.framework"], points, np.linspace(0, 1, 10))
    assert len(set(heights)) == 10
    assert max(heights[::2]) < 0.1 < 0.9 < min(heights[1::2])


def test_null_is_a_value_and_a_key_that_does_not_vary_is_below_its_axis():
    points = [line(0, 1.0), line(1, 2.0, method__negatives=None)]
    below, null = _heights("method.negatives", SPACE["method.negatives"], points, np.full(2, 0.5))
    assert below == pytest.approx(_OFF_AXIS)
    assert null == pytest.approx(1.0)


def test_a_stopped_run_is_off_the_metrics_axis_once_others_have_finished():
    stopped, *finished = points = [line(0, 5.0, finished=False), line(1, 60.0), line(2, 70.0)]
    heights, ticks = _metric_axis(points, True)
    assert heights[0] < -0.1
    assert list(heights[1:]) == [0.0, 1.0]
    assert (_OFF_AXIS, "not finished") in ticks
    heights, ticks = _metric_axis(finished, False)
    assert list(heights) == [1.0, 0.0]  # less is better: above
    assert "not finished" not in [text for _, text in ticks]
    assert list(_metric_axis([stopped], True)[0]) == [0.5]


def test_sixty_points_and_five_keys_stay_a_small_figure_without_an_id_twice():
    space = {**SPACE, "train.drop_path": DimensionSpec(uniform=(0.0, 0.3))}
    points = [line(n, float(n), train__drop_path=n / 200, train__epochs=8 + n % 5) for n in range(60)]
    svg = parallel_coordinates(space, points, "knn", True).svg
    assert len(svg) < 150_000
    ids = [node.get("id") for node in ElementTree.fromstring(svg).iter(f"{SVG}g") if node.get("id")]
    assert len(ids) == len(set(ids))


def test_values_are_told_in_short():
    values = ({"hardest": 64, "mixup": 8}, {"hardest": 64, "noise": {"count": 8, "sigma": 0.1}})
    assert [value_in_short(value, values) for value in values] == ["mixup 8", "noise count 8, sigma 0.1"]
    assert value_in_short({"hardest": 64}) == "hardest 64"
    assert [value_in_short(v) for v in (0.000123456, 3, True, None, "synby", [30, 100])] == [
        "0.0001235", "3", "true", "null", "synby", "30 100"]  # fmt: skip
    assert value_in_short("x" * 80) == "x" * 25 + "…"
