"""Importance of keys: found where it is known what decides, not known where little has finished."""

from __future__ import annotations

import random

import pytest

from syn2co_ray.search.importance import POINTS_MIN, finished_points, importances
from syn2co_ray.search.records import Record
from syn2co_ray.spec.load import load_text
from syn2co_ray.spec.points import points_of
from tests.spec.test_search import BASE, indented

TEXT = f"""\
kind: search
name: look
metric: knn
trials: 40
base:
{indented(BASE)}
space:
  method.temperature: {{loguniform: [0.01, 1.0]}}
  method.drop_path_online: {{uniform: [0.0, 0.3]}}
  train.images_per_step_global: {{choice: [32, 64]}}
  method.momentum: {{uniform: [0.9, 1.0], when: {{train.images_per_step_global: 64}}}}
"""


def finished(weights, trials=40, noise=0.0):
    """Points of the space and a metric that is a weighted sum of their values."""
    search = load_text(TEXT, [f"trials={trials}"])
    draw = random.Random(0)
    return search, [
        (point, sum(weight * point.get(key, 0.0) for key, weight in weights.items()) + draw.gauss(0, noise))
        for point in points_of(search)
    ]


def test_the_key_that_decides_explains_the_most():
    search, points = finished({"method.drop_path_online": 100.0})
    shares = importances(search, points)
    assert set(shares) == set(search.space)
    assert shares["method.drop_path_online"] > 0.8
    assert sum(shares.values()) <= 1.01
    assert all(share < 0.1 for key, share in shares.items() if key != "method.drop_path_online")
    assert importances(search, points) == shares  # no chance in it


def test_a_key_with_a_condition_counts_by_what_it_explains_of_the_whole_spread():
    weights = {"method.momentum": 100.0, "train.images_per_step_global": 0.2}
    search, points = finished(weights)
    shares = importances(search, points)
    here = [value for point, value in points if "method.momentum" in point]
    assert len(here) >= POINTS_MIN
    # It decides where it varies, and that is a small part of what lies between 32 and 64.
    assert 0 < shares["method.momentum"] < 0.1
    assert shares["train.images_per_step_global"] > 0.8


def test_too_few_points_or_no_difference_is_not_known():
    search, points = finished({"method.drop_path_online": 1.0})
    assert importances(search, points[: POINTS_MIN - 1]) == {}
    assert importances(search, points[:POINTS_MIN]) != {}
    assert importances(search, [(point, 5.0) for point, _ in points]) == {}
    assert importances(search, []) == {}


def test_a_conditional_key_with_few_points_is_left_out_and_the_others_stay():
    search, points = finished({"method.drop_path_online": 1.0})
    few = [item for item in points if "method.momentum" not in item[0]]
    few += [item for item in points if "method.momentum" in item[0]][:3]
    assert "method.momentum" not in importances(search, few)
    assert "method.drop_path_online" in importances(search, few)


@pytest.mark.parametrize("status", ["stopped", "failed", "running", "interrupted"])
def test_only_finished_runs_count_and_seeds_of_a_point_are_averaged(status):
    def record(number, seed, value, status="finished"):
        return Record(number, number // 2, {"a": number // 2}, seed, "run", status, value=value)

    records = [record(0, 0, 1.0), record(1, 1, 3.0), record(2, 0, 5.0), record(3, 1, 99.0, status)]
    assert finished_points(records) == [({"a": 0}, 2.0), ({"a": 1}, 5.0)]
    assert finished_points([record(0, 0, float("nan")), record(1, 1, None)]) == []
