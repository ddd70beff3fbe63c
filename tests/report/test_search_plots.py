"""The figures of a search: what is drawn, marked and said, with and without GPUs, with one trial, with none."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import replace

from syn2co_ray.report.search_plots import (
    PointCost,
    TrialCurve,
    _undominated,
    best_so_far,
    importance_bars,
    learning_curves,
    metric_against_cost,
    short_names,
)
from tests.report.test_plots import SVG, texts

TRIAL = TrialCurve(0, 1, "a=1", "finished", [1, 2, 3], [10.0, 20.0, 30.0], True)
POINT = PointCost(0, "a=1", "finished", 30.0, wall_s=90.0, gpu_hours=0.0, best=True)


def tips(svg: str) -> list[str]:
    return [node.text or "" for node in ElementTree.fromstring(svg).iter(f"{SVG}title")]


def test_every_trial_is_a_line_that_says_which_it_is_and_how_it_ended():
    stopped = replace(TRIAL, point_number=1, status="stopped", epochs=[1], values=[5.0], best=False)
    failed = replace(TRIAL, point_number=2, status="failed", values=[], epochs=[])
    curve = learning_curves([TRIAL, stopped, failed], "k-NN top-1 %")
    assert sorted(tips(curve.svg)) == [
        "point 0, seed 1: 30 after 3 epochs, finished\na=1",
        "point 1, seed 1: 5 after 1 epochs, stopped\na=1",
    ]
    found = texts(curve.svg)
    assert {"k-NN top-1 %", "epoch", "best point", "finished", "stopped early"} <= set(found)
    assert "failed" not in found  # it measured nothing: no mark, no entry in the legend


def test_a_search_of_one_trial_is_drawn_and_one_of_none_is_not():
    assert learning_curves([TRIAL], "k-NN").svg
    assert metric_against_cost([POINT], "knn", True).svg
    assert best_so_far([POINT], "knn", True).svg
    for curve in (
        learning_curves([], ""),
        metric_against_cost([], "knn", True),
        best_so_far([], "knn", True),
    ):
        assert curve.svg is None


def test_cost_is_gpu_hours_where_there_are_gpus_and_time_of_training_elsewhere():
    on_gpus = [replace(POINT, gpu_hours=0.5), replace(POINT, point_number=1, gpu_hours=2.0, best=False)]
    assert "GPU-hours" in texts(metric_against_cost(on_gpus, "knn", True).svg)
    assert "seconds of training" in texts(metric_against_cost([POINT], "knn", True).svg)
    long = metric_against_cost([replace(POINT, wall_s=5400.0)], "knn", True)
    assert "minutes of training" in texts(long.svg)
    assert tips(long.svg) == ["point 0: knn 30, 90 minutes of training\na=1"]


def test_front_holds_what_nothing_cheaper_beats_in_either_direction():
    points = [
        replace(POINT, point_number=number, wall_s=wall_s, value=value)
        for number, (wall_s, value) in enumerate([(3, 9.0), (1, 5.0), (2, 4.0), (4, 9.0), (1, 3.0)])
    ]

    def front(maximises: bool) -> list[int]:
        return [p.point_number for p in _undominated(points, lambda p: p.wall_s, maximises)]

    assert front(True) == [1, 0]
    assert front(False) == [4]


def test_best_so_far_follows_the_finished_points_alone():
    points = [
        replace(POINT, point_number=0, value=10.0, best=False),
        replace(POINT, point_number=1, value=99.0, status="stopped", best=False),
        replace(POINT, point_number=2, value=30.0),
    ]
    curve = best_so_far(points, "knn", True)
    assert "best so far" in texts(curve.svg)
    assert len(tips(curve.svg)) == 3
    assert best_so_far(points[1:2], "knn", True).svg


def test_importance_is_named_in_percent_or_said_not_to_be_known():
    found = texts(importance_bars({"train.epochs": 0.25, "method.momentum": 0.6}, 12, 10).svg)
    assert {"epochs", "momentum", "25 %", "60 %"} <= set(found)
    few = importance_bars({}, 4, 10)
    assert (few.svg, few.caption) == (None, "not known: 4 finished points, 10 or more are needed")
    assert importance_bars({}, 12, 10).caption == "not known: nothing differs"


def test_names_are_as_short_as_they_can_be_told_apart():
    assert short_names(["method.negatives.hardest", "train.epochs"]) == ["hardest", "epochs"]
    assert short_names(["a.noise.count", "a.mixup.count", "count"]) == ["noise.count", "mixup.count", "count"]


def test_values_from_files_are_text_never_markup():
    evil = "</title><script>x</script>"
    for svg in (
        learning_curves([replace(TRIAL, words=evil)], evil).svg,
        metric_against_cost([replace(POINT, words=evil)], evil, True).svg,
        importance_bars({evil: 1.0}, 10, 10).svg,
    ):
        assert "<script" not in svg
        assert evil in "".join(ElementTree.fromstring(svg).itertext())
