"""A difference over seeds, or noise."""

from __future__ import annotations

import random

import pytest

from syn2co_ray.search.compare import compare


def test_a_difference_that_every_seed_shows_is_one_although_seeds_differ_by_more():
    values_a = {seed: 50.0 + 10 * seed for seed in range(6)}
    values_b = {seed: value + 1 + 0.1 * seed for seed, value in values_a.items()}
    found = compare(values_a, values_b)
    assert found.difference == pytest.approx(1.25)
    assert 1.0 < found.low < found.high < 1.5
    assert found.verdict == "B is above A"
    assert compare(values_b, values_a).verdict == "B is below A"


def test_what_goes_up_and_down_is_noise():
    found = compare(
        dict.fromkeys(range(6), 50.0), {s: 50.0 + d for s, d in enumerate([3, -2, 1, -3, 2, -0.5])}
    )
    assert found.low < 0 < found.high
    assert found.verdict.startswith("noise")


def test_few_seeds_tell_nothing_however_clear_they_look():
    assert compare({0: 1.0, 1: 1.0}, {0: 9.0, 1: 9.0}).verdict.startswith("not known: 2 seeds")


def test_only_common_seeds_count_and_none_is_an_error():
    assert compare({0: 1.0, 1: 2.0}, {1: 5.0, 2: 9.0}).seeds == (1,)
    with pytest.raises(ValueError, match="no seed in common"):
        compare({0: 1.0}, {1: 1.0})


def test_equal_points_are_called_different_about_as_often_as_the_interval_says():
    random.seed(0)
    wrong = 0
    for _ in range(60):
        a, b = ({s: random.gauss(50, 1) for s in range(10)} for _ in range(2))
        wrong += not compare(a, b).verdict.startswith("noise")
    assert wrong <= 10  # 5 % asked; a bootstrap of ten is a little too sure
